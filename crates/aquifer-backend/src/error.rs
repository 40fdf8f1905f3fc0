//! The one error type.
//!
//! An [`Error`] is one word wide, so that a `Result` costs nothing where all goes well. It says what was asked, what
//! was there and what to try.

use std::error::Error as StdError;
use std::fmt;

/// What went wrong, for code that must branch on it.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// A size, alignment or other argument that no call can accept.
    InvalidArgument,
    /// A range that does not lie inside its buffer or view.
    OutOfBounds,
    /// Not enough memory now; see [`Error::out_of_memory`]. Freeing something can help.
    OutOfMemory,
    /// More than the device, or the budget, can ever hold.
    CanNeverFit,
    /// The backend or the memory type cannot do this.
    Unsupported,
    /// A configuration value, from code or from the environment, that makes no sense.
    Configuration,
    /// The driver or the operating system failed.
    Driver,
    /// The device is gone for good: it was removed, hung until the driver gave it up, or met an error that spoils every
    /// later call. Buffers can still be dropped; nothing else works.
    DeviceLost,
    /// Stopped because somebody asked for it: through its cancellation token, or on the operation itself.
    Cancelled,
    /// A deadline passed first.
    TimedOut,
    /// This process was forked from the one that made the manager; only the parent's can call the driver.
    Forked,
    /// Refused, or kept waiting for too long, since memory is short and the request's priority is too low for that.
    UnderPressure,
    /// A sub-budget's hard limit. Freeing something that counts against the same sub-budget can help.
    LimitReached,
}

impl ErrorKind {
    /// The kind in plain words, as [`Error`]'s `Display` begins.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidArgument => "invalid argument",
            Self::OutOfBounds => "out of bounds",
            Self::OutOfMemory => "out of memory",
            Self::CanNeverFit => "can never fit",
            Self::Unsupported => "unsupported",
            Self::Configuration => "invalid configuration",
            Self::Driver => "driver failure",
            Self::DeviceLost => "device lost",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed out",
            Self::Forked => "forked process",
            Self::UnderPressure => "under memory pressure",
            Self::LimitReached => "limit reached",
        }
    }
}

/// How many bytes a tag holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagUsage {
    /// The tag's name.
    pub tag: String,
    /// Requested bytes live under it.
    pub live_bytes: u64,
}

/// What was there when memory ran out. All sizes in bytes.
#[non_exhaustive]
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OutOfMemoryReport {
    /// What the user asked for.
    pub requested_bytes: u64,
    /// The most the manager may reserve from the heap.
    pub budget_bytes: u64,
    /// What it has reserved.
    pub reserved_bytes: u64,
    /// The part of it that users hold.
    pub live_bytes: u64,
    /// The part kept ready in caches.
    pub cached_bytes: u64,
    /// The part that is freed but that queued work may still use.
    pub quarantined_bytes: u64,
    /// The rest of it: free ranges.
    pub free_bytes: u64,
    /// The largest free range.
    pub largest_free_bytes: u64,
    /// The tags that hold most, largest first.
    pub largest_tags: Vec<TagUsage>,
}

impl fmt::Display for OutOfMemoryReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "requested {} bytes; budget {}, reserved {} (live {}, cached {}, quarantined {}, free {}; largest free \
             range {})",
            self.requested_bytes,
            self.budget_bytes,
            self.reserved_bytes,
            self.live_bytes,
            self.cached_bytes,
            self.quarantined_bytes,
            self.free_bytes,
            self.largest_free_bytes
        )?;
        if !self.largest_tags.is_empty() {
            f.write_str("; largest tags:")?;
            for usage in &self.largest_tags {
                write!(f, " {} {}", usage.tag, usage.live_bytes)?;
            }
        }
        Ok(())
    }
}

struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    message: String,
    out_of_memory: Option<OutOfMemoryReport>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Everything that can go wrong, with what was asked and what to try.
///
/// `Display` is one line, `kind in operation: message`; `Debug` adds the source.
pub struct Error(Box<Inner>);

impl Error {
    /// An error of `kind`, met in `operation` (the public name of what was called).
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, operation, message: message.into(), out_of_memory: None, source: None }))
    }

    /// The same error with the one that caused it.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The same error with the facts of an exhausted heap.
    #[must_use]
    pub fn with_out_of_memory(mut self, report: OutOfMemoryReport) -> Self {
        self.0.out_of_memory = Some(report);
        self
    }

    /// What went wrong.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The operation that failed.
    #[must_use]
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// What was asked, what was there and what to try.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What was there when memory ran out; `Some` on every [`ErrorKind::OutOfMemory`] that a manager returns.
    #[must_use]
    pub fn out_of_memory(&self) -> Option<&OutOfMemoryReport> {
        self.0.out_of_memory.as_ref()
    }

    /// Whether the same call can succeed later, when memory has been freed.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.0.kind, ErrorKind::OutOfMemory | ErrorKind::TimedOut)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}: {}", self.0.kind.as_str(), self.0.operation, self.0.message)?;
        match &self.0.out_of_memory {
            Some(report) => write!(f, " ({report})"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        match &self.0.source {
            Some(source) => write!(f, "; caused by: {source:?}"),
            None => Ok(()),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_one_word_wide() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
        assert_eq!(size_of::<Result<(), Error>>(), size_of::<usize>());
    }

    #[test]
    fn says_what_where_and_why() {
        let error = Error::new(ErrorKind::OutOfMemory, "allocate", "the budget is spent; free something")
            .with_out_of_memory(OutOfMemoryReport {
                requested_bytes: 10,
                budget_bytes: 5,
                largest_tags: vec![TagUsage { tag: "weights".into(), live_bytes: 4 }],
                ..OutOfMemoryReport::default()
            })
            .with_source(std::io::Error::other("mmap"));
        let text = error.to_string();
        assert!(text.starts_with("out of memory in allocate: the budget is spent"), "{text}");
        assert!(text.contains("requested 10 bytes; budget 5") && text.contains("weights 4"), "{text}");
        assert!(format!("{error:?}").contains("mmap"));
        assert!(error.is_retryable());
        assert!(error.source().is_some());
    }
}
