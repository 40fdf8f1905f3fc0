//! Pressure: what is read and when, what is done at each level, who is told, and how it ends.

mod ends;
mod gate;
mod levels;
mod sources;
mod threads;

use super::purgeable::{assert_sums, leave_idle, purgeable_manager};
use super::*;
use crate::clock::Clock;
use crate::pressure::{
    Admission, PressureConfig, PressureDetail, PressureEvent, PressureResponse, SourceState,
};
use crate::{PressureMonitor, Priority};
use PressureLevel::{Critical, Emergency, Moderate, Normal, Warning};
use aquifer_backend::{
    HeapBudget, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What a scripted source answers, and what it was asked.
#[derive(Debug)]
struct Script {
    answer: Mutex<Result<PressureReading, ErrorKind>>,
    start: Mutex<Result<(), ErrorKind>>,
    notifier: Mutex<Option<PressureNotifier>>,
    reads: AtomicU64,
    starts: AtomicU64,
    panics: AtomicBool,
}

impl Script {
    fn new(level: PressureLevel) -> Arc<Self> {
        Arc::new(Self {
            answer: Mutex::new(Ok(PressureReading::Level(level))),
            start: Mutex::new(Ok(())),
            notifier: Mutex::new(None),
            reads: AtomicU64::new(0),
            starts: AtomicU64::new(0),
            panics: AtomicBool::new(false),
        })
    }

    fn say(&self, reading: PressureReading) {
        *self.answer.lock() = Ok(reading);
        if let Some(notifier) = &*self.notifier.lock() {
            notifier.notify();
        }
    }

    fn level(&self, level: PressureLevel) {
        self.say(PressureReading::Level(level));
    }

    /// So many of 1000 bytes are used.
    fn usage(&self, used_bytes: u64) {
        self.say(PressureReading::Usage { used_bytes, limit_bytes: 1000 });
    }

    fn source(self: &Arc<Self>) -> Vec<Box<dyn PressureSource>> {
        vec![Box::new(Scripted(Arc::clone(self)))]
    }
}

#[derive(Debug)]
struct Scripted(Arc<Script>);

impl PressureSource for Scripted {
    fn name(&self) -> String {
        "script".into()
    }

    fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        self.0.starts.fetch_add(1, Ordering::Relaxed);
        *self.0.notifier.lock() = Some(notifier.clone());
        self.0.start.lock().map_err(|kind| Error::new(kind, "start", "told to fail"))
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Notifies
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        assert!(!self.0.panics.load(Ordering::Relaxed), "this source panics, as it should");
        self.0.answer.lock().map_err(|kind| Error::new(kind, "read", "told to fail"))
    }
}

/// A manager without any thread, whose time stands still.
fn still_manager(
    pressure: PressureConfig,
    capabilities: Capabilities,
) -> (MemoryManager<Device>, Hand, Clock) {
    let device = Device::new(capabilities, 1000);
    let (books, clock) = (device.hand(), Clock::manual());
    let config = Config {
        budget_bytes: Some(1000 * MIB),
        pressure: PressureConfig { thread: false, ..pressure },
        reaper: false,
        in_flight_wait: Duration::from_millis(20),
        clock: clock.clone(),
        ..Config::default()
    };
    (MemoryManager::with_config(device, config).expect("the configuration is sound"), books, clock)
}

struct Watched {
    manager: MemoryManager<Device>,
    books: Hand,
    clock: Clock,
    script: Arc<Script>,
    monitor: PressureMonitor<Device>,
    events: Arc<Mutex<Vec<PressureEvent>>>,
    _listener: crate::PressureListener,
}

impl Watched {
    fn new() -> Self {
        Self::with(PressureConfig::default(), Capabilities::PURGEABLE)
    }

    fn with(pressure: PressureConfig, capabilities: Capabilities) -> Self {
        let (manager, books, clock) = still_manager(pressure, capabilities);
        let script = Script::new(Normal);
        let monitor = PressureMonitor::new(&manager, script.source()).expect("there was no monitor");
        let events = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&events);
        let listener = monitor.on_event(move |event| written.lock().push(event.clone()));
        let watched = Self { manager, books, clock, script, monitor, events, _listener: listener };
        watched.monitor.poll();
        watched
    }

    /// Time passes, and the monitor looks.
    fn after(&self, ms: u64) -> PressureLevel {
        self.clock.advance(Duration::from_millis(ms));
        self.monitor.poll();
        self.monitor.level()
    }

    fn events(&self) -> Vec<PressureEvent> {
        std::mem::take(&mut self.events.lock())
    }

    fn reserved(&self) -> u64 {
        self.manager.statistics().reserved.current / MIB
    }
}
