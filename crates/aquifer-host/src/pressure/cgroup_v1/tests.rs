//! Recorded groups, which take no listeners. The kernel's own are in `tests/`.

use super::*;
use crate::tree::tree;
use tempfile::TempDir;

const GROUP: &str = "sys/fs/cgroup/memory/app";
const MOUNTS: &str = "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

fn machine(limit: &str) -> TempDir {
    tree(&[
        ("proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 600 kB\n"),
        ("proc/self/cgroup", "4:memory:/app\n0::/\n"),
        ("proc/self/mountinfo", MOUNTS),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ("sys/fs/cgroup/memory/app/memory.limit_in_bytes", limit),
        ("sys/fs/cgroup/memory/app/memory.usage_in_bytes", "90000\n"),
        ("sys/fs/cgroup/memory/app/memory.stat", "total_inactive_file 20000\n"),
    ])
}

fn options(root: &TempDir) -> PressureOptions {
    PressureOptions { root: root.path().into(), ..PressureOptions::default() }
}

fn notifier() -> PressureNotifier {
    PressureNotifier::new(|| {})
}

#[test]
fn usage_is_told_without_listeners() {
    let root = machine("100000\n");
    let mut source = CgroupV1Source::new(&options(&root)).unwrap();
    source.start(&notifier()).unwrap();
    assert!(matches!(source.wake(), PressureWake::Interval(interval) if interval.as_secs() == 1));
    let usage = PressureReading::Usage { used_bytes: 70_000, limit_bytes: 100_000 };
    assert_eq!(source.read().unwrap(), usage);
    assert_eq!(source.name(), format!("cgroup v1 usage {}", root.path().join(GROUP).display()));
    std::fs::remove_dir_all(root.path().join(GROUP)).unwrap();
    assert!(source.read().unwrap_err().message().contains("has gone"));
}

#[test]
fn without_limits_there_is_no_source() {
    let root = machine("9223372036854771712\n");
    let error = CgroupV1Source::new(&options(&root)).unwrap().start(&notifier()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    let error = CgroupV1NoticeSource::new(&options(&root)).unwrap().start(&notifier()).unwrap_err();
    assert!(error.message().contains("memory.limit_in_bytes"), "{error}");
}

#[test]
fn without_the_files_there_are_no_notices() {
    let root = machine("100000\n");
    let mut source = CgroupV1NoticeSource::new(&options(&root)).unwrap();
    let error = source.start(&notifier()).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Unsupported, START), "{error}");
    assert!(error.message().contains("cgroup.event_control"), "{error}");
}

#[test]
fn each_refusal_says_what_to_do() {
    for (errno, kind) in [
        (Errno::ACCESS, ErrorKind::Unsupported),
        (Errno::PERM, ErrorKind::Unsupported),
        (Errno::ROFS, ErrorKind::Unsupported),
        (Errno::NOENT, ErrorKind::Unsupported),
        (Errno::MFILE, ErrorKind::Driver),
    ] {
        let error = refusal(std::path::Path::new(GROUP), errno.into());
        assert!(error.kind() == kind && error.message().contains(GROUP), "{error}");
    }
}

#[test]
fn notices_hold_for_a_while_and_the_highest_counts() {
    let root = machine("100000\n");
    let mut source = CgroupV1NoticeSource::new(&options(&root)).unwrap();
    // In the kernel's place.
    let notice = |(_, level)| Notice { level, counter: counter().unwrap(), last: None };
    let listening = Listening::new(None).unwrap();
    let notices: Vec<_> = NOTICES.into_iter().map(notice).collect();
    let signal: Vec<_> = notices.iter().map(|notice| notice.counter.try_clone().unwrap()).collect();
    source.listening = Some((notices, listening));
    let start = Instant::now();
    for (at, signals, level) in [
        (0, &[][..], PressureLevel::Normal),
        (100, &[0, 0, 0], PressureLevel::Moderate),
        (1000, &[1, 0], PressureLevel::Warning),
        (1500, &[2, 1, 0], PressureLevel::Critical),
        (2000, &[0], PressureLevel::Critical),
        (3499, &[1], PressureLevel::Critical),
        (3500, &[], PressureLevel::Warning),
        (5499, &[], PressureLevel::Normal),
    ] {
        for index in signals {
            rustix::io::write(&signal[*index], &1u64.to_ne_bytes()).unwrap();
        }
        assert_eq!(source.read_at(start + Duration::from_millis(at)).unwrap(), level, "at {at} ms");
        // While they come it is not woken by each.
        let is_quiet = matches!(source.wake(), PressureWake::Interval(NEWS_INTERVAL));
        assert_eq!(is_quiet, !signals.is_empty(), "at {at} ms");
    }
    std::fs::remove_dir_all(root.path().join(GROUP)).unwrap();
    assert!(source.read().unwrap_err().message().contains("has gone"));
}
