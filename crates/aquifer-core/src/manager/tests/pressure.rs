//! Pressure: what is read and when, what is done at each level, who is told, and how it ends.

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

#[test]
fn each_level_does_what_its_row_says() {
    let watched = Watched::with(PressureConfig::default(), Capabilities::NONE);
    let live = watched.manager.allocate(64 * MIB).expect("there is room");
    leave_idle(&watched.manager, &[10, 20, 30]);
    assert_eq!((watched.reserved(), watched.after(1000)), (124, Normal));
    assert_eq!(watched.reserved(), 124, "nothing presses");
    watched.script.level(Moderate);
    assert_eq!(watched.after(20), Moderate);
    assert_eq!(watched.reserved(), 64, "an eighth of live may be kept, which none of the three is");
    leave_idle(&watched.manager, &[8]);
    assert_eq!(watched.after(300), Moderate);
    assert_eq!(watched.reserved(), 72);
    watched.script.level(Warning);
    assert_eq!(watched.after(20), Warning);
    assert_eq!(watched.reserved(), 64);
    leave_idle(&watched.manager, &[2]);
    assert_eq!(watched.after(100), Warning);
    assert_eq!(watched.reserved(), 64, "its block has 8 MiB, which is above a 32th of live");
    watched.script.level(Emergency);
    assert_eq!(watched.after(20), Emergency);
    assert_eq!(watched.reserved(), 64);
    let statistics = watched.manager.statistics();
    assert_eq!(statistics.pressure.released_bytes, 68 * MIB, "10, 20 and 30, then 8");
    assert_eq!(statistics.pressure.given_back_bytes, 68 * MIB, "this device cannot tell");
    assert_eq!(statistics.pressure.decayed_bytes, 8 * MIB, "while the level lasted");
    assert_eq!((statistics.pressure.rise_count, statistics.pressure.level), (3, Emergency));
    assert_sums(&watched.manager, &watched.books);
    drop(live);
}

#[test]
fn idle_memory_becomes_purgeable_where_it_can() {
    let watched = Watched::new();
    let live = watched.manager.allocate(64 * MIB).expect("there is room");
    leave_idle(&watched.manager, &[10, 20]);
    watched.script.level(Warning);
    watched.after(20);
    assert_eq!((watched.reserved(), watched.books.purgeable()), (94, 2), "it may be used again");
    let events = watched.events();
    let PressureDetail::Rose { given_back, .. } = &events[0].detail else { panic!("{events:?}") };
    assert_eq!((given_back.purgeable_bytes, given_back.bytes()), (30 * MIB, 0));
    watched.script.level(Critical);
    watched.after(20);
    assert_eq!((watched.reserved(), watched.books.purgeable()), (64, 0));
    drop(live);
}

#[test]
fn callbacks_are_asked_only_if_what_nobody_uses_was_not_enough() {
    let watched = Watched::with(PressureConfig::default(), Capabilities::NONE);
    let calls = Arc::new(Mutex::new(Vec::new()));
    let cache = Arc::new(Mutex::new(Some(watched.manager.allocate(100 * MIB).expect("there is room"))));
    let hooks = [1, 2, 3].map(|priority| {
        let (calls, cache) = (Arc::clone(&calls), Arc::clone(&cache));
        watched.manager.on_reclaim(priority, move |request| {
            calls.lock().push((priority, request.needed_bytes));
            if priority == 2 {
                drop(cache.lock().take());
            }
        })
    });
    // The ledger: 960 of 1000 MiB are live.
    let live = watched.manager.allocate(860 * MIB).expect("there is room");
    assert_eq!(watched.after(20), Critical);
    // Down to 0.82: of 960 MiB 140 must go; when 100 have, it is 860, which is moderate, and asks nobody.
    assert_eq!(*calls.lock(), [(1, 140 * MIB), (2, 140 * MIB)]);
    assert_eq!(watched.reserved(), 860);
    let events = watched.events();
    let PressureDetail::Rose { from, to, given_back, .. } = &events[0].detail else { panic!("{events:?}") };
    assert_eq!((*from, *to, given_back.callback_count), (Normal, Critical, 2));
    assert_eq!((given_back.asked_bytes, given_back.bytes()), (Some(140 * MIB), 100 * MIB));
    drop((hooks, live));
    // Idle memory alone is no pressure of the manager's own.
    leave_idle(&watched.manager, &[860]);
    assert_eq!((watched.after(2000), watched.after(2000)), (Moderate, Normal));
}

