//! The adversary: what is ordered stays so, and what is not does not.
#![cfg(not(target_vendor = "apple"))]

mod support;
use block2::RcBlock;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex};
use support::*;

/// The order in which command buffers that each write a byte of one buffer end, by what the last of them wrote.
fn last_writer(seed: Option<u64>, orders: impl Fn(&Device, &Queue, &[CommandBuffer], &Buffer)) -> u8 {
    let software = SoftwareDevice::new(DeviceDesc { overlap_seed: seed, ..DeviceDesc::default() });
    let last = autoreleasepool(|_| {
        let device = software.metal_device();
        let queue = device.newCommandQueue().unwrap();
        let target = buffer(&device, 64, SHARED | UNTRACKED);
        let commands: Vec<_> = (0..6).map(|_| queue.commandBuffer().unwrap()).collect();
        let hold = software.faults().hold_execution();
        orders(&device, &queue, &commands, &target);
        commands.iter().for_each(|commands| commands.commit());
        drop(hold);
        commands.iter().for_each(|commands| commands.waitUntilCompleted());
        read(&target)[0]
    });
    software.wait_until_returned().unwrap();
    last
}

fn unordered(_: &Device, _: &Queue, all: &[CommandBuffer], target: &Buffer) {
    all.iter().zip(1..).for_each(|(commands, value)| fill(commands, target, value));
}

fn by_events(device: &Device, _: &Queue, all: &[CommandBuffer], target: &Buffer) {
    let event = device.newSharedEvent().unwrap();
    for (commands, value) in all.iter().zip(1..) {
        commands.encodeWaitForEvent_value(event_of(&event), u64::from(value) - 1);
        fill(commands, target, value);
        commands.encodeSignalEvent_value(event_of(&event), u64::from(value));
    }
}

fn by_a_fence(device: &Device, _: &Queue, all: &[CommandBuffer], target: &Buffer) {
    let fence = device.newFence().unwrap();
    for (commands, value) in all.iter().zip(1..) {
        pass(commands, |encoder| {
            encoder.waitForFence(&fence);
            encoder.fillBuffer_range_value(target, NSRange::new(0, 64), value);
        });
        pass(commands, |encoder| encoder.updateFence(&fence));
    }
}

/// Waits and updates in one encoder.
fn by_one_pass_each(device: &Device, _: &Queue, all: &[CommandBuffer], target: &Buffer) {
    let fence = device.newFence().unwrap();
    for (commands, value) in all.iter().zip(1..) {
        pass(commands, |encoder| {
            encoder.waitForFence(&fence);
            encoder.fillBuffer_range_value(target, NSRange::new(0, 64), value);
            encoder.updateFence(&fence);
        });
    }
}

fn by_hazards(device: &Device, _: &Queue, all: &[CommandBuffer], target: &Buffer) {
    let tracked = buffer(device, 64, SHARED);
    for (commands, value) in all.iter().zip(1..) {
        fill(commands, &tracked, value);
        if value == 6 {
            copy(commands, &tracked, target);
        }
    }
}

#[test]
fn the_adversary_reorders_what_nothing_orders() {
    assert_eq!(last_writer(None, unordered), 6, "without a seed the queue is in order");
    let last: Vec<_> = (0..16).map(|seed| last_writer(Some(seed), unordered)).collect();
    assert!(last.iter().any(|last| *last != 6), "16 seeds, each in order: {last:?}");
}

#[test]
fn the_adversary_keeps_to_events_and_fences_and_hazards() {
    for seed in 0..16 {
        assert_eq!(last_writer(Some(seed), by_events), 6, "events, seed {seed}");
        assert_eq!(last_writer(Some(seed), by_one_pass_each), 6, "a fence, seed {seed}");
        assert_eq!(last_writer(Some(seed), by_hazards), 6, "hazards, seed {seed}");
    }
}

#[test]
fn a_fence_covers_the_encoder_that_updates_it_and_no_other() {
    let last: Vec<_> = (0..64).map(|seed| last_writer(Some(seed), by_a_fence)).collect();
    assert!(last.iter().any(|last| *last != 6), "64 seeds, each in order: {last:?}");
}

#[test]
fn a_signal_covers_its_own_command_buffer_and_no_earlier_one() {
    with_device(DeviceDesc { overlap_seed: Some(1), ..DeviceDesc::default() }, |_, device| {
        let queue = device.newCommandQueue().unwrap();
        let (gate, event) = (device.newSharedEvent().unwrap(), device.newSharedEvent().unwrap());
        let target = buffer(device, 64, SHARED);
        let (work, marker) = (queue.commandBuffer().unwrap(), queue.commandBuffer().unwrap());
        work.encodeWaitForEvent_value(event_of(&gate), 1);
        fill(&work, &target, 1);
        fill(&marker, &buffer(device, 64, SHARED), 1);
        marker.encodeSignalEvent_value(event_of(&event), 1);
        work.commit();
        marker.commit();
        assert!(event.waitUntilSignaledValue_timeoutMS(1, 60_000));
        assert_eq!(read(&target)[0], 0);
        gate.setSignaledValue(1);
        work.waitUntilCompleted();
        assert_eq!(read(&target)[0], 1);
    });
}

#[test]
fn handlers_come_in_any_order_under_the_adversary() {
    let order = |seed| {
        let order = Arc::new(Mutex::new(Vec::new()));
        with_device(DeviceDesc { overlap_seed: seed, ..DeviceDesc::default() }, |software, device| {
            let queue = device.newCommandQueue().unwrap();
            let hold = software.faults().hold_handlers();
            let all: Vec<_> = (0..6).map(|_| queue.commandBuffer().unwrap()).collect();
            for (nth, commands) in all.iter().enumerate() {
                let order = Arc::clone(&order);
                let note =
                    move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| order.lock().unwrap().push(nth);
                // SAFETY: the pointer is to a live block, which is copied.
                unsafe { commands.addCompletedHandler(RcBlock::as_ptr(&RcBlock::new(note))) };
                commands.commit();
            }
            while all.iter().any(|commands| commands.status() != MTLCommandBufferStatus::Completed) {
                std::thread::yield_now();
            }
            assert!(order.lock().unwrap().is_empty(), "handlers are held");
            drop(hold);
            all.iter().for_each(|commands| commands.waitUntilCompleted());
        });
        Arc::try_unwrap(order).unwrap().into_inner().unwrap()
    };
    assert_eq!(order(None), [0, 1, 2, 3, 4, 5]);
    assert!((0..16).any(|seed| order(Some(seed)) != [0, 1, 2, 3, 4, 5]), "no seed of 16 gives another order");
}
