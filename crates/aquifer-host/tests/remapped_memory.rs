//! What mapped memory costs and gives back: physical memory, descriptors, the kernel's mappings. One test, in a process of its own,
//! so that nothing else moves the figures.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/remapped.rs"]
mod remapped;

use aquifer_backend::Backend;
use aquifer_host::{Host, HostBlock};
use common::skipped;
use remapped::{destroy, host, map, physical, read, release, sparse, unmap, write};

const MIB: u64 = 1 << 20;

/// What the kernel says of the files in memory that this process has open: their flags, in octal.
fn file_flags() -> Vec<u32> {
    let mut flags = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let path = entry.unwrap().path();
        if std::fs::read_link(&path).is_ok_and(|target| target.starts_with("/memfd:aquifer (deleted)")) {
            let info = std::fs::read_to_string(path.to_str().unwrap().replace("/fd/", "/fdinfo/")).unwrap();
            let field = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
            flags.push(u32::from_str_radix(field.trim(), 8).unwrap());
        }
    }
    flags
}

/// How many mappings the kernel has within a block that lie over a file.
fn file_mappings(host: &Host, block: &HostBlock, bytes: u64) -> usize {
    let start = host.host_pointer(block).unwrap().addr().get() as u64;
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let is_inside = |line: &&str| {
        let first = line.split('-').next().and_then(|text| u64::from_str_radix(text, 16).ok());
        first.is_some_and(|first| (start..start + bytes).contains(&first)) && line.contains("memfd:aquifer")
    };
    maps.lines().filter(is_inside).count()
}

fn process_bytes(host: &Host) -> u64 {
    host.budget(0).unwrap().process_bytes.unwrap()
}

#[track_caller]
fn assert_near(bytes: u64, expected: u64) {
    assert!(bytes.abs_diff(expected) < 8 * MIB, "{bytes} is not about {expected}");
}

fn touch(host: &Host, block: &HostBlock, offset: u64, bytes: u64) {
    (offset..offset + bytes).step_by(4096).for_each(|at| write(host, block, at, at));
}

#[test]
fn memory_is_there_where_touched_counted_once_and_given_back() {
    let Some(host) = host() else { return skipped("memory cannot be mapped here") };
    let before = process_bytes(&host);
    let addresses = sparse(&host, 1 << 40);
    assert_eq!(file_flags(), [], "addresses need no file");
    let memory = physical(&host, 64 * MIB);
    let close_on_exec = 0o2_000_000;
    assert!(matches!(file_flags()[..], [flags] if flags & close_on_exec != 0), "{:?}", file_flags());
    assert_near(process_bytes(&host), before);

    map(&host, &addresses, 0, &memory, 64 * MIB).unwrap();
    map(&host, &addresses, 256 * MIB, &memory, 64 * MIB).unwrap();
    assert_near(process_bytes(&host), before);
    touch(&host, &addresses, 0, 64 * MIB);
    assert_near(process_bytes(&host), before + 64 * MIB);
    // Once, though the kernel counts it for both mappings.
    touch(&host, &addresses, 256 * MIB, 64 * MIB);
    assert_near(process_bytes(&host), before + 64 * MIB);
    assert_near(Host::new().unwrap().budget(0).unwrap().process_bytes.unwrap(), before + 64 * MIB);

    release(&host, &addresses, 256 * MIB + 16 * MIB, 32 * MIB);
    assert_near(process_bytes(&host), before + 32 * MIB);
    assert_eq!([16, 47, 272].map(|at| read(&host, &addresses, at * MIB)), [0, 0, 0]);
    assert_eq!(read(&host, &addresses, 15 * MIB), 256 * MIB + 15 * MIB);
    // Unmapping gives nothing back, and destroying everything.
    unmap(&host, &addresses, 0, 64 * MIB).unwrap();
    assert_near(process_bytes(&host), before + 32 * MIB);
    unmap(&host, &addresses, 256 * MIB, 64 * MIB).unwrap();
    destroy(&host, memory);
    assert_near(process_bytes(&host), before);

    // What is made and mapped one after the other is one mapping for the kernel, here in the place of what was destroyed.
    let parts: Vec<_> = (0..32).map(|_| physical(&host, 2 * MIB)).collect();
    for (offset, part) in (0..).step_by(2 << 20).zip(&parts) {
        map(&host, &addresses, offset, part, 2 * MIB).unwrap();
        assert_eq!(read(&host, &addresses, offset), 0, "it is new");
        write(&host, &addresses, offset, offset);
    }
    assert_eq!(file_mappings(&host, &addresses, 1 << 40), 1);
    for offset in (0..64 * MIB).step_by(4 << 20) {
        unmap(&host, &addresses, offset, 2 * MIB).unwrap();
    }
    assert_eq!(file_mappings(&host, &addresses, 1 << 40), 16);
    destroy(&host, addresses);
    let addresses = sparse(&host, 64 * MIB);
    for (offset, part) in (0..).step_by(2 << 20).zip(&parts) {
        map(&host, &addresses, 62 * MIB - offset, part, 2 * MIB).unwrap();
        assert_eq!(read(&host, &addresses, 62 * MIB - offset), offset, "it was kept");
    }
    destroy(&host, addresses);
    parts.into_iter().for_each(|part| destroy(&host, part));
    assert_near(process_bytes(&host), before);
    drop(host);
    assert_eq!(file_flags(), [], "it is closed");
}