#[test]
fn a_level_that_the_system_tells_spares_the_users_memory_while_there_is_other() {
    let watched = Watched::with(PressureConfig::default(), Capabilities::NONE);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let _hook = watched.manager.on_reclaim(0, move |_| _ = counted.fetch_add(1, Ordering::Relaxed));
    let live = watched.manager.allocate(100 * MIB).expect("there is room");
    leave_idle(&watched.manager, &[100]);
    watched.script.level(Critical);
    watched.after(20);
    assert_eq!((watched.reserved(), calls.load(Ordering::Relaxed)), (100, 0));
    // It says so still, and there is nothing else.
    watched.after(1000);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    // Nothing came of it: it is asked ever more seldom.
    (0..100).for_each(|_| _ = watched.after(100));
    assert_eq!(calls.load(Ordering::Relaxed), 3, "after 1, 3 and 7 s");
    drop(live);
}

#[test]
fn a_source_that_rises_is_answered_though_another_is_as_high_already() {
    let watched = Watched::with(PressureConfig::default(), Capabilities::NONE);
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let _hook = watched.manager.on_reclaim(0, move |_| _ = counted.fetch_add(1, Ordering::Relaxed));
    // A program that fills its budget on purpose: nothing more comes of it, so it is asked ever more seldom.
    let live = watched.manager.allocate(990 * MIB).expect("there is room");
    (0..100).for_each(|_| _ = watched.after(100));
    watched.events();
    let before = calls.load(Ordering::Relaxed);
    watched.script.level(Critical);
    assert_eq!(watched.after(20), Emergency);
    assert_eq!(calls.load(Ordering::Relaxed), before + 1);
    let events = watched.events();
    assert_eq!((events.len(), &*events[0].source), (1, "script"));
    assert!(matches!(events[0].detail, PressureDetail::Lasted { level: Emergency, .. }));
    watched.after(20);
    assert_eq!(calls.load(Ordering::Relaxed), before + 1, "it has been answered");
    drop(live);
}

#[test]
fn requests_are_kept_back_by_priority() {
    let watched = Watched::new();
    let [low, high] = [Priority::Low, Priority::High].map(|one| MemoryOptions::DEFAULT.priority(one));
    let live = watched.manager.allocate_with(4096, low).expect("there is room");
    watched.script.level(Critical);
    watched.after(20);
    let refusal = watched.manager.allocate_with(4096, low).expect_err("it waits, and nobody opens");
    assert_eq!(refusal.kind(), ErrorKind::UnderPressure);
    assert!(watched.manager.allocate(4096).is_ok() && watched.manager.allocate_with(4096, high).is_ok());
    watched.script.level(Emergency);
    watched.after(20);
    assert_eq!(watched.manager.allocate_with(4096, low).unwrap_err().kind(), ErrorKind::UnderPressure);
    watched.script.level(Normal);
    watched.after(20);
    assert_eq!(watched.after(2000), Normal);
    assert!(watched.manager.allocate_with(4096, low).is_ok());
    let pressure = watched.manager.statistics().pressure;
    assert_eq!((pressure.refused_count, pressure.queued_count), (2, 1));
    // What the monitor kept back is let go with it.
    watched.script.level(Emergency);
    watched.after(20);
    drop(watched.monitor);
    assert!(watched.manager.allocate_with(4096, low).is_ok());
    assert!(!watched.manager.statistics().pressure.is_monitored);
    drop(live);
}

#[test]
fn who_waits_at_the_gate_is_in_nobodys_way() {
    let watched = Watched::new();
    let low = MemoryOptions::DEFAULT.priority(Priority::Low);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let mut waiting = std::pin::pin!(watched.manager.allocate_async(4096).options(low));
    watched.script.level(Critical);
    watched.after(20);
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    assert!(watched.manager.allocate_async(4096).wait().is_ok(), "the gate is not the line");
    let late = watched.manager.allocate_async(4096).options(low).timeout(Duration::ZERO).wait();
    assert_eq!(late.unwrap_err().kind(), ErrorKind::TimedOut);
    // Nothing is left to give back instead.
    watched.manager.trim();
    watched.script.level(Emergency);
    watched.after(20);
    let std::task::Poll::Ready(Err(refusal)) = waiting.as_mut().poll(&mut context) else {
        panic!("refused now")
    };
    assert_eq!(refusal.kind(), ErrorKind::UnderPressure);
    let mut waiting = std::pin::pin!(watched.manager.allocate_async(4096).options(low));
    watched.script.level(Critical);
    watched.after(20);
    watched.after(2000);
    assert!(waiting.as_mut().poll(&mut context).is_pending());
    watched.script.level(Normal);
    watched.after(20);
    watched.after(2000);
    assert!(waiting.as_mut().poll(&mut context).is_ready());
}

