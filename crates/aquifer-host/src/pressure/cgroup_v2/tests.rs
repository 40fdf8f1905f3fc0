//! Recorded groups, since few machines have the memory controller in version 2 where tests run.

use super::*;
use crate::tree::tree;
use aquifer_backend::ErrorKind;
use tempfile::TempDir;

const GROUP: &str = "sys/fs/cgroup/app";
const EVENTS: &str = "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\noom_group_kill 0\n";

fn machine(extra: &[(&str, &str)]) -> TempDir {
    let mut files = vec![
        ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n"),
        ("proc/self/cgroup", "0::/app\n"),
        ("sys/fs/cgroup/cgroup.controllers", "memory\n"),
        ("sys/fs/cgroup/app/memory.max", "100000\n"),
        ("sys/fs/cgroup/app/memory.high", "max\n"),
        ("sys/fs/cgroup/app/memory.current", "90000\n"),
        ("sys/fs/cgroup/app/memory.stat", "anon 1\ninactive_file 20000\n"),
    ];
    files.extend(extra);
    tree(&files)
}

fn source(root: &TempDir) -> CgroupV2Source {
    CgroupV2Source::new(&PressureOptions { root: root.path().into(), ..PressureOptions::default() }).unwrap()
}

fn notifier() -> PressureNotifier {
    PressureNotifier::new(|| {})
}

const USAGE: PressureReading = PressureReading::Usage { used_bytes: 70_000, limit_bytes: 100_000 };
const EMERGENCY: PressureReading = PressureReading::Level(PressureLevel::Emergency);

#[test]
fn usage_is_told_with_or_without_events() {
    for extra in [&[][..], &[("sys/fs/cgroup/app/memory.events", EVENTS)]] {
        let root = machine(extra);
        let mut source = source(&root);
        source.start(&notifier()).unwrap();
        assert_eq!(source.name(), format!("cgroup v2 usage {}", root.path().join(GROUP).display()));
        assert_eq!(source.read().unwrap(), USAGE);
        // A recorded file tells nobody.
        assert!(matches!(source.wake(), PressureWake::Interval(interval) if interval.as_secs() == 1));
    }
}

#[test]
fn out_of_memory_is_an_emergency_for_a_while_and_limits_only_wake() {
    for name in ["memory.events", "memory.events.local"] {
        let root = machine(&[(&format!("{GROUP}/{name}"), EVENTS)]);
        let mut source = source(&root);
        source.start(&notifier()).unwrap();
        let start = Instant::now();
        let write = |text: &str| std::fs::write(root.path().join(GROUP).join(name), text).unwrap();
        let ms = Duration::from_millis;
        assert_eq!(source.read_at(start).unwrap(), USAGE);
        write("low 0\nhigh 5\nmax 70\noom 0\noom_kill 0\n");
        assert_eq!(source.read_at(start + ms(10)).unwrap(), USAGE);
        assert!(source.is_rising);
        assert_eq!(source.read_at(start + ms(110)).unwrap(), USAGE);
        assert!(!source.is_rising);
        for (at, text) in [(200, "max 70\noom 1\noom_kill 0\n"), (5000, "max 70\noom 1\noom_kill 1\n")] {
            write(text);
            assert_eq!(source.read_at(start + ms(at)).unwrap(), EMERGENCY);
            assert_eq!(source.read_at(start + ms(at + 1999)).unwrap(), EMERGENCY);
            assert_eq!(source.read_at(start + ms(at + 2000)).unwrap(), USAGE);
        }
        // What happened before it began is past.
        source.start(&notifier()).unwrap();
        assert_eq!(source.read_at(start + ms(5001)).unwrap(), USAGE);
    }
}

#[test]
fn the_groups_own_events_are_preferred() {
    let neighbour = format!("{GROUP}/memory.events");
    let root = machine(&[(&neighbour, EVENTS), ("sys/fs/cgroup/app/memory.events.local", EVENTS)]);
    let mut source = source(&root);
    source.start(&notifier()).unwrap();
    std::fs::write(root.path().join(neighbour), "oom 1\n").unwrap();
    assert_eq!(source.read().unwrap(), USAGE);
}

#[test]
fn garbled_events_are_an_error() {
    for garbled in ["max\n", "max x\n", "max -1\n", "oom 18446744073709551616\n", "\n", "oom 1 2\n"] {
        let root = machine(&[("sys/fs/cgroup/app/memory.events", garbled)]);
        let error = source(&root).start(&notifier()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Driver, "{garbled:?}: {error}");
        assert_eq!(Counts::parse(garbled), None);
    }
    let most = format!("max {}\nhigh 1\nnew 5\n", u64::MAX);
    assert_eq!(Counts::parse(&most), Some(Counts { limited: u64::MAX, out_of_memory: 0 }));
    assert_eq!(Counts::parse(""), Some(Counts::default()));
}

#[test]
fn a_group_without_limits_is_no_source() {
    let root = machine(&[("sys/fs/cgroup/app/memory.max", "max\n")]);
    let error = source(&root).start(&notifier()).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unsupported, START), "{error}");
    // The limit may go, and come again.
    let root = machine(&[]);
    let mut source = source(&root);
    source.start(&notifier()).unwrap();
    let limit = root.path().join(GROUP).join("memory.max");
    std::fs::write(&limit, "max").unwrap();
    assert_eq!(source.read().unwrap(), PressureReading::Level(PressureLevel::Normal));
    std::fs::write(&limit, "100000").unwrap();
    source.start(&notifier()).unwrap();
    assert_eq!(source.read().unwrap(), USAGE);
}

#[test]
fn a_group_that_goes_is_an_error() {
    let root = machine(&[("sys/fs/cgroup/app/memory.events", EVENTS)]);
    let mut source = source(&root);
    source.start(&notifier()).unwrap();
    std::fs::remove_dir_all(root.path().join(GROUP)).unwrap();
    for error in [source.read().unwrap_err(), source.start(&notifier()).unwrap_err()] {
        assert!(error.kind() == ErrorKind::Driver && error.message().contains("has gone"), "{error}");
    }
}
