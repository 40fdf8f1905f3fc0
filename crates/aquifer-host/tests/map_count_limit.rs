//! At the limit of mappings a block that cannot be unmapped comes back whole, and no address space is lost.
//!
//! Linux refuses where it would have to split a mapping and the process has too many already. The test makes so many
//! that it does, and so has a process of its own.

#![cfg(target_os = "linux")]

use aquifer_backend::{Backend, BlockDesc, DestroyError, ErrorKind};
use aquifer_host::{Host, HostBlock};

/// Address space that this process has mapped, in bytes.
fn mapped_bytes(host: &Host) -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let os_pages: u64 = text.split_whitespace().next().unwrap().parse().unwrap();
    os_pages * host.properties().block_granularity_bytes
}

/// Writes and reads the ends of a block that is `bytes` long.
fn use_ends(host: &Host, block: &HostBlock, bytes: u64) {
    let first = host.host_pointer(block).unwrap();
    // SAFETY: the last byte lies in the block.
    let last = unsafe { first.add(bytes as usize - 1) };
    for place in [first, last] {
        // SAFETY: a whole block is readable and writable, and nobody else knows this one.
        unsafe { place.write(1) };
        // SAFETY: as above.
        assert_eq!(unsafe { place.read() }, 1);
    }
}

#[test]
fn a_refused_block_comes_back_whole_and_nothing_is_lost() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let count_max: usize =
        std::fs::read_to_string("/proc/sys/vm/max_map_count").unwrap().trim().parse().unwrap();
    if count_max > 1 << 18 {
        eprintln!("skipped: {count_max} mappings are too many to make");
        return;
    }
    let desc = BlockDesc::new(granule, 0);
    // Blocks that touch are one mapping, and each second one destroyed splits it. Room for all is made beforehand:
    // at the limit the test's own allocator cannot map either.
    let mut blocks: Vec<Option<HostBlock>> = Vec::with_capacity(2 * count_max + 2);
    let mut larger_blocks = Vec::with_capacity(24);
    let before = mapped_bytes(&host);
    while blocks.len() < blocks.capacity() {
        match host.create_block(&desc) {
            Ok(block) => blocks.push(Some(block)),
            // They did not become one mapping, so there is nothing to split.
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory);
                break;
            }
        }
    }
    let mut refused = None;
    for slot in blocks.iter_mut().step_by(2) {
        // SAFETY: nothing uses the block.
        if let Err(DestroyError { block, error }) = unsafe { host.destroy_block(slot.take().unwrap()) } {
            *slot = Some(block);
            refused = Some((slot, error));
            break;
        }
    }
    match refused {
        None => eprintln!("skipped: the system never refused"),
        Some((slot, error)) => {
            assert_eq!(error.kind(), ErrorKind::Driver);
            assert!(error.message().contains("vm.max_map_count"), "{error}");
            use_ends(&host, slot.as_ref().unwrap(), granule);
        }
    }
    // Blocks that must be aligned take several calls. At the limit and just below it, whichever is refused, they are
    // whole or not there.
    for index in 0..larger_blocks.capacity() {
        if index % 3 == 0
            && let Some(block) = blocks.get_mut(index / 3 * 2 + 1).and_then(Option::take)
        {
            // SAFETY: nothing uses the block. Its neighbours are gone, so this gives one mapping back.
            unsafe { host.destroy_block(block) }.unwrap();
        }
        let bytes = (2 << 20) + index as u64 % 5 * granule;
        match host.create_block(&BlockDesc::new(bytes, 0)) {
            Ok(block) => {
                use_ends(&host, &block, bytes);
                larger_blocks.push(block);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}"),
        }
    }
    // From one end to the other nothing is split, so all of them go; among them the block that came back.
    for block in blocks.drain(..).flatten().chain(larger_blocks.drain(..)) {
        // SAFETY: nothing uses the block.
        unsafe { host.destroy_block(block) }.unwrap();
    }
    let after = mapped_bytes(&host);
    assert!(after < before + (1 << 20), "{before} became {after}");
}
