//! Devices that go.

use crate::common::*;
use aquifer_backend::{Backend as _, BlockDesc, Command, Error, ErrorKind};
use aquifer_core::MemoryManager;
use aquifer_metal::Metal;
use aquifer_testkit::{MappedMemory, Shelf, config_with_budget};
use objc2_metal::MTLCommandBufferError;
use software_metal::{DeviceDesc, SoftwareDevice};
use std::sync::Arc;
use std::time::Duration;

const BYTES: u64 = 256 << 10;

/// What a call answers.
type Answer = (&'static str, Result<(), Error>);

/// Every call that is to answer that the device is lost, once that is known.
fn answers(metal: &Metal, line: &Line, other: &Line, block: &OwnBlock, shelf: &Shelf) -> Vec<Answer> {
    let cancelled = ticket();
    cancelled.cancel();
    let fill = |bytes| Command::Fill { destination: block.range(0..bytes), value: 9 };
    let memory = MappedMemory::new(BYTES, BYTES).lend(0..BYTES, shelf);
    let desc = BlockDesc::new(metal.properties().block_granularity_bytes.max(64 << 10), 0);
    // SAFETY: it uses no memory.
    let submit = unsafe { line.queue().submit(&ticket(), |_| panic!("a lost device is given no work")) };
    // SAFETY: the ranges are in their block, do not overlap, and nobody else uses them.
    let copy = unsafe { metal.copy(block.range(0..64), block.range(64..128)) };
    // SAFETY: as above.
    let waited_fill = unsafe { metal.fill(block.range(0..64), 9) };
    let wait_on =
        |queue: &Line, other: &Line, value| metal.wait_on_queue(queue.queue(), other.queue(), value);
    vec![
        ("enqueue", line.try_enqueue(fill(BYTES), &ticket())),
        ("enqueue of nothing", line.try_enqueue(fill(0), &ticket())),
        ("enqueue, cancelled", line.try_enqueue(fill(BYTES), &cancelled)),
        ("submit", submit),
        ("hold", line.queue().hold().map(drop)),
        ("signal", signal(metal, line.queue(), 1000)),
        ("completed", metal.completed(line.queue()).map(drop)),
        ("wait, reached", metal.wait(line.queue(), 0, LONG).map(drop)),
        ("wait", metal.wait(line.queue(), 1 << 40, LONG).map(drop)),
        ("wait_on_queue, itself", wait_on(line, line, 1)),
        ("wait_on_queue, reached", wait_on(line, other, 0)),
        ("wait_on_queue", wait_on(line, other, 1 << 40)),
        ("create_queue", metal.create_queue().map(drop)),
        ("create_block", metal.create_block(&desc).map(drop)),
        ("create_sparse_block", metal.create_sparse_block(&desc).map(drop)),
        ("create_physical_block", metal.create_physical_block(&desc).map(drop)),
        ("import_block", metal.import_block(memory, 0).map(drop).map_err(|refused| refused.error)),
        ("copy", copy),
        ("fill", waited_fill),
    ]
}

fn assert_lost(metal: &Metal, line: &Line, other: &Line, block: &OwnBlock) {
    let shelf = Shelf::default();
    let others: Vec<_> = answers(metal, line, other, block, &shelf)
        .into_iter()
        .filter(|(_, answer)| answer.as_ref().err().map(Error::kind) != Some(ErrorKind::DeviceLost))
        .collect();
    assert!(others.is_empty(), "these do not say that the device is lost: {others:#?}");
    assert_eq!(shelf.count(), 1, "memory that was not imported comes back");
    line.queue().wait_idle();
}

fn kinds() -> [DeviceDesc; 4] {
    let overlapping = |desc| DeviceDesc { overlap_seed: Some(8), ..desc };
    let metal4 = DeviceDesc { has_metal4: true, ..DeviceDesc::default() };
    [metal4.clone(), overlapping(metal4), discrete(), overlapping(discrete())]
}

#[test]
fn a_device_that_goes_with_work_in_flight_ends_everything() {
    for desc in kinds() {
        let device = device(desc);
        let metal = metal_on(&device);
        let (near, far) = (OwnBlock::visible(&metal, BYTES), OwnBlock::private(&metal, 3 << 20));
        near.fill(1);
        let lines = [(); 3].map(|()| Line::new(&metal));
        let hold = device.faults().hold_execution();
        let mut tickets = vec![lines[0].fill(&near, 0..BYTES, 2)];
        // Copies with the host, in flight, in the line, and behind another queue.
        tickets.push(lines[0].upload(vec![3; BYTES as usize], &near, 0));
        tickets.push(lines[1].upload(vec![4; 3 << 20], &far, 0));
        // Its first chunk has been given to the device: until then Metal only says that it makes no staging buffer.
        until("the upload is in flight", || device.live_objects()["MTLCommandBuffer"] == 2);
        let value = lines[1].mark();
        tickets.push(lines[1].download(&far, 0..3 << 20).1);
        lines[2].wait_on(&lines[0]);
        lines[2].wait_on(&lines[1]);
        tickets.push(lines[2].copy(&near, 0..BYTES, &far, 0));
        tickets.push(lines[2].upload(vec![5; 16], &near, 0));
        device.faults().remove();
        assert_eq!(metal.wait(lines[1].queue(), value, LONG).unwrap_err().kind(), ErrorKind::DeviceLost);
        // The queues that nobody waits for come to know it by themselves.
        for (nth, ticket) in tickets.iter().enumerate() {
            let mut told = None;
            let begin = std::time::Instant::now();
            while told.is_none() && begin.elapsed() < LONG {
                told = failure(ticket);
                std::thread::yield_now();
            }
            assert_eq!(told, Some(ErrorKind::DeviceLost), "command {nth}");
            assert_eq!(ticket.done_bytes(), 0, "command {nth}");
        }
        assert_lost(&metal, &lines[0], &lines[2], &near);
        drop(hold);
        assert_eq!(near.content(BYTES as usize), [1; BYTES as usize], "a lost device touches no memory");
        drop((lines, near, far, metal));
        assert_nothing_is_left();
    }
}

/// Work that was begun before the system revoked the access may still run: so nobody is told that the device touches no memory any
/// more.
#[test]
fn access_that_is_revoked_is_no_lost_device() {
    for desc in kinds() {
        let device = device(desc);
        let metal = metal_on(&device);
        let block = OwnBlock::visible(&metal, BYTES);
        let (line, other) = (Line::new(&metal), Line::new(&metal));
        let hold = other.queue().hold().unwrap();
        let late = other.fill(&block, 0..BYTES, 2);
        device.faults().fail_command_buffer(0, MTLCommandBufferError::AccessRevoked);
        let ticket = line.fill(&block, 0..BYTES, 1);
        line.finish();
        assert_eq!(failure(&ticket), Some(ErrorKind::Driver));
        assert!(metal.completed(other.queue()).is_ok());
        drop(hold);
        other.finish();
        assert_eq!((failure(&late), late.done_bytes()), (None, BYTES));
        assert_eq!(block.content(BYTES as usize), [2; BYTES as usize]);
        drop((line, other, block, metal));
        assert_nothing_is_left();
    }
}

/// A device with a manager whose memory is all in use by held work, but for some bytes.
fn busy() -> (SoftwareDevice, MemoryManager<Metal>, software_metal::Hold) {
    let device = device(DeviceDesc::default());
    let metal = metal_on(&device);
    let manager = MemoryManager::with_config(metal, config_with_budget(16 << 20)).unwrap();
    let hold = device.faults().hold_execution();
    (device, manager, hold)
}

#[test]
fn threads_that_wait_are_let_go() {
    let (device, manager, hold) = busy();
    let queue = manager.queue().unwrap();
    let (from, to) = (manager.allocate(6 << 20).unwrap(), manager.allocate(6 << 20).unwrap());
    let small = manager.allocate(BYTES).unwrap();
    let operation = queue.fill(manager.allocate(2 << 20).unwrap(), 1).unwrap();
    let value = queue.signal().unwrap();

    let waiting = start("Queue::wait", {
        let queue = queue.clone();
        move || queue.wait(value, Duration::from_secs(300))
    });
    let synchronizing = start("Queue::synchronize", {
        let queue = manager.queue().unwrap();
        queue.wait_on(&manager.queue().unwrap()).unwrap();
        let behind = queue.fill(small, 1).unwrap();
        move || (queue.synchronize(Duration::from_secs(300)), behind.wait().map(drop).map_err(Error::from))
    });
    let operating = start("Operation::wait", move || operation.wait());
    let copying = start("Buffer::copy_from", {
        let (mut to, from) = (to, from);
        // Above what the processor copies.
        move || to.copy_from(0, &from, 0, 6 << 20)
    });
    let idle = start("MetalQueue::wait_idle", {
        let queue = queue.clone();
        move || queue.raw().wait_idle()
    });
    // Nothing of all that ends by itself.
    until("the work is in flight", || device.made_objects().get("MTLCommandBuffer") >= Some(&3));
    device.faults().remove();
    let is_lost =
        |answer: Result<(), Error>| answer.map_err(|error| error.kind()) == Err(ErrorKind::DeviceLost);
    assert!(is_lost(waiting.end()));
    let (synchronized, behind) = synchronizing.end();
    assert!(is_lost(synchronized) && is_lost(behind));
    assert!(is_lost(copying.end()));
    idle.end();
    let failed = operating.end().unwrap_err();
    assert_eq!(failed.error().kind(), ErrorKind::DeviceLost);
    let buffer = failed.into_parts().expect("the buffer comes back");
    assert!(is_lost(manager.allocate(7 << 20).map(drop)));
    assert!(is_lost(queue.fill(buffer, 2).map(drop).map_err(Error::from)));
    drop(hold);
    until_all_is_free(&manager);
    drop((queue, manager));
    assert_nothing_is_left();
}

#[test]
fn an_allocation_that_waits_for_a_lost_device_ends() {
    for overlap_seed in [None, Some(9)] {
        let device = device(DeviceDesc { overlap_seed, ..DeviceDesc::default() });
        let mut config = config_with_budget(4 << 20);
        config.in_flight_wait = Duration::from_secs(300);
        let manager = MemoryManager::with_config(metal_on(&device), config).unwrap();
        let queue = manager.queue().unwrap();
        let hold = device.faults().hold_execution();
        let buffer = manager.allocate(4 << 20).unwrap();
        buffer.record_use(&queue).unwrap();
        buffer.with_block(|block, offset| {
            drop(submit_fill(queue.raw(), block.buffer(), offset..offset + 64, 1))
        });
        drop(buffer);
        let allocating = start("allocate", {
            let manager = manager.clone();
            move || manager.allocate(4 << 20).map(|buffer| buffer.size_bytes()).map_err(|error| error.kind())
        });
        until("a marker is put behind the work", || manager.statistics().quarantined_bytes == 4 << 20);
        device.faults().remove();
        // The work is over, so there is memory; if the driver is asked first, it says why there is none.
        let answer = allocating.end();
        assert!(matches!(answer, Ok(_) | Err(ErrorKind::DeviceLost)), "{answer:?}");
        assert_eq!(queue.signal().map_err(|error| error.kind()), Err(ErrorKind::DeviceLost));
        drop(hold);
        drop((queue, manager));
        assert_nothing_is_left();
    }
}

#[test]
fn buffers_and_managers_of_a_lost_device_go_in_any_order() {
    for order in 0..3 {
        let (device, manager, hold) = busy();
        let queue = manager.queue().unwrap();
        let home = queue.allocate(BYTES).unwrap();
        let recorded = manager.allocate(BYTES).unwrap();
        recorded.record_use(&queue).unwrap();
        let fill = queue.fill(queue.allocate(BYTES).unwrap(), 1).unwrap();
        let upload = queue.upload(vec![1_u8; 1 << 20], manager.allocate(1 << 20).unwrap(), 0).unwrap();
        device.faults().remove();
        match order {
            0 => drop((manager, queue, home, recorded, fill, upload)),
            1 => drop((fill, home, recorded, upload, queue, manager)),
            _ => {
                assert!(fill.wait().is_err());
                drop((recorded, home, upload, manager, queue));
            }
        }
        drop(hold);
        assert_nothing_is_left();
    }
}

/// The command buffers of a lost device end all at once, whatever they wait for; a hold on the first of a long chain of queues that
/// wait for each other is let go when all others have ended.
#[test]
fn long_chains_of_waits_end_with_the_device() {
    let device = device(DeviceDesc::default());
    let metal = metal_on(&device);
    let lines = [(); 6].map(|()| Line::new(&metal));
    let hold = lines[0].queue().hold().expect("the device is there");
    for turn in 0..6000 {
        lines[(turn + 1) % 6].wait_on(&lines[turn % 6]);
    }
    let last = lines[0].queue().hold().expect("the device is there");
    device.faults().remove();
    until("all command buffers end", || !device.live_objects().contains_key("MTLCommandBuffer"));
    // As little stack as a thread of the system's gets.
    let small = std::thread::Builder::new().stack_size(512 << 10);
    small.spawn(move || drop(hold)).expect("a thread").join().expect("no panic");
    drop(last);
    lines.iter().for_each(|line| line.queue().wait_idle());
    drop((lines, metal));
    assert_nothing_is_left();
}

#[test]
fn an_idle_device_that_is_gone_is_found_out_by_the_next_work() {
    for desc in kinds() {
        let device = device(desc);
        let metal = metal_on(&device);
        let block = OwnBlock::private(&metal, BYTES);
        let (line, other) = (Line::new(&metal), Line::new(&metal));
        device.faults().remove();
        let ticket: Arc<_> = line.fill(&block, 0..BYTES, 1);
        signal(&metal, line.queue(), 1).ok();
        assert!(!matches!(metal.wait(line.queue(), 1, LONG), Ok(false)));
        until("the ticket is told", || failure(&ticket) == Some(ErrorKind::DeviceLost));
        until("the loss is known", || metal.completed(other.queue()).is_err());
        assert_lost(&metal, &line, &other, &block);
        drop((line, other, block, metal));
        assert_nothing_is_left();
    }
}
