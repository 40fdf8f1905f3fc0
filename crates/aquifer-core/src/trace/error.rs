//! What can be wrong with a trace, and where.

use std::fmt;
use std::io;

use thiserror::Error;

use super::{COLUMNS, TRACE_FORMAT_VERSION, TRACE_LINE_BYTES_MAX, TraceOp, VERSION_PREFIX};

/// Why a trace could not be read or written.
///
/// `Display` is one line: the file, the line, what is wrong there and what to do.
#[derive(Debug, Error)]
#[error("{name}{}: {kind}", At(*line))]
pub struct TraceError {
    name: String,
    line: Option<u64>,
    kind: TraceErrorKind,
    source: Option<io::Error>,
}

impl TraceError {
    pub(super) fn new(name: &str, kind: TraceErrorKind) -> Self {
        Self { name: name.to_owned(), line: None, kind, source: None }
    }

    pub(super) fn at_line(name: &str, line: u64, kind: TraceErrorKind) -> Self {
        Self { line: Some(line), ..Self::new(name, kind) }
    }

    pub(super) fn with_source(self, source: io::Error) -> Self {
        Self { source: Some(source), ..self }
    }

    /// The path that was opened, or the name that was given with the data.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The line, counted from 1 in the decompressed text; `None` where the whole trace is meant.
    ///
    /// Where the data could not be read further, the line where reading stopped.
    #[must_use]
    pub const fn line(&self) -> Option<u64> {
        self.line
    }

    /// What is wrong.
    #[must_use]
    pub const fn kind(&self) -> &TraceErrorKind {
        &self.kind
    }
}

/// Prints a line, if there is one.
struct At(Option<u64>);

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// What is wrong with a trace, for code that must branch on it.
///
/// Texts from the input are cut to their beginning and escaped, so they are safe to print.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum TraceErrorKind {
    /// The file does not exist.
    #[error("there is no such file; check the path")]
    MissingFile,
    /// The operating system would not read it.
    #[error("reading failed ({0}); check that it is a file and that you may read it")]
    Unreadable(io::ErrorKind),
    /// The operating system would not write it.
    #[error("writing failed ({0}); check the folder, your rights and the free space")]
    Unwritable(io::ErrorKind),
    /// The gzip data ends too soon.
    #[error("the gzip data ends in the middle; copy or record the file again")]
    TruncatedGzip,
    /// The gzip data is damaged.
    #[error("the gzip data is damaged; copy or record the file again")]
    CorruptGzip,
    /// It does not begin as a trace does.
    #[error(
        "not a trace: {}; expected gzip data or a text that begins with `{}`",
        Beginning(found),
        COLUMNS.join(",")
    )]
    NotATrace {
        /// How the line begins. Empty if there is none.
        found: String,
    },
    /// A later version of the format.
    #[error(
        "`{VERSION_PREFIX}{found}`: this trace is in version {found} of the format and only version \
         {TRACE_FORMAT_VERSION} is known here; use a newer Aquifer or record it again with this one"
    )]
    UnsupportedVersion {
        /// The version.
        found: u64,
    },
    /// Nothing after the header.
    #[error("the trace has no events; record a run that allocates")]
    NoEvents,
    /// More events than [`TRACE_EVENT_COUNT_MAX`](super::TRACE_EVENT_COUNT_MAX).
    #[error("more than {count_max} events; record or cut a shorter run")]
    TooManyEvents {
        /// The most that a trace may have.
        count_max: usize,
    },
    /// A line longer than [`TRACE_LINE_BYTES_MAX`].
    #[error(
        "the line is longer than {TRACE_LINE_BYTES_MAX} bytes; no event needs that, so this is not a trace"
    )]
    LineTooLong,
    /// Too few or too many fields.
    #[error("{found} fields instead of {}; a line is `{}`", COLUMNS.len(), COLUMNS.join(","))]
    FieldCount {
        /// How many there are.
        found: usize,
    },
    /// A field that is not UTF-8.
    #[error("{field} is not UTF-8; save the trace as UTF-8 or ASCII")]
    InvalidUtf8 {
        /// The column's name.
        field: &'static str,
    },
    /// A field that is not a whole number of 64 bits without sign.
    #[error("{field} is `{text}`, {problem}; a whole number from 0 to {} is needed", u64::MAX)]
    InvalidNumber {
        /// The column's name.
        field: &'static str,
        /// What stands there.
        text: String,
        /// What is wrong with it.
        problem: NumberProblem,
    },
    /// An operation that does not exist.
    #[error("op is `{text}`; expected `a` (allocate), `f` (free) or `c` (free completed)")]
    UnknownOp {
        /// What stands there.
        text: String,
    },
    /// An allocation of no bytes, which no manager can serve.
    #[error("allocation {id} has zero bytes; leave it and its free out of the trace")]
    ZeroBytes {
        /// The allocation.
        id: u64,
    },
    /// An id that an earlier allocation has.
    #[error("id {id} was allocated before; give each allocation an id of its own, also after a free")]
    DuplicateId {
        /// The allocation.
        id: u64,
    },
    /// A free, or the completion of one, of something never allocated.
    #[error(
        "`{}` of id {id}, which was not allocated before; leave out what was allocated before the trace began",
        op.letter()
    )]
    UnknownId {
        /// The allocation.
        id: u64,
        /// What was to happen to it.
        op: TraceOp,
    },
    /// A second free.
    #[error("id {id} was freed before; keep only the first `f`")]
    DoubleFree {
        /// The allocation.
        id: u64,
    },
    /// A completion of a free that was not requested.
    #[error("the free of id {id} completes before it was requested; its `f` must come before its `c`")]
    CompletedBeforeFree {
        /// The allocation.
        id: u64,
    },
    /// A second completion.
    #[error("the free of id {id} completed before; keep only the first `c`")]
    CompletedTwice {
        /// The allocation.
        id: u64,
    },
    /// An event earlier than the one before it.
    #[error("time goes back from {previous_us} to {time_us} us; sort the events by time")]
    TimeGoesBack {
        /// This event's time.
        time_us: u64,
        /// The time of the event before.
        previous_us: u64,
    },
    /// More live bytes than 64 bits can count.
    #[error(
        "with allocation {id}, live bytes exceed {}; check its size and that frees were recorded",
        u64::MAX
    )]
    LiveBytesOverflow {
        /// The allocation.
        id: u64,
    },
}

/// Prints how something began that is no trace.
struct Beginning<'a>(&'a str);

impl fmt::Display for Beginning<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            "" => f.write_str("it has no header"),
            found => write!(f, "it begins with `{found}`"),
        }
    }
}

/// Why a text is not a number that a trace may hold.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NumberProblem {
    /// Nothing is there.
    Empty,
    /// Less than zero, or minus zero.
    Negative,
    /// With a decimal point.
    Fractional,
    /// More than 64 bits hold.
    TooLarge,
    /// Anything else.
    NotANumber,
}

impl fmt::Display for NumberProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "which is empty",
            Self::Negative => "which is negative",
            Self::Fractional => "which is not whole",
            Self::TooLarge => "which is too large",
            Self::NotANumber => "which is not a number",
        })
    }
}
