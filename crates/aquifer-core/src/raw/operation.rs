//! What a queue is doing for somebody: the buffers and host memory that it uses, kept until it is over.
//!
//! An operation owns both its ends. It is listed in its manager from the moment it is enqueued, so that it, and all it
//! uses, stays until the queue's value shows that it is over, whatever becomes of the future: dropped, or forgotten. That
//! is what makes [`Backend::enqueue`] safe to call here.

use super::allocation::Allocation;
use crate::calls::{call, wake_all};
use crate::manager::{QueueState, Shared};
use crate::range::QueueIndex;
use aquifer_backend::{Backend, BlockRange, Command, CopyEnd, Error, ErrorKind, Ticket};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Waker;

/// Host memory that lies still, wherever its owner is moved.
pub(crate) trait HostMemory: Any + Send {
    /// Its bytes.
    fn bytes_mut(&mut self) -> &mut [u8];
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

impl<T: bytemuck::NoUninit + bytemuck::AnyBitPattern + Send> HostMemory for Vec<T> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

impl<T: bytemuck::NoUninit + bytemuck::AnyBitPattern + Send> HostMemory for Box<[T]> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// What an operation uses.
pub(crate) struct Parts<B: Backend> {
    pub(crate) source: Option<Allocation<B>>,
    pub(crate) destination: Option<Allocation<B>>,
    pub(crate) host: Option<Box<dyn HostMemory>>,
}

impl<B: Backend> Parts<B> {
    pub(crate) fn allocations(&self) -> impl Iterator<Item = &Allocation<B>> {
        self.source.iter().chain(&self.destination)
    }
}

/// What is to be done with an operation's parts. Ranges have been checked against them.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// Part of the source to the destination, from an offset on.
    Copy { source: Range<u64>, offset: u64 },
    /// The host's memory to the destination, from an offset on.
    Upload { offset: u64 },
    /// A part of the source, as long as it is, to the host's memory.
    Download { source: Range<u64> },
    /// A part of the destination to one value.
    Fill { range: Range<u64>, value: u8 },
}

struct State<B: Backend> {
    /// Until the future has taken them.
    parts: Option<Parts<B>>,
    /// Once it is over, until the future has taken it.
    outcome: Option<Result<(), Error>>,
    is_over: bool,
    waker: Option<Waker>,
    has_future: bool,
}

/// One operation, shared by its future and its manager.
pub(crate) struct OperationState<B: Backend> {
    pub(crate) ticket: Arc<Ticket>,
    pub(crate) queue: Arc<QueueState<B::Queue>>,
    pub(crate) value: u64,
    state: Mutex<State<B>>,
}

/// A manager's operations under way.
pub(crate) struct Operations<B: Backend>(Mutex<VecDeque<Arc<OperationState<B>>>>);

impl<B: Backend> Default for Operations<B> {
    fn default() -> Self {
        Self(Mutex::new(VecDeque::new()))
    }
}

impl<B: Backend> Operations<B> {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// A queue and the value at which an operation on it is over.
    pub(crate) fn next(&self) -> Option<(QueueIndex, u64)> {
        self.0.lock().front().map(|operation| (operation.queue.index, operation.value))
    }

    /// Takes those out that are over.
    fn take_over(&self) -> Vec<Arc<OperationState<B>>> {
        let mut operations = self.0.lock();
        let is_over = |operation: &mut Arc<OperationState<B>>| operation.is_reached();
        if !operations.iter_mut().any(is_over) {
            return Vec::new();
        }
        let (over, rest): (Vec<_>, _) = operations.drain(..).partition(|operation| operation.is_reached());
        *operations = rest.into();
        over
    }
}

/// An operation that was not begun: why, and what it would have used.
pub(crate) struct Refused<B: Backend> {
    pub(crate) error: Error,
    pub(crate) parts: Parts<B>,
}

impl<B: Backend> OperationState<B> {
    /// Enqueues `work` with `parts`, of which all allocations are of the manager whose state `shared` is.
    pub(crate) fn begin(
        shared: &Shared<B>,
        queue: &Arc<QueueState<B::Queue>>,
        mut parts: Parts<B>,
        work: Work,
    ) -> Result<Arc<Self>, Refused<B>> {
        debug_assert!(parts.allocations().all(|part| std::ptr::eq(part.shared(), shared)));
        let ticket = Arc::new(Ticket::default());
        if let Err(error) = enqueue(shared, queue, &mut parts, work, &ticket) {
            return Err(Refused { error, parts });
        }
        // Refused or not, a marker comes behind the work sooner or later.
        let value = shared.signal(queue).unwrap_or_else(|_| queue.timeline.claimed());
        let state =
            State { parts: Some(parts), outcome: None, is_over: false, waker: None, has_future: true };
        let operation = Arc::new(Self { ticket, queue: Arc::clone(queue), value, state: Mutex::new(state) });
        shared.operations.0.lock().push_back(Arc::clone(&operation));
        shared.bell.wake_reaper();
        Ok(operation)
    }

    /// Whether the queue is known to have passed it.
    pub(crate) fn is_reached(&self) -> bool {
        self.queue.timeline.completed() >= self.value
    }

    /// Whether it is over, as its future may learn.
    pub(crate) fn is_over(&self) -> bool {
        self.state.lock().is_over
    }

    /// Whether its future has learnt how it ended.
    pub(crate) fn is_taken(&self) -> bool {
        let state = self.state.lock();
        state.is_over && state.outcome.is_none()
    }

