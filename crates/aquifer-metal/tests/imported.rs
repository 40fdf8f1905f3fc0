//! Memory that the program brings, as Metal buffers.

mod common;

use aquifer_backend::Backend;
use aquifer_core::{CopyDesc, ErrorKind, MemoryManager};
use aquifer_metal::Metal;
use aquifer_metal::objc2_metal::{
    MTLBuffer, MTLDevice, MTLHazardTrackingMode, MTLResource as _, MTLStorageMode,
};
use aquifer_testkit::{MappedMemory, Pattern, Shelf, config_with_budget};
use common::blocks::{await_that, blit_fill, holds_pattern};
use common::{assert_nothing_is_left, metal};
use objc2::Message as _;
use objc2::rc::autoreleasepool;
use objc2_foundation::NSRange;

fn manager(metal: &Metal) -> MemoryManager<Metal> {
    MemoryManager::with_config(metal.clone(), config_with_budget(64 << 20)).expect("a budget")
}

/// Four of the units in which memory is imported, with a pattern in them.
fn memory(metal: &Metal, seed: u64) -> MappedMemory {
    let unit = metal.properties().import_alignment_bytes;
    let mut memory = MappedMemory::new(4 * unit, unit);
    Pattern::new(seed).bytes(0, memory.content_mut());
    memory
}

fn has_import(metal: &Metal) -> bool {
    metal.raw_device().hasUnifiedMemory()
}

#[test]
fn content_is_seen_both_ways() {
    {
        let metal = metal();
        if !has_import(&metal) {
            return;
        }
        let (manager, shelf) = (manager(&metal), Shelf::default());
        let memory = memory(&metal, 1);
        let (start, bytes) = (memory.start(), memory.content().len() as u64);
        let imported = manager.import(memory.lend(0..bytes, &shelf)).expect("whole pages");
        assert_eq!(imported.host_pointer(), Some(start));
        imported.with_block(|block, offset| {
            let buffer = block.buffer();
            assert_eq!((buffer.contents().cast(), offset, buffer.length() as u64), (start, 0, bytes));
            assert_eq!(buffer.storageMode(), MTLStorageMode::Shared);
            assert_eq!(buffer.hazardTrackingMode(), MTLHazardTrackingMode::Untracked);
            let label = autoreleasepool(|_| buffer.label().expect("a label").to_string());
            assert_eq!((block.heap().is_none(), label.as_str()), (true, "aquifer imported memory"));
        });

        // The device reads what the host wrote,
        let queue = manager.queue().expect("a queue");
        let copy = queue.allocate(bytes).expect("there is room");
        let all = CopyDesc { source_offset: 0, destination_offset: 0, bytes };
        let (imported, copy) =
            queue.copy(imported, copy, all).expect("it is put in").wait().expect("it arrives");
        assert!(holds_pattern(1, 0, copy.as_slice().expect("the host sees it")));
        // and the host what the device writes, in the very memory.
        let part = NSRange::new(100, 1000);
        imported.with_block(|block, _| blit_fill(&metal, queue.raw(), block.buffer(), part, 9, 1000));
        drop(imported);
        // The command buffers keep it, and go when their handlers have run.
        await_that(|| shelf.count() == 1);
        let memory = shelf.take().pop().expect("the owner is dropped");
        assert!(memory.content()[100..1100].iter().all(|&byte| byte == 9));
        assert!(holds_pattern(1, 0, &memory.content()[..100]));
        assert!(holds_pattern(1, 1100, &memory.content()[1100..]));
    }
    assert_nothing_is_left();
}

/// The owner goes with the Metal buffer, not with the block: who retains that may use it on.
#[test]
fn a_retained_metal_buffer_keeps_the_owner() {
    {
        let metal = metal();
        if !has_import(&metal) {
            return;
        }
        let (manager, shelf) = (manager(&metal), Shelf::default());
        let memory = memory(&metal, 2);
        let bytes = memory.content().len() as u64;
        let imported = manager.import(memory.lend(0..bytes, &shelf)).expect("whole pages");
        let retained = imported.with_block(|block, _| block.buffer().retain());
        drop(imported);
        let statistics = manager.statistics();
        assert_eq!((statistics.imported.current, statistics.imported_block_count), (0, 0));
        drop(manager);
        assert_eq!(shelf.count(), 0, "the owner was dropped before the Metal buffer");
        assert_eq!(retained.length() as u64, bytes);
        drop(retained);
        assert_eq!(shelf.count(), 1);
    }
    assert_nothing_is_left();
}

/// At the backend, where nothing is checked above: Metal says no, and the memory comes back as it was.
#[test]
fn memory_that_metal_does_not_take_comes_back() {
    {
        let metal = metal();
        if !has_import(&metal) {
            return;
        }
        let (shelf, visible) = (Shelf::default(), common::blocks::visible_type(&metal));
        let memory = memory(&metal, 3);
        let (start, bytes) = (memory.start(), memory.content().len() as u64);
        let crooked = memory.lend(8..bytes / 2, &shelf);
        let refused = metal.import_block(crooked, visible).expect_err("it begins within a page");
        assert_eq!(refused.error.kind(), ErrorKind::Driver, "{}", refused.error);
        assert!(refused.error.message().contains("whole OS pages"), "{}", refused.error);
        // SAFETY: the offset lies in the memory.
        assert_eq!(refused.memory.start(), unsafe { start.add(8) });
        assert_eq!((refused.memory.bytes(), shelf.count()), (bytes / 2 - 8, 0));
        drop(refused);
        let memory = shelf.take().pop().expect("the owner is dropped");
        assert!(holds_pattern(3, 0, memory.content()));
    }
    assert_nothing_is_left();
}

