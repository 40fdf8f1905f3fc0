//! What becomes of sources that fail, flood and panic, and what the own ones count.

use super::*;

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
fn a_source_may_say_what_it_likes() {
    let watched = Watched::with(PressureConfig::default(), Capabilities::NONE);
    for (used_bytes, limit_bytes) in [(u64::MAX, u64::MAX), (u64::MAX, 0), (0, 0), (u64::MAX, 1)] {
        watched.script.say(PressureReading::Usage { used_bytes, limit_bytes });
        assert_eq!(watched.after(10_000), Emergency);
        assert_eq!(watched.after(10_000), Emergency);
        watched.script.usage(0);
        watched.after(10_000);
        assert_eq!(watched.after(10_000), Normal);
    }
    assert!(watched.manager.statistics().pressure.asked_bytes > u64::MAX / 2);
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
