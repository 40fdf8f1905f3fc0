//! Queues, command buffers, events, fences and handlers.
#![cfg(not(target_vendor = "apple"))]

mod support;
use block2::RcBlock;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;
use support::*;

type Handler = RcBlock<dyn Fn(NonNull<ProtocolObject<dyn MTLCommandBuffer>>)>;

fn on_completed(commands: &CommandBuffer, handler: &Handler) {
    // SAFETY: the pointer is to a live block, which is copied.
    unsafe { commands.addCompletedHandler(RcBlock::as_ptr(handler)) };
}

#[test]
fn handlers_run_once_on_another_thread_and_are_released() {
    let calls = Arc::new(AtomicUsize::new(0));
    with_device(DeviceDesc::default(), |_, device| {
        let queue = device.newCommandQueue().unwrap();
        let commands = queue.commandBuffer().unwrap();
        let (seen, caller) = (Arc::clone(&calls), std::thread::current().id());
        let handler: Handler =
            RcBlock::new(move |commands: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
                // SAFETY: Metal passes the live command buffer.
                assert_eq!(unsafe { commands.as_ref() }.status(), MTLCommandBufferStatus::Completed);
                assert_ne!(std::thread::current().id(), caller);
                seen.fetch_add(1, Ordering::SeqCst);
            });
        on_completed(&commands, &handler);
        // SAFETY: as above.
        unsafe {
            commands.addScheduledHandler(RcBlock::as_ptr(&RcBlock::new(
                |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {},
            )))
        };
        drop(handler);
        assert_eq!(commands.status(), MTLCommandBufferStatus::NotEnqueued);
        complete(&commands);
        assert_eq!(calls.load(Ordering::SeqCst), 1);
        assert_eq!(Arc::strong_count(&calls), 1, "the handler is let go before the wait ends");
    });
    assert_eq!(Arc::strong_count(&calls), 1);
}

#[test]
fn retained_references_keep_buffers_until_completion() {
    with_device(DeviceDesc::default(), |software, device| {
        let queue = device.newCommandQueue().unwrap();
        let (from, to) = (buffer(device, 64, SHARED), buffer(device, 64, SHARED));
        write(&from, 3);
        let commands = queue.commandBuffer().unwrap();
        copy(&commands, &from, &to);
        drop(from);
        assert_eq!(software.live_objects()["MTLBuffer"], 2);
        complete(&commands);
        assert_eq!(read(&to)[63], 3);
        assert_eq!(software.live_objects()["MTLBuffer"], 1, "let go before the wait ends");
    });
}

#[test]
fn everything_may_be_released_while_work_is_in_flight() {
    with_device(DeviceDesc::default(), |software, device| {
        let hold = software.faults().hold_execution();
        autoreleasepool(|_| {
            let queue = device.newCommandQueue().unwrap();
            let target = buffer(device, 64, SHARED);
            let commands = queue.commandBuffer().unwrap();
            fill(&commands, &target, 1);
            commands.commit();
        });
        assert_eq!(software.live_objects()["MTLCommandBuffer"], 1);
        drop(hold);
    });
}

#[test]
fn an_unretained_buffer_that_is_freed_too_early_is_seen() {
    with_device(DeviceDesc::default(), |software, device| {
        let queue = device.newCommandQueue().unwrap();
        let hold = software.faults().hold_execution();
        let target = buffer(device, 64, SHARED);
        let commands = queue.commandBufferWithUnretainedReferences().unwrap();
        fill(&commands, &target, 1);
        commands.commit();
        drop(target);
        drop(hold);
        commands.waitUntilCompleted();
        assert_eq!(commands.status(), MTLCommandBufferStatus::Error);
        let error = commands.error().unwrap();
        assert_eq!(error.code(), MTLCommandBufferError::InvalidResource.0 as isize);
        // SAFETY: the constant is set before the process starts.
        assert_eq!(&*error.domain(), unsafe { MTLCommandBufferErrorDomain });
        assert!(error.localizedDescription().to_string().contains("64 bytes was freed"));
    });
}

