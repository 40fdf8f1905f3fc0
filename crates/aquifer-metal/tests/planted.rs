//! Faults planted on purpose: what the other tests rely on does catch them.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_backend::{Backend, BlockDesc, Command};
use aquifer_metal::objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandBufferStatus, MTLCommandEncoder as _,
    MTLCommandQueue, MTLDevice, MTLHeap,
};
use aquifer_metal::{Metal, MetalBlock};
use common::assert_nothing_is_left;
use common::blocks::{LONG, OwnBlock};
use common::signal;
use objc2::rc::autoreleasepool;
use objc2::runtime::{AnyObject, ProtocolObject};
use objc2_foundation::NSRange;
use software_metal::DeviceDesc;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const BYTES: u64 = 1 << 20;

/// The message of the panic that `misuse` must end with. The runtime in software keeps the memory of the dead, so that nothing is
/// touched that is not there.
#[track_caller]
fn caught(misuse: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(misuse)).expect_err("misuse that goes unseen");
    let text = panic.downcast_ref::<&str>().map(ToString::to_string);
    text.or_else(|| panic.downcast_ref::<String>().cloned()).expect("a message")
}

/// Releases what others hold: the fault.
fn release_once_too_often(object: *const AnyObject) {
    // SAFETY: none; the runtime in software keeps dead objects' memory, and answers whatever they are asked with a panic.
    unsafe { objc2::ffi::objc_release(object.cast_mut()) };
}

fn block(metal: &Metal) -> MetalBlock {
    metal.create_block(&BlockDesc::new(BYTES, 0)).expect("a block")
}

fn destroy(metal: &Metal, block: MetalBlock) {
    // SAFETY: nobody uses the block.
    unsafe { metal.destroy_block(block) }.expect("Metal takes every block back");
    metal.flush_destroyed();
}

#[test]
fn a_buffer_released_once_too_often_is_named_when_it_is_used() {
    {
        let metal = common::metal();
        let block = block(&metal);
        release_once_too_often(std::ptr::from_ref(block.buffer()).cast());
        let text = caught(|| assert_eq!(block.buffer().length() as u64, BYTES));
        assert!(text.contains("SoftwareMetalBuffer") && text.contains("deallocated"), "{text}");
        // Its own reference is gone, so the block is one too many.
        let text = caught(|| destroy(&metal, block));
        assert!(text.contains("SoftwareMetalBuffer") && text.contains("release"), "{text}");
        metal.flush_destroyed();
    }
    assert_nothing_is_left();
}

#[test]
fn a_heap_released_once_too_often_is_named_when_its_block_goes() {
    {
        // Without residency sets and their references.
        let desc = DeviceDesc { has_residency_sets: false, ..DeviceDesc::default() };
        let metal = common::metal_on(&common::device(desc));
        let block = block(&metal);
        let heap: *const AnyObject = std::ptr::from_ref(block.heap().expect("it is cut")).cast();
        release_once_too_often(heap);
        // Of the two references, the block's and its buffer's, the last to be released is not there any more.
        assert!(block.heap().expect("it is cut").size() as u64 >= BYTES);
        let text = caught(|| destroy(&metal, block));
        assert!(text.contains("SoftwareMetalHeap") && text.contains("release"), "{text}");
    }
    assert_nothing_is_left();
}

/// A reference too many is found too: the object is still there at the end.
#[test]
fn a_retained_buffer_is_found_as_a_leak() {
    let device = common::device(DeviceDesc::default());
    {
        let metal = common::metal_on(&device);
        let block = block(&metal);
        let buffer: *const AnyObject = std::ptr::from_ref(block.buffer()).cast();
        // SAFETY: the object lives.
        let retained = unsafe { objc2::ffi::objc_retain(buffer.cast_mut()) };
        destroy(&metal, block);
        assert_eq!(device.live_objects().get("MTLBuffer"), Some(&1));
        assert_eq!(device.allocated_bytes(), BYTES);
        release_once_too_often(retained);
        assert_eq!(device.live_objects().get("MTLBuffer"), None);
    }
    assert_nothing_is_left();
}

/// A command buffer without references of its own, as a program may make: the device finds that its block has gone.
#[test]
fn a_block_destroyed_while_work_uses_it_is_noticed() {
    {
        let device = common::device(DeviceDesc::default());
        let metal = common::metal_on(&device);
        let status_of = |is_destroyed_early: bool| {
            let block = OwnBlock::new(&metal, BYTES, 0);
            let held = device.faults().hold_execution();
            autoreleasepool(|_| {
                let queue = metal.raw_device().newCommandQueue().expect("a queue");
                let commands = queue.commandBufferWithUnretainedReferences().expect("a command buffer");
                encode_fill(&commands, block.buffer());
                commands.commit();
                if is_destroyed_early {
                    drop(block);
                    drop(held);
                    commands.waitUntilCompleted();
                } else {
                    drop(held);
                    commands.waitUntilCompleted();
                    drop(block);
                }
                let text = commands.error().map(|error| error.localizedDescription().to_string());
                (commands.status(), text.unwrap_or_default())
            })
        };
        assert_eq!(status_of(false).0, MTLCommandBufferStatus::Completed);
        let (status, text) = status_of(true);
        assert_eq!(status, MTLCommandBufferStatus::Error);
        assert!(text.contains("freed before work that uses it had ended"), "{text}");
    }
    assert_nothing_is_left();
}

fn encode_fill(commands: &ProtocolObject<dyn MTLCommandBuffer>, buffer: &ProtocolObject<dyn MTLBuffer>) {
    let encoder = commands.blitCommandEncoder().expect("an encoder");
    encoder.fillBuffer_range_value(buffer, NSRange::new(0, 4096), 1);
    encoder.endEncoding();
}

/// The backend's own command buffers keep what they use, so that even then nothing is touched that is not there.
#[test]
fn the_backends_own_work_keeps_its_blocks() {
    {
        let device = common::device(DeviceDesc::default());
        let metal = common::metal_on(&device);
        let queue = metal.create_queue().expect("a queue");
        let block = OwnBlock::new(&metal, BYTES, 0);
        let held = device.faults().hold_execution();
        let ticket = Arc::default();
        let fill = Command::Fill { destination: block.all(), value: 1 };
        // SAFETY: none; that the block goes before the work is the fault.
        unsafe { metal.enqueue(&queue, fill, &ticket) }.expect("work");
        signal(&metal, &queue, 1).expect("a marker");
        drop(block);
        assert_eq!(device.allocated_bytes(), BYTES, "the command buffer has it");
        drop(held);
        assert!(metal.wait(&queue, 1, LONG).expect("the device works"));
        assert!(ticket.take_error().is_none());
    }
    assert_nothing_is_left();
}

/// Work that uses what was lent to the system is found when it is committed.
#[test]
fn purgeable_memory_in_use_is_noticed() {
    {
        let metal = common::metal();
        let block = OwnBlock::new(&metal, BYTES, 0);
        // SAFETY: nobody uses the block yet.
        unsafe { metal.make_purgeable(&block) }.expect("Metal has such memory");
        let text = caught(|| {
            autoreleasepool(|_| {
                let queue = metal.raw_device().newCommandQueue().expect("a queue");
                let commands = queue.commandBuffer().expect("a command buffer");
                encode_fill(&commands, block.buffer());
                commands.commit();
            });
        });
        assert!(text.contains("purgeable state"), "{text}");
        assert!(metal.make_nonpurgeable(&block).expect("it was lent"));
    }
    assert_nothing_is_left();
}
