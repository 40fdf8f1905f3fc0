//! Limits of addresses, of file sizes and of descriptors, met while blocks exist and before. They bind the whole process, so this
//! test has a process of its own.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/remapped.rs"]
mod remapped;

use aquifer_backend::{Backend, BlockDesc, Capabilities, Error, ErrorKind, MemoryFlags};
use aquifer_host::Host;
use common::skipped;
use remapped::{destroy, host, map, physical, read, sparse, write};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: u64 = 1 << 20;

/// Does something under a limit, which goes before anything can panic.
fn under<T>(resource: Resource, limit: u64, work: impl FnOnce() -> T) -> T {
    let before = getrlimit(resource);
    setrlimit(resource, Rlimit { current: Some(limit), maximum: before.maximum }).unwrap();
    let outcome = work();
    setrlimit(resource, before).unwrap();
    outcome
}

#[track_caller]
fn assert_short<T>(outcome: Result<T, Error>, remedy: &str) {
    let error = outcome.err().expect("there was none");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.message().contains(remedy), "{error}");
}

/// That a host which was made under a limit promises nothing that it cannot do.
#[track_caller]
fn assert_has_no_sparse_blocks(host: &Host) {
    let properties = host.properties();
    assert!(!properties.capabilities.contains(Capabilities::SPARSE_BLOCKS));
    assert!(properties.memory_types.iter().all(|one| !one.flags.contains(MemoryFlags::SPARSE)));
    assert_eq!((properties.physical_page_bytes, properties.mapping_count_max), (0, 0));
    assert_eq!(properties.mapping_costs, None);
    let desc = BlockDesc::new(MIB, 0);
    for created in [host.create_sparse_block(&desc), host.create_physical_block(&desc)] {
        assert_eq!(created.unwrap_err().kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn limits_are_errors_and_what_exists_goes_on() {
    let Some(host) = host() else { return skipped("memory cannot be mapped here") };
    let unlimited = |resource| getrlimit(resource).current.is_none();
    if !unlimited(Resource::As) || !unlimited(Resource::Fsize) {
        return skipped("there are limits already");
    }

    // No descriptor is left for the file.
    let (first, made) = under(Resource::Nofile, 0, || {
        (host.create_physical_block(&BlockDesc::new(MIB, 0)), Host::new().unwrap())
    });
    assert_short(first, "ulimit -n");
    assert_has_no_sparse_blocks(&made);

    // The file may not become longer; beyond the limit the kernel would send a signal, which ends the process.
    let (addresses, memory) = (sparse(&host, 64 * MIB), physical(&host, 2 * MIB));
    map(&host, &addresses, 0, &memory, 2 * MIB).unwrap();
    let (small, large, made) = under(Resource::Fsize, 8 * MIB, || {
        let create = |bytes| host.create_physical_block(&BlockDesc::new(bytes, 0));
        write(&host, &addresses, MIB, 7);
        (create(4 * MIB), create(4 * MIB), Host::new().unwrap())
    });
    assert_short(large, "ulimit -f");
    assert_has_no_sparse_blocks(&made);
    let small = small.unwrap();
    map(&host, &addresses, 4 * MIB, &small, 4 * MIB).unwrap();
    write(&host, &addresses, 8 * MIB - 8, 9);

    // There are no more addresses.
    let mapped_bytes = common::status_bytes("VmSize");
    let (few, many, made) = under(Resource::As, mapped_bytes + 256 * MIB, || {
        let create = |bytes| host.create_sparse_block(&BlockDesc::new(bytes, 0));
        (create(16 * MIB), create(1024 * MIB), Host::new().unwrap())
    });
    assert_short(many, "ulimit -v");
    assert_has_no_sparse_blocks(&made);
    let few = few.unwrap();
    map(&host, &few, 2 * MIB, &small, 4 * MIB).unwrap();

    assert_eq!([read(&host, &addresses, MIB), read(&host, &few, 6 * MIB - 8)], [7, 9]);
    // And as before: nothing was lost.
    let again = physical(&host, 32 * MIB);
    map(&host, &addresses, 32 * MIB, &again, 32 * MIB).unwrap();
    write(&host, &addresses, 64 * MIB - 8, 1);
    [addresses, few, memory, small, again].into_iter().for_each(|block| destroy(&host, block));
}
