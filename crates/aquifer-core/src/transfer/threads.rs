//! Who copies between memory of the host: threads of the manager's, and whoever asks for a piece.

use super::desc::{Chunk, Hop, HopQueue, Way};
use super::engine::{Copiers, enqueue};
use crate::manager::{MemoryManager, Shared};
use crate::raw::allocation::Keeper;
use crate::raw::transfer::{Plan, SlotPart};
use aquifer_backend::{Backend, Error, ErrorKind, SyncBackend, Ticket};
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How long a manager that goes waits for each copy thread, in milliseconds.
const STOP_WAIT_MS: u32 = 1000;

/// One piece of copying, for one processor. It must be run.
pub(crate) struct CopyStep<B: Backend> {
    pub(super) id: u64,
    pub(super) way: Way,
    pub(super) plan: Plan<B>,
    pub(super) slot: Option<SlotPart<B>>,
    /// That it goes on to, or was filled by.
    pub(super) queue: Option<HopQueue<B>>,
    pub(super) ticket: Arc<Ticket>,
    pub(super) chunk: Chunk,
}

impl<B: Backend> CopyStep<B> {
    /// Copies, and hands on.
    pub(crate) fn run(self, shared: &Shared<B>) {
        let Self { id, way, plan, slot, queue, ticket, chunk } = self;
        let mut enqueued = None;
        match (way, &slot, &queue) {
            (Way::StageIn, Some(slot), Some(queue)) => {
                if plan.stage_in(chunk, slot, &ticket) {
                    enqueued = Some(enqueue(shared, &plan, queue, Hop::Far, chunk, Some(slot), &ticket));
                }
            }
            (Way::StageOut, Some(slot), _) => plan.stage_out(chunk, slot, &ticket),
            _ => {
                plan.copy_by_processor(chunk, &ticket);
            }
        }
        // Before the piece is over: after it the plan's memory may be gone.
        drop((plan, slot, queue, ticket));
        shared.transfers.end_copy(id, chunk, enqueued);
    }
}

/// One piece of copying between memory of the host, from [`Transfers::take_copy`](crate::Transfers::take_copy). Dropped without being run, it runs.
pub struct HostCopy<B: Backend> {
    step: Option<CopyStep<B>>,
    manager: MemoryManager<B>,
}

impl<B: Backend> fmt::Debug for HostCopy<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostCopy").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl<B: Backend> HostCopy<B> {
    pub(crate) fn new(step: CopyStep<B>, manager: MemoryManager<B>) -> Self {
        Self { step: Some(step), manager }
    }

    /// How many bytes it copies.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.step.as_ref().map_or(0, |step| step.chunk.bytes)
    }

    /// Copies, on this thread, and hands on what was copied.
    pub fn run(self) {
        drop(self);
    }
}

impl<B: Backend> Drop for HostCopy<B> {
    fn drop(&mut self) {
        if let Some(step) = self.step.take() {
            step.run(self.manager.shared());
        }
    }
}

/// The copy threads of a manager.
#[derive(Debug, Default)]
pub(crate) struct CopyThreads {
    threads: Mutex<Vec<JoinHandle<()>>>,
    is_closing: AtomicBool,
    is_one_waiting: AtomicBool,
}

/// The one thread that waits for a queue.
pub(super) struct Waiting<'a>(&'a AtomicBool);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl CopyThreads {
    pub(super) fn begin_waiting(&self) -> Option<Waiting<'_>> {
        (!self.is_one_waiting.swap(true, Ordering::AcqRel)).then(|| Waiting(&self.is_one_waiting))
    }

    /// Whether this thread is one of them.
    pub(crate) fn is_one_of_them(&self) -> bool {
        let own = thread::current().id();
        self.threads.lock().iter().any(|thread| thread.thread().id() == own)
    }

    /// Starts the threads if there are none: `count`, with what `keeper` makes for each.
    pub(crate) fn start<B: SyncBackend>(
        &self,
        count: usize,
        keeper: impl Fn() -> Keeper<B>,
    ) -> Result<(), Error> {
        let mut threads = self.threads.lock();
        if !threads.is_empty() || self.is_closing.load(Ordering::Acquire) {
            return Ok(());
        }
        for index in 0..count {
            let keeper = keeper();
            let started = thread::Builder::new().name("aquifer-copy".into()).spawn(move || work(&keeper));
            match started {
                Ok(thread) => threads.push(thread),
                // Fewer will do.
                Err(_) if index > 0 => break,
                Err(error) => {
                    let message = "no thread can be started to copy; end some threads, or set Config::transfers.copy_threads to 0";
                    return Err(Error::new(ErrorKind::Driver, "transfer", message).with_source(error));
                }
            }
        }
        Ok(())
    }
}

fn work<B: Backend>(shared: &Shared<B>) {
    let engine = &shared.transfers;
    loop {
        // First, so that a ring after the look is not missed.
        let seen = engine.bell.count();
        if engine.threads.is_closing.load(Ordering::Acquire) {
            return;
        }
        engine.poll(shared);
        match engine.take_copy(Copiers::AtMost(shared.config.transfers.copy_threads), None) {
            Some(step) => step.run(shared),
            None => engine.rest(shared, seen),
        }
    }
}

impl<B: Backend> Shared<B> {
    /// Ends the copy threads, which have nothing to do any more, and frees what was kept for staging.
    pub(crate) fn close_transfers(&self) {
        let threads = &self.transfers.threads;
        threads.is_closing.store(true, Ordering::Release);
        self.transfers.bell.ring();
        for thread in std::mem::take(&mut *threads.threads.lock()) {
            // The thread itself may drop the last handle, with a transfer that nobody waits for.
            if thread.thread().id() == thread::current().id() {
                continue;
            }
            for _ in 0..STOP_WAIT_MS {
                if thread.is_finished() {
                    let _ = thread.join();
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        drop(self.transfers.take_free_slots());
    }
}
