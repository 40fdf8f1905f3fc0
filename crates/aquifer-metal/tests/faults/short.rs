//! Memory, working set and objects that are short.

use crate::common::*;
use aquifer_backend::{Backend as _, BlockDesc, BlockRange, Command};
use aquifer_core::{ErrorKind, MemoryManager, MemoryOptions};
use aquifer_metal::MetalOptions;
use aquifer_testkit::{Random, config_with_budget};
use software_metal::DeviceDesc;
use std::num::NonZeroU64;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn small() -> DeviceDesc {
    DeviceDesc { working_set_bytes: 256 * MIB, memory_bytes: 512 * MIB, ..DeviceDesc::default() }
}

/// Metal lets go of what work has used a moment after the work has ended: that is no lack of memory.
#[test]
fn memory_whose_work_has_just_ended_can_be_had_again() {
    for overlap_seed in [None, Some(3)] {
        let desc = DeviceDesc { working_set_bytes: 64 * MIB, overlap_seed, ..DeviceDesc::default() };
        let device = device(desc);
        let metal = metal_on(&device);
        let queue = metal.create_queue().unwrap();
        for value in 1..=300 {
            let block = metal.create_block(&BlockDesc::new(64 * MIB, 0)).expect("all of it is free");
            let destination = BlockRange { block: &block, offset: 0, bytes: 4096 };
            let command = Command::Fill { destination, value: 1 };
            // SAFETY: the range lies in the block, which lives until the queue's value shows that it was filled.
            unsafe { metal.enqueue(&queue, command, &Arc::default()) }.unwrap();
            signal(&metal, &queue, value).unwrap();
            assert!(metal.wait(&queue, value, LONG).unwrap());
            // SAFETY: nothing uses the block any more.
            unsafe { metal.destroy_block(block) }.unwrap();
        }
        drop((queue, metal));
        assert_nothing_is_left();
    }
}

#[test]
fn the_working_set_is_kept_unless_told_otherwise() {
    for overcommit in [false, true] {
        let device = device(small());
        let metal = metal_with(&device, MetalOptions::default().overcommit(overcommit));
        let manager = MemoryManager::with_config(metal.clone(), config_with_budget(1 << 30)).unwrap();
        let budget = || metal.budget(0).unwrap();
        assert_eq!((budget().budget_bytes, budget().available_bytes), (256 * MIB, 256 * MIB));
        let first = manager.allocate(100 * MIB).unwrap();
        assert_eq!(budget().available_bytes, 156 * MIB);
        // Others of the process take memory too.
        device.faults().set_foreign_bytes(100 * MIB);
        assert_eq!(budget().available_bytes, 56 * MIB);
        let second = manager.allocate(60 * MIB);
        if overcommit {
            drop(second.unwrap());
            manager.trim();
            // But there is no more than there is.
            assert_eq!(manager.allocate(400 * MIB).unwrap_err().kind(), ErrorKind::OutOfMemory);
        } else {
            let error = second.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory);
            let text = format!("{error:?}");
            assert!(
                text.contains("MetalOptions::overcommit") && text.contains("iogpu.wired_limit_mb"),
                "{text}"
            );
            drop(manager.allocate(50 * MIB).unwrap());
        }
        device.faults().set_foreign_bytes(300 * MIB);
        assert_eq!(budget().available_bytes, 0);
        device.faults().set_foreign_bytes(0);
        drop(manager.allocate(60 * MIB).unwrap());
        // The system may recommend less later.
        device.faults().set_working_set(100 * MIB);
        manager.trim();
        assert_eq!((budget().budget_bytes, budget().available_bytes), (100 * MIB, 0));
        assert_eq!(manager.allocate(MIB).is_ok(), overcommit);
        drop((first, manager, metal));
        assert_nothing_is_left();
    }
}

#[test]
fn the_number_of_resources_is_kept() {
    for resources in [2, 3, 7, 20] {
        let device = device(DeviceDesc { resource_count_max: resources, ..DeviceDesc::default() });
        let count = NonZeroU64::new(resources).unwrap();
        let metal = metal_with(&device, MetalOptions::default().resource_count_max(count));
        let manager = MemoryManager::with_config(metal, config_with_budget(1 << 30)).unwrap();
        let tag = manager.tag("many").unwrap();
        let mut random = Random::new(resources);
        let mut buffers = Vec::new();
        let mut refusals = 0;
        for _ in 0..200 {
            let bytes = if random.below(3) == 0 { 9 * MIB } else { random.size(4 * MIB) };
            match manager.allocate_with(bytes, MemoryOptions::DEFAULT.tag(tag)) {
                Ok(buffer) => buffers.push(buffer),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                    assert!(!error.message().is_empty());
                    refusals += 1;
                    assert!(!buffers.is_empty(), "{resources}: {bytes} bytes, with nothing live: {error:?}");
                    buffers.swap_remove(random.below(buffers.len() as u64) as usize);
                }
            }
        }
        assert!(refusals > 0, "{resources}");
        // The device would have answered nil for one more; the core did not ask for it.
        assert!(device.resources_peak() <= resources, "{} of {resources}", device.resources_peak());
        drop((buffers, manager));
        assert_nothing_is_left();
    }
}

#[test]
fn a_device_that_has_no_more_memory_than_is_used_says_so() {
    let device = device(small());
    let metal = metal_on(&device);
    device.faults().set_memory(10 * MIB);
    for dedicated_to in [None, Some("cache")] {
        let desc = BlockDesc { dedicated_to, ..BlockDesc::new(20 * MIB, 0) };
        let error = metal.create_block(&desc).unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::OutOfMemory, "create_block"));
        assert!(error.message().contains("20971520"), "{error}");
    }
    drop(metal);
    assert_nothing_is_left();
}
