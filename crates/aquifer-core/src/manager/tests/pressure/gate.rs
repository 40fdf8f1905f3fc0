//! Requests that are kept back.

use super::*;

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
