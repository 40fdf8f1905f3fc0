//! Queues, command buffers, events, fences.

use super::*;
use block2::RcBlock;
use objc2::rc::autoreleasepool;
use objc2::runtime::NSObjectProtocol;
use objc2_metal::{MTLEvent, MTLSharedEvent};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

pub(super) const CHECKS: [Check; 15] = [
    Check { number: 30, guess: "an event's value only rises when the host sets it", run: host_values },
    Check { number: 31, guess: "an event's value only rises when the device signals it", run: device_values },
    Check { number: 32, guess: "waitUntilSignaledValue: answers false at its timeout", run: timeout },
    Check {
        number: 33,
        guess: "commandBuffer blocks while as many as the queue takes have not completed, not longer",
        run: limit,
    },
    Check {
        number: 34,
        guess: "completed handlers are through when waitUntilCompleted returns",
        run: handlers_before_wait,
    },
    Check {
        number: 35,
        guess: "a handler runs on another thread, when the status is completed",
        run: handler_thread,
    },
    Check { number: 36, guess: "references are let go when waitUntilCompleted returns", run: references },
    Check { number: 37, guess: "without retained references the command buffer adds none", run: unretained },
    Check {
        number: 38,
        guess: "work behind a wait on the same queue waits too, without a seed",
        run: blocked_queue,
    },
    Check { number: 39, guess: "blits may have odd offsets and sizes on the Apple family", run: odd_blits },
    Check { number: 40, guess: "commands of one blit encoder run in order", run: one_encoder },
    Check { number: 41, guess: "passes over tracked memory run in order", run: tracked },
    Check { number: 42, guess: "a fence orders passes over untracked memory", run: fenced },
    Check { number: 43, guess: "labels are nil at first", run: labels },
    Check { number: 44, guess: "a listener's block gets the event's value", run: listener },
];

type Event = Retained<ProtocolObject<dyn MTLSharedEvent>>;

fn event_of(event: &Event) -> &ProtocolObject<dyn MTLEvent> {
    ProtocolObject::from_ref(&**event)
}

fn host_values(device: &Device) -> Verdict {
    made(device.newSharedEvent().map(|event| {
        let values = [5, 3].map(|value| {
            event.setSignaledValue(value);
            event.signaledValue()
        });
        compare(values, [5, 5])
    }))
}

fn device_values(device: &Device) -> Verdict {
    let value = || {
        let event = device.newSharedEvent()?;
        run(device, |commands| {
            [5, 3].iter().for_each(|value| commands.encodeSignalEvent_value(event_of(&event), *value));
            Some(())
        })?;
        Some(event.signaledValue())
    };
    made(value().map(|value| compare(value, 5)))
}

fn timeout(device: &Device) -> Verdict {
    made(device.newSharedEvent().map(|event| {
        event.setSignaledValue(1);
        compare([1, 2].map(|value| event.waitUntilSignaledValue_timeoutMS(value, 10)), [true, false])
    }))
}

fn limit(device: &Device) -> Verdict {
    let Some(queue) = device.newCommandQueueWithMaxCommandBufferCount(2) else { return made(None) };
    let (sender, receiver) = mpsc::channel();
    let (Some(first), Some(second)) = (queue.commandBuffer(), queue.commandBuffer()) else {
        return made(None);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            autoreleasepool(|_| drop(queue.commandBuffer()));
            // The other end waits at most a while.
            let _ = sender.send(());
        });
        let is_blocked = receiver.recv_timeout(Duration::from_millis(200)).is_err();
        first.commit();
        second.commit();
        let goes_on = receiver.recv_timeout(Duration::from_secs(10)).is_ok();
        compare((is_blocked, goes_on), (true, true))
    })
}

type Handler = RcBlock<dyn Fn(NonNull<ProtocolObject<dyn MTLCommandBuffer>>)>;

fn with_handler(device: &Device, handler: &Handler) -> Option<MTLCommandBufferStatus> {
    run(device, |commands| {
        // SAFETY: the pointer is to a block, which is copied.
        unsafe { commands.addCompletedHandler(RcBlock::as_ptr(handler)) };
        Some(())
    })
}

fn handlers_before_wait(device: &Device) -> Verdict {
    let calls = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&calls);
    let handler: Handler = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
        // Late, so that a wait that does not care for handlers is over before.
        std::thread::sleep(Duration::from_millis(50));
        seen.fetch_add(1, Ordering::SeqCst);
    });
    made(with_handler(device, &handler).map(|_| compare(calls.load(Ordering::SeqCst), 1)))
}

fn handler_thread(device: &Device) -> Verdict {
    let (sender, receiver) = mpsc::channel();
    let caller = std::thread::current().id();
    let handler: Handler = RcBlock::new(move |commands: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
        // SAFETY: Metal passes the live command buffer.
        let status = unsafe { commands.as_ref() }.status();
        // The other end may have given up.
        let _ = sender.send((std::thread::current().id() != caller, status));
    });
    let status =
        with_handler(device, &handler).and_then(|_| receiver.recv_timeout(Duration::from_secs(10)).ok());
    made(status.map(|status| compare(status, (true, MTLCommandBufferStatus::Completed))))
}

fn references(device: &Device) -> Verdict {
    let counts = || {
        let target = buffer(device, 256, PRIVATE)?;
        let commands = device.newCommandQueue()?.commandBuffer()?;
        let before = target.retainCount();
        pass(&commands, |encoder| fill(encoder, &target, 1))?;
        let encoded = target.retainCount();
        commands.commit();
        commands.waitUntilCompleted();
        Some((encoded > before, target.retainCount() == before))
    };
    made(counts().map(|counts| compare(counts, (true, true))))
}

