//! Queues: a worker thread each.
//!
//! ```text
//! enqueue, submit, wait_on ──> entries (under the lock) ──> worker: runs jobs, without the lock
//! signal ── busy: ──────────────┘                                   reaches markers
//!        └─ idle: ──────────────────────────────────────> value ──> completed (a load), wait
//! ```
//!
//! The worker is started with the queue, not with its first job: then only making a queue can fail, and everything
//! else about it cannot.
//!
//! The locks are `parking_lot`'s because they are built with the crate: the sanitizers of `ci/` see no order in those of
//! the standard library, where threads wait in code that is not instrumented. Besides, a condition that nobody waits
//! for is then signalled by a load, without a system call.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use aquifer_backend::{Command, Error, ErrorKind, Ticket};
use parking_lot::{Condvar, Mutex, MutexGuard};

use crate::block::HostBlock;
use crate::job::{Job, Panicked, TransferJob};

/// A queue of the host: a thread that runs what it is given, in order.
///
/// Made by [`Backend::create_queue`](aquifer_backend::Backend::create_queue). Any thread may use it.
///
/// Dropping it blocks until everything in it has run, and ends the thread. Dropped by its own thread, inside of a closure
/// given to [`HostQueue::submit`], it does not block: the thread runs what is left and ends by itself.
#[derive(Debug)]
pub struct HostQueue {
    shared: Arc<Shared>,
    /// `None` once it is being dropped.
    worker: Option<JoinHandle<()>>,
}

/// What the worker and everyone else share.
#[derive(Debug)]
pub(crate) struct Shared {
    state: Mutex<State>,
    /// For the worker: there is an entry, or the queue is closed.
    has_entry: Condvar,
    /// For those who wait: the value has risen, or the queue is over.
    has_risen: Condvar,
    /// Written under the lock, read without.
    value: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    entries: VecDeque<Entry>,
    /// Whether the worker runs a job, which is in `entries` no more.
    is_running: bool,
    /// No more will be queued: the worker ends when it has run what is left.
    is_closed: bool,
    /// The worker has run everything there will ever be.
    is_over: bool,
    panic_count: u64,
}

#[derive(Debug)]
enum Entry {
    Job(Job),
    /// The value to set when all before it has run.
    Marker(u64),
}