#[test]
fn events_order_queues_and_the_host() {
    with_device(DeviceDesc::default(), |_, device| {
        let (one, other) = (device.newCommandQueue().unwrap(), device.newCommandQueue().unwrap());
        let event = device.newSharedEvent().unwrap();
        let (middle, end) = (buffer(device, 64, SHARED), buffer(device, 64, SHARED));
        let second = other.commandBuffer().unwrap();
        second.encodeWaitForEvent_value(event_of(&event), 2);
        copy(&second, &middle, &end);
        second.encodeSignalEvent_value(event_of(&event), 3);
        second.commit();
        let first = one.commandBuffer().unwrap();
        first.encodeWaitForEvent_value(event_of(&event), 1);
        fill(&first, &middle, 9);
        first.encodeSignalEvent_value(event_of(&event), 2);
        first.commit();
        assert!(!event.waitUntilSignaledValue_timeoutMS(1, 1));
        event.setSignaledValue(1);
        assert!(event.waitUntilSignaledValue_timeoutMS(3, 60_000));
        assert_eq!((event.signaledValue(), read(&end)[0]), (3, 9));
        event.setSignaledValue(2);
        assert_eq!(event.signaledValue(), 3, "values only rise");
        first.waitUntilCompleted();
        second.waitUntilCompleted();
    });
}

#[test]
fn a_listener_is_told_of_a_value() {
    with_device(DeviceDesc::default(), |_, device| {
        let event = device.newSharedEvent().unwrap();
        let (sender, receiver) = mpsc::channel();
        let block = RcBlock::new(move |event: NonNull<ProtocolObject<dyn MTLSharedEvent>>, value| {
            // SAFETY: Metal passes the live event.
            sender.send((unsafe { event.as_ref() }.signaledValue(), value)).unwrap();
        });
        // SAFETY: the pointer is to a live block, which is copied.
        unsafe {
            event.notifyListener_atValue_block(&MTLSharedEventListener::new(), 5, RcBlock::as_ptr(&block))
        };
        assert!(receiver.try_recv().is_err());
        let queue = device.newCommandQueue().unwrap();
        let commands = queue.commandBuffer().unwrap();
        commands.encodeSignalEvent_value(event_of(&event), 6);
        complete(&commands);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(60)), Ok((6, 6)));
        // The listener's thread lets go of the event after the call.
        drop(receiver);
    });
}

#[test]
fn a_shared_event_travels_by_handle_between_devices() {
    let other = SoftwareDevice::new(DeviceDesc::default());
    with_device(DeviceDesc::default(), |_, device| {
        let other = other.metal_device();
        let here = device.newSharedEvent().unwrap();
        let there = other.newSharedEventWithHandle(&here.newSharedEventHandle()).unwrap();
        let commands = other.newCommandQueue().unwrap().commandBuffer().unwrap();
        commands.encodeSignalEvent_value(event_of(&there), 4);
        complete(&commands);
        assert_eq!(here.signaledValue(), 4);
        let plain = device.newEvent().unwrap();
        let commands = other.newCommandQueue().unwrap().commandBuffer().unwrap();
        assert!(caught(|| commands.encodeSignalEvent_value(&plain, 1)).contains("did not make it"));
    });
    other.wait_until_returned().unwrap();
}

#[test]
fn enqueue_takes_the_place_in_the_queue() {
    with_device(DeviceDesc::default(), |_, device| {
        let queue = device.newCommandQueue().unwrap();
        let target = buffer(device, 64, SHARED);
        let (first, second) = (queue.commandBuffer().unwrap(), queue.commandBuffer().unwrap());
        first.enqueue();
        assert_eq!(first.status(), MTLCommandBufferStatus::Enqueued);
        fill(&second, &target, 2);
        second.commit();
        fill(&first, &target, 1);
        first.commit();
        second.waitUntilCompleted();
        assert_eq!(read(&target)[0], 2);
        first.waitUntilScheduled();
    });
}

#[test]
fn a_command_buffer_that_is_never_committed_blocks_nobody() {
    with_device(DeviceDesc::default(), |_, device| {
        let queue = device.newCommandQueueWithMaxCommandBufferCount(2).unwrap();
        for _ in 0..5 {
            autoreleasepool(|_| queue.commandBuffer().unwrap().enqueue());
        }
        autoreleasepool(|_| complete(&queue.commandBuffer().unwrap()));
    });
}