fn unretained(device: &Device) -> Verdict {
    let counts = || {
        let target = buffer(device, 256, PRIVATE)?;
        let commands = device.newCommandQueue()?.commandBufferWithUnretainedReferences()?;
        let before = target.retainCount();
        pass(&commands, |encoder| fill(encoder, &target, 1))?;
        let encoded = target.retainCount();
        commands.commit();
        commands.waitUntilCompleted();
        Some((commands.retainedReferences(), encoded - before))
    };
    made(counts().map(|counts| compare(counts, (false, 0))))
}

fn blocked_queue(device: &Device) -> Verdict {
    let values = || {
        let (queue, gate, event) =
            (device.newCommandQueue()?, device.newSharedEvent()?, device.newSharedEvent()?);
        let (waiting, behind) = (queue.commandBuffer()?, queue.commandBuffer()?);
        waiting.encodeWaitForEvent_value(event_of(&gate), 1);
        behind.encodeSignalEvent_value(event_of(&event), 1);
        waiting.commit();
        behind.commit();
        let overtakes = event.waitUntilSignaledValue_timeoutMS(1, 100);
        gate.setSignaledValue(1);
        behind.waitUntilCompleted();
        Some((overtakes, event.signaledValue()))
    };
    made(values().map(|values| compare(values, (false, 1))))
}

fn odd_blits(device: &Device) -> Verdict {
    if !is_apple_family(device) {
        return skip("the device is not of the Apple family, where this is not allowed");
    }
    let copied = || {
        let (from, to) = (buffer(device, 16, SHARED)?, buffer(device, 16, SHARED)?);
        let encode = |encoder: &ProtocolObject<dyn MTLBlitCommandEncoder>| {
            encoder.fillBuffer_range_value(&from, NSRange::new(1, 5), 7);
            // SAFETY: both ranges are inside the buffers, which the command buffer keeps.
            unsafe {
                encoder.copyFromBuffer_sourceOffset_toBuffer_destinationOffset_size(&from, 2, &to, 7, 3)
            };
        };
        run(device, |commands| pass(commands, encode))?;
        Some(bytes(&to)[6..11].to_vec())
    };
    made(copied().map(|copied| compare(copied, vec![0, 7, 7, 7, 0])))
}

/// What a buffer ends as after 64 fills and copies; `None` if something is nil.
fn chain(
    device: &Device,
    options: MTLResourceOptions,
    encode: impl FnOnce(&CommandBuffer, &Buffer, &Buffer) -> Option<()>,
) -> Verdict {
    let last = || {
        let (one, two) =
            (buffer(device, 1 << 16, SHARED | options)?, buffer(device, 1 << 16, SHARED | options)?);
        run(device, |commands| encode(commands, &one, &two))?;
        Some(bytes(&two).iter().filter(|byte| **byte != 64).count())
    };
    made(last().map(|wrong| compare(wrong, 0)))
}

fn one_encoder(device: &Device) -> Verdict {
    chain(device, MTLResourceOptions::empty(), |commands, one, two| {
        pass(commands, |encoder| {
            for value in 1..=64 {
                fill(encoder, one, value);
                copy(encoder, one, two);
            }
        })
    })
}

fn tracked(device: &Device) -> Verdict {
    chain(device, MTLResourceOptions::empty(), |commands, one, two| {
        (1..=64).try_for_each(|value| {
            pass(commands, |encoder| fill(encoder, one, value))?;
            pass(commands, |encoder| copy(encoder, one, two))
        })
    })
}

fn fenced(device: &Device) -> Verdict {
    let Some(fence) = device.newFence() else { return made(None) };
    chain(device, UNTRACKED, |commands, one, two| {
        let ordered = |encode: &dyn Fn(&ProtocolObject<dyn MTLBlitCommandEncoder>)| {
            pass(commands, |encoder| {
                encoder.waitForFence(&fence);
                encode(encoder);
                encoder.updateFence(&fence);
            })
        };
        (1..=64).try_for_each(|value| {
            ordered(&|encoder| fill(encoder, one, value))?;
            ordered(&|encoder| copy(encoder, one, two))
        })
    })
}

fn labels(device: &Device) -> Verdict {
    let labels = || {
        let queue = device.newCommandQueue()?;
        let commands = queue.commandBuffer()?;
        Some([
            queue.label().is_none(),
            commands.label().is_none(),
            heap(device, 1 << 16, MTLHeapType::Automatic)?.label().is_none(),
        ])
    };
    made(labels().map(|labels| compare(labels, [true; 3])))
}

fn listener(device: &Device) -> Verdict {
    use objc2_metal::MTLSharedEventListener;
    let value = || {
        let event = device.newSharedEvent()?;
        let (sender, receiver) = mpsc::channel();
        let block = RcBlock::new(move |_: NonNull<ProtocolObject<dyn MTLSharedEvent>>, value: u64| {
            // The other end may have given up.
            let _ = sender.send(value);
        });
        let listener = MTLSharedEventListener::new();
        // SAFETY: the pointer is to a block, which is copied.
        unsafe { event.notifyListener_atValue_block(&listener, 2, RcBlock::as_ptr(&block)) };
        event.setSignaledValue(3);
        receiver.recv_timeout(Duration::from_secs(10)).ok()
    };
    made(value().map(|value| compare(value, 3)))
}
