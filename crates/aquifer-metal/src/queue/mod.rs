//! Queues: a Metal command queue each, with an event that orders what is in it.
//!
//! ```text
//! enqueue, submit, wait_on ─> steps, numbered: command buffer: [wait n-1] work [signal n] ──> Metal
//!                                              or a copy by the processor, on the queue's own thread
//! completed handlers ─> Progress: which steps have ended ─> value ─> completed (a load), wait
//! signal ─> Progress: a marker behind the last step; no call of Metal's
//! ```
//!
//! - **Order.** Blocks are made without hazard tracking, and then Metal may run command buffers of one queue side by side. So
//!   each step waits for the queue's shared event to have the number of the one before, and signals its own.
//! - **The value.** Metal does not document in which order completed handlers run. [`Progress`] keeps the steps in their order, and
//!   the value rises to a marker only when all steps before it have ended, whatever ends first.
//! - **Failure.** A command buffer that fails has ended all the same; it may not have signalled, so its number is set by the host
//!   when everything before it has ended, and the queue goes on.
//! - **Host memory.** Metal takes memory of the program's own only as whole pages of a mapping, so copies from and to the host are
//!   made by the processor, in their turn: directly where the host sees the block, else through a staging buffer.
//! - **Peers.** A copy from a peer's block reads a remote view of it, which is like any private buffer of this device's: a
//!   blit, or a step of the processor's with a staging buffer of this device's where a blit cannot do it.

mod host_step;
mod progress;
mod shared;

use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

#[cfg(doc)]
use aquifer_backend::ErrorKind;
use aquifer_backend::{Command, CopyEnd, Error, Ticket};
use block2::RcBlock;
use objc2::rc::autoreleasepool;
use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLCommandBuffer, MTLCommandQueue, MTLEvent};
use parking_lot::Mutex;

use self::host_step::{Direction, HostStep};
use self::progress::{Effect, Progress};
use self::shared::{Shared, handler};
use crate::block::MetalBlock;
use crate::device::Device;
use crate::staging::Staging;
use crate::transfer::{Blit, Part, new_command_buffer};

/// A copy from or to the host of up to so many bytes is made at once, by the calling thread, if the queue is idle: it takes no longer
/// than to wake another thread.
const AT_ONCE_BYTES_MAX: u64 = 64 << 10;

/// A queue of a Metal device.
///
/// Made by [`Backend::create_queue`](aquifer_backend::Backend::create_queue). Any thread may use it. Work of the program's own
/// goes through [`MetalQueue::submit`]; what is committed to [`MetalQueue::raw`] behind its back is not ordered with the rest, and
/// memory may be given away that it still uses.
///
/// Metal lets at most 1024 command buffers of a queue be on their way; one more blocks until one has ended.
#[derive(Debug)]
pub struct MetalQueue {
    shared: Arc<Shared>,
    /// Held while a step is made and given to Metal, so that they arrive in order. Not for markers: the program's closure runs under
    /// it, and may free memory.
    submission: Mutex<Submission>,
}

/// Holds a queue back until it is dropped; see [`MetalQueue::hold`]. Any thread may drop it. Forgotten, it holds the queue for good.
#[derive(Debug)]
#[must_use = "dropping it lets the queue go"]
pub struct QueueHold {
    shared: Arc<Shared>,
    step: u64,
}

impl Drop for QueueHold {
    fn drop(&mut self) {
        self.shared.end(self.step, Ok(()));
    }
}

#[derive(Debug, Default)]
struct Submission {
    /// The number of the last step.
    last_step: u64,
    /// To the queue's thread, from its first step on.
    host_steps: Option<Sender<HostStep>>,
}

impl MetalQueue {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, Error> {
        let operation = "create_queue";
        device.check(operation)?;
        autoreleasepool(|_| {
            let order = device.shared_event(operation)?;
            let raw = device.command_queue(operation)?;
            let shared =
                Arc::new(Shared { device: Arc::clone(device), raw, order, progress: Progress::default() });
            Ok(Self { shared, submission: Mutex::default() })
        })
    }

    /// The command queue, for what needs one: captures, labels. Work is not to be committed to it; see [`MetalQueue::submit`].
    #[must_use]
    pub fn raw(&self) -> &ProtocolObject<dyn MTLCommandQueue> {
        &self.shared.raw
    }

