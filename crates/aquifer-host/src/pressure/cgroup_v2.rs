//! Control groups of version 2: how full they are, and what the kernel had to do about it.

use std::fs::File;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use aquifer_backend::{
    Error, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use rustix::event::epoll::EventFlags;
use std::os::fd::AsFd;

use super::files::{garbled, text, unreadable};
use super::group_usage::GroupUsage;
use super::listening::{Listening, NEWS_INTERVAL};
use super::options::PressureOptions;
use super::{READ, START};
use crate::cgroup::{Group, VERSION_2};

/// How full the control groups of version 2 are that this process is in: of its own and all above it, the fullest against the
/// lower of `memory.max` and `memory.high`. What the kernel drops as soon as memory is wanted (`inactive_file`) does not count.
///
/// It is woken by the groups' `memory.events.local` (`memory.events` on kernels without: there a limit of a neighbour's is heard
/// too), and by a timer, since nothing tells that a group fills up before it is full. Where the kernel's files cannot be
/// listened to, it is read at the interval alone.
///
/// If a group ran out of memory (`oom`, or a process was killed) since the last reading, the level is emergency for
/// [`PressureOptions::hold`]. `max` and `high` only wake: a group whose limit is filled by caches of files counts them up for ever,
/// and how much of it is more than caches the usage tells. While they rise it is read every 100 ms instead of being woken each time.
///
/// The groups are those that the process was in when the source was made.
#[derive(Debug)]
pub struct CgroupV2Source {
    usage: GroupUsage,
    interval: Duration,
    hold: Duration,
    events: Vec<Events>,
    /// `None`: read at an interval.
    listening: Option<Listening>,
    is_rising: bool,
    out_of_memory_at: Option<Instant>,
}

/// One group's file of events. It is kept open, since reading it is what makes the next notice come.
#[derive(Debug)]
struct Events {
    path: PathBuf,
    file: File,
    counts: Counts,
}

/// How often the kernel had to do something. Both only rise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    /// It took memory back, or slowed a process down.
    limited: u64,
    /// That was not enough.
    out_of_memory: u64,
}

impl Counts {
    fn parse(text: &str) -> Option<Self> {
        let mut counts = Self::default();
        for line in text.lines() {
            let (name, count) = line.split_once(' ')?;
            let count: u64 = count.parse().ok()?;
            let sum = match name {
                "high" | "max" => &mut counts.limited,
                "oom" | "oom_kill" | "oom_group_kill" => &mut counts.out_of_memory,
                _ => continue,
            };
            *sum = sum.saturating_add(count);
        }
        Some(counts)
    }
}

impl Events {
    /// `None`: the group has none, as the top.
    fn open(group: &Group) -> Result<Option<Self>, Error> {
        let opened = ["memory.events.local", "memory.events"].into_iter().find_map(|name| {
            let path = group.file(name);
            File::open(&path).ok().map(|file| (path, file))
        });
        let Some((path, file)) = opened else { return Ok(None) };
        let mut events = Self { path, file, counts: Counts::default() };
        events.counts = events.read(START)?;
        Ok(Some(events))
    }

    fn read(&self, operation: &'static str) -> Result<Counts, Error> {
        let text = text(&self.file).map_err(|error| unreadable(operation, &self.path, error))?;
        Counts::parse(&text).ok_or_else(|| garbled(operation, &self.path, &text))
    }
}

impl CgroupV2Source {
    /// One for the groups that this process is in now. Nothing is opened yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](aquifer_backend::ErrorKind::Configuration): options that make no sense.
    /// [`ErrorKind::Unsupported`](aquifer_backend::ErrorKind::Unsupported): the process is in no hierarchy of version 2.
    pub fn new(options: &PressureOptions) -> Result<Self, Error> {
        options.validate("CgroupV2Source::new")?;
        Ok(Self {
            usage: GroupUsage::find(&options.root, &VERSION_2)?,
            interval: options.interval,
            hold: options.hold,
            events: Vec::new(),
            listening: None,
            is_rising: false,
            out_of_memory_at: None,
        })
    }

    /// One descriptor for all events and the timer; `None` where one of them cannot be listened to.
    fn listen(&self) -> Option<Listening> {
        if self.events.is_empty() {
            return None;
        }
        let listening = Listening::new(Some(self.interval)).ok()?;
        for events in &self.events {
            listening.join(&events.file, EventFlags::PRI).ok()?;
        }
        Some(listening)
    }

    /// What [`PressureSource::read`] does, at a time that tests choose.
    fn read_at(&mut self, now: Instant) -> Result<PressureReading, Error> {
        if let Some(listening) = &self.listening {
            listening.rearm().map_err(|error| unreadable(READ, self.usage.own(), error))?;
        }
        self.is_rising = false;
        for events in &mut self.events {
            let counts = events.read(READ)?;
            self.is_rising |= counts != events.counts;
            if counts.out_of_memory > events.counts.out_of_memory {
                self.out_of_memory_at = Some(now);
            }
            events.counts = counts;
        }
        let usage = self.usage.reading(READ)?;
        let is_held = |at: Instant| now.saturating_duration_since(at) < self.hold;
        Ok(match self.out_of_memory_at {
            Some(at) if is_held(at) => PressureReading::Level(PressureLevel::Emergency),
            _ => usage,
        })
    }
}

impl PressureSource for CgroupV2Source {
    fn name(&self) -> String {
        format!("cgroup v2 usage {}", self.usage.own().display())
    }

    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`](aquifer_backend::ErrorKind::Unsupported): no group has a limit.
    /// [`ErrorKind::Driver`](aquifer_backend::ErrorKind::Driver): the group has gone, or a file is not understood.
    fn start(&mut self, _notifier: &PressureNotifier) -> Result<(), Error> {
        (self.events, self.listening) = (Vec::new(), None);
        (self.is_rising, self.out_of_memory_at) = (false, None);
        let mut events = Vec::new();
        for (group, _) in self.usage.some_limited(START)? {
            events.extend(Events::open(group)?);
        }
        self.usage.tightest(START)?;
        self.events = events;
        self.listening = self.listen();
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        match &self.listening {
            Some(_) if self.is_rising => PressureWake::Interval(NEWS_INTERVAL.min(self.interval)),
            Some(listening) => PressureWake::Readable(listening.as_fd()),
            None => PressureWake::Interval(self.interval),
        }
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        self.read_at(Instant::now())
    }
}

#[cfg(test)]
mod tests;
