//! At the limit of mappings nothing is mapped or unmapped by halves, and below it everything goes on. The test makes so many
//! mappings that the system refuses, and so has a process of its own.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/remapped.rs"]
mod remapped;

use aquifer_backend::{Backend, Error, ErrorKind};
use aquifer_host::{Host, HostBlock};
use common::skipped;
use remapped::{destroy, host, map, physical, read, sparse, unmap, write};
use rustix::mm::{MsyncFlags, msync};

#[track_caller]
fn assert_names_the_limit(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.message().contains("vm.max_map_count"), "{error}");
}

/// Whether there is a mapping of any kind: `msync` says so, and does nothing but that.
fn is_reserved(host: &Host, block: &HostBlock, offset: u64, bytes: u64) -> bool {
    let start = host.host_pointer(block).unwrap();
    // SAFETY: the offset lies in the block.
    let start = unsafe { start.add(offset as usize) };
    // SAFETY: the call changes nothing.
    unsafe { msync(start.as_ptr().cast(), bytes as usize, MsyncFlags::ASYNC) }.is_ok()
}

#[test]
fn a_refused_mapping_changes_nothing() {
    let Some(host) = host() else { return skipped("memory cannot be mapped here") };
    let page = host.properties().physical_page_bytes;
    let count_max: u64 =
        std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    if count_max > 1 << 18 {
        return skipped(format_args!("{count_max} mappings are too many to make"));
    }
    let promised = host.properties().mapping_count_max;
    assert!(promised > 0 && promised < count_max);
    let memory = physical(&host, page);
    // Three that become one mapping, so that unmapping the second splits it.
    let beside = [(); 3].map(|()| physical(&host, page));
    let row = sparse(&host, 3 * page);
    for (index, part) in (0..).zip(&beside) {
        map(&host, &row, index * page, part, page).unwrap();
        write(&host, &row, index * page, index);
    }
    // Every second page of the addresses, so that each mapping counts twice.
    let addresses = sparse(&host, 2 * count_max * page);
    let mut mapped = 0;
    let refused = loop {
        match map(&host, &addresses, (2 * mapped + 1) * page, &memory, page) {
            Ok(()) if mapped < count_max => mapped += 1,
            Ok(()) => break None,
            Err(error) => break Some(error),
        }
    };
    let unmapped = unmap(&host, &row, page, page);
    write(&host, &addresses, page, 7);
    let all_see = (0..mapped).all(|index| read(&host, &addresses, (2 * index + 1) * page) == 7);
    let is_reserved = is_reserved(&host, &addresses, (2 * mapped + 1) * page, page);
    let row_holds = [0, 2].map(|index| read(&host, &row, index * page));
    let middle_holds = if unmapped.is_err() { read(&host, &row, page) } else { 1 };
    // This makes room, and then all goes on. Before, the test's own allocator might have none.
    destroy(&host, addresses);
    let Some(refused) = refused else { return skipped("the system never refused") };
    assert!(mapped >= promised, "{mapped} of {promised}");
    assert_names_the_limit(&refused);
    assert!(all_see, "a mapping has lost its memory");
    assert!(is_reserved, "others could be given the addresses");
    assert_eq!((row_holds, middle_holds), ([0, 2], 1));
    if let Err(error) = unmapped {
        assert_names_the_limit(&error);
        unmap(&host, &row, page, page).unwrap();
    }
    map(&host, &row, page, &memory, page).unwrap();
    assert_eq!([0, 1, 2].map(|index| read(&host, &row, index * page)), [0, 7, 2]);
    destroy(&host, row);
    beside.into_iter().chain([memory]).for_each(|block| destroy(&host, block));
}
