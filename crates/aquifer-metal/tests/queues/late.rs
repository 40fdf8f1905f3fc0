//! Devices that are late, and handlers that are later still.

use crate::common::*;
use aquifer_backend::Backend as _;
use aquifer_core::{Buffer, ErrorKind, MemoryManager};
use aquifer_metal::Metal;
use aquifer_testkit::{Pattern, config_with_budget};
use objc2_metal::{MTLCommandBuffer as _, MTLDevice as _, MTLSharedEvent as _};
use software_metal::DeviceDesc;
use std::time::Duration;

const BYTES: u64 = 256 << 10;
const BUDGET: u64 = 8 << 20;

/// A manager that does not wait for what is in flight.
fn impatient(metal: &Metal) -> MemoryManager<Metal> {
    let mut config = config_with_budget(BUDGET);
    config.in_flight_wait = Duration::ZERO;
    MemoryManager::with_config(metal.clone(), config).expect("a manager")
}

/// Everything that can be had now, each with a pattern of its own.
fn all_there_is(manager: &MemoryManager<Metal>) -> Vec<Buffer<Metal>> {
    let mut buffers = Vec::new();
    loop {
        match manager.allocate(BYTES / 4) {
            Ok(mut buffer) => {
                Pattern::new(buffers.len() as u64).write(&mut buffer);
                buffers.push(buffer);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                return buffers;
            }
        }
    }
}

fn check_all(buffers: &[Buffer<Metal>]) {
    for (index, buffer) in buffers.iter().enumerate() {
        Pattern::new(index as u64).check(buffer);
    }
}

fn fill_it(buffer: &Buffer<Metal>, queue: &aquifer_core::Queue<Metal>, value: u8) {
    let bytes = buffer.size_bytes();
    buffer.with_block(|block, offset| {
        drop(submit_fill(queue.raw(), block.buffer(), offset..offset + bytes, value));
    });
}

#[test]
fn held_work_raises_no_value() {
    for overlap_seed in [None, Some(1)] {
        let device = device(DeviceDesc { overlap_seed, ..DeviceDesc::default() });
        let metal = metal_on(&device);
        let block = OwnBlock::visible(&metal, BYTES);
        block.fill(1);
        let line = Line::new(&metal);
        let hold = device.faults().hold_execution();
        let ticket = line.fill(&block, 0..BYTES, 2);
        let value = line.mark();
        // Behind it, and so no sooner; small enough to be done at once if the queue were idle.
        let upload = line.upload(vec![3; 16], &block, 0);
        line.mark();
        assert!(!metal.wait(line.queue(), value, Duration::from_millis(20)).expect("the device is there"));
        assert_eq!((line.completed(), ticket.done_bytes(), upload.done_bytes()), (0, 0, 0));
        assert_eq!(block.content(20), [1; 20]);
        drop(hold);
        line.finish();
        assert_eq!((ticket.done_bytes(), upload.done_bytes()), (BYTES, 16));
        assert_eq!(block.content(17)[14..], [3, 3, 2]);
        drop((line, block, metal));
        assert_nothing_is_left();
    }
}

#[test]
fn recorded_memory_is_not_reused_before_its_work_has_run() {
    let device = device(DeviceDesc { overlap_seed: Some(2), ..DeviceDesc::default() });
    let manager = impatient(&metal_on(&device));
    let queues = [manager.queue().unwrap(), manager.queue().unwrap()];
    let hold = device.faults().hold_execution();
    for queue in &queues {
        let buffer = manager.allocate(BYTES).unwrap();
        buffer.record_use(queue).unwrap();
        fill_it(&buffer, queue, 0xee);
    }
    let others = all_there_is(&manager);
    assert!(others.len() as u64 >= BUDGET / BYTES * 2, "{} buffers", others.len());
    assert_eq!(manager.statistics().quarantined_bytes, 2 * BYTES);
    drop(hold);
    queues.iter().for_each(|queue| queue.synchronize(LONG).unwrap());
    check_all(&others);
    until("the quarantine is left", || {
        manager.settle();
        manager.statistics().quarantined_bytes == 0
    });
    assert_eq!(manager.allocate(BYTES).map(|buffer| buffer.size_bytes()).unwrap(), BYTES);
    drop((others, queues, manager));
    assert_nothing_is_left();
}

