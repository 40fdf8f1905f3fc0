//! The reaper: the one thread of a manager that looks how far the queues are, so that nobody else need.
//!
//! It is started with the first queue or the first allocation that waits, sleeps while nothing waits for anything, and
//! ends with the manager, or when the last work that was under way then is over. Where queues still use memory after that,
//! a thread of its own waits for them and ends the state ([`finish_later`]).

use super::shared::Shared;
use crate::raw::allocation::Keeper;
use aquifer_backend::{Backend, Error, ErrorKind, SyncBackend};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the reaper looks while something is in flight that nobody waits for.
const TICK: Duration = Duration::from_millis(16);
/// How long it waits for one queue, while somebody waits, before it looks at all: how late it may notice another.
const URGENT_TICK: Duration = Duration::from_millis(1);
/// After so many looks at nothing it sleeps until it is woken. To wake it costs who frees a system call.
const IDLE_ROUNDS: u32 = 64;
/// How long the thread that ends a manager's state waits before it asks again, should a marker have been refused.
const PATIENCE: Duration = Duration::from_secs(1);
/// And how long it rests in between.
const FINISH_NAP: Duration = Duration::from_millis(100);
/// How long a manager that goes waits for its reaper, in milliseconds.
const STOP_WAIT_MS: u32 = 1000;
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

/// Ends a manager's state on a thread of its own, however long its queues take.
pub(super) fn finish_later<B: SyncBackend>(keeper: Keeper<B>) {
    let finish = move || {
        while !keeper.drain(PATIENCE) {
            // A simulated device's waits take no time.
            thread::sleep(FINISH_NAP);
        }
    };
    // Without a thread the state stays for good, with all that the device may touch: the closure is not run, and forgotten.
    let finish = std::mem::ManuallyDrop::new(finish);
    let started = thread::Builder::new().name("aquifer-finish".into()).spawn(move || {
        let finish = std::mem::ManuallyDrop::into_inner(finish);
        finish();
    });
    if let Err(error) = started {
        tracing::error!(%error, "a manager's memory is lost: no thread can be started to wait for its queues");
    }
}

impl<B: Backend> Shared<B> {
    /// Tells the reaper to end, and waits for that unless work is under way: then it stays until that is over. Nor for long:
    /// it may be in a waker that waits for what the caller holds.
    pub(super) fn stop_reaper(&self) {
        self.reaper.is_closing.store(true, Ordering::Release);
        let Some(thread) = self.reaper.thread.lock().take() else { return };
        self.bell.wake_reaper();
        // The reaper itself may drop the last handle, in a waker.
        let is_own = thread.thread().id() == thread::current().id();
        if is_own || self.has_in_flight() {
            return;
        }
        for _ in 0..STOP_WAIT_MS {
            if thread.is_finished() {
                // It cannot have panicked for good reason, and there is nothing to do about it if it has.
                let _ = thread.join();
                return;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether somebody waits for what only a look brings: memory, an operation's end, the reaper's own.
    fn is_urgent(&self) -> bool {
        self.bell.waiters.need_ticks()
            || !self.operations.is_empty()
            || self.reaper.is_closing.load(Ordering::Acquire)
    }
}

fn reap<B: Backend>(shared: &Shared<B>) {
    let (mut idle_rounds, mut urgent_rounds) = (0, 0_u64);
    loop {
        if shared.has_in_flight() || shared.bell.waiters.need_ticks() {
            idle_rounds = 0;
            look(shared);
        } else if shared.reaper.is_closing.load(Ordering::Acquire) {
            return;
        } else {
            idle_rounds += 1;
        }
        if shared.is_urgent() {
            urgent_rounds += 1;
            if urgent_rounds.is_multiple_of(ROUNDS_BEFORE_RETRY) {
                shared.bell.freed();
            }
            wait_for_queues(shared);
        } else if idle_rounds < IDLE_ROUNDS {
            shared.bell.nap(TICK, || shared.is_urgent());
        } else {
            shared.bell.sleep(|| shared.has_in_flight() || shared.is_urgent());
            idle_rounds = 0;
        }
    }
}

fn look<B: Backend>(shared: &Shared<B>) {
    shared.flush_quarantine();
    shared.settle();
    shared.tick_waiters();
}

/// Waits for the queue that will bring something first, as far as can be told, but not for long.
fn wait_for_queues<B: Backend>(shared: &Shared<B>) {
    let next = if shared.is_lost() { None } else { shared.next_in_flight() };
    let is_waited = next.is_some_and(|(queue, value)| {
        shared.wait_a_while(&shared.queues.get(queue), value, URGENT_TICK).is_ok()
    });
    if !is_waited {
        // Nothing is in flight, or the driver cannot wait: then time has to do.
        thread::sleep(URGENT_TICK);
    }
}
