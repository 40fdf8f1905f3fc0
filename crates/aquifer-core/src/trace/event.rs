//! What a trace is made of.

use super::TraceError;
use super::check::Checker;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TraceOp {
    /// Memory was allocated.
    Allocate,
    /// The program gave it back; work already queued on another stream may still use it.
    Free,
    /// The last such work has ended. Absent where nothing was left to wait for.
    FreeCompleted,
}

impl TraceOp {
    /// The letter that stands for it in a file.
    #[must_use]
    pub const fn letter(self) -> char {
        match self {
            Self::Allocate => 'a',
            Self::Free => 'f',
            Self::FreeCompleted => 'c',
        }
    }
}

/// One line of a trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceEvent {
    /// Microseconds since the trace began.
    pub time_us: u64,
    /// What happened.
    pub op: TraceOp,
    /// Which allocation it happened to.
    pub id: u64,
    /// The size that was asked for, in bytes. In a [`Trace`], an allocation's events all carry the same size.
    pub bytes: u64,
    /// The stream it was for.
    pub stream: u64,
}

/// A valid trace, in memory.
///
/// It has at least one event, and its events keep the rules in the [module's documentation](super).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    name: String,
    events: Vec<TraceEvent>,
}

impl Trace {
    /// Makes a trace from events that did not come from a file, after the same checks.
    ///
    /// On frees and completions `bytes` is ignored and replaced by the allocation's.
    ///
    /// # Errors
    ///
    /// The first breach of the format's rules. Its line is the one that the event would have in a file.
    pub fn from_events(
        name: impl Into<String>,
        events: impl IntoIterator<Item = TraceEvent>,
    ) -> Result<Self, TraceError> {
        let name = name.into();
        let mut checker = Checker::new();
        let mut checked = Vec::new();
        for (event, line) in events.into_iter().zip(2..) {
            checked.push(checker.check(event).map_err(|kind| TraceError::at_line(&name, line, kind))?);
        }
        checker.finish().map_err(|kind| TraceError::new(&name, kind))?;
        Ok(Self::from_checked(name, checked))
    }

    /// Events that a [`Checker`] has passed and finished.
    pub(super) fn from_checked(name: String, mut events: Vec<TraceEvent>) -> Self {
        events.shrink_to_fit();
        Self { name, events }
    }

    /// The trace's short name: a file's without folder and without `.csv.gz` or `.csv`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The events, in order. Never empty.
    #[must_use]
    pub fn events(&self) -> &[TraceEvent] {
        &self.events
    }

    /// The events, taken out.
    #[must_use]
    pub fn into_events(self) -> Vec<TraceEvent> {
        self.events
    }
}