#[test]
fn a_fall_tells_how_long_it_took() {
    let watched = Watched::new();
    watched.script.usage(910);
    watched.after(100);
    watched.script.usage(100);
    watched.after(100);
    watched.after(2000);
    let events = watched.events();
    let PressureDetail::Fell { from, to, resolved_after } = events[1].detail else { panic!("{events:?}") };
    assert_eq!((from, to, resolved_after), (Warning, Normal, Some(Duration::from_millis(2100))));
    assert_eq!((events[0].number, events[1].number), (0, 1));
    assert_eq!(events[1].to_string(), "warning -> normal (script) after 2.100 s");
    let pressure = watched.manager.statistics().pressure;
    assert_eq!(pressure.resolution_counts.iter().map(|&(_, count)| count).sum::<u64>(), 1);
    assert_eq!(pressure.history, events);
    let report = watched.manager.report().to_string();
    assert!(report.contains("pressure: normal; 1 rises, 1 falls; of 90 B asked"), "{report}");
    let script = pressure.sources.iter().find(|source| &*source.name == "script").expect("it is one of them");
    assert_eq!((script.event_counts, &script.state), ([0, 0, 1, 0, 0], &SourceState::Listening));
}

#[test]
fn sources_that_fail_are_told_and_tried_again() {
    let watched = Watched::new();
    let state = || watched.manager.statistics().pressure.sources.last().expect("the script").state.clone();
    watched.script.level(Critical);
    watched.after(20);
    *watched.script.answer.lock() = Err(ErrorKind::Driver);
    assert_eq!(watched.after(100), Normal, "what a dead source said counts no more");
    assert!(matches!(state(), SourceState::Failed(message) if message.contains("told to fail")));
    let reads = watched.script.reads.load(Ordering::Relaxed);
    watched.after(4000);
    assert_eq!(watched.script.reads.load(Ordering::Relaxed), reads);
    *watched.script.start.lock() = Err(ErrorKind::Unsupported);
    watched.after(1000);
    assert!(matches!(state(), SourceState::Failed(_)), "it has been there");
    *watched.script.start.lock() = Ok(());
    *watched.script.answer.lock() = Ok(PressureReading::Level(Normal));
    watched.after(5000);
    assert_eq!((watched.script.starts.load(Ordering::Relaxed), state()), (3, SourceState::Listening));
    let details: Vec<_> = watched.events().into_iter().map(|event| event.detail).collect();
    assert!(matches!(&details[0], PressureDetail::Rose { .. }));
    assert!(matches!(&details[1], PressureDetail::SourceFailed { is_absent: false, .. }));
    assert!(matches!(&details[2], PressureDetail::Fell { .. }));
    assert_eq!(details.last(), Some(&PressureDetail::SourceWorks));
}

#[test]
fn what_is_absent_stays_so() {
    let (manager, _, clock) = still_manager(PressureConfig::default(), Capabilities::NONE);
    let script = Script::new(Normal);
    *script.start.lock() = Err(ErrorKind::Unsupported);
    let monitor = PressureMonitor::new(&manager, script.source()).expect("there was no monitor");
    for _ in 0..10 {
        clock.advance(Duration::from_secs(10));
        monitor.poll();
    }
    assert_eq!(script.starts.load(Ordering::Relaxed), 1);
    let state = manager.statistics().pressure.sources.last().expect("the script").state.clone();
    assert!(matches!(state, SourceState::Absent(message) if message.contains("told to fail")));
}

#[test]
fn a_source_that_panics_has_failed_and_may_recover() {
    let watched = Watched::new();
    watched.script.panics.store(true, Ordering::Relaxed);
    watched.script.level(Critical);
    assert_eq!(watched.after(20), Normal);
    watched.script.panics.store(false, Ordering::Relaxed);
    assert_eq!(watched.after(5000), Critical);
    assert!(watched.events().iter().any(|event| event.detail == PressureDetail::SourceWorks));
}

