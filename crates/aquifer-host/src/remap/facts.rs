//! What the system lets a process do with memory that is shared between addresses.

use std::path::Path;

use rustix::process::Resource;

use super::file;
use crate::facts;

/// How many times the heap's size a process must be able to have of addresses and of file: mapped memory is meant to lie loosely
/// in both.
const ROOM_FACTOR: u64 = 4;

/// Whether memory can be mapped behind addresses, now and later, without a program being worse off than with blocks. Makes a file
/// and closes it again.
pub(super) fn can_remap(root: &Path, heap_bytes: u64) -> bool {
    let room = heap_bytes.saturating_mul(ROOM_FACTOR);
    let has_room = |limit| rustix::process::getrlimit(limit).current.is_none_or(|bytes| bytes >= room);
    usize::BITS >= 64
        && !counts_strictly(root)
        && has_room(Resource::As)
        && has_room(Resource::Fsize)
        && file::open().is_ok()
}

/// Whether the kernel refuses memory that it might not have. It does so when a file is touched, with a signal that ends the process;
/// blocks it refuses with an error.
fn counts_strictly(root: &Path) -> bool {
    facts::read(root, "/proc/sys/vm/overcommit_memory").is_some_and(|mode| mode.trim() == "2")
}

/// Whether the kernel backs shared memory with huge pages where it is advised to (kernel documentation,
/// admin-guide/mm/transhuge): what it does for all sizes together, unless the setting for 2 MiB says otherwise.
pub(super) fn has_huge_pages(root: &Path) -> bool {
    let setting = |path| facts::read(root, path).as_deref().and_then(chosen).map(str::to_owned);
    let all = setting("/sys/kernel/mm/transparent_hugepage/shmem_enabled");
    let own = setting("/sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled");
    match (all.as_deref(), own.as_deref()) {
        // These are for testing, and go before everything.
        (Some("force"), _) => true,
        (None | Some("deny"), _) => false,
        // Kernels before 6.8 have no setting of its own.
        (Some(all), None | Some("inherit")) => is_on_advice(all),
        (Some(_), Some(own)) => is_on_advice(own),
    }
}

/// Whether memory that has been advised gets huge pages.
fn is_on_advice(setting: &str) -> bool {
    ["always", "within_size", "advise"].contains(&setting)
}

/// The one that is chosen of several words: it stands in brackets.
fn chosen(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{bare_tree, tree};

    const ALL: &str = "sys/kernel/mm/transparent_hugepage/shmem_enabled";
    const OWN: &str = "sys/kernel/mm/transparent_hugepage/hugepages-2048kB/shmem_enabled";

    #[test]
    fn huge_pages_are_there_where_advice_brings_them() {
        let with = |all: &str, own: &str| has_huge_pages(tree(&[(ALL, all), (OWN, own)]).path());
        let all = |chosen| {
            let words = "always within_size advise never deny force";
            words.replace(chosen, &format!("[{chosen}]"))
        };
        for (chosen, inherited) in [
            ("always", true),
            ("within_size", true),
            ("advise", true),
            ("never", false),
            ("force", true),
            ("deny", false),
        ] {
            let all = all(chosen);
            assert_eq!(has_huge_pages(tree(&[(ALL, &all)]).path()), inherited, "{all}, an older kernel");
            assert_eq!(with(&all, "always [inherit] within_size advise never"), inherited, "{all}");
            let is_absolute = ["force", "deny"].contains(&chosen);
            let expected = if is_absolute { inherited } else { true };
            assert_eq!(with(&all, "always inherit within_size [advise] never"), expected, "{all}");
            let expected = if is_absolute { inherited } else { false };
            assert_eq!(with(&all, "always inherit within_size advise [never]"), expected, "{all}");
        }
        assert!(!has_huge_pages(bare_tree().path()));
        for garbled in ["", "always", "[", "[]", "[sometimes]", "always]"] {
            assert!(!has_huge_pages(tree(&[(ALL, garbled)]).path()), "{garbled:?}");
        }
    }

    #[test]
    fn strict_counting_keeps_memory_from_being_mapped() {
        let can = |mode: &str| can_remap(tree(&[("proc/sys/vm/overcommit_memory", mode)]).path(), 1);
        assert!(can_remap(bare_tree().path(), 1), "this process may have files");
        assert!(can("0\n") && can("1\n") && !can("2\n"));
    }
}
