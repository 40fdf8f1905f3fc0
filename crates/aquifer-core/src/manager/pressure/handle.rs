//! The monitor as users have it: a handle, its thread, its listeners.

use super::super::MemoryManager;
use super::heaps::Heaps;
use super::monitor::Monitor;
use super::sources::{DeviceSource, LedgerSource};
use super::{PressureEvents, PressureState};
use crate::hooks::{self, HookGuard};
use crate::pressure::{Alarm, PressureEvent};
use crate::raw::fork::Process;
use aquifer_backend::{Backend, Error, ErrorKind, PressureLevel, PressureSource, SyncBackend};
use parking_lot::{Condvar, Mutex};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

/// How long whoever drops a monitor waits for its thread: it may be in a listener, or a driver's call.
const STOP_WAIT: Duration = Duration::from_millis(100);

/// Watches how short memory is, tells who listens, and has the manager give memory back; from
/// [`PressureMonitor::new`].
///
/// It watches the manager's live bytes against its budget, the device's budget, the budget group if the manager is in one, and the
/// sources that it was given. The highest level of all is the manager's. What is done at each level says
/// [`Config::pressure`](crate::Config::pressure).
///
/// One thread, which sleeps in the kernel: while nothing is near to a threshold it wakes for a source's news, to look for what has
/// been idle for long, and to read the sources that nobody tells of. Dropping the monitor stops the thread, and waits for it up to 100 ms,
/// if it is not the thread itself; what it kept back is let go. A manager that goes ends its monitor.
pub struct PressureMonitor<B: Backend> {
    inner: Arc<Inner<B>>,
}

impl<B: Backend> fmt::Debug for PressureMonitor<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PressureMonitor").field("level", &self.level()).finish_non_exhaustive()
    }
}

/// A listener, for as long as this lives: dropping it unregisters the listener. Any thread may drop it, the listener itself too. A call
/// that another thread has just begun may still run.
#[derive(Debug)]
#[must_use = "dropping it unregisters the listener"]
pub struct PressureListener {
    _guard: HookGuard<PressureEvent>,
}

struct Inner<B: Backend> {
    alarm: Arc<Alarm>,
    process: Process,
    is_closing: AtomicBool,
    /// `None` once it has ended. Held by the thread for as long as it sleeps or works.
    monitor: Mutex<Option<Monitor<B>>>,
    state: Arc<PressureState>,
    has_thread: bool,
    thread: Mutex<Option<ThreadId>>,
    has_ended: Mutex<bool>,
    end: Condvar,
}

impl<B: SyncBackend + 'static> PressureMonitor<B> {
    /// Begins to watch. `sources` come on top of the manager's own, and are taken to speak of the machine's memory: on a device with
    /// memory of its own they press only what the manager has of the machine's. Which of them work is in
    /// [`PressureStatistics::sources`](crate::PressureStatistics::sources).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the manager has a monitor already; [`ErrorKind::Driver`] if no thread or pipe can be had;
    /// [`ErrorKind::Forked`]. A source that does not work is no error.
    pub fn new(manager: &MemoryManager<B>, sources: Vec<Box<dyn PressureSource>>) -> Result<Self, Error> {
        const OPERATION: &str = "PressureMonitor::new";
        let owner = &manager.owner;
        owner.check_process(OPERATION)?;
        if !owner.pressure.claim_monitor() {
            let message = "the manager has a monitor already; drop that one first";
            return Err(Error::new(ErrorKind::InvalidArgument, OPERATION, message));
        }
        let driver = |error: std::io::Error| {
            let message =
                "no pipe or thread can be had to watch memory with; close some files or end some threads";
            Error::new(ErrorKind::Driver, OPERATION, message).with_source(error)
        };
        let alarm = Alarm::new().map_err(|error| {
            owner.pressure.release_monitor();
            driver(error)
        })?;
        let alarm = Arc::new(alarm);
        let mut all: Vec<(Heaps, Box<dyn PressureSource>)> = Vec::new();
        for heap_index in 0..owner.ledgers.len() {
            let heap = Heaps::one(heap_index);
            all.push((heap, Box::new(LedgerSource::new(owner.keeper(), heap_index))));
            all.push((heap, Box::new(DeviceSource::new(owner.keeper(), heap_index))));
        }
        all.extend(owner.config.budget_group.iter().map(|group| (Heaps::one(0), group.pressure_source())));
        let machine = Heaps::of_the_machine(owner.backend.properties());
        all.extend(sources.into_iter().map(|source| (machine, source)));
        let monitor = Monitor::new(owner.keeper(), all, &alarm);
        let has_thread = owner.config.pressure.thread;
        owner.pressure.gate.set_keeper(has_thread);
        let inner = Arc::new(Inner {
            alarm,
            process: Process::current(),
            is_closing: AtomicBool::new(false),
            monitor: Mutex::new(Some(monitor)),
            state: Arc::clone(&owner.pressure),
            has_thread,
            thread: Mutex::new(None),
            has_ended: Mutex::new(!has_thread),
            end: Condvar::new(),
        });
        if has_thread {
            let worker = Arc::clone(&inner);
            let started =
                thread::Builder::new().name("aquifer-pressure".into()).spawn(move || watch(&worker));
            let thread = started.map_err(|error| {
                // It releases what was claimed.
                drop(inner.monitor.lock().take());
                driver(error)
            })?;
            *inner.thread.lock() = Some(thread.thread().id());
        }
        let closing = Arc::downgrade(&inner);
        owner.pressure.on_close(Box::new(move || {
            if let Some(inner) = closing.upgrade() {
                inner.close();
            }
        }));
        Ok(Self { inner })
    }

    /// Reads all sources that are due and responds, on this thread, if the monitor has none of its own
    /// ([`PressureConfig::thread`](crate::PressureConfig::thread)). Listeners are called before it returns. Within a listener, a source or a
    /// callback it does nothing.
    pub fn poll(&self) {
        let inner = &self.inner;
        if inner.has_thread || hooks::is_in_hook() || !inner.process.is_current() {
            return;
        }
        let events = {
            // Under way, or asleep: then it is not the caller's turn.
            let Some(mut monitor) = inner.monitor.try_lock() else { return };
            let Some(monitor) = monitor.as_mut() else { return };
            monitor.round(&[], &inner.alarm)
        };
        inner.state.told.tell(events);
        // Who closed it meanwhile has found it in use.
        fence(Ordering::SeqCst);
        if inner.is_closing.load(Ordering::Acquire) {
            inner.finish();
        }
    }
}

