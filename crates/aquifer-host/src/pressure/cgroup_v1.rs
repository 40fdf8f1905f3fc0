//! Control groups of version 1: how full they are, and the kernel's notices of memory being taken back.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use aquifer_backend::{
    Error, ErrorKind, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::files::unreadable;
use super::group_usage::GroupUsage;
use super::listening::{Listening, NEWS_INTERVAL, counter, take_count};
use super::options::PressureOptions;
use super::{READ, START};
use crate::cgroup::{Group, VERSION_1};

/// The shares of the limit, in percent, at which a group's usage wakes when it passes them, up or down.
const WAKE_PERCENTS: [u64; 6] = [50, 60, 70, 80, 90, 95];

/// The kernel's words, and what they are here: it takes memory back at all; with some effort, as by swapping; in vain.
const NOTICES: [(&str, PressureLevel); 3] = [
    ("low", PressureLevel::Moderate),
    ("medium", PressureLevel::Warning),
    ("critical", PressureLevel::Critical),
];

/// How full the control groups of version 1 are that this process is in: of its own and all above it, the fullest against
/// `memory.limit_in_bytes`. What the kernel drops as soon as memory is wanted (`total_inactive_file`) does not count.
///
/// It is woken when usage passes 50, 60, 70, 80, 90 or 95 % of a limit as it was at the start, and by a timer: to the kernel usage
/// is all of it, caches included, so that it does not move in a group that caches fill. Where the kernel takes no listeners (it wants
/// `cgroup.event_control` to be writable) it is read at the interval alone.
///
/// The groups are those that the process was in when the source was made. What the kernel says beside the usage is told by
/// [`CgroupV1NoticeSource`]; of both, as of all sources, a monitor takes the higher.
#[derive(Debug)]
pub struct CgroupV1Source {
    usage: GroupUsage,
    interval: Duration,
    /// `None`: read at an interval.
    listening: Option<(OwnedFd, Listening)>,
    was_woken: bool,
}

impl CgroupV1Source {
    /// One for the groups that this process is in now. Nothing is opened yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]: options that make no sense. [`ErrorKind::Unsupported`]: the process is in no hierarchy of
    /// version 1 with memory.
    pub fn new(options: &PressureOptions) -> Result<Self, Error> {
        options.validate("CgroupV1Source::new")?;
        let usage = GroupUsage::find(&options.root, &VERSION_1)?;
        Ok(Self { usage, interval: options.interval, listening: None, was_woken: false })
    }

    fn listen(&self, limited: &[(&Group, u64)]) -> io::Result<(OwnedFd, Listening)> {
        let crossings = counter()?;
        for (group, limit) in limited {
            let usage = File::open(group.file("memory.usage_in_bytes"))?;
            for percent in WAKE_PERCENTS {
                let threshold = u128::from(*limit) * u128::from(percent) / 100;
                register(group, &crossings, &usage, &threshold.to_string())?;
            }
        }
        let listening = Listening::new(Some(self.interval))?;
        listening.join(&crossings, EventFlags::IN)?;
        Ok((crossings, listening))
    }
}

