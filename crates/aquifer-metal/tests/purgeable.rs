//! Memory that the system may take: of blocks that are told so, and of no others.

mod common;

use aquifer_backend::{Backend, BlockDesc};
use common::blocks::{OwnBlock, pattern};
use common::{assert_nothing_is_left, metal};

const BYTES: u64 = 1 << 20;

/// Both kinds of blocks, of both memory types.
fn blocks(metal: &aquifer_metal::Metal) -> Vec<OwnBlock> {
    let kinds = (0..2).flat_map(|index| [(index, None), (index, Some("one"))]);
    let make = |(index, dedicated_to)| {
        let desc = BlockDesc { dedicated_to, ..BlockDesc::new(BYTES, index) };
        OwnBlock::try_new(metal, &desc).expect("a block")
    };
    kinds.map(make).collect()
}

/// What the system has not taken is as it was. On a Mac that is short of memory it may take it; so there nothing is claimed.
#[test]
fn a_block_can_be_lent_to_the_system_and_taken_back() {
    {
        let metal = metal();
        for (seed, block) in (0..).zip(blocks(&metal)) {
            block.write(0, &pattern(seed, BYTES));
            // SAFETY: nobody uses the block.
            unsafe { metal.make_purgeable(&block) }.expect("Metal has such memory");
            let is_kept = metal.make_nonpurgeable(&block).expect("it was purgeable");
            assert!(is_kept || cfg!(target_vendor = "apple"));
            if is_kept {
                assert!(block.read(0..BYTES) == pattern(seed, BYTES));
            }
            // It can be used again either way.
            block.fill(0..BYTES, 5);
            assert!(block.read(0..BYTES).iter().all(|&byte| byte == 5));
        }
    }
    assert_nothing_is_left();
}

#[cfg(not(target_vendor = "apple"))]
mod under_pressure {
    use super::*;
    use aquifer_core::{MemoryManager, MemoryOptions};
    use aquifer_testkit::{Pattern, config_with_budget};
    use software_metal::DeviceDesc;

    fn desc(is_unified: bool) -> DeviceDesc {
        DeviceDesc { is_unified, is_apple_family: is_unified, ..DeviceDesc::default() }
    }

    #[test]
    fn what_the_system_took_is_told_once() {
        for is_unified in [true, false] {
            {
                let device = common::device(desc(is_unified));
                let metal = common::metal_on(&device);
                let blocks = blocks(&metal);
                for (seed, block) in (0..).zip(&blocks) {
                    block.write(0, &pattern(seed, BYTES));
                }
                // Every other one is lent.
                for block in blocks.iter().step_by(2) {
                    // SAFETY: nobody uses the block.
                    unsafe { metal.make_purgeable(block) }.expect("Metal has such memory");
                }
                device.faults().purge_volatile();
                for (seed, block) in blocks.iter().enumerate() {
                    let is_kept = metal.make_nonpurgeable(block).expect("whether it was purgeable or not");
                    let was_lent = seed % 2 == 0;
                    assert_eq!(is_kept, !was_lent, "block {seed}");
                    assert_eq!(
                        block.read(0..BYTES) == pattern(seed as u64, BYTES),
                        !was_lent,
                        "block {seed}"
                    );
                    block.fill(0..BYTES, 5);
                }
                // From then on it is not lent any more.
                device.faults().purge_volatile();
                for block in &blocks {
                    assert!(metal.make_nonpurgeable(block).expect("as above"));
                    assert!(block.read(0..BYTES).iter().all(|&byte| byte == 5));
                }
            }
            assert_nothing_is_left();
        }
    }

    #[test]
    fn a_block_that_the_system_took_can_be_given_back() {
        let device = common::device(desc(true));
        let metal = common::metal_on(&device);
        let blocks = blocks(&metal);
        for block in &blocks {
            // SAFETY: nobody uses the block.
            unsafe { metal.make_purgeable(block) }.expect("Metal has such memory");
        }
        device.faults().purge_volatile();
        drop(blocks);
        assert_eq!(device.allocated_bytes(), 0);
        drop(metal);
        assert_nothing_is_left();
    }

    /// Whatever the manager lends to the system, it is nothing that is live; and what comes back is used again.
    #[test]
    fn what_a_manager_gave_out_is_never_taken() {
        {
            let device = common::device(desc(true));
            let manager = MemoryManager::with_config(common::metal_on(&device), config_with_budget(1 << 30));
            let manager = manager.expect("a budget");
            let sizes = [300, 5000, 70_000, 3 << 20, 20 << 20];
            let mut live = Vec::new();
            for round in 0..8_u64 {
                for (index, bytes) in (0..).zip(sizes) {
                    let seed = round * 10 + index;
                    let mut buffer = manager.allocate(bytes).expect("there is room");
                    Pattern::new(seed).write(&mut buffer);
                    live.push((seed, buffer));
                }
                // Two thirds go, and the blocks that then hold nothing are lent to the system, which takes them at once.
                live.retain(|(seed, _)| seed % 3 == 0);
                manager.mark_idle_purgeable();
                device.faults().purge_volatile();
                live.iter().for_each(|(seed, buffer)| Pattern::new(*seed).check(buffer));
            }
            let statistics = manager.statistics();
            assert!(statistics.purgeable_bytes > 0 && statistics.purged_block_count > 0, "{statistics:#?}");
        }
        assert_nothing_is_left();
    }

    /// What the system took holds anything, and memory that is to be zero is zero all the same.
    #[test]
    fn zeroed_memory_is_zero_where_the_system_took_it() {
        {
            let device = common::device(desc(true));
            let manager = MemoryManager::with_config(common::metal_on(&device), config_with_budget(1 << 30));
            let manager = manager.expect("a budget");
            for bytes in [5000, 20 << 20] {
                drop(manager.allocate(bytes).expect("there is room"));
                assert!(manager.mark_idle_purgeable() > 0);
                device.faults().purge_volatile();
                let before = manager.statistics().driver_calls.create;
                let zeroed = manager.allocate_with(bytes, MemoryOptions::ZEROED).expect("there is room");
                assert_eq!(manager.statistics().driver_calls.create, before, "what was lent is used again");
                assert!(zeroed.as_slice::<u8>().expect("the host sees it").iter().all(|&byte| byte == 0));
            }
        }
        assert_nothing_is_left();
    }
}
