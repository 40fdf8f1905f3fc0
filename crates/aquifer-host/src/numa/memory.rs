//! How much memory a node has, as `node<n>/meminfo` says it.

use std::path::Path;

/// A field of the file, in bytes. Its lines are `Node 0 MemTotal:       24684084 kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(2);
        if words.next()?.strip_suffix(':')? != name {
            return None;
        }
        let value = words.next()?.parse::<u64>().ok()?;
        (words.next()? == "kB").then_some(value)?.checked_mul(1024)
    })
}

/// A node's memory, in bytes.
pub(super) fn total_bytes(text: &str) -> Option<u64> {
    field(text, "MemTotal")
}

/// What could be had on a node without swapping and without killing anybody, in bytes: what is free, and files' contents that
/// can be read again. A sixty-fourth of the node is left out: below some such mark the kernel gives nothing away.
///
/// `None` if the system does not say.
#[cfg_attr(
    not(any(target_os = "linux", target_os = "macos")),
    allow(dead_code, reason = "only where blocks are made, and in tests")
)]
pub(crate) fn available_bytes(root: &Path, node: u32) -> Option<u64> {
    let text =
        std::fs::read_to_string(root.join(format!("sys/devices/system/node/node{node}/meminfo"))).ok()?;
    let free_bytes = field(&text, "MemFree")?;
    let droppable = ["Active(file)", "Inactive(file)", "SReclaimable"].map(|name| field(&text, name));
    let all_bytes = droppable.into_iter().flatten().fold(free_bytes, u64::saturating_add);
    Some(all_bytes.saturating_sub(total_bytes(&text)? / 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{bare_tree, tree};

    const PATH: &str = "sys/devices/system/node/node3/meminfo";

    #[test]
    fn caches_of_files_are_available_and_a_reserve_is_not() {
        let text = "Node 3 MemTotal:  6400 kB\nNode 3 MemFree:   1000 kB\nNode 3 MemUsed:  5400 kB\n\
                    Node 3 Active(file):  20 kB\nNode 3 Inactive(file): 3 kB\nNode 3 SReclaimable: 400 kB\n";
        assert_eq!(total_bytes(text), Some(6400 * 1024));
        assert_eq!(available_bytes(tree(&[(PATH, text)]).path(), 3), Some((1000 + 423 - 100) * 1024));
        let full = "Node 3 MemTotal: 6400 kB\nNode 3 MemFree: 7 kB\n";
        assert_eq!(available_bytes(tree(&[(PATH, full)]).path(), 3), Some(0));
    }

    #[test]
    fn what_is_garbled_is_not_known() {
        for text in [
            "",
            "Node 3",
            "Node 3 MemTotal",
            "Node 3 MemTotal:",
            "Node 3 MemTotal: 5",
            "Node 3 MemTotal: 5 pages",
            "Node 3 MemTotal: -5 kB",
            "Node 3 MemTotal: 18446744073709551615 kB",
        ] {
            assert_eq!(total_bytes(text), None, "{text:?}");
            assert_eq!(available_bytes(tree(&[(PATH, text)]).path(), 3), None, "{text:?}");
        }
        assert_eq!(available_bytes(bare_tree().path(), 3), None);
    }
}