/// Blocks of private memory cannot be anybody else's.
#[test]
fn private_memory_is_not_imported() {
    {
        let metal = metal();
        if !has_import(&metal) {
            return;
        }
        let shelf = Shelf::default();
        let memory = memory(&metal, 4);
        let bytes = memory.content().len() as u64;
        let private = common::blocks::private_type(&metal);
        let refused = metal.import_block(memory.lend(0..bytes, &shelf), private).expect_err("it is private");
        assert_eq!((refused.error.kind(), shelf.count()), (ErrorKind::Unsupported, 0));
        drop(refused);
        assert_eq!(shelf.count(), 1);
    }
    assert_nothing_is_left();
}

#[cfg(not(target_vendor = "apple"))]
mod in_software {
    use super::*;
    use aquifer_core::Capabilities;
    use common::blocks::{LONG, OwnBlock};
    use software_metal::{Call, DeviceDesc};

    #[test]
    fn nil_gives_the_memory_back_whatever_the_reason() {
        {
            let device = common::device(DeviceDesc::default());
            let metal = common::metal_on(&device);
            let (manager, shelf) = (manager(&metal), Shelf::default());
            let memory = memory(&metal, 5);
            let (start, bytes) = (memory.start(), memory.content().len() as u64);
            device.faults().fail(Call::NewBufferNoCopy, 0);
            let refused = manager.import(memory.lend(0..bytes, &shelf)).expect_err("Metal made nothing");
            assert_eq!((refused.error.kind(), refused.memory.start()), (ErrorKind::Driver, start));
            assert_eq!((shelf.count(), manager.statistics().imported_block_count), (0, 0));
            // The very same memory, once more.
            let imported = manager.import(refused.memory).expect("now it does");
            assert!(holds_pattern(5, 0, imported.as_slice().expect("the host sees it")));
            assert_eq!(device.live_objects()["MTLBuffer"], 1);
            drop(imported);
            assert_eq!((shelf.count(), device.live_objects().get("MTLBuffer")), (1, None));
        }
        assert_nothing_is_left();
    }

    #[test]
    fn a_device_with_memory_of_its_own_imports_nothing() {
        {
            let desc = DeviceDesc { is_unified: false, is_apple_family: false, ..DeviceDesc::default() };
            let metal = common::metal_on(&common::device(desc));
            let properties = metal.properties();
            assert!(!properties.capabilities.contains(Capabilities::IMPORT));
            assert_eq!(properties.import_alignment_bytes, 0);
            let shelf = Shelf::default();
            for index in 0..2 {
                let memory = MappedMemory::new(1 << 16, 1 << 16).lend(0..1 << 16, &shelf);
                let refused = metal.import_block(memory, index).expect_err("it is promised nowhere");
                assert_eq!(refused.error.kind(), ErrorKind::Unsupported, "type {index}: {}", refused.error);
            }
            let memory = MappedMemory::new(1 << 16, 1 << 16).lend(0..1 << 16, &shelf);
            let refused = manager(&metal).import(memory).expect_err("as above");
            assert_eq!(refused.error.kind(), ErrorKind::Unsupported);
            drop(refused);
            assert_eq!(shelf.count(), 3);
        }
        assert_nothing_is_left();
    }

    /// A block that work uses may be let go of before the work has ended, if the device is lost; the owner then waits for Metal.
    #[test]
    fn the_owner_waits_for_the_device() {
        {
            let device = common::device(DeviceDesc::default());
            let metal = common::metal_on(&device);
            let (shelf, visible) = (Shelf::default(), common::blocks::visible_type(&metal));
            let memory = memory(&metal, 6);
            let bytes = memory.content().len() as u64;
            let block = metal.import_block(memory.lend(0..bytes, &shelf), visible).expect("whole pages");
            let block = OwnBlock::of(&metal, block);
            let queue = metal.create_queue().expect("a queue");
            let held = device.faults().hold_execution();
            let ticket = std::sync::Arc::default();
            let fill = aquifer_backend::Command::Fill { destination: block.all(), value: 3 };
            // SAFETY: the memory stays until its owner is dropped, which is what this is about.
            unsafe { metal.enqueue(&queue, fill, &ticket) }.expect("work");
            common::signal(&metal, &queue, 1).expect("a marker");
            // The command buffer keeps the Metal buffer, so the memory is still the device's.
            drop(block);
            assert_eq!(shelf.count(), 0);
            drop(held);
            assert!(metal.wait(&queue, 1, LONG).expect("the device works"));
            drop((queue, metal));
            device.wait_until_returned().expect("nothing is left");
            let memory = shelf.take().pop().expect("the owner is dropped");
            assert!(memory.content().iter().all(|&byte| byte == 3));
        }
        assert_nothing_is_left();
    }
}
