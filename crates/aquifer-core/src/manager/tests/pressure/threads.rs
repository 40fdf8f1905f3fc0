//! The monitor with its thread: what wakes it, how it stops, what listeners may do.

use super::*;

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
