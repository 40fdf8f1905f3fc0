//! What a block is in Metal, and what a program may do with it.

mod common;

use aquifer_backend::{Backend, BlockDesc, MemoryFlags, Ticket};
use aquifer_core::{Buffer, MemoryManager, MemoryOptions};
use aquifer_metal::objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder as _, MTLDevice,
    MTLHazardTrackingMode, MTLHeap, MTLHeapType, MTLResource as _, MTLResourceOptions, MTLStorageMode,
};
use aquifer_metal::{Metal, MetalBlock};
use aquifer_testkit::{Pattern, config_with_budget};
use common::blocks::{LONG, OwnBlock, blit_fill, is_visible};
use common::{assert_nothing_is_left, metal};
use objc2::rc::autoreleasepool;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use std::sync::Arc;

const MIB: u64 = 1 << 20;

fn manager(metal: &Metal) -> MemoryManager<Metal> {
    MemoryManager::with_config(metal.clone(), config_with_budget(1024 * MIB)).expect("a budget")
}

fn label(buffer: &ProtocolObject<dyn MTLBuffer>) -> String {
    buffer.label().map(|label| label.to_string()).unwrap_or_default()
}

fn storage_mode(metal: &Metal, memory_type_index: usize) -> MTLStorageMode {
    if is_visible(metal, memory_type_index) { MTLStorageMode::Shared } else { MTLStorageMode::Private }
}