#[test]
fn memory_at_home_is_reused_by_its_own_queue_only() {
    let device = device(DeviceDesc { overlap_seed: Some(3), ..DeviceDesc::default() });
    let manager = impatient(&metal_on(&device));
    let (home, other) = (manager.queue().unwrap(), manager.queue().unwrap());
    let first = home.allocate(BYTES).unwrap();
    let place = first.host_pointer();
    let hold = device.faults().hold_execution();
    fill_it(&first, &home, 0xee);
    drop(first);
    let again = home.allocate(BYTES).unwrap();
    assert_eq!(again.host_pointer(), place, "the queue has it back at once");
    fill_it(&again, &home, 0xdd);
    drop(again);
    let elsewhere = other.allocate(BYTES).unwrap();
    assert_ne!(elsewhere.host_pointer(), place);
    fill_it(&elsewhere, &other, 0x77);
    let others = all_there_is(&manager);
    drop(hold);
    for queue in [&home, &other] {
        queue.synchronize(LONG).unwrap();
    }
    check_all(&others);
    assert!(elsewhere.as_slice::<u8>().unwrap().iter().all(|&byte| byte == 0x77));
    drop((elsewhere, others, home, other, manager));
    assert_nothing_is_left();
}

#[test]
fn values_wait_for_handlers() {
    let device = device(DeviceDesc::default());
    let manager = impatient(&metal_on(&device));
    let queue = manager.queue().unwrap();
    let has_run = device.metal_device().newSharedEvent().unwrap();
    let hold = device.faults().hold_handlers();
    let buffer = manager.allocate(BYTES).unwrap();
    buffer.record_use(&queue).unwrap();
    fill_it(&buffer, &queue, 0xee);
    let ticket = ticket();
    let signal = |command_buffer: &objc2::runtime::ProtocolObject<dyn objc2_metal::MTLCommandBuffer>| {
        command_buffer.encodeSignalEvent_value(objc2::runtime::ProtocolObject::from_ref(&*has_run), 1);
    };
    // SAFETY: it uses no memory.
    unsafe { queue.raw().submit(&ticket, signal) }.unwrap();
    let value = queue.signal().unwrap();
    drop(buffer);
    assert!(has_run.waitUntilSignaledValue_timeoutMS(1, LONG.as_millis() as u64));
    // The device is through, but the host has not been told.
    assert_eq!(queue.wait(value, Duration::from_millis(20)).unwrap_err().kind(), ErrorKind::TimedOut);
    assert_eq!(queue.completed().unwrap(), 0);
    let others = all_there_is(&manager);
    assert_eq!(manager.statistics().quarantined_bytes, BYTES);
    drop(hold);
    queue.wait(value, LONG).unwrap();
    until("the quarantine is left", || {
        manager.settle();
        manager.statistics().quarantined_bytes == 0
    });
    check_all(&others);
    drop((others, queue, manager, has_run));
    assert_nothing_is_left();
}

#[test]
fn handlers_may_come_when_everything_is_gone() {
    for overlap_seed in [None, Some(4)] {
        let device = device(DeviceDesc { overlap_seed, ..DeviceDesc::default() });
        let hold = device.faults().hold_handlers();
        // The backend's objects by themselves.
        let metal = metal_on(&device);
        let queues = [(); 2].map(|()| metal.create_queue().unwrap());
        let block = OwnBlock::visible(&metal, BYTES);
        let tickets = [1, 2].map(|value| submit_fill(&queues[0], block.block().buffer(), 0..64, value));
        signal(&metal, &queues[0], 1).unwrap();
        metal.wait_on_queue(&queues[1], &queues[0], 1).unwrap();
        let after = submit_fill(&queues[1], block.block().buffer(), 64..128, 3);
        drop((block, queues, metal));
        // And all of a manager's.
        let manager = impatient(&metal_on(&device));
        let queue = manager.queue().unwrap();
        let buffer = queue.allocate(BYTES).unwrap();
        let fill = queue.fill(buffer, 7).unwrap();
        let upload = queue.upload(vec![1_u8; 1 << 20], queue.allocate(1 << 20).unwrap(), 0).unwrap();
        drop((manager, queue, fill, upload));
        drop(hold);
        assert_nothing_is_left();
        assert!(tickets.iter().chain([&after]).all(|ticket| ticket.take_error().is_none()));
    }
}
