//! The system's notices of memory pressure. On Apple's systems none can be made by a program, so there only beginning and ending is
//! tested; elsewhere the system is in software too. One test: notices go to every source of the process.

use aquifer_backend::{PressureNotifier, PressureSource as _, PressureWake};
use aquifer_metal::SystemPressureSource;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

const LONG: Duration = Duration::from_secs(30);

/// Has the source listen, and tell a channel that ends when nobody will tell it any more.
fn start(source: &mut SystemPressureSource) -> Receiver<()> {
    let (sender, notices) = channel();
    let notifier = PressureNotifier::new(move || {
        // The other end may be gone.
        let _ = sender.send(());
    });
    source.start(&notifier).expect("it never fails");
    assert!(matches!(source.wake(), PressureWake::Notifies));
    notices
}

/// What a channel answers to which nobody can send any more.
const ENDED: Result<(), RecvTimeoutError> = Err(RecvTimeoutError::Disconnected);

#[test]
#[cfg(not(target_vendor = "apple"))]
fn notices_arrive_until_the_source_is_dropped() {
    use aquifer_backend::PressureLevel::{self, Critical, Normal, Warning};
    use aquifer_backend::PressureReading::Level;
    use software_objc::dispatch::{MemoryPressure, live_sources, raise_memory_pressure, wait_until_idle};

    let read = |source: &mut SystemPressureSource| -> PressureLevel {
        match source.read().expect("it never fails") {
            Level(level) => level,
            reading => panic!("{reading:?} is no level"),
        }
    };

    // Made and not started, it hears nothing.
    let mut source = SystemPressureSource::new();
    raise_memory_pressure(MemoryPressure::Warn);
    assert_eq!((live_sources(), source.notice_count(), read(&mut source)), (0, 0, Normal));

    let notices = start(&mut source);
    assert_eq!(read(&mut source), Normal);
    for (raised, told) in [
        (MemoryPressure::Warn, Warning),
        (MemoryPressure::Critical, Critical),
        (MemoryPressure::Warn, Warning),
        (MemoryPressure::Normal, Normal),
    ] {
        raise_memory_pressure(raised);
        assert_eq!(notices.recv_timeout(LONG), Ok(()));
        // It stays until the system tells another.
        assert_eq!([read(&mut source), read(&mut source)], [told; 2]);
    }
    assert_eq!(source.notice_count(), 4);

    // Started again it tells the new notifier only, and knows the level that it was told before.
    raise_memory_pressure(MemoryPressure::Critical);
    assert_eq!(notices.recv_timeout(LONG), Ok(()));
    let again = start(&mut source);
    assert_eq!(notices.recv_timeout(LONG), ENDED, "the first notifier was dropped");
    assert_eq!(read(&mut source), Critical);

    // Each source hears everything, and from when it was started.
    let mut other = SystemPressureSource::default();
    let others = start(&mut other);
    assert_eq!(live_sources(), 2);
    assert_eq!(read(&mut other), Normal);
    raise_memory_pressure(MemoryPressure::Warn);
    assert_eq!((again.recv_timeout(LONG), others.recv_timeout(LONG)), (Ok(()), Ok(())));
    // The first had Critical read already.
    assert_eq!((read(&mut source), read(&mut other)), (Warning, Warning));
    drop(other);
    assert_eq!(others.recv_timeout(LONG), ENDED);
    raise_memory_pressure(MemoryPressure::Normal);
    assert_eq!(again.recv_timeout(LONG), Ok(()));
    assert_eq!((source.notice_count(), read(&mut source)), (7, Normal));

    // While a notice is being told, those that follow become one, of the highest level.
    let (sender, notices) = channel();
    let (go_on, may_go_on) = channel::<()>();
    let may_go_on = parking_lot::Mutex::new(may_go_on);
    let slow = PressureNotifier::new(move || {
        sender.send(()).expect("the test listens");
        let _ = may_go_on.lock().recv_timeout(LONG);
    });
    source.start(&slow).expect("it never fails");
    drop(slow);
    raise_memory_pressure(MemoryPressure::Normal);
    assert_eq!(notices.recv_timeout(LONG), Ok(()));
    raise_memory_pressure(MemoryPressure::Critical);
    raise_memory_pressure(MemoryPressure::Warn);
    assert_eq!(read(&mut source), Normal);
    go_on.send(()).expect("the notifier waits");
    assert_eq!(notices.recv_timeout(LONG), Ok(()));
    assert_eq!((source.notice_count(), read(&mut source)), (9, Critical));

    // Dropped while it tells, it drops the notifier afterwards.
    drop((source, go_on));
    assert_eq!(notices.recv_timeout(LONG), ENDED, "the notifier was dropped");
    wait_until_idle();
    assert_eq!(live_sources(), 0);
    raise_memory_pressure(MemoryPressure::Warn);
}

#[test]
#[cfg(target_vendor = "apple")]
fn a_source_begins_and_ends() {
    let mut source = SystemPressureSource::new();
    let first = start(&mut source);
    let second = start(&mut source);
    source.read().expect("it never fails");
    drop(source);
    // The notifiers go with the source; a real notice may have come before.
    for notices in [first, second] {
        let last = std::iter::repeat_with(|| notices.recv_timeout(LONG)).find(Result::is_err);
        assert_eq!(last, Some(ENDED));
    }
}