/// Checks a block of a device with unified memory, or of a private type: a heap with one buffer over all of it.
fn assert_is_heap(metal: &Metal, block: &MetalBlock, memory_type_index: usize, bytes: u64) {
    autoreleasepool(|_| {
        let (heap, buffer) = (block.heap().expect("a heap"), block.buffer());
        assert_eq!(heap.r#type(), MTLHeapType::Placement);
        assert_eq!(heap.hazardTrackingMode(), MTLHazardTrackingMode::Untracked);
        assert_eq!(heap.storageMode(), storage_mode(metal, memory_type_index));
        assert!(heap.size() as u64 >= bytes);
        assert_eq!(heap.label().expect("a label").to_string(), "aquifer block");
        assert_eq!((block.bytes(), buffer.length() as u64), (bytes, bytes));
        assert_eq!(buffer.hazardTrackingMode(), MTLHazardTrackingMode::Untracked);
        assert_eq!(buffer.storageMode(), storage_mode(metal, memory_type_index));
        assert_eq!((buffer.heapOffset(), label(buffer)), (0, "aquifer block".to_owned()));
        assert!(buffer.heap().is_some_and(|of_buffer| std::ptr::eq(&raw const *of_buffer, heap)));
    });
}

/// Checks a block that is a buffer by itself.
fn assert_is_buffer(metal: &Metal, block: &MetalBlock, memory_type_index: usize, named: &str) {
    autoreleasepool(|_| {
        let buffer = block.buffer();
        assert!(block.heap().is_none() && buffer.heap().is_none());
        assert_eq!((buffer.length() as u64, label(buffer)), (block.bytes(), named.to_owned()));
        assert_eq!(buffer.storageMode(), storage_mode(metal, memory_type_index));
        assert_eq!(buffer.hazardTrackingMode(), MTLHazardTrackingMode::Untracked);
    });
}

/// Where the host sees a block there is its pointer, and nowhere else.
fn assert_pointer_follows_type(metal: &Metal, block: &MetalBlock, memory_type_index: usize) {
    let pointer = metal.host_pointer(block);
    assert_eq!(pointer.is_some(), is_visible(metal, memory_type_index));
    if let Some(pointer) = pointer {
        assert_eq!(pointer, block.buffer().contents().cast());
    }
}

/// What host and device see is pinned on every device, and unified where their memory is the same.
#[test]
fn shared_memory_is_pinned_and_private_memory_is_not() {
    let shared = MemoryFlags::HOST_VISIBLE | MemoryFlags::PINNED;
    common::on_all_kinds(|kind, metal| {
        let flags: Vec<_> = metal.properties().memory_types.iter().map(|one| one.flags).collect();
        let expected = if metal.raw_device().hasUnifiedMemory() {
            [MemoryFlags::DEVICE_LOCAL | shared, MemoryFlags::DEVICE_LOCAL]
        } else {
            [MemoryFlags::DEVICE_LOCAL, shared]
        };
        assert_eq!(flags, expected, "{kind}");
        for (index, flags) in flags.into_iter().enumerate() {
            let block = OwnBlock::new(metal, 2 * MIB, index);
            let is_pinned = flags.contains(MemoryFlags::PINNED);
            assert_eq!(block.buffer().storageMode() == MTLStorageMode::Shared, is_pinned, "{kind}");
        }
    });
}

#[test]
fn a_block_that_is_cut_is_a_placement_heap_with_one_buffer_over_it() {
    {
        let metal = metal();
        let unified = metal.raw_device().hasUnifiedMemory();
        for index in (0..2).filter(|&index| unified || !is_visible(&metal, index)) {
            let block = OwnBlock::new(&metal, 2 * MIB, index);
            assert_is_heap(&metal, &block, index, 2 * MIB);
            assert_pointer_follows_type(&metal, &block, index);
        }
    }
    assert_nothing_is_left();
}

#[test]
fn a_block_for_one_allocation_is_a_buffer_named_by_its_tag() {
    {
        let metal = metal();
        for index in 0..2 {
            for (tag, named) in [("weights of layer 3", "weights of layer 3"), ("", "aquifer buffer")] {
                let desc = BlockDesc { dedicated_to: Some(tag), ..BlockDesc::new(MIB, index) };
                let block = OwnBlock::try_new(&metal, &desc).expect("a block");
                assert_is_buffer(&metal, &block, index, named);
                assert_pointer_follows_type(&metal, &block, index);
            }
        }
    }
    assert_nothing_is_left();
}

/// The tag of an allocation above the largest bucket is what Apple's tools call its memory.
#[test]
fn a_managers_large_allocations_are_named() {
    {
        let manager = manager(&metal());
        let weights = manager.tag("weights").expect("a tag");
        let tagged =
            manager.allocate_with(300 * MIB, MemoryOptions::DEFAULT.tag(weights)).expect("there is room");
        let untagged = manager.allocate(300 * MIB).expect("there is room");
        for (buffer, named) in [(&tagged, "weights"), (&untagged, "aquifer buffer")] {
            buffer.with_block(|block, _| assert_is_buffer(manager.backend(), block, 0, named));
        }
        let small = manager.allocate_with(1000, MemoryOptions::DEFAULT.tag(weights)).expect("there is room");
        small.with_block(|block, _| assert_eq!(autoreleasepool(|_| label(block.buffer())), "aquifer block"));
    }
    assert_nothing_is_left();
}

/// The buffer and the offset of an allocation, as a kernel is given them, and all bytes of the block.
fn place_of(buffer: &Buffer<Metal>) -> (NSRange, Vec<u8>) {
    buffer.with_block(|block, offset| {
        let range = NSRange::new(offset as usize, buffer.size_bytes() as usize);
        let start = block.buffer().contents().cast::<u8>();
        // SAFETY: the block is that long, the host sees it, and no work is running.
        let content = unsafe { std::slice::from_raw_parts(start.as_ptr(), block.bytes() as usize) };
        (range, content.to_vec())
    })
}

#[test]
fn buffer_and_offset_name_exactly_the_allocation() {
    {
        let metal = metal();
        let manager = manager(&metal);
        let queue = manager.queue().expect("a queue");
        let sizes = [256, 1000, 4096, 70_000, 4, MIB];
        let mut buffers = sizes.map(|bytes| manager.allocate(bytes).expect("there is room"));
        for (seed, buffer) in (0..).zip(&mut buffers) {
            Pattern::new(seed).bytes(0, buffer.as_mut_slice().expect("the host sees it"));
        }
        for (buffer, marker) in buffers.iter().zip(1..) {
            let (range, mut expected) = place_of(buffer);
            let value = 0xc0 + marker as u8;
            buffer.with_block(|block, _| {
                blit_fill(&metal, queue.raw(), block.buffer(), range, value, marker);
            });
            expected[range.location..range.location + range.length].fill(value);
            assert!(place_of(buffer).1 == expected, "more or less than {range:?} was filled");
            assert!(buffer.as_slice::<u8>().expect("as above").iter().all(|&byte| byte == value));
        }
    }
    assert_nothing_is_left();
}

/// A program may put a buffer of its own over an allocation: both are the same memory.
#[test]
fn a_buffer_of_the_programs_own_in_the_heap_is_the_same_memory() {
    {
        let metal = metal();
        let manager = manager(&metal);
        let bytes = 70_000;
        let options = MTLResourceOptions::StorageModeShared | MTLResourceOptions::HazardTrackingModeUntracked;
        let placed = metal.raw_device().heapBufferSizeAndAlignWithLength_options(bytes, options);
        let filler = manager.allocate(5000).expect("there is room");
        let aligned = MemoryOptions::DEFAULT.alignment(placed.align as u64);
        let mut buffer = manager.allocate_with(placed.size as u64, aligned).expect("there is room");
        buffer.fill(1).expect("a fill");
        let own = buffer.with_block(|block, offset| {
            let heap = block.heap().expect("it is cut");
            // SAFETY: the range is the allocation's, as long as Metal says that such a buffer is, and aligned as it wants.
            unsafe { heap.newBufferWithLength_options_offset(bytes, options, offset as usize) }
        });
        let own = own.expect("a buffer over the allocation");
        // SAFETY: the memory is shared and that long; only this thread uses it.
        let own_content =
            unsafe { std::slice::from_raw_parts_mut(own.contents().cast::<u8>().as_ptr(), bytes) };
        assert!(own_content.iter().all(|&byte| byte == 1));
        own_content.fill(2);
        assert!(buffer.as_slice::<u8>().expect("the host sees it")[..bytes].iter().all(|&byte| byte == 2));

        // By the device too.
        let queue = manager.queue().expect("a queue");
        blit_fill(&metal, queue.raw(), &own, NSRange::new(4, bytes - 8), 3, 1);
        let content = &buffer.as_slice::<u8>().expect("as above")[..bytes];
        assert!(content[..4].iter().chain(&content[bytes - 4..]).all(|&byte| byte == 2));
        assert!(content[4..bytes - 4].iter().all(|&byte| byte == 3));
        drop((own, filler));
    }
    assert_nothing_is_left();
}

/// Work that two allocations of one block are given to, side by side: each finds its own.
#[test]
fn a_kernel_is_given_one_buffer_and_two_offsets() {
    {
        let metal = metal();
        let manager = manager(&metal);
        let queue = manager.queue().expect("a queue");
        let [mut source, destination] = [(); 2].map(|()| queue.allocate(10_000).expect("there is room"));
        Pattern::new(7).bytes(0, source.as_mut_slice().expect("the host sees it"));
        let ticket = Arc::new(Ticket::default());
        let place = |block: &MetalBlock, offset: u64| (std::ptr::from_ref(block.buffer()), offset as usize);
        let (from, from_offset) = source.with_block(place);
        let (to, to_offset) = destination.with_block(place);
        assert!(std::ptr::eq(from, to), "both are in one block");
        let encode = |commands: &ProtocolObject<dyn MTLCommandBuffer>| {
            let encoder = commands.blitCommandEncoder().expect("an encoder");
            destination.with_block(|block, _| {
                let buffer = block.buffer();
                // SAFETY: both ranges are allocations at home on the queue, which live until it is idle.
                unsafe {
                    encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                        buffer,
                        from_offset,
                        buffer,
                        to_offset,
                        10_000,
                    );
                }
            });
            encoder.endEncoding();
        };
        // SAFETY: as above.
        unsafe { queue.raw().submit(&ticket, encode) }.expect("work");
        queue.synchronize(LONG).expect("the device works");
        assert!(
            source.as_slice::<u8>().expect("it is seen") == destination.as_slice::<u8>().expect("it is seen")
        );
    }
    assert_nothing_is_left();
}

