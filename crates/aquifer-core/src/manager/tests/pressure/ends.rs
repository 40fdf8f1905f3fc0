//! One monitor at a time, and how it ends.

use super::*;

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