impl HostQueue {
    /// Starts the worker.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the system starts no more threads.
    pub(crate) fn new() -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            has_entry: Condvar::new(),
            has_risen: Condvar::new(),
            value: AtomicU64::new(0),
        });
        let of_worker = Arc::clone(&shared);
        let worker = thread::Builder::new().name("aquifer-queue".into()).spawn(move || of_worker.work());
        let worker = worker.map_err(|error| {
            let message = "the system did not start a thread for a queue; drop other queues, or raise what limits \
                           the process's threads (ulimit -u, the control group's pids.max) and memory";
            Error::new(ErrorKind::Driver, "create_queue", message).with_source(error)
        })?;
        Ok(Self { shared, worker: Some(worker) })
    }

    /// Puts work of the user's own at the end of the queue: what a kernel is to another device. Does not wait for it.
    ///
    /// The closure runs on the queue's thread, after everything that is in the queue now, and the queue's value rises to
    /// later markers only when it has returned. It may use the queue and what is made with it, but what comes after itself it
    /// cannot wait for: that fails with [`ErrorKind::Driver`]. Host access to a buffer that is at home on this queue, or
    /// recorded for it, is such a wait; give the closure what [`Backend::host_pointer`](aquifer_backend::Backend::host_pointer)
    /// answers instead, or a buffer of no queue.
    ///
    /// If it panics, the panic ends there: it is counted by [`HostQueue::panic_count`], and the queue goes on.
    pub fn submit(&self, work: impl FnOnce() + Send + 'static) {
        self.shared.push(Job::Work(Box::new(work)));
    }

    /// How many closures have panicked so far.
    #[must_use]
    pub fn panic_count(&self) -> u64 {
        self.shared.state.lock().panic_count
    }

    /// # Safety
    ///
    /// - As for [`Backend::enqueue`](aquifer_backend::Backend::enqueue).
    pub(crate) unsafe fn enqueue(&self, command: Command<'_, HostBlock>, ticket: &Arc<Ticket>) {
        // SAFETY: the caller vouches for the command, until this queue's value shows that it has run.
        let transfer = unsafe { TransferJob::new(command, ticket) };
        self.shared.push(Job::Transfer(transfer));
    }

    /// On an idle queue this is a lock and a store; nobody is woken but those who wait for the value.
    pub(crate) fn signal(&self, value: u64) {
        let mut state = self.shared.state.lock();
        if state.entries.is_empty() && !state.is_running {
            self.shared.raise(&mut state, value);
        } else {
            // The worker comes round by itself: it sleeps only when there is no entry.
            state.entries.push_back(Entry::Marker(value));
        }
    }

    pub(crate) fn completed(&self) -> u64 {
        self.shared.value()
    }

    pub(crate) fn wait(&self, value: u64, timeout: Duration) -> Result<bool, Error> {
        if self.completed() >= value {
            return Ok(true);
        }
        if self.worker.as_ref().is_some_and(|worker| worker.thread().id() == thread::current().id()) {
            let message = "the queue's own work waits for the queue, so for itself; within a closure touch what the queue may \
                           use through host_pointer, or use a buffer that it does not use";
            return Err(Error::new(ErrorKind::Driver, "wait", message));
        }
        let mut state = self.shared.state.lock();
        let is_short = |_: &mut State| self.completed() < value;
        // It may have been reached with the last moment: then it counts.
        let _ = self.shared.has_risen.wait_while_for(&mut state, is_short, timeout);
        Ok(self.completed() >= value)
    }

    pub(crate) fn wait_on(&self, other: &Self, value: u64) {
        // What is enqueued from now on follows this load, so it needs no job.
        if other.completed() < value {
            self.shared.push(Job::Wait { other: Arc::clone(&other.shared), value });
        }
    }
}

impl Drop for HostQueue {
    fn drop(&mut self) {
        self.shared.state.lock().is_closed = true;
        self.shared.has_entry.notify_one();
        let Some(worker) = self.worker.take() else { return };
        if worker.thread().id() != thread::current().id() {
            // The worker never panics: closures' panics end in their jobs.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// How far the queue is. Whoever sees a value sees what was done before it.
    fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Under the lock, so that who is about to wait does not miss it.
    fn raise(&self, _state: &mut MutexGuard<'_, State>, value: u64) {
        self.value.store(value, Ordering::Release);
        self.has_risen.notify_all();
    }

    fn push(&self, job: Job) {
        let mut state = self.state.lock();
        state.entries.push_back(Entry::Job(job));
        // Costs a load if the worker is awake.
        self.has_entry.notify_one();
    }

    /// Blocks until the value is reached, or everything has run that ever will.
    pub(crate) fn wait_or_over(&self, value: u64) {
        let mut state = self.state.lock();
        self.has_risen.wait_while(&mut state, |state| self.value() < value && !state.is_over);
    }

    /// The worker's life.
    fn work(&self) {
        let mut state = self.state.lock();
        loop {
            match state.entries.pop_front() {
                Some(Entry::Marker(value)) => self.raise(&mut state, value),
                Some(Entry::Job(job)) => {
                    state.is_running = true;
                    let outcome = MutexGuard::unlocked(&mut state, || job.run());
                    state.is_running = false;
                    state.panic_count += u64::from(matches!(outcome, Err(Panicked)));
                }
                None if state.is_closed => break,
                None => self.has_entry.wait(&mut state),
            }
        }
        state.is_over = true;
        self.has_risen.notify_all();
    }
}