#[cfg(not(target_vendor = "apple"))]
mod on_other_devices {
    use super::*;
    use aquifer_core::ErrorKind;
    use common::blocks::{private_type, visible_type};
    use software_metal::{Call, DeviceDesc};

    fn discrete() -> DeviceDesc {
        DeviceDesc { is_unified: false, is_apple_family: false, ..DeviceDesc::default() }
    }

    #[test]
    fn each_block_is_two_objects_or_one() {
        let device = common::device(DeviceDesc::default());
        let metal = common::metal_on(&device);
        let counts = || {
            let live = device.live_objects();
            ["MTLHeap", "MTLBuffer"].map(|name| live.get(name).copied().unwrap_or(0))
        };
        assert_eq!(counts(), [0, 0]);
        let cut = OwnBlock::new(&metal, MIB, 0);
        assert_eq!((counts(), device.memory_objects_peak()), ([1, 1], 1));
        let desc = BlockDesc { dedicated_to: Some("one"), ..BlockDesc::new(MIB, 0) };
        let dedicated = OwnBlock::try_new(&metal, &desc).expect("a block");
        assert_eq!((counts(), device.memory_objects_peak(), device.resources_peak()), ([1, 2], 2, 3));
        assert_eq!(device.allocated_bytes(), 2 * MIB);
        drop(cut);
        assert_eq!((counts(), device.allocated_bytes()), ([0, 1], MIB));
        drop((dedicated, metal));
        assert_nothing_is_left();
    }

