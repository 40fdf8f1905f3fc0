//! The system's notices of memory pressure. On Apple's systems none can be made by a program, so there only beginning and ending is
//! tested; elsewhere the system is in software too. One test: notices go to every source of the process.

use aquifer_metal::{SystemPressure, SystemPressureSource};
use std::sync::mpsc::channel;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

#[test]
#[cfg(not(target_vendor = "apple"))]
fn notices_arrive_until_the_source_is_dropped() {
    use software_objc::dispatch::{MemoryPressure, live_sources, raise_memory_pressure};

    let (sender, notices) = channel();
    let source = SystemPressureSource::new(move |level| sender.send(level).unwrap());
    for (raised, told) in [
        (MemoryPressure::Warn, SystemPressure::Warning),
        (MemoryPressure::Critical, SystemPressure::Critical),
        (MemoryPressure::Normal, SystemPressure::Normal),
    ] {
        raise_memory_pressure(raised);
        assert_eq!(notices.recv_timeout(LONG), Ok(told));
    }
    assert_eq!((source.notice_count(), source.panic_count()), (3, 0));
    drop(source);
    // The closure goes with the source, and its end of the channel with it.
    assert!(notices.recv_timeout(LONG).is_err());
    raise_memory_pressure(MemoryPressure::Warn);

    // While a notice is being told, those that follow become one, of the highest level.
    let (sender, notices) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let source = SystemPressureSource::new(move |level| {
        sender.send(level).unwrap();
        let _ = may_go_on.recv_timeout(LONG);
    });
    raise_memory_pressure(MemoryPressure::Normal);
    assert_eq!(notices.recv_timeout(LONG), Ok(SystemPressure::Normal));
    raise_memory_pressure(MemoryPressure::Critical);
    raise_memory_pressure(MemoryPressure::Warn);
    go_on.send(()).unwrap();
    assert_eq!(notices.recv_timeout(LONG), Ok(SystemPressure::Critical));
    drop((source, go_on));
    assert!(notices.recv_timeout(LONG).is_err(), "the closure was dropped");

    // A closure may panic.
    let (sender, notices) = channel();
    let source = SystemPressureSource::new(move |level| {
        sender.send(level).unwrap();
        assert!(level == SystemPressure::Normal, "this panic is the test's");
    });
    raise_memory_pressure(MemoryPressure::Warn);
    assert_eq!(notices.recv_timeout(LONG), Ok(SystemPressure::Warning));
    raise_memory_pressure(MemoryPressure::Normal);
    assert_eq!(notices.recv_timeout(LONG), Ok(SystemPressure::Normal), "it is called again");
    assert_eq!(source.panic_count(), 1);
    drop(source);
    assert!(notices.recv_timeout(LONG).is_err());
    assert_eq!(live_sources(), 0);
}

#[test]
#[cfg(target_vendor = "apple")]
fn a_source_begins_and_ends() {
    let (sender, notices) = channel::<SystemPressure>();
    let source = SystemPressureSource::new(move |level| {
        let _ = sender.send(level);
    });
    assert_eq!(source.panic_count(), 0);
    drop(source);
    // The closure goes with the source; a real notice may have come before.
    while notices.recv_timeout(LONG).is_ok() {}
}
