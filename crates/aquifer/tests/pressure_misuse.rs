//! A monitor under misuse: what users' code may do to it, at bad times and with extreme values.

use aquifer::{
    Clock, Config, Error, ErrorKind, Host, HostMemoryManager, MemoryOptions, PressureLevel, PressureMonitor,
    PressureNotifier, PressureReading, PressureSource, PressureWake, Priority, SourceState,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// What a source answers, and how often it was asked.
#[derive(Debug, Default)]
struct Script {
    level: Mutex<PressureLevel>,
    fails: Mutex<Option<ErrorKind>>,
    notifier: Mutex<Option<PressureNotifier>>,
    does_wake_panic: AtomicBool,
    reads: AtomicU64,
}

impl Script {
    fn level(&self, level: PressureLevel) {
        *self.level.lock().unwrap() = level;
        self.notify();
    }

    fn notify(&self) {
        if let Some(notifier) = &*self.notifier.lock().unwrap() {
            notifier.notify();
        }
    }

    fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Scripted(Arc<Script>);

impl PressureSource for Scripted {
    fn name(&self) -> String {
        "script".into()
    }

    fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        *self.0.notifier.lock().unwrap() = Some(notifier.clone());
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        assert!(!self.0.does_wake_panic.load(Ordering::Relaxed), "this source panics, as it should");
        PressureWake::Notifies
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        self.0.reads.fetch_add(1, Ordering::Relaxed);
        match *self.0.fails.lock().unwrap() {
            Some(kind) => Err(Error::new(kind, "read", "told to fail")),
            None => Ok(PressureReading::Level(*self.0.level.lock().unwrap())),
        }
    }
}

struct Scene {
    manager: HostMemoryManager,
    clock: Clock,
    script: Arc<Script>,
}

impl Scene {
    /// A manager of 64 MiB: with a thread for its monitor in the system's time, or with none in a time that stands still.
    fn new(has_thread: bool, change: impl FnOnce(&mut Config)) -> Self {
        let clock = if has_thread { Clock::default() } else { Clock::manual() };
        let mut config = Config::default();
        config.budget_bytes = Some(64 << 20);
        config.pressure.thread = has_thread;
        config.clock = clock.clone();
        change(&mut config);
        let manager = HostMemoryManager::with_config(Host::new().unwrap(), config).unwrap();
        Self { manager, clock, script: Arc::default() }
    }

    fn monitor(&self) -> PressureMonitor<Host> {
        let monitor = PressureMonitor::new(&self.manager, vec![Box::new(Scripted(Arc::clone(&self.script)))]);
        let monitor = monitor.unwrap();
        monitor.poll();
        monitor
    }

    fn low() -> MemoryOptions {
        MemoryOptions::DEFAULT.priority(Priority::Low)
    }
}

fn wait_until(what: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !what() {
        assert!(Instant::now() < deadline, "it never came");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_may_be_told_to_wait_for_ever() {
    let scene = Scene::new(true, |config| config.in_flight_wait = Duration::MAX);
    let monitor = scene.monitor();
    scene.script.level(PressureLevel::Critical);
    wait_until(|| monitor.level() == PressureLevel::Critical);
    let waiting = std::thread::spawn({
        let manager = scene.manager.clone();
        move || manager.allocate_with(4096, Scene::low()).map(drop)
    });
    wait_until(|| scene.manager.statistics().pressure.queued_count == 1 || waiting.is_finished());
    drop(monitor);
    waiting.join().expect("it waits").expect("nobody keeps it back any more");
    // Nothing to wait for, some milliseconds after the manager was made.
    let error =
        scene.manager.allocate(63 << 20).and_then(|_held| scene.manager.allocate(2 << 20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
}

#[test]
fn polling_within_a_listener_does_nothing() {
    let scene = Scene::new(false, |_| ());
    let monitor = Arc::new(scene.monitor());
    let counts = Arc::new(Mutex::new(Vec::new()));
    let listener = monitor.on_event({
        let (monitor, script) = (Arc::downgrade(&monitor), Arc::clone(&scene.script));
        let (clock, counts) = (scene.clock.clone(), Arc::clone(&counts));
        move |_| {
            let before = script.reads();
            clock.advance(Duration::from_secs(1));
            monitor.upgrade().unwrap().poll();
            counts.lock().unwrap().push(script.reads() - before);
        }
    });
    scene.clock.advance(Duration::from_secs(1));
    scene.script.level(PressureLevel::Warning);
    monitor.poll();
    drop(listener);
    assert_eq!(*counts.lock().unwrap(), [0]);
}

#[test]
fn polling_does_nothing_where_there_is_a_thread() {
    let scene = Scene::new(true, |_| ());
    let monitor = scene.monitor();
    let (entered, is_entered) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let _listener = monitor.on_event(move |_| {
        let _ = entered.send(());
        let _ = may_go.lock().unwrap().recv();
    });
    let callers = Arc::new(Mutex::new(Vec::new()));
    let _hook = scene.manager.on_reclaim(0, {
        let callers = Arc::clone(&callers);
        move |_| callers.lock().unwrap().push(std::thread::current().id())
    });
    scene.script.level(PressureLevel::Moderate);
    is_entered.recv().unwrap();
    // The thread is in the listener, and holds no lock.
    let read_at = Instant::now();
    wait_until(|| read_at.elapsed() > Duration::from_millis(40));
    scene.script.level(PressureLevel::Emergency);
    monitor.poll();
    assert!(callers.lock().unwrap().is_empty(), "callbacks are the thread's to call");
    drop(go);
    wait_until(|| monitor.level() == PressureLevel::Emergency);
    assert!(!callers.lock().unwrap().contains(&std::thread::current().id()));
}

#[test]
fn a_manager_that_goes_while_it_is_polled_ends_its_monitor() {
    let scene = Scene::new(false, |_| ());
    let monitor = scene.monitor();
    let mut events = monitor.events();
    let Scene { manager, clock, script } = scene;
    let last = Arc::new(Mutex::new(Some(manager.clone())));
    let hook = manager.on_reclaim(0, {
        let last = Arc::clone(&last);
        move |_| drop(last.lock().unwrap().take())
    });
    drop(manager);
    clock.advance(Duration::from_secs(1));
    script.level(PressureLevel::Emergency);
    monitor.poll();
    assert!(last.lock().unwrap().is_none(), "the callback was called");
    assert!(events.is_over());
    assert!(events.next_within(Duration::ZERO).is_some(), "what came before the end");
    assert_eq!(events.next_within(Duration::ZERO), None);
    assert_eq!(Arc::strong_count(&script), 1, "the sources have gone");
    drop(hook);
}

#[test]
fn a_stream_that_has_ended_tells_nothing_of_the_next_monitor() {
    let scene = Scene::new(false, |_| ());
    let mut ended = scene.monitor().events();
    assert!(ended.is_over());
    let monitor = scene.monitor();
    let mut events = monitor.events();
    scene.clock.advance(Duration::from_secs(1));
    scene.script.level(PressureLevel::Emergency);
    monitor.poll();
    assert!(events.next_within(Duration::ZERO).is_some());
    assert_eq!(ended.next_within(Duration::ZERO), None);
}

#[test]
fn a_source_that_panics_when_it_is_asked_for_its_wake_has_failed_alone() {
    let scene = Scene::new(true, |_| ());
    let monitor = scene.monitor();
    scene.script.level(PressureLevel::Emergency);
    wait_until(|| monitor.level() == PressureLevel::Emergency);
    scene.script.does_wake_panic.store(true, Ordering::Relaxed);
    scene.script.notify();
    wait_until(|| monitor.level() == PressureLevel::Normal);
    drop(scene.manager.allocate_with(4096, Scene::low()).expect("nothing is kept back"));
    drop(monitor);
    // From the beginning too.
    let monitor = scene.monitor();
    let sources = scene.manager.statistics().pressure.sources;
    let is_failed = |state: &SourceState| matches!(state, SourceState::Failed(_));
    assert!(sources.iter().any(|source| &*source.name == "script" && is_failed(&source.state)));
    drop(monitor);
}

#[test]
fn a_source_that_is_not_there_for_a_while_comes_back() {
    let scene = Scene::new(false, |_| ());
    let monitor = scene.monitor();
    // As a control group's says while it has no limit.
    *scene.script.fails.lock().unwrap() = Some(ErrorKind::Unsupported);
    scene.clock.advance(Duration::from_secs(1));
    scene.script.notify();
    monitor.poll();
    *scene.script.fails.lock().unwrap() = None;
    scene.clock.advance(Duration::from_secs(10));
    scene.script.level(PressureLevel::Warning);
    monitor.poll();
    assert_eq!(monitor.level(), PressureLevel::Warning);
}

#[test]
fn what_may_be_idle_is_kept_up_without_decay_too() {
    for decay in [None, Some(Duration::MAX)] {
        let scene = Scene::new(false, |config| {
            let response = &mut config.pressure.responses[PressureLevel::Moderate as usize];
            (response.idle_share_max, response.idle_decay) = (Some(0.0), decay);
            response.mark_purgeable = false;
        });
        let monitor = scene.monitor();
        scene.script.level(PressureLevel::Moderate);
        // Until it is responded to once in a minute only.
        for _ in 0..700 {
            scene.clock.advance(Duration::from_millis(100));
            monitor.poll();
        }
        drop(scene.manager.allocate(8 << 20).unwrap());
        for _ in 0..30 {
            scene.clock.advance(Duration::from_millis(100));
            monitor.poll();
        }
        assert_eq!(scene.manager.statistics().reserved.current, 0, "{decay:?}");
    }
}

#[test]
fn a_short_tick_reads_no_source_more_often_than_the_debounce_says() {
    let scene = Scene::new(false, |config| config.pressure.tick = Duration::from_millis(1));
    let monitor = scene.monitor();
    scene.clock.advance(Duration::from_secs(1));
    scene.script.level(PressureLevel::Moderate);
    monitor.poll();
    let before = scene.script.reads();
    for _ in 0..100 {
        scene.clock.advance(Duration::from_millis(1));
        monitor.poll();
    }
    assert_eq!(scene.script.reads() - before, 5);
}

#[test]
fn a_listener_that_blocks_keeps_nothing_from_the_streams_of_the_next_monitor() {
    let scene = Scene::new(true, |_| ());
    let monitor = scene.monitor();
    let (entered, is_entered) = mpsc::channel();
    let (go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(may_go);
    let listener = monitor.on_event(move |_| {
        let _ = entered.send(());
        let _ = may_go.lock().unwrap().recv();
    });
    scene.script.level(PressureLevel::Moderate);
    is_entered.recv().unwrap();
    drop((monitor, listener));
    scene.script.level(PressureLevel::Normal);
    let next = scene.monitor();
    let mut events = next.events();
    scene.script.level(PressureLevel::Moderate);
    wait_until(|| next.level() == PressureLevel::Moderate);
    let event = events.next_within(Duration::from_millis(500));
    drop(go);
    assert!(event.is_some());
}

#[test]
fn requests_are_kept_back_at_the_normal_level_too_if_its_row_says_so() {
    let scene =
        Scene::new(false, |config| config.pressure.responses[0].admission = [aquifer::Admission::Refuse; 3]);
    let _monitor = scene.monitor();
    assert_eq!(scene.manager.allocate(4096).unwrap_err().kind(), ErrorKind::UnderPressure);
}

#[test]
fn a_level_lasts_for_a_time_too_long_for_the_clock() {
    let scene = Scene::new(false, |config| config.pressure.fall_after = Duration::from_secs(1 << 61));
    let monitor = scene.monitor();
    for level in [PressureLevel::Warning, PressureLevel::Normal] {
        scene.clock.advance(Duration::from_secs(1));
        scene.script.level(level);
        monitor.poll();
    }
    assert_eq!(monitor.level(), PressureLevel::Warning);
}
