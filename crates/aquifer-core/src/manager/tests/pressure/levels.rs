//! What is done at each level, and what time does.

use super::*;

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
