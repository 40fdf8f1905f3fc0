//! A manager that gives memory away too early, planted in the core: on Metal the content shows it. For the whole process, so in one
//! of its own:
//! `cargo test -p aquifer-metal --features planted-bugs --test planted_reuse`.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_core::{Bug, MemoryManager, plant};
use aquifer_metal::objc2_metal::{MTLBlitCommandEncoder, MTLCommandBuffer, MTLCommandEncoder as _};
use aquifer_testkit::config_with_budget;
use common::assert_nothing_is_left;
use common::blocks::{LONG, pattern};
use objc2::Message as _;
use objc2::runtime::ProtocolObject;
use software_metal::DeviceDesc;
use std::sync::Arc;

/// Above what thread caches keep, so that what is freed on a queue is bound to its marker.
const BYTES: u64 = 2 << 20;

/// Frees memory that work of a queue still reads, and writes what is allocated next on no queue. Whether the work has read
/// what it should.
fn work_reads_what_it_should() -> bool {
    let device = common::device(DeviceDesc::default());
    let manager = MemoryManager::with_config(common::metal_on(&device), config_with_budget(64 << 20));
    let manager = manager.expect("a budget");
    let queue = manager.queue().expect("a queue");
    let mut source = queue.allocate(BYTES).expect("there is room");
    let result = queue.allocate(BYTES).expect("there is room");
    let content = pattern(1, BYTES);
    source.write(0, &content).expect("the host sees it");

    // The device does not come to it yet.
    let held = device.faults().hold_execution();
    let [from, to] = [&source, &result]
        .map(|buffer| buffer.with_block(|block, offset| (block.buffer().retain(), offset as usize)));
    let encode = |commands: &ProtocolObject<dyn MTLCommandBuffer>| {
        let encoder = commands.blitCommandEncoder().expect("an encoder");
        // SAFETY: both are at home on the queue.
        unsafe {
            encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(
                &from.0,
                from.1,
                &to.0,
                to.1,
                BYTES as usize,
            );
        }
        encoder.endEncoding();
    };
    // SAFETY: as above.
    unsafe { queue.raw().submit(&Arc::default(), encode) }.expect("work");
    drop(source);

    // Nothing may be where the work still reads.
    let mut next: Vec<_> = (0..8).map(|_| manager.allocate(BYTES).expect("there is room")).collect();
    for buffer in &mut next {
        buffer.fill(0xff).expect("the host sees it");
    }
    drop(held);
    queue.synchronize(LONG).expect("the device works");
    result.as_slice::<u8>().expect("the host sees it") == content
}

#[test]
fn reuse_before_completion_is_seen_in_the_content() {
    assert!(work_reads_what_it_should(), "without a bug");
    assert_nothing_is_left();
    plant(Some(Bug::Reuse));
    assert!(!work_reads_what_it_should(), "the planted bug goes unseen");
    assert_nothing_is_left();
    plant(None);
    assert!(work_reads_what_it_should(), "the bug is gone");
    assert_nothing_is_left();
}