#[test]
fn command_buffer_blocks_at_the_queues_limit() {
    with_device(DeviceDesc::default(), |software, device| {
        let queue = device.newCommandQueueWithMaxCommandBufferCount(3).unwrap();
        let hold = software.faults().hold_execution();
        autoreleasepool(|_| (0..3).for_each(|_| queue.commandBuffer().unwrap().commit()));
        let (sender, receiver) = mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                autoreleasepool(|_| drop(queue.commandBuffer().unwrap()));
                sender.send(()).unwrap();
            });
            assert!(receiver.recv_timeout(Duration::from_millis(20)).is_err(), "the fourth has no place");
            drop(hold);
            receiver.recv_timeout(Duration::from_secs(60)).unwrap();
        });
    });
}

#[test]
fn many_threads_share_a_device() {
    with_device(DeviceDesc::default(), |_, device| {
        std::thread::scope(|scope| {
            for nth in 0..8u8 {
                scope.spawn(move || {
                    let queue = device.newCommandQueue().unwrap();
                    for round in 0..20 {
                        autoreleasepool(|_| {
                            let (up, down) = (buffer(device, 256, SHARED), buffer(device, 256, SHARED));
                            write(&up, nth ^ round);
                            let commands = queue.commandBuffer().unwrap();
                            copy(&commands, &up, &down);
                            complete(&commands);
                            assert_eq!(read(&down)[255], nth ^ round);
                        });
                    }
                });
            }
        });
    });
}

#[test]
fn misuse_of_command_buffers_is_caught() {
    with_device(DeviceDesc::default(), |_, device| {
        let queue = device.newCommandQueue().unwrap();
        let target = buffer(device, 64, SHARED);
        let open = caught(|| {
            let commands = queue.commandBuffer().unwrap();
            let encoder = commands.blitCommandEncoder().unwrap();
            let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| commands.commit()));
            encoder.endEncoding();
            std::panic::resume_unwind(panic.unwrap_err());
        });
        assert_eq!(open, "commit with an open encoder");
        // Not in a pool's hands: a panic there would keep the pool from releasing the rest.
        let encoder = autoreleasepool(|_| queue.commandBuffer().unwrap().blitCommandEncoder().unwrap());
        let abandoned = caught(|| drop(encoder));
        assert_eq!(abandoned, "an encoder was deallocated without endEncoding");
        let outside = |offset, len| {
            caught(|| {
                let commands = queue.commandBuffer().unwrap();
                let encoder = commands.blitCommandEncoder().unwrap();
                encoder.fillBuffer_range_value(&target, NSRange::new(offset, len), 0);
            })
        };
        assert_eq!(outside(60, 5), "blit range 60+5 outside a buffer of 64");
        assert_eq!(outside(usize::MAX, 2), format!("blit range {}+2 outside a buffer of 64", usize::MAX));
        assert_eq!(outside(0, 0), "a blit of 0 bytes");
        let overlap = caught(|| {
            let commands = queue.commandBuffer().unwrap();
            let encoder = commands.blitCommandEncoder().unwrap();
            // SAFETY: the device checks the ranges.
            unsafe {
                encoder
                    .copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&target, 0, &target, 8, 16)
            };
        });
        assert_eq!(overlap, "a copy between overlapping ranges of one buffer");
        let commands = queue.commandBuffer().unwrap();
        assert!(caught(|| commands.waitUntilCompleted()).contains("not committed"));
        complete(&commands);
        assert_eq!(caught(|| commands.commit()), "commit after commit");
        assert_eq!(caught(|| commands.blitCommandEncoder()), "a blit encoder after commit");
        let foreign = SoftwareDevice::new(DeviceDesc::default());
        let theirs = buffer(&foreign.metal_device(), 64, SHARED);
        let other = caught(|| fill(&queue.commandBuffer().unwrap(), &theirs, 0));
        assert_eq!(other, "a buffer of another device");
    });
}

#[test]
fn misuse_of_messages_is_caught() {
    with_device(DeviceDesc::default(), |_, device| {
        // SAFETY: there is no such method, which the runtime says.
        let unknown = caught(|| -> () { unsafe { objc2::msg_send![&**device, fooBar] } });
        assert!(unknown.contains("fooBar"), "{unknown}");
        // Debug builds of objc2 compare signatures.
        #[cfg(debug_assertions)]
        {
            let wrong = caught(|| -> *mut objc2::runtime::AnyObject {
                // SAFETY: the argument's type is wrong, which objc2 says before it sends.
                unsafe { objc2::msg_send![&**device, newBufferWithLength: 5i32, options: 0usize] }
            });
            assert!(wrong.contains("expected argument at index 0"), "{wrong}");
        }
    });
}
