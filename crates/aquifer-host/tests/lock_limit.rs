//! The limit of locked memory, as an ordinary user meets it. Limits bind the whole process, so this test has one of its own.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, BlockDesc, ErrorKind};
use aquifer_host::{Host, HostBlock};
use common::{skipped, status_bytes};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

const PINNED: usize = 1;
const MIB: u64 = 1 << 20;

/// Takes from this thread what lifts the limit: it goes with the thread, which is the test's.
fn become_ordinary() {
    let mut sets = capabilities(None).unwrap();
    sets.effective.remove(CapabilitySet::IPC_LOCK);
    sets.permitted.remove(CapabilitySet::IPC_LOCK);
    sets.inheritable.remove(CapabilitySet::IPC_LOCK);
    set_capabilities(None, sets).unwrap();
    assert!(!capabilities(None).unwrap().effective.contains(CapabilitySet::IPC_LOCK));
}

fn set_limit(bytes: u64) {
    let maximum = getrlimit(Resource::Memlock).maximum;
    setrlimit(Resource::Memlock, Rlimit { current: Some(bytes), maximum }).unwrap();
}

fn locked_bytes() -> u64 {
    status_bytes("VmLck")
}

fn mapped_bytes() -> u64 {
    status_bytes("VmSize")
}

fn destroy(host: &Host, block: HostBlock) {
    // SAFETY: nothing uses the block.
    unsafe { host.destroy_block(block) }.unwrap();
}

#[test]
fn a_refused_lock_is_a_typed_error_and_nothing_is_left_of_it() {
    become_ordinary();
    let limit = 8 * MIB;
    let hard = getrlimit(Resource::Memlock).maximum;
    if hard.is_some_and(|hard| hard < limit) {
        return skipped(format_args!("this process may lock {hard:?} bytes only"));
    }
    let host = Host::new().unwrap();
    let create = |bytes| host.create_block(&BlockDesc::new(bytes, PINNED));
    set_limit(limit);
    assert_eq!(locked_bytes(), 0);

    // Up to the limit, and not beyond; nothing is kept of what was refused.
    let first = create(5 * MIB).unwrap();
    let mapped = mapped_bytes();
    for bytes in [4 * MIB, 3 * MIB + 4096, 16 * MIB] {
        let error = create(bytes).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.is_retryable());
        for part in [
            format!("{bytes} bytes asked for"),
            format!("{limit} bytes soft"),
            format!("has locked {} bytes already", 5 * MIB),
            "ulimit -l".to_owned(),
            "UseUnlocked".to_owned(),
        ] {
            assert!(error.message().contains(&part), "{part} in {error}");
        }
        assert_eq!(locked_bytes(), 5 * MIB);
    }
    // The test's own strings may take some.
    assert!(mapped_bytes() < mapped + 2 * MIB, "{mapped} became {}", mapped_bytes());

    // What is freed can be locked again.
    let second = create(3 * MIB).unwrap();
    destroy(&host, first);
    let third = create(5 * MIB).unwrap();
    destroy(&host, second);
    destroy(&host, third);
    assert_eq!(locked_bytes(), 0);

    // None at all: asking for less does not help, and ordinary memory is to be had.
    set_limit(0);
    let error = create(4096.max(host.properties().block_granularity_bytes)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(!error.is_retryable());
    assert!(error.message().contains("0 bytes soft"), "{error}");
    destroy(&host, host.create_block(&BlockDesc::new(16 * MIB, 0)).unwrap());
}