#[test]
fn a_source_that_starts_but_cannot_be_read_has_failed_once() {
    let watched = Watched::new();
    watched.script.level(Normal);
    *watched.script.answer.lock() = Err(ErrorKind::Driver);
    (0..10).for_each(|_| _ = watched.after(5000));
    assert!(watched.script.starts.load(Ordering::Relaxed) > 5, "it is tried again and again");
    watched.script.level(Normal);
    (0..2).for_each(|_| _ = watched.after(5000));
    let details: Vec<_> = watched.events().into_iter().map(|event| event.detail).collect();
    assert!(
        matches!(&details[..], [PressureDetail::SourceFailed { .. }, PressureDetail::SourceWorks]),
        "{details:?}"
    );
}

#[test]
fn a_source_that_floods_is_read_no_more_often_than_the_debounce_says() {
    let watched = Watched::new();
    let reads = watched.script.reads.load(Ordering::Relaxed);
    for _ in 0..1000 {
        watched.script.usage(1);
        watched.after(1);
    }
    let reads = watched.script.reads.load(Ordering::Relaxed) - reads;
    assert!((49..=51).contains(&reads), "{reads} in a second");
}

#[test]
fn what_is_idle_decays_by_itself_and_the_used_stays() {
    let watched = Watched::with(PressureConfig::default(), Capabilities::NONE);
    let live = watched.manager.allocate(20 * MIB).expect("there is room");
    leave_idle(&watched.manager, &[100, 200]);
    // Small ones are in caches, which are emptied when nobody uses the pool.
    let small: Vec<_> = (0..64).map(|_| watched.manager.allocate(1 << 18).expect("there is room")).collect();
    drop(small);
    let before = watched.reserved();
    for _ in 0..3 {
        watched.after(2500);
        assert_eq!(watched.reserved(), before, "not before its time");
    }
    for _ in 0..4 {
        watched.after(2500);
    }
    assert_eq!(watched.reserved(), 20);
    assert_eq!(watched.manager.statistics().pressure.decayed_bytes, (before - 20) * MIB);
    assert_eq!(watched.events(), [], "decay is no event");
    assert_sums(&watched.manager, &watched.books);
    drop(live);
}

#[test]
fn the_configurations_decay_holds_if_it_is_shorter() {
    let (manager, _, clock) = still_manager(PressureConfig::default(), Capabilities::NONE);
    let config = Config { idle_decay: Some(Duration::from_millis(400)), ..manager.config().clone() };
    drop(manager);
    let manager =
        MemoryManager::with_config(Device::new(Capabilities::NONE, 10), config).expect("it is sound");
    let monitor = PressureMonitor::new(&manager, Vec::new()).expect("there was no monitor");
    leave_idle(&manager, &[100]);
    monitor.poll();
    clock.advance(Duration::from_millis(399));
    monitor.poll();
    assert_eq!(manager.statistics().reserved.current, 100 * MIB);
    clock.advance(Duration::from_millis(101));
    monitor.poll();
    assert_eq!(manager.statistics().reserved.current, 0);
}

#[test]
fn the_devices_use_counts_but_for_what_is_idle_here() {
    let watched = Watched::with(PressureConfig::default(), Capabilities::NONE);
    leave_idle(&watched.manager, &[400]);
    let heap = |available_mib: u64, process_mib: u64| HeapBudget {
        budget_bytes: 1000 * MIB,
        available_bytes: available_mib * MIB,
        process_bytes: Some(process_mib * MIB),
    };
    // All is taken, 400 of it by what nobody uses here.
    watched.books.set_budget(heap(0, 1000));
    assert_eq!(watched.after(1000), Normal);
    // More is taken than there should be, so that what is available says too little.
    watched.books.set_budget(heap(0, 1360));
    assert_eq!(watched.after(1000), Critical);
    let events = watched.events();
    assert_eq!(&*events[0].source, "device heap 0");
    assert_eq!(watched.reserved(), 0);
}

#[test]
fn there_is_one_monitor_at_a_time_and_nonsense_is_refused() {
    let (manager, ..) = still_manager(PressureConfig::default(), Capabilities::NONE);
    let monitor = PressureMonitor::new(&manager, Vec::new()).expect("there was no monitor");
    let second = PressureMonitor::new(&manager, Vec::new()).expect_err("there is one");
    assert_eq!(second.kind(), ErrorKind::InvalidArgument);
    drop(monitor);
    let monitor = PressureMonitor::new(&manager, Vec::new()).expect("the first has gone");
    drop(manager);
    monitor.poll();
    assert_eq!(monitor.level(), Normal, "the manager has gone");
    let pressure = PressureConfig { thresholds: [0.9, 0.8, 0.95, 0.98], ..PressureConfig::default() };
    let config = Config { pressure, ..Config::default() };
    let refusal =
        MemoryManager::with_config(Device::new(Capabilities::NONE, 10), config).expect_err("nonsense");
    assert_eq!(refusal.kind(), ErrorKind::Configuration);
}

