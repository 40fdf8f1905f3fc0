//! A program's own work in a queue.

use crate::common::*;
use aquifer_backend::{Backend as _, Ticket};
use aquifer_metal::MetalQueue;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use objc2_metal::{
    MTLBlitCommandEncoder as _, MTLCommandBuffer, MTLCommandEncoder as _, MTLDevice as _, MTLEvent,
    MTLSharedEvent as _,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

const BYTES: u64 = 64 << 10;

/// Has the program copy the first half of a block to its second.
fn submit_copy(line: &Line, block: &OwnBlock) -> Arc<Ticket> {
    let ticket = ticket();
    let half = BYTES as usize / 2;
    let buffer = block.block().buffer();
    let encode = |command_buffer: &ProtocolObject<dyn MTLCommandBuffer>| {
        let encoder = command_buffer.blitCommandEncoder().expect("an encoder");
        // SAFETY: both halves are in the block, which the test keeps.
        unsafe {
            encoder
                .copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(buffer, 0, buffer, half, half);
        }
        encoder.endEncoding();
    };
    // SAFETY: the block is used in order with this.
    unsafe { line.queue().submit(&ticket, encode) }.expect("the queue takes work");
    ticket
}

#[test]
fn a_programs_work_is_in_order_with_aquifers() {
    on_all_kinds(|kind, metal| {
        let blocks = [OwnBlock::visible(metal, BYTES), OwnBlock::private(metal, BYTES)];
        let (line, other) = (Line::new(metal), Line::new(metal));
        for block in &blocks {
            let mut seen = Vec::new();
            for round in 0..20 {
                line.fill(block, 0..BYTES, round);
                line.fill(block, 0..BYTES / 2, round + 100);
                submit_copy(&line, block);
                seen.push(line.download(block, 0..BYTES).0);
                // By another queue, which waits for this one's work of the program's, and is waited for.
                other.wait_on(&line);
                drop(submit_fill(other.queue(), block.block().buffer(), 0..BYTES, 0xaa));
                line.wait_on(&other);
                seen.push(line.download(block, 0..BYTES).0);
            }
            line.finish();
            for (nth, place) in seen.into_iter().enumerate() {
                let expected = if nth % 2 == 0 { nth as u8 / 2 + 100 } else { 0xaa };
                let bytes = line.take(place);
                let wrong = bytes.iter().position(|&byte| byte != expected);
                assert_eq!(wrong, None, "{kind}: download {nth} is not {expected} from there on");
            }
        }
    });
}

/// Puts work into a queue that waits for an event of the program's own.
fn submit_wait(queue: &MetalQueue, event: &ProtocolObject<dyn MTLEvent>, value: u64) -> Arc<Ticket> {
    let ticket = ticket();
    // SAFETY: it uses no memory.
    unsafe { queue.submit(&ticket, |command_buffer| command_buffer.encodeWaitForEvent_value(event, value)) }
        .expect("the queue takes work");
    ticket
}

#[test]
fn a_programs_own_event_holds_what_is_behind_it() {
    on_all_kinds(|kind, metal| {
        let event = metal.raw_device().newSharedEvent().expect("an event");
        let block = OwnBlock::visible(metal, BYTES);
        block.fill(1);
        let line = Line::new(metal);
        let before = line.mark();
        submit_wait(line.queue(), ProtocolObject::from_ref(&*event), 1);
        let fill = line.fill(&block, 0..BYTES, 2);
        let value = line.mark();
        line.reach(before);
        assert!(line.completed() < value && fill.done_bytes() == 0, "{kind}");
        assert_eq!(block.content(1), [1], "{kind}");
        event.setSignaledValue(1);
        line.reach(value);
        assert_eq!(block.content(1), [2], "{kind}");
    });
}

fn submit_panic(line: &Line, block: &OwnBlock) {
    let ticket = ticket();
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the range is in the block, which the test keeps; it is never written.
        unsafe {
            line.queue().submit(&ticket, |command_buffer| {
                let encoder = command_buffer.blitCommandEncoder().expect("an encoder");
                encoder.fillBuffer_range_value(block.block().buffer(), NSRange::new(0, 64), 9);
                encoder.endEncoding();
                panic!("this panic is the test's");
            })
        }
    }));
    assert!(panicked.is_err());
    assert!(ticket.take_error().is_none() && ticket.done_bytes() == 0);
}

#[test]
fn a_panic_while_encoding_commits_nothing() {
    on_all_kinds(|kind, metal| {
        let block = OwnBlock::visible(metal, BYTES);
        let (line, other) = (Line::new(metal), Line::new(metal));
        line.fill(&block, 0..BYTES, 1);
        for _ in 0..3 {
            submit_panic(&line, &block);
        }
        line.finish();
        assert_eq!(block.content(64), [1; 64], "{kind}");
        submit_panic(&line, &block);
        // The queue goes on, and those that wait for it.
        let fill = line.fill(&block, 0..32, 2);
        other.wait_on(&line);
        other.fill(&block, 32..64, 3);
        other.finish();
        line.finish();
        assert_eq!(fill.done_bytes(), 32);
        assert_eq!((block.content(64)[31], block.content(64)[32]), (2, 3), "{kind}");
    });
}

