//! How much memory this process may hold: the lowest of everything that bounds it.

use std::path::Path;

use aquifer_backend::HeapBudget;

use crate::cgroup;
use crate::facts;

/// One limit on memory, in bytes, and how much of it is used. The process may share it with others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bound {
    pub(crate) bytes_max: u64,
    pub(crate) used_bytes: u64,
}

/// What this process may hold of the machine's memory.
///
/// `heap_size_bytes` is the answer where nothing else is known. `address_space_bytes_max` is the process's limit of
/// address space (`RLIMIT_AS`), if it has one: blocks count against it whether they have been touched or not.
pub(crate) fn read(
    root: &Path,
    heap_size_bytes: u64,
    address_space_bytes_max: Option<u64>,
    page_bytes: u64,
) -> HeapBudget {
    let available_bytes = facts::memory(root).map_or(heap_size_bytes, |memory| memory.available_bytes);
    let machine =
        Bound { bytes_max: heap_size_bytes, used_bytes: heap_size_bytes.saturating_sub(available_bytes) };
    let process = process_memory(root, page_bytes);
    let address_space = address_space_bytes_max.map(|bytes_max| Bound {
        bytes_max,
        used_bytes: process.map_or(0, |process| process.address_space_bytes),
    });
    HeapBudget {
        process_bytes: process.and_then(|process| process.resident_bytes),
        ..lowest(machine, cgroup::bounds(root).into_iter().chain(address_space))
    }
}

/// Two minima: the lowest limit and the least room below a limit need not be of the same bound.
fn lowest(first: Bound, others: impl Iterator<Item = Bound>) -> HeapBudget {
    let one = |bound: Bound| HeapBudget {
        budget_bytes: bound.bytes_max,
        available_bytes: bound.bytes_max.saturating_sub(bound.used_bytes),
        process_bytes: None,
    };
    others.map(one).fold(one(first), |lowest, bound| HeapBudget {
        budget_bytes: lowest.budget_bytes.min(bound.budget_bytes),
        available_bytes: lowest.available_bytes.min(bound.available_bytes),
        process_bytes: None,
    })
}

/// What the process has.
#[derive(Debug, Clone, Copy)]
struct ProcessMemory {
    address_space_bytes: u64,
    /// Physical memory that is not of files, nor shared: what anonymous mappings, as blocks are, have been given.
    resident_bytes: Option<u64>,
}

/// As `/proc/self/statm` has it, in OS pages: size, resident, resident and shared (proc_pid_statm(5)).
fn process_memory(root: &Path, page_bytes: u64) -> Option<ProcessMemory> {
    let text = facts::read(root, "/proc/self/statm")?;
    let mut fields = text.split_whitespace().map(|field| field.parse::<u64>().ok()?.checked_mul(page_bytes));
    let address_space_bytes = fields.next()??;
    let resident = fields.next().flatten().zip(fields.next().flatten());
    let resident_bytes = resident.map(|(resident, shared)| resident.saturating_sub(shared));
    Some(ProcessMemory { address_space_bytes, resident_bytes })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{bare_tree, tree};

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n");
    const TOTAL: u64 = 1000 * 1024;

    fn budget(budget_bytes: u64, available_bytes: u64) -> HeapBudget {
        HeapBudget { budget_bytes, available_bytes, process_bytes: None }
    }

    #[test]
    fn without_limits_it_is_the_machine() {
        let root = tree(&[MEMINFO]);
        assert_eq!(read(root.path(), TOTAL, None, 4096), budget(TOTAL, 600 * 1024));
    }

    #[test]
    fn limit_and_room_may_come_from_different_groups() {
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "500000\n"),
            ("sys/fs/cgroup/a/memory.current", "450000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "300000\n"),
            ("sys/fs/cgroup/a/b/memory.current", "100000\n"),
        ]);
        assert_eq!(read(root.path(), TOTAL, None, 4096), budget(300_000, 50_000));
    }

    #[test]
    fn a_limit_above_the_machine_changes_nothing() {
        for limit in ["9223372036854771712", "18446744073709551615"] {
            let root = tree(&[
                MEMINFO,
                ("proc/self/cgroup", "4:memory:/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "1\n"),
            ]);
            assert_eq!(read(root.path(), TOTAL, None, 4096), budget(TOTAL, 600 * 1024));
        }
    }

    #[test]
    fn nothing_is_available_above_a_limit() {
        let root = tree(&[
            MEMINFO,
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "5\n"),
            ("sys/fs/cgroup/memory.current", "6\n"),
        ]);
        assert_eq!(read(root.path(), TOTAL, None, 4096), budget(5, 0));
    }

    #[test]
    fn address_space_counts_what_is_mapped() {
        let root = tree(&[MEMINFO, ("proc/self/statm", "50 40 30 1 0 5 0\n")]);
        let expected = HeapBudget { process_bytes: Some(40_960), ..budget(409_600, 204_800) };
        assert_eq!(read(root.path(), TOTAL, Some(409_600), 4096), expected);
        for garbled in ["", "x 40", "-1", "18446744073709551615"] {
            let root = tree(&[MEMINFO, ("proc/self/statm", garbled)]);
            assert_eq!(
                read(root.path(), TOTAL, Some(409_600), 4096),
                budget(409_600, 409_600),
                "{garbled:?}"
            );
        }
    }

    #[test]
    fn where_nothing_is_known_it_is_never_more_than_the_heap() {
        let read = read(bare_tree().path(), TOTAL, None, 4096);
        assert_eq!(read.budget_bytes, TOTAL);
        assert!(read.available_bytes <= TOTAL);
    }
}