#[test]
fn a_manager_that_goes_takes_its_memory_and_its_monitor_along() {
    let watched = Watched::new();
    leave_idle(&watched.manager, &[100]);
    let Watched { manager, books, monitor, script, .. } = watched;
    let mut events = monitor.events();
    drop(manager);
    assert_eq!(books.live(), 0);
    assert_eq!(Arc::strong_count(&script), 1, "the sources are gone, too");
    assert!(events.is_over() && events.next_within(Duration::from_secs(60)).is_none());
    assert!(monitor.events().is_over());
}

/// With a thread of its own.
fn threaded() -> (MemoryManager<Device>, Arc<Script>, PressureMonitor<Device>) {
    let (manager, _) = purgeable_manager(1000 * MIB);
    let script = Script::new(Normal);
    let monitor = PressureMonitor::new(&manager, script.source()).expect("there was no monitor");
    (manager, script, monitor)
}

#[test]
fn the_thread_wakes_for_news_and_stops_in_time() {
    let (manager, script, monitor) = threaded();
    let mut events = monitor.events();
    leave_idle(&manager, &[10]);
    script.level(Emergency);
    let event = events.next_within(Duration::from_secs(60)).expect("it was rung");
    assert_eq!((event.level(), &*event.source), (Some(Emergency), "script"));
    assert_eq!(manager.statistics().reserved.current, 0);
    // The ledger wakes it, too, when the pool grows.
    script.level(Normal);
    let live = manager.allocate(960 * MIB).expect("there is room");
    let begun = Instant::now();
    drop(monitor);
    assert!(begun.elapsed() < Duration::from_secs(10), "no thread is waited for without end");
    assert!(events.is_over());
    drop(live);
}

#[test]
fn the_thread_is_told_when_the_pool_grows() {
    let (manager, _script, monitor) = threaded();
    let mut events = monitor.events();
    let live = manager.allocate(960 * MIB).expect("there is room");
    let event = events.next_within(Duration::from_secs(60)).expect("the pool has grown");
    assert_eq!((event.level(), &*event.source), (Some(Critical), "ledger heap 0"));
    drop(live);
    loop {
        let event = events.next_within(Duration::from_secs(60)).expect("the level falls");
        if event.level() == Some(Normal) {
            break;
        }
    }
}

#[test]
fn a_pool_that_grows_to_just_a_threshold_is_news() {
    let mut pressure = PressureConfig::default();
    pressure.thresholds[0] = 0.5;
    pressure.responses[Normal as usize].idle_decay = None;
    let watched = Watched::with(pressure, Capabilities::NONE);
    let live = watched.manager.allocate(500 * MIB).expect("there is room");
    assert_eq!(watched.reserved(), 500);
    // Before it would be read without news.
    assert_eq!(watched.after(20), Moderate);
    drop(live);
}

#[test]
fn a_blocked_request_goes_on_when_the_level_falls() {
    let (manager, script, monitor) = threaded();
    let mut events = monitor.events();
    script.level(Critical);
    assert!(events.next_within(Duration::from_secs(60)).is_some());
    let low = MemoryOptions::DEFAULT.priority(Priority::Low);
    let blocked = std::thread::spawn(move || manager.allocate_with(4096, low).map(drop));
    script.level(Normal);
    blocked
        .join()
        .expect("it does not panic")
        .expect("it waits, by default for longer than a level takes to fall");
    drop(monitor);
}

