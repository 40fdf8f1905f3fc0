//! How short memory is, and who says so.

use crate::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How short memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum PressureLevel {
    /// There is enough.
    #[default]
    Normal,
    /// It is worth keeping less.
    Moderate,
    /// What is kept for later should go.
    Warning,
    /// What can be made again should go.
    Critical,
    /// Nothing is left: the next request may be refused, or the system may end a process.
    Emergency,
}

impl PressureLevel {
    /// All levels, lowest first.
    pub const ALL: [Self; 5] = [Self::Normal, Self::Moderate, Self::Warning, Self::Critical, Self::Emergency];

    /// The level's name in small letters.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Moderate => "moderate",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Emergency => "emergency",
        }
    }
}

impl fmt::Display for PressureLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a source says when it is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PressureReading {
    /// So much of so much is used. The monitor makes a level of it, by its thresholds.
    Usage {
        /// What is used and could not be had at once: what the system drops as soon as memory is wanted (caches of files) is
        /// not counted.
        used_bytes: u64,
        /// How much there may be. If it is 0, no more is known than that there is none.
        limit_bytes: u64,
    },
    /// The system's own judgement.
    Level(PressureLevel),
}

/// What the kernel can be asked to wait for.
#[cfg(unix)]
pub type Descriptor<'a> = std::os::fd::BorrowedFd<'a>;
/// What the kernel can be asked to wait for: nothing, on this system.
#[cfg(not(unix))]
pub type Descriptor<'a> = &'a std::convert::Infallible;

/// How a source's news come.
#[derive(Debug, Clone, Copy)]
pub enum PressureWake<'a> {
    /// The descriptor becomes readable (`POLLIN`).
    Readable(Descriptor<'a>),
    /// The descriptor has an exceptional condition (`POLLPRI`), as the kernel's pressure and control group files have.
    Exceptional(Descriptor<'a>),
    /// The source calls what [`PressureSource::start`] gave it.
    Notifies,
    /// Nobody tells: it must be read this often.
    Interval(Duration),
}

/// What a source calls, on any thread, when it has news. It only wakes the monitor, and may be called too often, or when the
/// monitor has gone.
#[derive(Clone)]
pub struct PressureNotifier(Arc<dyn Fn() + Send + Sync>);

impl fmt::Debug for PressureNotifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PressureNotifier").finish_non_exhaustive()
    }
}

impl PressureNotifier {
    /// One that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> Self {
        Self(Arc::new(wake))
    }

    /// Tells the monitor to read the source.
    pub fn notify(&self) {
        (self.0)();
    }
}

/// Something that tells how short memory is: the system, a control group, a device, other processes.
///
/// A monitor owns it and uses it from one thread. It sleeps in the kernel until one of its sources has news
/// ([`PressureSource::wake`]), then reads that one; while any source reports pressure, it reads all of them several times a
/// second. A source that answers an error is not read again until the monitor tries to [start](PressureSource::start) it anew,
/// some seconds later; meanwhile the monitor says that it has failed, and why.
pub trait PressureSource: Send + fmt::Debug {
    /// What it is, in one short line, with the file or device it reads: `psi some 50ms/2s /proc/pressure/memory`. The same for as
    /// long as it lives.
    fn name(&self) -> String;

    /// Begins to listen. Called once before anything else, and again after an error.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from working; the message says what to do about it, if anything.
    /// [`ErrorKind::Unsupported`](crate::ErrorKind::Unsupported) of a source that has never worked says that the system does not have it: then it is not tried again.
    fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        let _ = notifier;
        Ok(())
    }

    /// How its news come. Asked after it was started, and each time before the monitor sleeps. A descriptor is only polled; reading
    /// it empty, so that it does not stay ready, is the source's task in [`PressureSource::read`].
    fn wake(&self) -> PressureWake<'_>;

    /// How short memory is now. Must not block for longer than a system call on a file of the kernel's takes.
    ///
    /// # Errors
    ///
    /// The source has died, or cannot be understood: a file that is gone or garbled, a trigger that the kernel gave up.
    fn read(&mut self) -> Result<PressureReading, Error>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_an_order_and_names() {
        assert!(PressureLevel::ALL.is_sorted());
        assert_eq!(PressureLevel::ALL.map(|level| level as usize), [0, 1, 2, 3, 4]);
        assert_eq!(format!("{:>9}", PressureLevel::Critical), " critical");
    }
}
