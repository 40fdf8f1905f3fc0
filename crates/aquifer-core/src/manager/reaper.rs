//! The reaper: the one thread of a manager that looks how far the queues are, so that nobody else need.
//!
//! It is started with the first queue or the first allocation that waits, sleeps while nothing waits for anything, and
//! ends with the manager, or when the last work that was under way then is over.

use super::shared::Shared;
use crate::raw::allocation::Keeper;
use aquifer_backend::{Backend, Error, ErrorKind, SyncBackend};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The longest that the reaper waits for one queue before it looks at all: how late it may notice another.
const TICK: Duration = Duration::from_millis(1);
/// The longest when nobody waits for memory or an operation, so that only room is at stake.
const IDLE_TICK: Duration = Duration::from_millis(16);

/// Memory may also come from where nobody tells: another process that gives some back to the driver.
const ROUNDS_BEFORE_RETRY: u64 = 64;

#[derive(Debug, Default)]
pub(crate) struct Reaper {
    is_closing: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Reaper {
    /// Starts the thread if there is none; `keeper` makes what it works on.
    pub(super) fn start<B>(&self, keeper: impl FnOnce() -> Keeper<B>) -> Result<(), Error>
    where
        B: SyncBackend,
    {
        let mut thread = self.thread.lock();
        if thread.is_some() {
            return Ok(());
        }
        let keeper = keeper();
        let started = thread::Builder::new().name("aquifer-reaper".into()).spawn(move || reap(&keeper));
        *thread = Some(started.map_err(|error| {
            let message = "no thread can be started to look after queues; end some threads, or set Config::reaper to false";
            Error::new(ErrorKind::Driver, "reaper", message).with_source(error)
        })?);
        Ok(())
    }
}

impl<B: Backend> Shared<B> {
    /// Tells the reaper to end, and waits for that unless work is under way: then it stays until that is over.
    pub(super) fn stop_reaper(&self) {
        self.reaper.is_closing.store(true, Ordering::Release);
        let Some(thread) = self.reaper.thread.lock().take() else { return };
        self.bell.wake_reaper();
        // In a forked child there is no such thread. And the reaper itself may drop the last handle, in a waker.
        let is_own = thread.thread().id() == thread::current().id();
        if self.is_forked() || is_own || self.has_in_flight() {
            return;
        }
        // It cannot have panicked for good reason, and there is nothing to do about it if it has.
        let _ = thread.join();
    }

    fn has_work(&self) -> bool {
        self.has_in_flight()
            || self.bell.waiters.are_joined()
            || self.reaper.is_closing.load(Ordering::Acquire)
    }
}

fn reap<B: Backend>(shared: &Shared<B>) {
    let mut tick = TICK;
    for round in 1_u64.. {
        if !shared.has_in_flight() {
            if shared.reaper.is_closing.load(Ordering::Acquire) {
                return;
            }
            shared.bell.sleep(|| shared.has_work());
            tick = TICK;
        }
        for typed in &shared.pools {
            typed.pool.flush_quarantine();
        }
        shared.settle();
        shared.tick_waiters();
        if round.is_multiple_of(ROUNDS_BEFORE_RETRY) {
            shared.bell.freed();
        }
        let is_urgent = shared.bell.waiters.are_joined() || !shared.operations.is_empty();
        tick = if is_urgent { TICK } else { (2 * tick).min(IDLE_TICK) };
        match shared.next_in_flight() {
            Some((queue, value)) if !shared.is_lost() => {
                let queue = shared.queues.get(queue);
                if shared.wait_a_while(&queue, value, tick).is_err() {
                    // The driver cannot wait: then time has to do.
                    shared.bell.nap(tick);
                }
            }
            _ if shared.has_work() => shared.bell.nap(tick),
            _ => {}
        }
    }
}