    /// Puts work of the program's own at the end of the queue: `encode` is given a new command buffer, and encodes compute, render or
    /// blit passes. It does not commit the buffer; encoders are ended. It runs behind everything that is in the queue now, and
    /// the queue's value rises to later markers when it has ended. Does not wait for it.
    ///
    /// `encode` is called on this thread, before the call returns. It may allocate and free memory, what the work uses too. It must
    /// not put anything into this queue or wait for it, nor for a thread that does; allocations at home on this queue that are to be
    /// zeroed are such a thing. If it panics, nothing is put into the queue, and the panic goes on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if Metal made no command buffer, and then `encode` is not called; [`ErrorKind::DeviceLost`]. If the
    /// work itself fails, that is `ticket`'s to tell.
    ///
    /// # Safety
    ///
    /// - Of Aquifer's memory the work uses only buffers that are at home on this queue or recorded for it
    ///   (`Buffer::record_use`) before they are freed, within their bounds, and in order with what else uses them.
    pub unsafe fn submit(
        &self,
        ticket: &Arc<Ticket>,
        encode: impl FnOnce(&ProtocolObject<dyn MTLCommandBuffer>),
    ) -> Result<(), Error> {
        self.commit("submit", Effect::new(ticket, 0), 1, |command_buffer| {
            encode(command_buffer);
            Ok(())
        })?;
        Ok(())
    }

    /// Keeps what is put into the queue from now on from running, until the hold is dropped: for work that waits for something the
    /// host does. The queue's value does not rise past it either. Does not block, and gives Metal nothing.
    ///
    /// What is put into the queue behind it piles up, and 1024 command buffers are all that Metal lets a queue have: the thread that
    /// is to drop the hold should not put more behind it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeviceLost`].
    pub fn hold(&self) -> Result<QueueHold, Error> {
        self.shared.device.check("hold")?;
        let mut submission = self.submission.lock();
        let step = submission.last_step + 1;
        self.shared.progress.push(step, Effect::default());
        submission.last_step = step;
        Ok(QueueHold { shared: Arc::clone(&self.shared), step })
    }

    /// Blocks until everything that is in the queue has ended, and what others put into it meanwhile; or the device is lost.
    pub fn wait_idle(&self) {
        let device = &self.shared.device;
        self.shared.progress.wait_idle(|| device.check("wait").is_err());
    }

    /// To be called with an autorelease pool.
    ///
    /// # Safety
    ///
    /// - As for [`Backend::enqueue`](aquifer_backend::Backend::enqueue).
    pub(crate) unsafe fn enqueue(
        &self,
        command: Command<'_, MetalBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        self.shared.device.check("enqueue")?;
        if ticket.is_cancelled() {
            return Ok(());
        }
        let (source, destination, bytes) = match command {
            Command::Copy { source, destination, bytes } => (source, destination, bytes),
            Command::Fill { destination, value } => {
                // SAFETY: the caller vouches for the range until the queue's value shows that it has run.
                return unsafe { self.enqueue_blit(Blit::fill(destination, value), ticket) };
            }
        };
        if bytes == 0 {
            return Ok(());
        }
        // Before anything is queued. What is made of it keeps it: the command buffer, or the processor's step.
        let view = match source {
            CopyEnd::Block { block, .. } => self.shared.device.view_of_peer(block, "enqueue")?,
            CopyEnd::Host(_) => None,
        };
        let to_read = |block, offset| match &view {
            None => Part::of(block, offset),
            Some(buffer) => Part { buffer, contents: None, offset },
        };
        let step = match (source, destination) {
            (
                CopyEnd::Block { block: from, offset: from_offset },
                CopyEnd::Block { block: to, offset: to_offset },
            ) => {
                let (source, destination) = (to_read(from, from_offset), Part::of(to, to_offset));
                // SAFETY: the caller vouches for the ranges until the queue's value shows that it has run.
                return unsafe { self.enqueue_blit(Blit::Copy { source, destination, bytes }, ticket) };
            }
            (CopyEnd::Block { block, offset }, CopyEnd::Host(to)) => {
                let part = to_read(block, offset);
                // SAFETY: the caller vouches for both ends until the queue's value shows that it has run.
                unsafe { HostStep::transfer(part, to, Direction::Download, bytes, ticket) }
            }
            (CopyEnd::Host(from), CopyEnd::Block { block, offset }) => {
                let part = Part::of(block, offset);
                // SAFETY: as above.
                unsafe { HostStep::transfer(part, from, Direction::Upload, bytes, ticket) }
            }
            // SAFETY: as above.
            (CopyEnd::Host(from), CopyEnd::Host(to)) => unsafe {
                HostStep::within_host(from, to, bytes, ticket)
            },
        };
        self.step_by_host(step)
    }

    /// A command of the device's, or, where none can do it, a step of the processor's.
    ///
    /// # Safety
    ///
    /// - As [`MetalQueue::enqueue`].
    unsafe fn enqueue_blit(&self, blit: Blit<'_>, ticket: &Arc<Ticket>) -> Result<(), Error> {
        if blit.bytes() == 0 {
            return Ok(());
        }
        if !blit.is_one_command(&self.shared.device) {
            // SAFETY: the caller vouches for the ranges until the queue's value shows that it has run.
            return self.step_by_host(unsafe { HostStep::blit(blit, ticket) });
        }
        self.commit("enqueue", Effect::new(ticket, blit.bytes()), 1, |command_buffer| {
            // SAFETY: as above.
            unsafe { blit.encode(command_buffer, "enqueue") }
        })?;
        Ok(())
    }