impl<B: Backend> PressureMonitor<B> {
    /// The manager's level now; normal if the manager has gone.
    #[must_use]
    pub fn level(&self) -> PressureLevel {
        self.inner.state.level()
    }

    /// Calls `listener` with every event of the manager's monitors from now on, this one's and a later one's, until what this returns is
    /// dropped. On the monitor's thread, one event after the
    /// other, under no lock. It may do anything: allocate, free, register and drop listeners, drop the monitor or the manager, panic
    /// (which is caught and counted).
    pub fn on_event(&self, listener: impl Fn(&PressureEvent) + Send + Sync + 'static) -> PressureListener {
        PressureListener { _guard: self.inner.state.told.listen(listener) }
    }

    /// The events from now on, to be awaited or waited for.
    pub fn events(&self) -> PressureEvents {
        let events = self.inner.state.told.stream();
        if self.inner.is_closing.load(Ordering::Acquire) {
            self.inner.state.told.end();
        }
        events
    }
}

impl<B: Backend> Drop for PressureMonitor<B> {
    fn drop(&mut self) {
        if self.inner.process.is_current() {
            self.inner.close();
        }
    }
}

impl<B: Backend> Inner<B> {
    /// Stops watching. Waits for the thread, but not for long, and not for itself.
    fn close(&self) {
        self.is_closing.store(true, Ordering::Release);
        self.alarm.ring();
        if *self.thread.lock() == Some(thread::current().id()) {
            return;
        }
        let deadline = Instant::now() + STOP_WAIT;
        let mut has_ended = self.has_ended.lock();
        while !*has_ended && !self.end.wait_until(&mut has_ended, deadline).timed_out() {}
        drop(has_ended);
        self.finish();
    }

    /// Lets go of the monitor, if nobody works with it; who does will, as one of the two sees what the other has done.
    fn finish(&self) {
        fence(Ordering::SeqCst);
        let monitor = self.monitor.try_lock().and_then(|mut monitor| monitor.take());
        if monitor.is_some() {
            // Before the next monitor can be made, whose streams are others.
            self.state.told.end();
            drop(monitor);
        }
    }
}

/// The monitor's thread.
fn watch<B: Backend>(inner: &Inner<B>) {
    while !inner.is_closing.load(Ordering::Acquire) {
        let events = {
            let mut monitor = inner.monitor.lock();
            let Some(monitor) = monitor.as_mut() else { break };
            let news = monitor.sleep(&inner.alarm);
            if inner.is_closing.load(Ordering::Acquire) {
                break;
            }
            monitor.round(&news, &inner.alarm)
        };
        inner.state.told.tell(events);
    }
    inner.finish();
    *inner.has_ended.lock() = true;
    inner.end.notify_all();
}