    /// As on Macs with GPUs that have memory of their own.
    #[test]
    fn private_memory_comes_first_where_memory_is_not_unified() {
        {
            let metal = common::metal_on(&common::device(discrete()));
            assert_eq!((private_type(&metal), visible_type(&metal)), (0, 1));
            let private = OwnBlock::new(&metal, MIB, 0);
            assert_is_heap(&metal, &private, 0, MIB);
            assert_pointer_follows_type(&metal, &private, 0);
            // Heaps are private only there.
            let shared = OwnBlock::new(&metal, MIB, 1);
            assert_is_buffer(&metal, &shared, 1, "aquifer block");
            assert_pointer_follows_type(&metal, &shared, 1);
        }
        assert_nothing_is_left();
    }

    #[test]
    fn the_host_is_refused_private_memory_by_name() {
        {
            let metal = common::metal_on(&common::device(discrete()));
            let manager = manager(&metal);
            let mut buffer = manager.allocate(5000).expect("there is room");
            assert_eq!((buffer.host_pointer(), metal.properties().memory_types.len()), (None, 2));
            for error in [
                buffer.write(0, &[1_u8]).err(),
                buffer.read(0, &mut [0_u8]).err(),
                buffer.as_slice::<u8>().err(),
                buffer.as_mut_slice::<u8>().err(),
            ] {
                let error = error.expect("the host cannot see it");
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(!error.message().is_empty());
            }
            // The device can, at any offset.
            buffer.fill(1).expect("a fill");
            buffer.fill_range(3..4999, 2).expect("a fill");
            let queue = manager.queue().expect("a queue");
            let (_, content) =
                queue.download::<u8>(buffer, 0, 5000).expect("it is put in").wait().expect("it arrives");
            assert_eq!((content[2], content[3], content[4998], content[4999]), (1, 2, 2, 1));
        }
        assert_nothing_is_left();
    }

    /// What Metal does not make is no block, and leaves nothing behind.
    #[test]
    fn half_a_block_is_given_back() {
        let device = common::device(DeviceDesc::default());
        let metal = common::metal_on(&device);
        for call in [Call::NewHeap, Call::NewBufferOnHeap] {
            device.faults().fail(call, 0);
            let error = OwnBlock::try_new(&metal, &BlockDesc::new(MIB, 0)).expect_err("Metal made nothing");
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
            assert_eq!(
                (device.allocated_bytes(), device.live_objects().get("MTLHeap")),
                (0, None),
                "{call:?}"
            );
        }
        drop(metal);
        assert_nothing_is_left();
    }
}
