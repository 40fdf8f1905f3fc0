//! What a queue, its handlers and its thread share.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use aquifer_backend::{Error, ErrorKind};
use block2::RcBlock;
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandBuffer, MTLCommandQueue, MTLSharedEvent};

use super::host_step::HostStep;
use super::progress::{Progress, Then};
use crate::device::{Device, lost};
use crate::staging::Staging;
use crate::status::outcome;

/// What handlers and the queue's thread need too.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(super) device: Arc<Device>,
    pub(super) raw: Retained<ProtocolObject<dyn MTLCommandQueue>>,
    /// Has the number of the last step that has ended.
    pub(super) order: Retained<ProtocolObject<dyn MTLSharedEvent>>,
    pub(super) progress: Progress,
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(residency) = &self.device.residency {
            autoreleasepool(|_| residency.detach(&self.raw));
        }
    }
}

pub(super) type Handler = RcBlock<dyn Fn(NonNull<ProtocolObject<dyn MTLCommandBuffer>>)>;

/// What Metal calls when the command buffer of a step has ended, well or not.
pub(super) fn handler(shared: Arc<Shared>, step: u64, operation: &'static str) -> Handler {
    RcBlock::new(move |command_buffer: NonNull<ProtocolObject<dyn MTLCommandBuffer>>| {
        let result = autoreleasepool(|_| {
            // SAFETY: Metal passes the command buffer that has ended, which lives for as long as the call.
            outcome(unsafe { command_buffer.as_ref() }, operation)
        });
        let result = result.map_err(|error| shared.device.note(error));
        shared.device.note_end();
        shared.end(step, result);
    })
}

impl Shared {
    /// Notes that a step has ended.
    pub(super) fn end(&self, step: u64, result: Result<(), Error>) {
        self.progress.end(step, result, |number| self.pass(number));
    }

    /// As [`Shared::end`], but leaves to the caller what is then to be done, under no lock.
    pub(super) fn note_end(&self, step: u64, result: Result<(), Error>) -> Vec<Then> {
        self.progress.note_end(step, result, |number| self.pass(number))
    }

    /// A step and all before it have ended.
    pub(super) fn pass(&self, number: u64) {
        // A copy by the processor signals nothing, nor does a command buffer that failed. All before it has ended, and what is
        // behind it waits for it: so nobody else sets the event now.
        autoreleasepool(|_| {
            if self.order.signaledValue() < number {
                self.order.setSignaledValue(number);
            }
        });
    }

    /// Starts the thread that makes the processor's steps, each in its turn. It ends with the sender.
    pub(super) fn start_host_steps(self: &Arc<Self>) -> Result<Sender<HostStep>, Error> {
        let (sender, steps) = channel::<HostStep>();
        let shared = Arc::clone(self);
        let work = move || {
            let mut staging = Staging::default();
            for step in steps {
                let number = step.number();
                let is_lost = || shared.device.check("enqueue").is_err();
                let is_its_turn = shared.progress.wait_for_turn(number, is_lost);
                // With a pool, since it may be the last to let go of a view.
                autoreleasepool(|_| {
                    if is_its_turn {
                        step.run(&shared.device, &mut staging);
                    } else {
                        step.fail(lost("enqueue"));
                    }
                });
                shared.end(number, Ok(()));
            }
            autoreleasepool(|_| drop(staging));
        };
        let started = std::thread::Builder::new().name("aquifer-metal".into()).spawn(work);
        match started {
            Ok(_) => Ok(sender),
            Err(error) => {
                let message = "the system did not start a thread for a queue's copies; drop other queues, or raise what limits the \
                               process's threads";
                Err(Error::new(ErrorKind::Driver, "enqueue", message).with_source(error))
            }
        }
    }
}
