//! Recorded files for the levels; the kernel's own refusals for the rest.

use super::*;
use crate::tree::{bare_tree, tree};

const FILE: &str = "proc/pressure/memory";

fn recorded(some_millis: u64, full_millis: u64) -> String {
    format!(
        "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total={}\n",
        some_millis * 1000,
        full_millis * 1000
    )
}

fn notifier() -> PressureNotifier {
    PressureNotifier::new(|| {})
}

fn polled(file: &Path) -> PsiSource {
    PsiSource::polled(file, PsiOptions::default(), Duration::from_secs(1)).unwrap()
}

fn refused(source: &mut PsiSource, kind: ErrorKind, words: &str) {
    let error = source.start(&notifier()).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    assert!(error.message().contains(words), "{error}");
    // It can still be asked everything.
    assert!(matches!(source.wake(), PressureWake::Interval(_)));
    assert!(source.read().is_err());
}

#[test]
fn levels_rise_with_the_share_of_stalls_and_fall_within_a_window() {
    let root = tree(&[(FILE, recorded(7000, 3000))]);
    let file = root.path().join(FILE);
    let mut source = polled(&file);
    source.start(&notifier()).unwrap();
    let start = Instant::now();
    for (at, some, full, level) in [
        (500, 0, 0, PressureLevel::Normal),
        (1000, 99, 0, PressureLevel::Normal),
        (1250, 100, 0, PressureLevel::Moderate),
        (1500, 199, 199, PressureLevel::Moderate),
        (1750, 299, 299, PressureLevel::Warning),
        (2000, 300, 300, PressureLevel::Critical),
        (2250, 800, 800, PressureLevel::Emergency),
        // All of it was in the last window, then less and less of it.
        (2300, 800, 800, PressureLevel::Emergency),
        (4100, 800, 800, PressureLevel::Critical),
        (4300, 800, 800, PressureLevel::Normal),
        (9000, 800, 800, PressureLevel::Normal),
    ] {
        std::fs::write(&file, recorded(7000 + some, 3000 + full)).unwrap();
        let read = source.read_at(start + Duration::from_millis(at)).unwrap();
        assert_eq!(read, level, "at {at} ms");
    }
}

#[test]
fn after_a_long_sleep_it_is_the_lowest_level_until_more_is_known() {
    let root = tree(&[(FILE, recorded(0, 0))]);
    let file = root.path().join(FILE);
    let mut source = polled(&file);
    source.start(&notifier()).unwrap();
    let start = Instant::now();
    for (at, stalled, level) in [
        (3_600_000, 5_000, PressureLevel::Moderate),
        (3_600_200, 5_200, PressureLevel::Warning),
        (3_600_400, 5_400, PressureLevel::Critical),
        (3_600_800, 5_800, PressureLevel::Emergency),
        (3_602_900, 5_800, PressureLevel::Normal),
    ] {
        std::fs::write(&file, recorded(stalled, stalled)).unwrap();
        let read = source.read_at(start + Duration::from_millis(at)).unwrap();
        assert_eq!(read, level, "at {at} ms");
    }
}

#[test]
fn names_say_how_and_what() {
    let source = PsiSource::new("/proc/pressure/memory", PsiOptions::default()).unwrap();
    assert_eq!(source.name(), "psi some 100ms/2s /proc/pressure/memory");
    assert!(!source.is_polled());
    let source = polled(Path::new("/proc/pressure/memory"));
    assert_eq!(source.name(), "psi polled every 1s /proc/pressure/memory");
    assert!(source.is_polled());
    assert!(matches!(source.wake(), PressureWake::Interval(interval) if interval == Duration::from_secs(1)));
}

#[test]
fn an_interval_must_not_miss_stalls() {
    for millis in [0, 2001, 10_000] {
        let interval = Duration::from_millis(millis);
        let error = PsiSource::polled("x", PsiOptions::default(), interval).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    }
    let options = PsiOptions { rules: Vec::new(), ..PsiOptions::default() };
    let error = PsiSource::new("x", options.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
    assert!(PsiSource::polled("x", options, Duration::from_secs(1)).is_err());
}

#[test]
fn absent_and_garbled_files_are_typed_errors() {
    let absent = bare_tree().path().join(FILE);
    refused(&mut polled(&absent), ErrorKind::Unsupported, "psi=1");
    let mut source = PsiSource::new(&absent, PsiOptions::default()).unwrap();
    refused(&mut source, ErrorKind::Unsupported, "psi=1");

    let root = tree(&[(FILE, "some total=many\n")]);
    let file = root.path().join(FILE);
    refused(&mut polled(&file), ErrorKind::Driver, "many");
    // A directory is no file.
    refused(&mut polled(root.path()), ErrorKind::Driver, "cannot be read");

    // It becomes garbled, and then better again.
    std::fs::write(&file, recorded(1, 1)).unwrap();
    let mut source = polled(&file);
    source.start(&notifier()).unwrap();
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    let error = source.read().unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Driver, READ), "{error}");
    std::fs::write(&file, recorded(1, 1)).unwrap();
    source.start(&notifier()).unwrap();
    assert_eq!(source.read().unwrap(), PressureReading::Level(PressureLevel::Normal));
}

#[test]
fn each_refusal_says_what_to_do() {
    for (errno, kind, words) in [
        (Errno::NOENT, ErrorKind::Unsupported, "CONFIG_PSI"),
        (Errno::OPNOTSUPP, ErrorKind::Unsupported, "psi=1"),
        (Errno::ACCESS, ErrorKind::Unsupported, "delegation"),
        (Errno::PERM, ErrorKind::Unsupported, "CAP_SYS_RESOURCE"),
        (Errno::ROFS, ErrorKind::Unsupported, "PsiSource::polled"),
        (Errno::INVAL, ErrorKind::Unsupported, "PsiSource::polled"),
        (Errno::IO, ErrorKind::Driver, "cannot be read"),
    ] {
        let error = refusal(Path::new(FILE), errno.into(), "be read");
        assert_eq!((error.kind(), error.operation()), (kind, START), "{error}");
        assert!(error.message().contains(words) && error.message().contains(FILE), "{error}");
    }
}
