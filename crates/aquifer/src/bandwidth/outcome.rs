//! What was measured, and what was not.

use crate::{Error, Route};
use std::fmt;

/// The memory at the host's end of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Memory {
    /// Ordinary memory of the host, as vectors have it.
    Plain,
    /// Pinned memory of the manager's.
    Pinned,
    /// None of the host's: both ends are devices'.
    Device,
}

impl Memory {
    /// In one word: `pinned`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Pinned => "pinned",
            Self::Device => "device",
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a transfer is measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reference {
    /// A plain copy by processors, from and to the same memory: by as many threads as the manager has for transfers, or by one, whichever
    /// was faster when both were tried before.
    Memcpy,
    /// The same, writing one value.
    Memset,
    /// The driver's copy, from or to pinned memory, or within the device; waited for.
    DriverCopy,
    /// The driver's fill, waited for.
    DriverFill,
    /// The driver's copy from a peer, put into a queue and waited for.
    DriverPeerCopy,
    /// Two copies of the driver's, by way of pinned memory, one after the other.
    DriverTwoCopies,
}

impl Reference {
    /// In words: `driver copy`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Memcpy => "memcpy",
            Self::Memset => "memset",
            Self::DriverCopy => "driver copy",
            Self::DriverFill => "driver fill",
            Self::DriverPeerCopy => "driver peer copy",
            Self::DriverTwoCopies => "driver two copies",
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One size of one route.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// From where to where.
    pub route: Route,
    /// The host's end of it.
    pub memory: Memory,
    /// Size of each transfer.
    pub bytes: u64,
    /// The median of a transfer's times, from the call to its return.
    pub seconds: f64,
    /// What was done in turns with it.
    pub reference: Reference,
    /// How many threads did the reference, the caller's included; `None` if the driver did.
    pub reference_threads: Option<usize>,
    /// The median of the reference's times.
    pub reference_seconds: f64,
    /// How many times each was timed. What takes less than 20 us is done several times in a row for each.
    pub repetitions: u64,
}

impl Row {
    /// What the transfer moves in a second, in bytes.
    #[must_use]
    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    /// What the reference moves in a second, in bytes.
    #[must_use]
    pub fn reference_bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.reference_seconds
    }

    /// How fast the transfer is, the reference being 1.
    #[must_use]
    pub fn ratio(&self) -> f64 {
        self.reference_seconds / self.seconds
    }
}

/// Sizes that were not measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// On which route, and with which memory; `None`: on all.
    pub route: Option<(Route, Memory)>,
    /// In bytes.
    pub sizes: Vec<u64>,
    /// Why; of several sizes, the first.
    pub reason: String,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Route by route, sizes rising.
    pub rows: Vec<Row>,
    /// What was not, if anything.
    pub left_out: Vec<LeftOut>,
    /// How many threads there were for those references that are processors'.
    pub thread_count: usize,
}

impl Outcome {
    /// Notes that a size of a route was refused.
    pub(super) fn leave_out(&mut self, route: (Route, Memory), bytes: u64, error: &Error) {
        let route = Some(route);
        match self.left_out.iter_mut().find(|left_out| left_out.route == route) {
            Some(known) => known.sizes.push(bytes),
            None => {
                let reason = format!("{}: {}", error.kind().as_str(), error.message());
                self.left_out.push(LeftOut { route, sizes: vec![bytes], reason });
            }
        }
    }
}
