//! A limit of address space is seen by the budget, and an honest error beyond it. It binds the whole process, so this
//! test has a process of its own.

#![cfg(target_os = "linux")]

use aquifer_backend::{Backend, BlockDesc, ErrorKind};
use aquifer_host::Host;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const GIB: u64 = 1 << 30;

/// Address space that this process has mapped, in bytes.
fn mapped_bytes(host: &Host) -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let os_pages: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
    os_pages * host.properties().block_granularity_bytes
}

#[test]
fn a_limit_of_address_space_bounds_blocks_and_budget() {
    let host = Host::new().unwrap();
    let before = getrlimit(Resource::As);
    let limit = mapped_bytes(&host) + 4 * GIB;
    if before.current.is_some_and(|current| current < limit) {
        eprintln!("skipped: the address space is limited already");
        return;
    }
    // Nothing is touched, so all this costs address space only. The limit goes before anything can panic.
    setrlimit(Resource::As, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();
    let budget = host.budget(0);
    let too_large = host.create_block(&BlockDesc::new(5 * GIB, 0));
    let block = host.create_block(&BlockDesc::new(GIB, 0));
    let budget_with_block = host.budget(0);
    setrlimit(Resource::As, before).unwrap();

    let (budget, budget_with_block) = (budget.unwrap(), budget_with_block.unwrap());
    assert!(budget.budget_bytes <= limit, "{budget:?}");
    assert!(budget.available_bytes < limit, "the process itself takes some: {budget:?}");
    assert!(budget_with_block.available_bytes <= limit - GIB, "{budget_with_block:?}");
    let error = too_large.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.message().contains("ulimit -v"), "{error}");
    // SAFETY: nothing uses the block.
    unsafe { host.destroy_block(block.unwrap()) }.unwrap();
}
