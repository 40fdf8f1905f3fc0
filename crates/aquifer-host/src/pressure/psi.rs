//! Pressure stall information: how much of the time tasks wait for memory.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aquifer_backend::{
    Error, ErrorKind, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use rustix::io::Errno;

use super::files::{garbled, text, unreadable};
use super::psi_options::{PsiOptions, PsiStall};
use super::stall::{StallWindow, Stalled};
use super::{READ, START};

/// How much of the time tasks wait for memory, as the kernel counts it: of the machine (`/proc/pressure/memory`) or of a control
/// group of version 2 (`memory.pressure`, which is there without the memory controller too).
///
/// One trigger, of the lowest share of the rules, wakes; the level is then computed from the file's `total` fields, each time it
/// is read, for the window that ends there. So it rises through all levels while pressure lasts, and falls by itself within one
/// window after the last stall. More triggers could not tell more: to poll a trigger takes its event away, so only whoever polls,
/// the monitor, learns which it was; and the kernel tells an event once per window at most.
///
/// If nobody has read for longer than a window, it is not known when the stalls between were: then at most what the trigger
/// wakes for is taken to have been within the last window, which is the lowest level. The next readings, a few hundred
/// milliseconds later, know more.
///
/// If the group goes, which it cannot while this process is in it, reading it answers an error; so does the trigger's
/// descriptor.
#[derive(Debug)]
pub struct PsiSource {
    file: PathBuf,
    options: PsiOptions,
    /// How often it is read, if there is to be no trigger.
    polled_every: Option<Duration>,
    started: Option<Started>,
}

/// The file is the trigger's too, if there is one: it lives as long as the file is open.
#[derive(Debug)]
struct Started {
    file: File,
    stalls: StallWindow,
}

impl PsiSource {
    /// The machine's pressure.
    pub const SYSTEM_FILE: &str = "/proc/pressure/memory";

    /// One that reads `file` when a trigger of the kernel's wakes it. Nothing is opened yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]: options that no kernel takes.
    pub fn new(file: impl Into<PathBuf>, options: PsiOptions) -> Result<Self, Error> {
        options.validate("PsiSource::new")?;
        Ok(Self { file: file.into(), options, polled_every: None, started: None })
    }

    /// One that reads `file` this often, for where triggers are refused. It has no more to tell than one with a trigger, and tells it
    /// later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`]: options that no kernel takes, or an interval of 0 or beyond the window, which would miss stalls.
    pub fn polled(file: impl Into<PathBuf>, options: PsiOptions, interval: Duration) -> Result<Self, Error> {
        options.validate("PsiSource::polled")?;
        if interval.is_zero() || interval > options.window {
            let message = format!(
                "reading every {interval:?}; give more than 0 and at most the window, which is {:?}",
                options.window
            );
            return Err(Error::new(ErrorKind::Configuration, "PsiSource::polled", message));
        }
        Ok(Self { file: file.into(), options, polled_every: Some(interval), started: None })
    }

    /// The file that it reads.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Whether it is read at an interval, and has no trigger.
    #[must_use]
    pub fn is_polled(&self) -> bool {
        self.polled_every.is_some()
    }

    fn open(&self) -> Result<File, Error> {
        if self.is_polled() {
            return File::open(&self.file).map_err(|error| refusal(&self.file, error, "be read"));
        }
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&self.file)
            .map_err(|error| refusal(&self.file, error, "be opened for reading and writing"))?;
        let (least, window) = (self.options.least(), self.options.window);
        let trigger = format!("some {} {}", least.as_micros(), window.as_micros());
        // Without a zero at its end the kernel drops the last digit. All of it must come in one write.
        let bytes = format!("{trigger}\0");
        rustix::io::retry_on_intr(|| {
            file.write(bytes.as_bytes()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        })
        .map_err(|error| refusal(&self.file, error.into(), &format!("have the trigger `{trigger}`")))?;
        Ok(file)
    }

    fn level(&self, stalled: Stalled) -> PressureLevel {
        let is_met = |stall, least| match stall {
            PsiStall::Some => stalled.some >= least,
            PsiStall::Full => stalled.full >= least,
        };
        let window = self.options.window;
        let met = self.options.rules.iter().filter(|rule| is_met(rule.stall, rule.least(window)));
        met.map(|rule| rule.level).max().unwrap_or_default()
    }

    /// What [`PressureSource::read`] does, at a time that tests choose.
    fn read_at(&mut self, now: Instant) -> Result<PressureLevel, Error> {
        let Some(started) = &mut self.started else {
            let message = format!("{} is not open; start the source first", self.file.display());
            return Err(Error::new(ErrorKind::Driver, READ, message));
        };
        let total = totals(READ, &self.file, &started.file)?;
        let stalled = started.stalls.add(now, total);
        Ok(self.level(stalled))
    }
}

impl PressureSource for PsiSource {
    fn name(&self) -> String {
        let file = self.file.display();
        match self.polled_every {
            Some(interval) => format!("psi polled every {interval:?} {file}"),
            None => format!("psi some {:?}/{:?} {file}", self.options.least(), self.options.window),
        }
    }

    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`]: the kernel has no such file or refuses the trigger; the message says what it wants.
    /// [`ErrorKind::Driver`]: the file cannot be understood, or the kernel failed.
    fn start(&mut self, _notifier: &PressureNotifier) -> Result<(), Error> {
        self.started = None;
        let file = self.open()?;
        let total = totals(START, &self.file, &file)?;
        let stalls = StallWindow::new(self.options.window, self.options.least(), Instant::now(), total);
        self.started = Some(Started { file, stalls });
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        match (&self.started, self.polled_every) {
            (Some(started), None) => PressureWake::Exceptional(started.file.as_fd()),
            (_, interval) => PressureWake::Interval(interval.unwrap_or(self.options.window)),
        }
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        self.read_at(Instant::now()).map(PressureReading::Level)
    }
}

fn totals(operation: &'static str, path: &Path, file: &File) -> Result<Stalled, Error> {
    let text = text(file).map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::OPNOTSUPP) => refusal(path, error, "be read"),
        _ => unreadable(operation, path, error),
    })?;
    Stalled::parse(&text).ok_or_else(|| garbled(operation, path, &text))
}

/// Why there is no pressure information, or no trigger, and what to do about it.
fn refusal(path: &Path, error: io::Error, what: &str) -> Error {
    let advice = match Errno::from_io_error(&error) {
        Some(Errno::NOENT) => {
            "there is no such file: the group has gone, its cgroup.pressure is 0, or the kernel has no CONFIG_PSI or was started \
             with psi=0; start it with psi=1"
        }
        Some(Errno::OPNOTSUPP) => "the kernel was started with its accounting off; start it with psi=1",
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => {
            "this process may not: a group's files must be its user's (delegation) and mounted writable, and older kernels want \
             CAP_SYS_RESOURCE; reading at an interval (PsiSource::polled) needs no right to write"
        }
        Some(Errno::INVAL) => {
            "the kernel does not take it: before windows of 2 s were for everybody, triggers wanted CAP_SYS_RESOURCE; \
             reading at an interval (PsiSource::polled) needs no trigger"
        }
        _ => {
            let message = format!("{} cannot {what}", path.display());
            return Error::new(ErrorKind::Driver, START, message).with_source(error);
        }
    };
    let message = format!("{} cannot {what}: {advice}", path.display());
    Error::new(ErrorKind::Unsupported, START, message).with_source(error)
}

#[cfg(test)]
mod tests;
