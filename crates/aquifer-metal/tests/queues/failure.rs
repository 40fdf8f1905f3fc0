//! Command buffers that fail.

use crate::common::*;
use aquifer_backend::Ticket;
use aquifer_core::{CopyDesc, ErrorKind, MemoryManager};
use aquifer_testkit::config_with_budget;
use objc2_metal::MTLCommandBufferError as Code;
use software_metal::DeviceDesc;

const BYTES: u64 = 64 << 10;

/// The codes after which the device is still there, and what the ticket is to tell.
pub(crate) const CODES: [(Code, ErrorKind); 10] = [
    (Code::None, ErrorKind::Driver),
    (Code::Internal, ErrorKind::Driver),
    (Code::Timeout, ErrorKind::Driver),
    (Code::PageFault, ErrorKind::Driver),
    (Code::AccessRevoked, ErrorKind::Driver),
    (Code::NotPermitted, ErrorKind::Driver),
    (Code::OutOfMemory, ErrorKind::OutOfMemory),
    (Code::InvalidResource, ErrorKind::Driver),
    (Code::Memoryless, ErrorKind::Driver),
    (Code::StackOverflow, ErrorKind::Driver),
];

fn assert_told(ticket: &Ticket, code: Code, kind: ErrorKind) {
    let error = ticket.take_error().expect("the ticket tells of it");
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.message().contains(&format!("code {}", code.0)), "{error}");
    assert_eq!(ticket.done_bytes(), 0);
}

fn on_each(test: impl Fn(&software_metal::SoftwareDevice, Code, ErrorKind)) {
    for overlap_seed in [None, Some(5), Some(6)] {
        for (code, kind) in CODES {
            test(&device(DeviceDesc { overlap_seed, ..DeviceDesc::default() }), code, kind);
            assert_nothing_is_left();
        }
    }
}

#[test]
fn a_failed_command_holds_nothing_up() {
    on_each(|device, code, kind| {
        let metal = metal_on(device);
        let blocks = [(); 2].map(|()| OwnBlock::visible(&metal, BYTES));
        let (line, other) = (Line::new(&metal), Line::new(&metal));
        device.faults().fail_command_buffer(1, code);
        let before = line.fill(&blocks[0], 0..BYTES, 1);
        let failed = line.fill(&blocks[0], 0..BYTES, 2);
        let value = line.mark();
        // What is behind it in its queue, by device and host, and in another.
        let after = line.fill(&blocks[1], 0..BYTES / 2, 3);
        other.wait_on(&line);
        let elsewhere = other.fill(&blocks[1], BYTES / 2..BYTES, 4);
        let upload = line.upload(vec![5; BYTES as usize / 4], &blocks[1], 0);
        line.reach(value);
        line.finish();
        other.finish();
        assert_told(&failed, code, kind);
        for ticket in [&before, &after, &elsewhere, &upload] {
            assert!(ticket.take_error().is_none());
        }
        assert_eq!(blocks[0].content(BYTES as usize), [1; BYTES as usize]);
        let content = blocks[1].content(BYTES as usize);
        assert_eq!([0, BYTES / 4, BYTES / 2].map(|at| content[at as usize]), [5, 3, 4]);
    });
}

#[test]
fn several_failures_in_a_row_are_told_each() {
    on_each(|device, code, kind| {
        let metal = metal_on(device);
        let block = OwnBlock::visible(&metal, BYTES);
        let line = Line::new(&metal);
        for nth in [0, 1, 3, 4] {
            device.faults().fail_command_buffer(nth, code);
        }
        let tickets: Vec<_> = (0..6).map(|value| line.fill(&block, 0..BYTES, value)).collect();
        line.finish();
        for (nth, ticket) in tickets.iter().enumerate() {
            if [0, 1, 3, 4].contains(&nth) {
                assert_told(ticket, code, kind);
            } else {
                assert!(ticket.take_error().is_none());
            }
        }
        assert_eq!(block.content(1), [5]);
    });
}

/// The command buffer in which a queue waits for another fails at once; what is behind it must wait all the same.
#[test]
fn a_failed_wait_is_a_wait() {
    on_each(|device, code, _| {
        let metal = metal_on(device);
        let block = OwnBlock::visible(&metal, BYTES);
        block.fill(0);
        let (line, other) = (Line::new(&metal), Line::new(&metal));
        let hold = other.queue().hold().expect("the device is there");
        other.fill(&block, 0..BYTES, 1);
        device.faults().fail_command_buffer(0, code);
        line.wait_on(&other);
        let value = line.mark();
        line.fill(&block, 0..BYTES / 2, 2);
        // Two are left when the handler of the one that failed is through.
        until("the wait fails", || device.live_objects()["MTLCommandBuffer"] == 2);
        assert_eq!((line.completed(), block.content(1)), (0, vec![0]));
        drop(hold);
        line.reach(value);
        line.finish();
        other.finish();
        assert_eq!(block.content(BYTES as usize)[BYTES as usize / 2 - 1..][..2], [2, 1]);
    });
}

#[test]
fn operations_give_their_buffers_back_with_the_error() {
    on_each(|device, code, kind| {
        let manager = MemoryManager::with_config(metal_on(device), config_with_budget(16 << 20)).unwrap();
        let queue = manager.queue().unwrap();
        let [source, destination] = [7, 8].map(|value| {
            let mut buffer = queue.allocate(BYTES).unwrap();
            buffer.fill(value).unwrap();
            buffer
        });
        let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: BYTES };
        device.faults().fail_command_buffer(0, code);
        let failed = queue.copy(source, destination, desc).unwrap().wait().unwrap_err();
        assert_eq!((failed.error().kind(), failed.done_bytes()), (kind, 0), "{failed}");
        let (source, destination) = failed.into_parts().expect("both come back");
        assert_eq!([&source, &destination].map(|buffer| buffer.as_slice::<u8>().unwrap()[0]), [7, 8]);
        // They are as good as before.
        let (source, destination) = queue.copy(source, destination, desc).unwrap().wait().unwrap();
        assert_eq!(destination.as_slice::<u8>().unwrap()[BYTES as usize - 1], 7);
        device.faults().fail_command_buffer(0, code);
        let failed = queue.fill(source, 1).unwrap().wait().unwrap_err();
        assert_eq!(failed.error().kind(), kind);
        drop((failed, destination));
        until_all_is_free(&manager);
        queue.synchronize(LONG).unwrap();
    });
}

#[test]
fn copies_that_are_waited_for_answer_the_error() {
    on_each(|device, code, kind| {
        let metal = metal_on(device);
        let block = OwnBlock::private(&metal, BYTES);
        device.faults().fail_command_buffer(0, code);
        // SAFETY: the range is in its block, and nobody else uses it.
        let fill = unsafe { aquifer_backend::Backend::fill(&metal, block.range(0..BYTES), 1) };
        let error = fill.unwrap_err();
        assert_eq!((error.kind(), error.operation()), (kind, "fill"));
        block.fill(2);
        assert_eq!(block.content(1), [2]);
    });
}