impl PressureSource for CgroupV1Source {
    fn name(&self) -> String {
        format!("cgroup v1 usage {}", self.usage.own().display())
    }

    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`]: no group has a limit. [`ErrorKind::Driver`]: the group has gone, or a file is not understood.
    fn start(&mut self, _notifier: &PressureNotifier) -> Result<(), Error> {
        (self.listening, self.was_woken) = (None, false);
        self.usage.tightest(START)?;
        let listening = self.listen(&self.usage.some_limited(START)?).ok();
        self.listening = listening;
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        match &self.listening {
            Some(_) if self.was_woken => PressureWake::Interval(NEWS_INTERVAL.min(self.interval)),
            Some((_, listening)) => PressureWake::Readable(listening.as_fd()),
            None => PressureWake::Interval(self.interval),
        }
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        if let Some((crossings, listening)) = &self.listening {
            let failed = |error| unreadable(READ, self.usage.own(), error);
            listening.rearm().map_err(failed)?;
            self.was_woken = take_count(crossings).map_err(failed)? > 0;
        }
        self.usage.reading(READ)
    }
}

/// The kernel's notices that it takes memory back from the control groups of version 1 that this process is in
/// (`memory.pressure_level`): `low` is moderate, `medium` a warning, `critical` is critical, each for [`PressureOptions::hold`] after
/// the last notice.
///
/// Only groups with a limit are listened to, since in a machine without one the kernel takes back caches all the time.
///
/// Notices may come thousandfold. They are counted by the kernel, and while they come the source is read every 100 ms instead of
/// being woken each time.
#[derive(Debug)]
pub struct CgroupV1NoticeSource {
    usage: GroupUsage,
    hold: Duration,
    listening: Option<(Vec<Notice>, Listening)>,
    was_woken: bool,
}

#[derive(Debug)]
struct Notice {
    level: PressureLevel,
    counter: OwnedFd,
    last: Option<Instant>,
}

impl CgroupV1NoticeSource {
    /// One for the groups that this process is in now. Nothing is opened yet.
    ///
    /// # Errors
    ///
    /// As for [`CgroupV1Source::new`].
    pub fn new(options: &PressureOptions) -> Result<Self, Error> {
        options.validate("CgroupV1NoticeSource::new")?;
        let usage = GroupUsage::find(&options.root, &VERSION_1)?;
        Ok(Self { usage, hold: options.hold, listening: None, was_woken: false })
    }

    fn listen(&self, limited: &[(&Group, u64)]) -> Result<(Vec<Notice>, Listening), Error> {
        let failed = |error| refusal(self.usage.own(), error);
        let listening = Listening::new(None).map_err(failed)?;
        let mut notices = Vec::new();
        for (word, level) in NOTICES {
            let counter = counter().map_err(failed)?;
            listening.join(&counter, EventFlags::IN).map_err(failed)?;
            for (group, _) in limited {
                listen_to(group, &counter, word).map_err(|error| refusal(&group.folder, error))?;
            }
            notices.push(Notice { level, counter, last: None });
        }
        Ok((notices, listening))
    }

    /// What [`PressureSource::read`] does, at a time that tests choose.
    fn read_at(&mut self, now: Instant) -> Result<PressureLevel, Error> {
        // A group that goes notifies too.
        self.usage.check(READ)?;
        self.was_woken = false;
        let mut highest = PressureLevel::Normal;
        for notice in self.listening.iter_mut().flat_map(|(notices, _)| notices) {
            let count =
                take_count(&notice.counter).map_err(|error| unreadable(READ, self.usage.own(), error))?;
            if count > 0 {
                notice.last = Some(now);
                self.was_woken = true;
            }
            if notice.last.is_some_and(|last| now.saturating_duration_since(last) < self.hold) {
                highest = highest.max(notice.level);
            }
        }
        Ok(highest)
    }
}

impl PressureSource for CgroupV1NoticeSource {
    fn name(&self) -> String {
        format!("cgroup v1 notices {}", self.usage.own().display())
    }

    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`]: no group has a limit, or the kernel takes no listeners; the message says why.
    /// [`ErrorKind::Driver`]: the group has gone, or a file is not understood.
    fn start(&mut self, _notifier: &PressureNotifier) -> Result<(), Error> {
        (self.listening, self.was_woken) = (None, false);
        let listening = self.listen(&self.usage.some_limited(START)?)?;
        self.listening = Some(listening);
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        match &self.listening {
            Some((_, listening)) if !self.was_woken => PressureWake::Readable(listening.as_fd()),
            _ => PressureWake::Interval(NEWS_INTERVAL),
        }
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        self.read_at(Instant::now()).map(PressureReading::Level)
    }
}

/// Listens to one word of the group's own notices, not to those of groups below it.
fn listen_to(group: &Group, counter: &OwnedFd, word: &str) -> io::Result<()> {
    let file = File::open(group.file("memory.pressure_level"))?;
    match register(group, counter, &file, &format!("{word},local")) {
        // Kernels before 4.13 know no modes.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            register(group, counter, &file, word)
        }
        result => result,
    }
}

/// Has the kernel add to `counter` when `file` has news of the kind `what`, until the counter is closed. The file may be closed
/// before.
fn register(group: &Group, counter: &OwnedFd, file: &File, what: &str) -> io::Result<()> {
    let line = format!("{} {} {what}", counter.as_raw_fd(), file.as_raw_fd());
    let mut control = OpenOptions::new().write(true).open(group.file("cgroup.event_control"))?;
    control.write_all(line.as_bytes())
}

/// Why there are no notices, and what to do about it.
fn refusal(group: &std::path::Path, error: io::Error) -> Error {
    let group = group.display();
    let (kind, advice) = match Errno::from_io_error(&error) {
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => (
            ErrorKind::Unsupported,
            "this process may not write its cgroup.event_control; the group's usage is told all the same",
        ),
        Some(Errno::NOENT) => (
            ErrorKind::Unsupported,
            "it has no memory.pressure_level or cgroup.event_control; the group's usage is told all the same",
        ),
        _ => (ErrorKind::Driver, "the kernel refuses to notify"),
    };
    Error::new(kind, START, format!("no notices of {group}: {advice}")).with_source(error)
}

#[cfg(test)]
mod tests;