    /// Makes the next step a command buffer, and answers its number. The command buffer's end is one of `ends`.
    fn commit(
        &self,
        operation: &'static str,
        effect: Effect,
        ends: u32,
        encode: impl FnOnce(&ProtocolObject<dyn MTLCommandBuffer>) -> Result<(), Error>,
    ) -> Result<u64, Error> {
        let shared = &self.shared;
        shared.device.check(operation)?;
        shared.device.flush_residency();
        autoreleasepool(|_| {
            // Before the lock: it blocks while too many are on their way, and markers and holds are not to wait for that.
            let command_buffer = new_command_buffer(&shared.raw, operation)?;
            let mut submission = self.submission.lock();
            let (before, step) = (submission.last_step, submission.last_step + 1);
            // Before `encode`, so that markers that come meanwhile are behind the work: it may free what it uses.
            shared.progress.push_with(step, effect, ends);
            submission.last_step = step;
            let encoding = Encoding { shared, step };
            let order: &ProtocolObject<dyn MTLEvent> = ProtocolObject::from_ref(&*shared.order);
            command_buffer.encodeWaitForEvent_value(order, before);
            encode(&command_buffer)?;
            command_buffer.encodeSignalEvent_value(order, step);
            let handler = handler(Arc::clone(shared), step, operation);
            // SAFETY: the block takes what Metal gives such a block, and owns what it uses: an `Arc` that any thread may drop.
            unsafe { command_buffer.addCompletedHandler(RcBlock::as_ptr(&handler)) };
            std::mem::forget(encoding);
            command_buffer.commit();
            Ok(step)
        })
    }

    /// Makes the next step one of the processor's.
    fn step_by_host(&self, step: HostStep) -> Result<(), Error> {
        let shared = &self.shared;
        if step.bytes() == 0 {
            return Ok(());
        }
        let mut submission = self.submission.lock();
        if step.is_direct()
            && step.bytes() <= AT_ONCE_BYTES_MAX
            // Kept so, so that nothing is put behind it before it has been made.
            && let Some(_idle) = shared.progress.idle()
        {
            step.run(&shared.device, &mut Staging::default());
            return Ok(());
        }
        let number = submission.last_step + 1;
        let steps = match &submission.host_steps {
            Some(steps) => steps,
            None => submission.host_steps.insert(shared.start_host_steps()?),
        };
        // Before it is sent, so that the thread finds it.
        shared.progress.push(number, step.effect());
        if steps.send(step.numbered(number)).is_err() {
            // The thread ends only when the sender is dropped, and it does not panic.
            shared.end(number, Ok(()));
        }
        submission.last_step = number;
        Ok(())
    }

    pub(crate) fn signal(&self, value: u64) -> Result<(), Error> {
        self.shared.device.check("signal")?;
        self.shared.progress.mark(value);
        Ok(())
    }

    pub(crate) fn completed(&self) -> Result<u64, Error> {
        self.shared.device.check("completed")?;
        Ok(self.shared.progress.value())
    }

    pub(crate) fn wait(&self, value: u64, timeout: Duration) -> Result<bool, Error> {
        let device = &self.shared.device;
        let is_reached = self.shared.progress.wait(value, timeout, || device.check("wait").is_err());
        // Also where it is reached: what fails with the device raises the value too, and by then the loss is known.
        device.check("wait")?;
        Ok(is_reached)
    }

    pub(crate) fn wait_on(&self, other: &Self, value: u64) -> Result<(), Error> {
        self.shared.device.check("wait_on_queue")?;
        if Arc::ptr_eq(&self.shared, &other.shared) {
            // It is in order by itself.
            return Ok(());
        }
        let Some(before) = other.shared.progress.step_before(value) else { return Ok(()) };
        let event: &ProtocolObject<dyn MTLEvent> = ProtocolObject::from_ref(&*other.shared.order);
        // It ends when the device has, and when the host knows that the other has come so far: the one may be known first.
        let effect = Effect::keeping(&other.shared);
        let step = self.commit("wait_on_queue", effect, 2, |command_buffer| {
            command_buffer.encodeWaitForEvent_value(event, before);
            Ok(())
        })?;
        let shared = Arc::clone(&self.shared);
        other.shared.progress.when_passed(before, move || shared.note_end(step, Ok(())));
        Ok(())
    }
}

/// A step that is being encoded. Dropped before it is given to Metal, the step is cancelled: `encode` failed or panicked.
struct Encoding<'a> {
    shared: &'a Shared,
    step: u64,
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        self.shared.progress.cancel(self.step, |number| self.shared.pass(number));
    }
}
