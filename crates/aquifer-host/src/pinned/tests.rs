use std::io::Write;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use aquifer_backend::{Backend, BlockDesc, BlockRange, HostMemory};

use super::*;
use crate::backend::PINNED;
use crate::tree::tree;
use crate::{Host, HostOptions, Near};

/// Creates a pinned block; `None`, and loudly so, if this process may not lock so much.
fn create(host: &Host, bytes: u64) -> Option<HostBlock> {
    match host.create_block(&BlockDesc::new(bytes, PINNED)) {
        Ok(block) => Some(block),
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::Unsupported), "{error}");
            assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
            // Past the test harness, which would swallow it.
            let _ = writeln!(std::io::stderr(), "skipped, in part: {error}");
            None
        }
    }
}

fn destroy(host: &Host, block: HostBlock) {
    // SAFETY: the tests below use no block after this.
    unsafe { host.destroy_block(block) }.unwrap();
}

fn bytes(block: &mut HostBlock) -> &mut [u8] {
    // SAFETY: the block is readable, writable and initialised over its size, and borrowed exclusively.
    unsafe { std::slice::from_raw_parts_mut(block.start().as_ptr(), block.bytes()) }
}

#[test]
fn pinned_blocks_are_zeroed_and_writable_to_the_last_byte() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    for size in [granule, 3 * granule, (2 << 20) + granule] {
        let Some(mut block) = create(&host, size) else { continue };
        let content = bytes(&mut block);
        assert_eq!(content.len() as u64, size);
        assert!(content.iter().all(|&byte| byte == 0));
        content.fill(0xa5);
        destroy(&host, block);
    }
}

#[test]
fn what_is_released_of_a_pinned_block_leaves_the_rest_as_it_is() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let Some(mut block) = create(&host, 5 * granule) else { return };
    bytes(&mut block).fill(7);
    for offset in [granule, 3 * granule] {
        // SAFETY: the range is a granule of the block, and nobody uses it.
        unsafe { host.release_range(BlockRange { block: &block, offset, bytes: granule }) }.unwrap();
    }
    let granules: Vec<_> = bytes(&mut block).chunks(granule as usize).map(|granule| granule[9]).collect();
    assert_eq!(granules, [7, 0, 7, 0, 7]);
    destroy(&host, block);
}

#[test]
fn more_than_there_is_is_refused_before_anything_is_touched() {
    let host = Host::new().unwrap();
    // The second is more than any machine has, and less than the address space.
    for size in [u64::MAX - 0xffff, 1 << 45] {
        let error = host.create_block(&BlockDesc::new(size, PINNED)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.message().contains(&size.to_string()), "{error}");
    }
}

#[test]
fn pinned_memory_is_not_imported_and_comes_back() {
    struct Owner<'a>(&'a AtomicBool);
    impl Drop for Owner<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    static IS_DROPPED: AtomicBool = AtomicBool::new(false);
    let host = Host::new().unwrap();
    let granule = host.properties().import_alignment_bytes;
    // SAFETY: nobody makes a block of it, so no byte is touched.
    let memory = unsafe { HostMemory::new(NonNull::dangling(), granule, Owner(&IS_DROPPED)) };
    let refused = host.import_block(memory, PINNED).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Unsupported);
    assert!(refused.error.message().contains("memory type 0"), "{refused}");
    assert_eq!(refused.memory.bytes(), granule);
    assert!(!IS_DROPPED.load(Ordering::Relaxed));
    drop(refused);
    assert!(IS_DROPPED.load(Ordering::Relaxed));
}

#[test]
fn a_refused_lock_says_what_was_asked_what_the_limit_is_and_what_to_try() {
    let limits = LockLimits { soft: Some(65536), hard: None, locked: Some(4096) };
    for (errno, kind) in [
        (Errno::NOMEM, ErrorKind::OutOfMemory),
        (Errno::AGAIN, ErrorKind::OutOfMemory),
        (Errno::PERM, ErrorKind::Unsupported),
        (Errno::NOSYS, ErrorKind::Unsupported),
        (Errno::INVAL, ErrorKind::Driver),
    ] {
        let error = lock_error(8 << 20, errno, &limits);
        assert_eq!(error.kind(), kind, "{error}");
        for part in [
            "8388608 bytes asked for",
            "65536 bytes soft, none hard",
            "has locked 4096 bytes already",
            "ulimit -l",
            "LimitMEMLOCK",
            "Config::pinned.when_refused = UseUnlocked",
        ] {
            assert!(error.message().contains(part), "{part} in {error}");
        }
        assert!(std::error::Error::source(&error).is_some());
    }
    let limits = LockLimits { soft: Some(0), hard: Some(0), locked: None };
    assert_eq!(
        limits.to_string(),
        "the limit of locked memory (RLIMIT_MEMLOCK) is 0 bytes soft, 0 bytes hard"
    );
}

