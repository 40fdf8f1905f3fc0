//! What a monitor tells.

use aquifer_backend::{PressureLevel, PressureReading};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What a response gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GivenBack {
    /// How many bytes had to go to be below every level, as the source had it; `None` where it told a level and no bytes.
    pub asked_bytes: Option<u64>,
    /// Reserved bytes before,
    pub reserved_before_bytes: u64,
    /// and after.
    pub reserved_after_bytes: u64,
    /// What the process had of the device's memory, by the driver's or the system's own count
    /// ([`HeapBudget::process_bytes`](aquifer_backend::HeapBudget::process_bytes)); `None` where neither tells.
    pub process_before_bytes: Option<u64>,
    /// The same after.
    pub process_after_bytes: Option<u64>,
    /// Bytes that became purgeable: the system may take them, and they are still in the sums above.
    pub purgeable_bytes: u64,
    /// How many reclaim callbacks were called.
    pub callback_count: u64,
    /// How long it took.
    pub took: Duration,
}

impl GivenBack {
    /// What has really come back: by the system's count where there is one, else by the manager's. What other threads took meanwhile
    /// is counted against it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match (self.process_before_bytes, self.process_after_bytes) {
            (Some(before), Some(after)) => before.saturating_sub(after),
            _ => self.released_bytes(),
        }
    }

    /// By how much reserved bytes have fallen.
    #[must_use]
    pub fn released_bytes(&self) -> u64 {
        self.reserved_before_bytes.saturating_sub(self.reserved_after_bytes)
    }
}

/// What has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PressureDetail {
    /// The level has risen, and this was done about it.
    Rose {
        /// From this level
        from: PressureLevel,
        /// to this.
        to: PressureLevel,
        /// What the source said.
        reading: PressureReading,
        /// What the response gave back.
        given_back: GivenBack,
    },
    /// The level is what it was, and more was done about it.
    Lasted {
        /// The level.
        level: PressureLevel,
        /// What the source said.
        reading: PressureReading,
        /// What the response gave back.
        given_back: GivenBack,
    },
    /// The level has fallen.
    Fell {
        /// From this level
        from: PressureLevel,
        /// to this.
        to: PressureLevel,
        /// How long memory was short; only if it is no longer.
        resolved_after: Option<Duration>,
    },
    /// A source does not work. What it said before counts no more; others go on. It is tried again later, unless it is absent.
    SourceFailed {
        /// Whether this system does not have it, or does not let this process use it.
        is_absent: bool,
        /// What it said.
        message: String,
    },
    /// A source that had failed works again.
    SourceWorks,
}

/// Something that has happened to a manager's pressure.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PressureEvent {
    /// Counted from 0, by monitor.
    pub number: u64,
    /// When, by the manager's [`Clock`](crate::Clock).
    pub at: Duration,
    /// The name of the source that it is about, or that had the highest level.
    pub source: Arc<str>,
    /// What.
    pub detail: PressureDetail,
}

impl PressureEvent {
    /// The level after it, if it is about a level.
    #[must_use]
    pub fn level(&self) -> Option<PressureLevel> {
        match self.detail {
            PressureDetail::Rose { to, .. } | PressureDetail::Fell { to, .. } => Some(to),
            PressureDetail::Lasted { level, .. } => Some(level),
            _ => None,
        }
    }
}

impl fmt::Display for PressureEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = &self.source;
        match &self.detail {
            PressureDetail::Rose { from, to, given_back, .. } => {
                write!(f, "{from} -> {to} ({source}): gave back {} bytes", given_back.bytes())
            }
            PressureDetail::Lasted { level, given_back, .. } => {
                write!(f, "still {level} ({source}): gave back {} bytes", given_back.bytes())
            }
            PressureDetail::Fell { from, to, resolved_after: None } => write!(f, "{from} -> {to} ({source})"),
            PressureDetail::Fell { from, to, resolved_after: Some(after) } => {
                write!(f, "{from} -> {to} ({source}) after {:.3} s", after.as_secs_f64())
            }
            PressureDetail::SourceFailed { is_absent: true, message } => {
                write!(f, "{source} is not there: {message}")
            }
            PressureDetail::SourceFailed { message, .. } => write!(f, "{source} failed: {message}"),
            PressureDetail::SourceWorks => write!(f, "{source} works again"),
        }
    }
}
