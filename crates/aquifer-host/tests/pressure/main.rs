//! The kernel's own pressure files, with memory that is really short: in a child, in control groups made for it.

#![cfg(target_os = "linux")]

#[path = "../common/mod.rs"]
mod common;
mod groups;

use aquifer_backend::{
    ErrorKind, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use aquifer_host::pressure::{
    CgroupV1NoticeSource, CgroupV1Source, CgroupV2Source, PressureOptions, PsiOptions, PsiRule, PsiSource,
    PsiStall, system_sources,
};
use common::skipped;
use groups::{Group, HELD_BYTES, Hog, LIMIT_BYTES, LONG, VERSION_1, run_if_child};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn notifier() -> PressureNotifier {
    PressureNotifier::new(|| {})
}

/// How long is waited for the kernel to tell of pressure that there is.
const EVENT_MAX: Duration = Duration::from_secs(15);

/// For how long some task of a group has stalled so far, in microseconds.
fn stalled_us(file: &Path) -> u64 {
    let text = std::fs::read_to_string(file).unwrap();
    text.lines().next().unwrap().rsplit('=').next().unwrap().parse().unwrap()
}

/// Polls as a monitor would; whether there is news within `timeout`.
fn has_news(source: &dyn PressureSource, timeout: Duration) -> bool {
    let (descriptor, news) = match source.wake() {
        PressureWake::Readable(descriptor) => (descriptor, PollFlags::IN),
        PressureWake::Exceptional(descriptor) => (descriptor, PollFlags::PRI),
        PressureWake::Interval(interval) => {
            std::thread::sleep(interval.min(timeout));
            return interval <= timeout;
        }
        PressureWake::Notifies => panic!("none of these calls"),
    };
    let timeout = Timespec::try_from(timeout).unwrap();
    let mut descriptors = [PollFd::from_borrowed_fd(descriptor, news)];
    rustix::io::retry_on_intr(|| poll(&mut descriptors, Some(&timeout))).unwrap() == 1
}

fn is_at_least(reading: PressureReading, least: PressureLevel) -> bool {
    matches!(reading, PressureReading::Level(level) if level >= least)
}

/// Reads several times a second, as a monitor does under pressure, until the level is normal.
fn await_normal(source: &mut dyn PressureSource) {
    let start = Instant::now();
    while source.read().unwrap() != PressureReading::Level(PressureLevel::Normal) {
        assert!(start.elapsed() < LONG, "{} never rests", source.name());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A machine whose process is in that group of version 1, and for the rest like this one.
fn machine_in(group: &Group) -> (TempDir, PressureOptions) {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("proc/self/cgroup", &format!("4:memory:{}\n", group.name()));
    write("proc/self/mountinfo", "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    std::fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
    symlink(VERSION_1, root.path().join("sys/fs/cgroup/memory")).unwrap();
    let options = PressureOptions { root: root.path().into(), ..patient() };
    (root, options)
}

/// Timers that nobody waits for here.
fn patient() -> PressureOptions {
    let window = Duration::from_secs(10);
    PressureOptions {
        psi: PsiOptions { window, ..PsiOptions::default() },
        interval: window,
        ..PressureOptions::default()
    }
}

/// Whether the kernel takes triggers on a file from this process; or why not.
fn takes_triggers(file: &Path) -> Result<(), String> {
    let opened = std::fs::OpenOptions::new().read(true).write(true).open(file);
    let taken = opened.and_then(|mut opened| opened.write_all(b"some 100000 2000000\0"));
    taken.map_err(|error| format!("no trigger on {}: {error}", file.display()))
}

/// Says why the rest of a test is not done.
macro_rules! or_skip {
    ($result:expr) => {
        match $result {
            Ok(value) => value,
            Err(why) => return skipped(why),
        }
    };
}

#[test]
fn triggers_wake_under_pressure_and_rest_after_it() {
    run_if_child();
    let (limited, stalled) = (or_skip!(Group::version_1()), or_skip!(Group::version_2()));
    let rule = |stall, percent, level| PsiRule { stall, percent, level };
    let options = PsiOptions {
        rules: vec![
            rule(PsiStall::Some, 1, PressureLevel::Moderate),
            rule(PsiStall::Full, 99, PressureLevel::Emergency),
        ],
        ..PsiOptions::default()
    };
    let mut own = PsiSource::new(stalled.file("memory.pressure"), options.clone()).unwrap();
    let mut system = PsiSource::new(PsiSource::SYSTEM_FILE, options).unwrap();
    for source in [&mut own, &mut system] {
        or_skip!(takes_triggers(source.file()));
        source.start(&notifier()).unwrap();
    }
    assert!(!has_news(&own, Duration::ZERO));
    assert_eq!(own.read().unwrap(), PressureReading::Level(PressureLevel::Normal));

    let (begun, stalled_before) = (Instant::now(), stalled_us(own.file()));
    let hog = or_skip!(Hog::start("triggers_wake_under_pressure_and_rest_after_it", &[&limited, &stalled]));
    for source in [&mut own, &mut system] {
        if !has_news(source, EVENT_MAX) {
            let stalled =
                Duration::from_micros(stalled_us(&stalled.file("memory.pressure")) - stalled_before);
            assert!(stalled < begun.elapsed() / 100, "{} does not wake, after {stalled:?}", source.name());
            return skipped("a process under its limit hardly stalls on this machine");
        }
        let reading = source.read().unwrap();
        assert!(is_at_least(reading, PressureLevel::Moderate), "{}: {reading:?}", source.name());
    }
    drop(hog);
    await_normal(&mut own);
}

#[test]
fn notices_of_version_1_wake_hold_and_rest() {
    run_if_child();
    let group = or_skip!(Group::version_1());
    let (_root, options) = machine_in(&group);
    let mut source = CgroupV1NoticeSource::new(&options).unwrap();
    source.start(&notifier()).unwrap();
    assert!(!has_news(&source, Duration::ZERO));
    assert_eq!(source.read().unwrap(), PressureReading::Level(PressureLevel::Normal));

    let hog = or_skip!(Hog::start("notices_of_version_1_wake_hold_and_rest", &[&group]));
    assert!(has_news(&source, LONG), "no notice");
    let reading = source.read().unwrap();
    assert!(is_at_least(reading, PressureLevel::Moderate), "{reading:?}");
    // They come by the thousand now, and nobody is woken by each.
    assert!(matches!(source.wake(), PressureWake::Interval(_)), "{:?}", source.wake());
    drop(hog);
    await_normal(&mut source);
    assert!(matches!(source.wake(), PressureWake::Readable(_)), "{:?}", source.wake());
    assert!(!has_news(&source, Duration::ZERO));
}

#[test]
fn usage_of_version_1_wakes_where_it_passes_a_threshold() {
    run_if_child();
    let group = or_skip!(Group::version_1());
    let (_root, options) = machine_in(&group);
    let mut source = CgroupV1Source::new(&options).unwrap();
    source.start(&notifier()).unwrap();
    let mut used = || {
        let PressureReading::Usage { used_bytes, limit_bytes } = source.read().unwrap() else {
            panic!("no usage")
        };
        assert_eq!(limit_bytes, LIMIT_BYTES);
        (used_bytes, matches!(source.wake(), PressureWake::Interval(interval) if interval < options.interval))
    };
    let (empty_bytes, was_woken) = used();
    assert!(empty_bytes < HELD_BYTES as u64 && !was_woken, "{empty_bytes}");

    let hog = or_skip!(Hog::start("usage_of_version_1_wakes_where_it_passes_a_threshold", &[&group]));
    let start = Instant::now();
    let (mut is_full, mut was_woken_once) = (false, false);
    while !(is_full && was_woken_once) {
        assert!(start.elapsed() < LONG, "full: {is_full}, woken: {was_woken_once}");
        let (used_bytes, was_woken) = used();
        is_full |= used_bytes >= HELD_BYTES as u64;
        was_woken_once |= was_woken;
        std::thread::yield_now();
    }
    drop(hog);
}

#[test]
fn files_of_version_2_wake_each_time() {
    let group = or_skip!(Group::version_2());
    let freeze = group.file("cgroup.freeze");
    if !freeze.exists() {
        return skipped("the kernel freezes no groups");
    }
    // The memory controller is in version 1 here, most likely: what a freeze changes is in the place of its events.
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| std::fs::write(root.path().join(path), text).unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    std::fs::create_dir_all(root.path().join("sys/fs/cgroup/app")).unwrap();
    write("proc/self/cgroup", "0::/app\n");
    write("sys/fs/cgroup/app/memory.max", "1000\n");
    write("sys/fs/cgroup/app/memory.current", "100\n");
    let events = root.path().join("sys/fs/cgroup/app/memory.events.local");
    symlink(group.file("cgroup.events"), events).unwrap();

    let options = PressureOptions { root: root.path().into(), ..patient() };
    let mut source = CgroupV2Source::new(&options).unwrap();
    source.start(&notifier()).unwrap();
    assert!(matches!(source.wake(), PressureWake::Readable(_)), "{:?}", source.wake());
    assert!(!has_news(&source, Duration::ZERO));
    for frozen in ["1", "0", "1"] {
        std::fs::write(&freeze, frozen).unwrap();
        let start = Instant::now();
        assert!(has_news(&source, LONG));
        assert!(start.elapsed() < options.interval, "it was the timer");
        assert!(has_news(&source, Duration::ZERO), "until it is read");
        let usage = PressureReading::Usage { used_bytes: 100, limit_bytes: 1000 };
        assert_eq!(source.read().unwrap(), usage);
        assert!(!has_news(&source, Duration::ZERO));
    }
}

#[test]
fn a_group_that_goes_wakes_and_is_an_error() {
    let stalled = or_skip!(Group::version_2());
    let mut source = PsiSource::new(stalled.file("memory.pressure"), PsiOptions::default()).unwrap();
    or_skip!(takes_triggers(source.file()));
    source.start(&notifier()).unwrap();
    source.read().unwrap();
    drop(stalled);
    assert!(has_news(&source, LONG));
    let error = source.read().unwrap_err();
    assert!(error.kind() == ErrorKind::Driver && error.message().contains("has gone"), "{error}");
    let error = source.start(&notifier()).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.message().contains("has gone"), "{error}");

    let limited = or_skip!(Group::version_1());
    let (_root, options) = machine_in(&limited);
    let mut notices = CgroupV1NoticeSource::new(&options).unwrap();
    let mut usage = CgroupV1Source::new(&options).unwrap();
    notices.start(&notifier()).unwrap();
    usage.start(&notifier()).unwrap();
    drop(limited);
    for source in [&mut notices as &mut dyn PressureSource, &mut usage] {
        assert!(has_news(source, LONG));
        let error = source.read().unwrap_err();
        assert!(error.kind() == ErrorKind::Driver && error.message().contains("has gone"), "{error}");
    }
}

#[test]
fn an_ordinary_user_gets_triggers_of_the_machine_and_polls_groups() {
    if !rustix::process::geteuid().is_root() {
        return skipped("only root can become somebody else");
    }
    let group = or_skip!(Group::version_2());
    if !group.file("memory.pressure").exists() || !Path::new(PsiSource::SYSTEM_FILE).exists() {
        return skipped("no pressure stall information");
    }
    let system_mode = std::fs::metadata(PsiSource::SYSTEM_FILE).unwrap().permissions().mode();
    let root = tempfile::tempdir().unwrap();
    std::fs::set_permissions(root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::create_dir_all(root.path().join("proc/self")).unwrap();
    std::fs::create_dir_all(root.path().join("sys/fs/cgroup")).unwrap();
    std::fs::write(root.path().join("proc/self/cgroup"), "0::/app\n").unwrap();
    symlink(group.file(""), root.path().join("sys/fs/cgroup/app")).unwrap();
    let options = PressureOptions { root: root.path().into(), ..PressureOptions::default() };
    // Only this thread becomes somebody else, and it ends.
    let ordinary = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        let mut found = system_sources(&options);
        let own = &mut found.sources[0];
        own.start(&notifier()).unwrap();
        let reading = own.read().unwrap();
        let mut system = PsiSource::new(PsiSource::SYSTEM_FILE, PsiOptions::default()).unwrap();
        (found, reading, system.start(&notifier()))
    });
    let (found, reading, system) = ordinary.join().unwrap();
    assert!(found.sources[0].name().starts_with("psi polled every 1s "), "{found:?}");
    assert_eq!(reading, PressureReading::Level(PressureLevel::Normal));
    let refused = &found.absent[0];
    assert!(refused.name.ends_with("woken by a trigger"), "{refused:?}");
    assert_eq!(refused.reason.kind(), ErrorKind::Unsupported);
    assert!(refused.reason.message().contains("PsiSource::polled"), "{refused:?}");
    match system {
        Ok(()) => assert_ne!(system_mode & 0o002, 0),
        // Kernels before triggers were for everybody.
        Err(error) => assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}"),
    }
}

#[test]
fn this_machine_offers_at_least_its_memory_and_says_why_not_the_rest() {
    let found = system_sources(&PressureOptions::default());
    let mut names: Vec<_> = found.sources.iter().map(|source| source.name()).collect();
    assert!(names.last().is_some_and(|name| name.starts_with("machine memory")), "{names:?}");
    for absent in &found.absent {
        assert!(!absent.name.is_empty() && !absent.reason.message().is_empty(), "{absent:?}");
    }
    assert!(names.len() + found.absent.len() >= 6, "{found:?}");
    for mut source in found.sources {
        // Once more, as after an error.
        for _ in 0..2 {
            source.start(&notifier()).unwrap();
            let reading = source.read().unwrap();
            if let PressureReading::Usage { limit_bytes, .. } = reading {
                assert!(limit_bytes > 0, "{}", source.name());
            }
        }
    }
    let count = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), count, "two have one name");
}
