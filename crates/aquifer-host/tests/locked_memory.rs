//! The kernel's view of pinned blocks. One test, in a process of its own, so that nothing else moves the figures.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, BlockDesc, BlockRange};
use aquifer_host::{Host, HostBlock};
use common::{mapped_bytes, skipped, status_bytes};

const PINNED: usize = 1;

fn locked_bytes() -> u64 {
    status_bytes("VmLck")
}

/// A field of what the kernel says of the block's mappings.
fn of_block(host: &Host, block: &HostBlock, bytes: u64, name: &str) -> Option<u64> {
    let start = host.host_pointer(block).unwrap().addr().get();
    mapped_bytes(name, start, start + bytes as usize)
}

#[test]
fn pinned_blocks_are_locked_whole_and_nothing_else_is() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let before = locked_bytes();
    // With and without huge pages, in whole ones and not. All of them are less than the 8 MiB that everybody may lock.
    for bytes in [granule, 64 << 10, 2 << 20, (2 << 20) + 3 * granule, 5 << 20] {
        let block = match host.create_block(&BlockDesc::new(bytes, PINNED)) {
            Ok(block) => block,
            Err(error) => {
                assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
                assert_eq!(locked_bytes(), before, "what was refused is not locked");
                skipped(error);
                continue;
            }
        };
        let ordinary = host.create_block(&BlockDesc::new(bytes, 0)).unwrap();
        assert_eq!(locked_bytes(), before + bytes);
        // Nobody has touched it.
        match of_block(&host, &block, bytes, "Locked") {
            Some(locked) => {
                assert_eq!(locked, bytes);
                assert_eq!(of_block(&host, &block, bytes, "Rss"), Some(bytes));
                assert_eq!(of_block(&host, &ordinary, bytes, "Locked"), Some(0));
            }
            None => skipped("the kernel has no smaps"),
        }

        if bytes > 4 * granule {
            let range = BlockRange { block: &block, offset: granule, bytes: 2 * granule };
            // SAFETY: the range lies in the block, and nobody uses it.
            unsafe { host.release_range(range) }.unwrap();
            assert_eq!(locked_bytes(), before + bytes - 2 * granule, "that much can be locked elsewhere");
            let resident = of_block(&host, &block, bytes, "Rss");
            assert!(
                resident.is_none_or(|resident| resident == bytes - 2 * granule),
                "{resident:?} of {bytes}"
            );
        }
        // SAFETY: nothing uses the block.
        unsafe { host.destroy_block(block) }.unwrap();
        assert_eq!(locked_bytes(), before, "destroying {bytes} bytes unlocks them");
        // SAFETY: nothing uses the block.
        unsafe { host.destroy_block(ordinary) }.unwrap();
    }
}