#[test]
fn a_refused_binding_has_the_kind_of_its_cause() {
    for (errno, kind, part) in [
        (Errno::INVAL, ErrorKind::Configuration, "cpuset"),
        (Errno::PERM, ErrorKind::Unsupported, "seccomp"),
        (Errno::NOSYS, ErrorKind::Unsupported, "seccomp"),
        (Errno::NOMEM, ErrorKind::OutOfMemory, "vm.max_map_count"),
        (Errno::IO, ErrorKind::Driver, "failed"),
    ] {
        let error = bind_error("create_block", 3, 4096, errno);
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.message().contains("4096 bytes could not be bound to NUMA node 3"), "{error}");
        assert!(error.message().contains(part), "{error}");
    }
}

/// A tree of a machine with a node that has `free_kib` KiB left.
fn node_with(id: u32, free_kib: u64) -> tempfile::TempDir {
    let meminfo = format!("Node {id} MemTotal: 640000 kB\nNode {id} MemFree: {free_kib} kB\n");
    tree(&[
        ("sys/devices/system/node/online".to_owned(), id.to_string()),
        (format!("sys/devices/system/node/node{id}/meminfo"), meminfo),
    ])
}

#[test]
fn room_is_counted_on_the_node_or_in_the_machine() {
    // A sixty-fourth of the node, 10000 KiB, is nobody's.
    let root = node_with(2, 10008);
    check_room(root.path(), Some(2), 8192).unwrap();
    let error = check_room(root.path(), Some(2), 8193).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.message().contains("8193 bytes to be locked, and NUMA node 2 can give 8192"), "{error}");
    check_room(root.path(), Some(1), u64::MAX).unwrap();

    let root = tree(&[("proc/meminfo", "MemTotal: 16 kB\nMemAvailable: 8 kB\n")]);
    check_room(root.path(), None, 8192).unwrap();
    let error = check_room(root.path(), None, 8193).unwrap_err();
    assert!(error.message().contains("the machine can give 8192"), "{error}");
}

fn near(root: &Path, near: Near) -> Result<Host, Error> {
    Host::with_options(HostOptions { root: root.to_owned(), pinned_near: Some(near) })
}

#[test]
#[cfg(target_os = "linux")]
fn a_node_that_only_the_files_know_is_refused_by_the_kernel() {
    // The second is more than any kernel can have.
    for id in [1000, 5000] {
        let error = near(node_with(id, 640_000).path(), Near::Node(id)).unwrap_err();
        // Where mbind is not to be had at all, that is said instead.
        assert!(matches!(error.kind(), ErrorKind::Configuration | ErrorKind::Unsupported), "{error}");
        assert!(error.message().contains(&format!("could not be bound to NUMA node {id}")), "{error}");
        assert_eq!(error.operation(), "Host::with_options");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_node_gives_no_block() {
    let root = node_with(0, 0);
    match near(root.path(), Near::Cpu(0)).map_err(|error| error.kind()) {
        // No file tells of its processors.
        Err(kind) => assert_eq!(kind, ErrorKind::Configuration),
        Ok(host) => panic!("{host:?}"),
    }
    let host = match near(root.path(), Near::Node(0)) {
        Ok(host) => host,
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Configuration | ErrorKind::Unsupported), "{error}");
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
            return;
        }
    };
    assert_eq!(host.pinned_node(), Some(0));
    let granule = host.properties().block_granularity_bytes;
    let error = host.create_block(&BlockDesc::new(granule, PINNED)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.message().contains("NUMA node 0 can give 0"), "{error}");
    let ordinary = host.create_block(&BlockDesc::new(granule, 0)).unwrap();
    destroy(&host, ordinary);
}

#[test]
#[cfg(not(target_os = "linux"))]
fn memory_is_not_bound_here() {
    let error = near(Path::new("/"), Near::Node(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}