#[test]
fn a_listener_may_do_anything() {
    let (manager, script, monitor) = threaded();
    let (tell, told) = mpsc::channel();
    let weak: Weak<Mutex<Option<PressureMonitor<Device>>>>;
    let shared = Arc::new(Mutex::new(None));
    weak = Arc::downgrade(&shared);
    let own = Arc::new(Mutex::new(None));
    let to_drop = Arc::clone(&own);
    let in_listener = manager.clone();
    let low = MemoryOptions::DEFAULT.priority(Priority::Low);
    let listener = monitor.on_event(move |event| {
        // It allocates whatever the gate says, frees, unregisters itself, ...
        drop(in_listener.allocate_with(1 << 20, low).expect("there is room"));
        in_listener.trim();
        drop(to_drop.lock().take());
        // ... drops the monitor within its own thread, and panics.
        if let Some(monitor) = weak.upgrade().and_then(|monitor| monitor.lock().take()) {
            drop::<PressureMonitor<Device>>(monitor);
        }
        tell.send(event.level()).expect("somebody listens");
        panic!("this listener panics, as it should");
    });
    *own.lock() = Some(listener);
    *shared.lock() = Some(monitor);
    script.level(Emergency);
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(Some(Emergency)));
    // The listener is dropped when its call has ended, and with it what it tells by.
    assert!(told.recv_timeout(Duration::from_secs(60)).is_err());
    // The thread lets go when it notices.
    while manager.statistics().pressure.is_monitored {
        std::thread::yield_now();
    }
    assert_eq!(manager.statistics().pressure.listener_panic_count, 1);
    drop(PressureMonitor::new(&manager, Vec::new()).expect("the first has gone"));
}

#[test]
fn a_listener_may_hold_the_last_handle_of_the_manager() {
    let (manager, script, monitor) = threaded();
    let handle = Mutex::new(Some(manager));
    let (tell, told) = mpsc::channel();
    let listener = monitor.on_event(move |_| {
        drop(handle.lock().take());
        tell.send(()).expect("somebody listens");
    });
    script.level(Emergency);
    assert_eq!(told.recv_timeout(Duration::from_secs(60)), Ok(()));
    drop((listener, monitor));
}

#[test]
fn a_listener_that_polls_its_monitor_changes_nothing() {
    let Watched { manager, clock, script, monitor, .. } = Watched::new();
    let monitor = Arc::new(monitor);
    let (polled, told, time) = (Arc::downgrade(&monitor), Arc::clone(&script), clock.clone());
    let _listener = monitor.on_event(move |_| {
        told.level(Emergency);
        time.advance(Duration::from_millis(20));
        polled.upgrade().expect("it is just polled").poll();
    });
    script.level(Moderate);
    clock.advance(Duration::from_millis(20));
    monitor.poll();
    assert_eq!((monitor.level(), manager.statistics().pressure.rise_count), (Moderate, 1));
    monitor.poll();
    assert_eq!((monitor.level(), manager.statistics().pressure.rise_count), (Emergency, 2));
}

#[test]
fn a_manager_that_goes_while_its_monitor_is_polled_ends_it() {
    let Watched { manager, script, clock, monitor, books, .. } = Watched::new();
    let mut events = monitor.events();
    let last = Mutex::new(Some(manager.clone()));
    let hook = manager.on_reclaim(0, move |_| drop(last.lock().take()));
    drop(manager);
    script.level(Critical);
    clock.advance(Duration::from_millis(20));
    monitor.poll();
    assert_eq!(events.next_within(Duration::ZERO).and_then(|event| event.level()), Some(Critical));
    assert!(events.is_over());
    assert_eq!((Arc::strong_count(&script), books.live()), (1, 0), "sources and state are gone");
    drop(hook);
}

#[test]
fn a_request_may_be_told_to_wait_for_ever() {
    let (manager, ..) = still_manager(PressureConfig::default(), Capabilities::NONE);
    let config = Config { in_flight_wait: Duration::MAX, ..manager.config().clone() };
    let manager =
        MemoryManager::with_config(Device::new(Capabilities::NONE, 10), config).expect("it is sound");
    let script = Script::new(Critical);
    let monitor = PressureMonitor::new(&manager, script.source()).expect("there was no monitor");
    monitor.poll();
    let low = MemoryOptions::DEFAULT.priority(Priority::Low);
    let refusal = manager.allocate_with(4096, low).expect_err("nobody opens");
    assert_eq!(refusal.kind(), ErrorKind::UnderPressure);
}

#[test]
fn responses_are_values_that_can_be_changed() {
    let mut pressure = PressureConfig::default();
    pressure.responses[Moderate as usize] = PressureResponse {
        admission: [Admission::Refuse; 3],
        idle_decay: None,
        idle_share_max: None,
        ..PressureResponse::NORMAL
    };
    let watched = Watched::with(pressure, Capabilities::NONE);
    leave_idle(&watched.manager, &[10]);
    watched.script.level(Moderate);
    watched.after(20);
    assert_eq!(watched.reserved(), 10);
    let options = MemoryOptions::DEFAULT.priority(Priority::High);
    assert_eq!(watched.manager.allocate_with(1, options).unwrap_err().kind(), ErrorKind::UnderPressure);
}