    /// Takes outcome and parts if it is over; else keeps the waker for that moment.
    pub(crate) fn take(&self, waker: Option<&Waker>) -> Option<(Result<(), Error>, Parts<B>)> {
        // To clone a waker is the executor's code, so not under the lock.
        let waker = waker.cloned();
        let mut state = self.state.lock();
        if state.outcome.is_none() {
            // Not yet over, or taken before.
            let replaced = waker.map(|waker| state.waker.replace(waker));
            drop(state);
            drop(replaced);
            return None;
        }
        Some((state.outcome.take()?, state.parts.take()?))
    }

    /// The future has gone: what the operation uses goes with it, once it is over.
    pub(crate) fn detach(&self) {
        let mut state = self.state.lock();
        state.has_future = false;
        let waker = state.waker.take();
        let parts = if state.outcome.is_some() { state.parts.take() } else { None };
        drop(state);
        drop((waker, parts));
    }

    /// Notes how it ended; answers what is to be called and dropped once nothing more need be noted.
    fn end(&self, is_lost: bool) -> (Option<Waker>, Option<Parts<B>>) {
        let outcome = match self.ticket.take_error() {
            Some(error) => Err(error),
            None if is_lost => {
                let message = "the device was lost before the operation was known to be over";
                Err(Error::new(ErrorKind::DeviceLost, "operation", message))
            }
            None => Ok(()),
        };
        let mut state = self.state.lock();
        state.outcome = Some(outcome);
        state.is_over = true;
        (state.waker.take(), if state.has_future { None } else { state.parts.take() })
    }
}

impl<B: Backend> Shared<B> {
    /// Ends the operations that the queues have passed, as their timelines say.
    pub(crate) fn complete_operations(&self) {
        let over = self.operations.take_over();
        // Not before: who notes a loss says so first, and then ends the timelines.
        let is_lost = self.is_lost();
        // All are over before anybody is told of one, who may wait for another.
        let ended: Vec<_> = over.iter().map(|operation| operation.end(is_lost)).collect();
        for (waker, parts) in ended {
            // Both run other code: frees, of which a recorder's writer hears, and the executor's.
            call("who hears of a free", || drop(parts));
            wake_all(waker);
        }
    }
}

/// Orders the work after whatever may still use its memory, and puts it into the queue.
fn enqueue<B: Backend>(
    shared: &Shared<B>,
    queue: &QueueState<B::Queue>,
    parts: &mut Parts<B>,
    work: Work,
    ticket: &Arc<Ticket>,
) -> Result<(), Error> {
    shared.check_process("enqueue")?;
    for allocation in parts.allocations() {
        shared.order_after_uses(queue, allocation.uses())?;
    }
    let blocks = [&parts.source, &parts.destination].map(|part| part.as_ref().map(Allocation::located));
    let [source, destination] = &blocks;
    let end = |located: &Option<(Arc<B::Block>, u64)>, offset: u64| {
        let (block, start) = located.as_ref().expect("the work has this end");
        (Arc::clone(block), start + offset)
    };
    let host = parts.host.as_mut().map(|host| {
        let bytes = host.bytes_mut();
        (NonNull::from(&mut *bytes).cast::<u8>(), bytes.len() as u64)
    });
    let answer = match work {
        Work::Copy { source: range, offset } => {
            let (from, to) = (end(source, range.start), end(destination, offset));
            let command = Command::Copy {
                source: CopyEnd::Block { block: &*from.0, offset: from.1 },
                destination: CopyEnd::Block { block: &*to.0, offset: to.1 },
                bytes: range.end - range.start,
            };
            // SAFETY: the ranges lie in their allocations, as the caller has checked, and so in their blocks; two
            // allocations never overlap. Both stay alive, and out of everybody's reach, in the operation that the caller
            // lists in the manager, until the queue has passed it or the device is lost. Other queues that may use them
            // come first.
            unsafe { shared.backend.enqueue(&queue.raw, command, ticket) }
        }
        Work::Upload { offset } => {
            let (to, (start, bytes)) = (end(destination, offset), host.expect("an upload has host memory"));
            let command = Command::Copy {
                source: CopyEnd::Host(start),
                destination: CopyEnd::Block { block: &*to.0, offset: to.1 },
                bytes,
            };
            // SAFETY: as above; the host's memory is kept by the operation too, and its bytes do not move with their owner
            // (`HostMemory`).
            unsafe { shared.backend.enqueue(&queue.raw, command, ticket) }
        }
        Work::Download { source: range } => {
            let (from, (start, bytes)) =
                (end(source, range.start), host.expect("a download has host memory"));
            debug_assert_eq!(bytes, range.end - range.start);
            let command = Command::Copy {
                source: CopyEnd::Block { block: &*from.0, offset: from.1 },
                destination: CopyEnd::Host(start),
                bytes,
            };
            // SAFETY: as for uploads.
            unsafe { shared.backend.enqueue(&queue.raw, command, ticket) }
        }
        Work::Fill { range, value } => {
            let to = end(destination, range.start);
            let destination = BlockRange { block: &*to.0, offset: to.1, bytes: range.end - range.start };
            // SAFETY: as for copies.
            unsafe { shared.backend.enqueue(&queue.raw, Command::Fill { destination, value }, ticket) }
        }
    };
    shared.note(answer)
}