/// As a program does that allocates or frees while it encodes: then the manager signals, at a moment of its own.
#[test]
fn a_marker_put_while_encoding_comes_behind_the_work() {
    on_all_kinds(|kind, metal| {
        let event = metal.raw_device().newSharedEvent().expect("an event");
        let metal = metal.clone();
        let queue = Arc::new(metal.create_queue().expect("a queue"));
        let submitted = start("submit", {
            let (metal, queue, event) = (metal.clone(), Arc::clone(&queue), event.clone());
            move || {
                let encode = |command_buffer: &ProtocolObject<dyn MTLCommandBuffer>| {
                    signal(&metal, &queue, 1).expect("a marker");
                    signal(&metal, &queue, 2).expect("a marker");
                    command_buffer.encodeWaitForEvent_value(ProtocolObject::from_ref(&*event), 1);
                };
                // SAFETY: it uses no memory.
                unsafe { queue.submit(&ticket(), encode) }.expect("the queue takes work");
            }
        });
        submitted.end();
        assert_eq!(metal.completed(&queue).expect("a value"), 0, "{kind}: the work has not run");
        event.setSignaledValue(1);
        assert!(metal.wait(&queue, 2, LONG).expect("the device is there"), "{kind}");
    });
}

#[test]
fn many_threads_submit_to_one_queue() {
    on_all_kinds(|kind, metal| {
        let blocks: Vec<_> = (0..4).map(|_| OwnBlock::private(metal, BYTES)).collect();
        let line = Line::new(metal);
        std::thread::scope(|scope| {
            for (nth, block) in blocks.iter().enumerate() {
                let line = &line;
                scope.spawn(move || {
                    for round in 0..25 {
                        line.fill(block, 0..BYTES / 2, (nth * 50 + round) as u8);
                        submit_copy(line, block);
                    }
                });
            }
        });
        line.finish();
        for (nth, block) in blocks.iter().enumerate() {
            let content = block.content(BYTES as usize);
            assert!(content.iter().all(|&byte| byte == (nth * 50 + 24) as u8), "{kind}: block {nth}");
        }
    });
}

#[cfg(not(target_vendor = "apple"))]
mod faults {
    use super::*;
    use aquifer_core::{ErrorKind, MemoryManager};
    use aquifer_testkit::config_with_budget;
    use objc2_metal::MTLCommandBufferError as Code;
    use software_metal::{Call, DeviceDesc};

    #[test]
    fn what_fails_is_told_by_the_ticket() {
        let device = device(DeviceDesc { overlap_seed: Some(11), ..DeviceDesc::default() });
        let metal = metal_on(&device);
        let block = OwnBlock::visible(&metal, BYTES);
        block.fill(0);
        let line = Line::new(&metal);
        for (code, kind) in crate::failure::CODES {
            device.faults().fail_command_buffer(0, code);
            let failed = submit_fill(line.queue(), block.block().buffer(), 0..64, 1);
            let well = submit_fill(line.queue(), block.block().buffer(), 64..128, 2);
            line.finish();
            let failed = failed.take_error().map(|error| (error.kind(), error.operation()));
            assert_eq!((failed, failure(&well)), (Some((kind, "submit")), None), "{code:?}");
            assert_eq!(block.content(65)[63..], [0, 2]);
        }
        device.faults().fail_command_buffer(0, Code::DeviceRemoved);
        let failed = submit_fill(line.queue(), block.block().buffer(), 0..64, 1);
        until("the ticket is told", || failure(&failed) == Some(ErrorKind::DeviceLost));
        drop((line, block, metal));
        assert_nothing_is_left();
    }

    #[test]
    fn without_a_command_buffer_nothing_is_encoded() {
        let device = device(DeviceDesc::default());
        let metal = metal_on(&device);
        let block = OwnBlock::visible(&metal, BYTES);
        let (line, other) = (Line::new(&metal), Line::new(&metal));
        line.fill(&block, 0..BYTES, 1);
        device.faults().fail(Call::NewCommandBuffer, 0);
        let encode = |_: &ProtocolObject<dyn MTLCommandBuffer>| panic!("there is nothing to encode into");
        // SAFETY: it uses no memory.
        let error = unsafe { line.queue().submit(&ticket(), encode) }.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Driver, "submit"));
        assert!(error.message().contains("command buffer"), "{error}");
        drop(submit_fill(line.queue(), block.block().buffer(), 0..64, 2));
        other.wait_on(&line);
        other.finish();
        assert_eq!(block.content(65)[63..], [2, 1]);
        line.finish();
        drop((line, other, block, metal));
        assert_nothing_is_left();
    }

    /// The memory of freed buffers is not given to anybody while the program's work that was recorded uses it.
    #[test]
    fn recorded_buffers_may_be_freed_while_the_work_runs() {
        for seed in 0..20 {
            let device = device(DeviceDesc { overlap_seed: Some(seed), ..DeviceDesc::default() });
            let manager = MemoryManager::with_config(metal_on(&device), config_with_budget(4 << 20)).unwrap();
            let queues = [(); 2].map(|()| manager.queue().unwrap());
            for round in 0..40_u8 {
                let queue = &queues[usize::from(round) % 2];
                let mut buffer = manager.allocate(BYTES * 4).unwrap();
                // The host writes at once: nobody else may still be at it.
                buffer.fill(round).unwrap();
                buffer.record_use(queue).unwrap();
                let ticket = buffer.with_block(|block, offset| {
                    submit_fill(queue.raw(), block.buffer(), offset..offset + BYTES * 2, 0xee)
                });
                let mut kept = manager.allocate(BYTES).unwrap();
                kept.fill(round).unwrap();
                drop(buffer);
                let mut next = manager.allocate(BYTES * 4).unwrap();
                next.fill(!round).unwrap();
                queue.synchronize(LONG).unwrap();
                assert!(ticket.take_error().is_none());
                for (buffer, expected) in [(&kept, round), (&next, !round)] {
                    let content = buffer.as_slice::<u8>().unwrap();
                    assert!(content.iter().all(|&byte| byte == expected), "seed {seed}, round {round}");
                }
            }
            drop((queues, manager));
            assert_nothing_is_left();
        }
    }
}
