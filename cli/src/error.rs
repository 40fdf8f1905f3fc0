//! What can go wrong, and how it is told.

use std::io::{self, Write};
use std::path::PathBuf;

use aquifer::trace::{ReplayError, TraceError};
use aquifer::{ErrorKind, OutOfMemoryReport};
use thiserror::Error;

use crate::output::{self, Stream, bytes_in_words};
use crate::simulation::DoesNotFit;

/// How a command ended that did not end early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Done,
    /// Something failed, has been told, and the rest went on.
    SomeFailed,
}

impl Status {
    /// The end of a command whose output could not be written. Nobody reading on is no failure, but it hides none that was
    /// told before.
    pub(crate) fn after(self, error: io::Error) -> Result<Self, CliError> {
        if self == Self::SomeFailed && error.kind() == io::ErrorKind::BrokenPipe {
            return Ok(self);
        }
        Err(CliError::Output(error))
    }
}

/// Everything that makes the exit code 2, wrong usage aside.
#[derive(Debug, Error)]
pub(crate) enum CliError {
    #[error(transparent)]
    Trace(#[from] TraceError),
    #[error("{}", manager_in_words(.0))]
    Manager(#[from] aquifer::Error),
    #[error("{}{}", .error, Cause(.error))]
    Replay {
        error: ReplayError,
        /// What to try, if memory ran out.
        hint: String,
        /// What `--json` says of a trace that does not fit on a simulated device.
        does_not_fit: Option<Box<DoesNotFit>>,
    },
    #[error("no budget{} is enough: {}{}", up_to(.error), .error, Cause(.error))]
    NoBudget {
        /// Of the replay in as much as there may be.
        error: ReplayError,
        /// What to try.
        hint: String,
    },
    #[error("{}: the plot cannot be written ({error}); check the folder, its rights and the free space", .path.display())]
    Plot { path: PathBuf, error: io::Error },
    #[error("nothing was measured: {reason}")]
    NothingMeasured { reason: String },
    #[error(
        "the terminal cannot be drawn on ({0}); use --json, or have the output go elsewhere: aquifer watch | cat"
    )]
    Terminal(io::Error),
    #[error("the output cannot be written ({0}); check the free space and where it goes")]
    Output(#[from] io::Error),
}

/// The manager's error without its report, which is printed as a table.
fn manager_in_words(error: &aquifer::Error) -> String {
    format!("{}: {}", error.kind().as_str(), error.message())
}

/// What was there when memory ran out, if that is why a replay stopped.
fn report_of(error: &ReplayError) -> Option<&OutOfMemoryReport> {
    match error {
        ReplayError::Allocation { error, .. } => error.out_of_memory(),
        _ => None,
    }
}

/// The budget that was not enough, if there was one.
fn up_to(error: &ReplayError) -> String {
    match report_of(error) {
        Some(report) if report.budget_bytes != output::NO_LIMIT => {
            format!(" up to {}", bytes_in_words(report.budget_bytes))
        }
        _ => String::new(),
    }
}

/// Prints what a replay's error was caused by.
struct Cause<'a>(&'a ReplayError);

impl std::fmt::Display for Cause<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, std::error::Error::source(self.0)) {
            (ReplayError::Allocation { error, .. }, _) => write!(f, ": {}", manager_in_words(error)),
            (_, Some(source)) => write!(f, ": {source}"),
            (_, None) => Ok(()),
        }
    }
}

impl CliError {
    /// The line of `--json`, for those errors that are an answer.
    pub(crate) fn json_row(&self) -> Option<&DoesNotFit> {
        match self {
            Self::Replay { does_not_fit, .. } => does_not_fit.as_deref(),
            _ => None,
        }
    }

    fn out_of_memory(&self) -> Option<&OutOfMemoryReport> {
        match self {
            Self::Replay { error, .. } | Self::NoBudget { error, .. } => report_of(error),
            Self::Manager(error) => error.out_of_memory(),
            _ => None,
        }
    }

    /// What to try, where that is more than the error says.
    fn hint(&self) -> Option<&str> {
        match self {
            Self::Replay { hint, does_not_fit, .. } => {
                (does_not_fit.is_some() || self.out_of_memory().is_some()).then_some(hint)
            }
            Self::NoBudget { hint, .. } => Some(hint),
            _ => None,
        }
    }

    /// Writes one line; if memory ran out, also what was there and what to try.
    ///
    /// What cannot be written is lost: there is no other place to tell it.
    pub(crate) fn report(&self, to: &mut impl Write) {
        let _ = writeln!(to, "error: {self}");
        if let Some(report) = self.out_of_memory() {
            let _ = writeln!(to, "\n{}", report_table(report));
        }
        if let Some(hint) = self.hint() {
            let _ = writeln!(to, "To try: {hint}");
        }
    }
}

fn report_table(report: &OutOfMemoryReport) -> comfy_table::Table {
    let mut table = output::table(Stream::Error, ["when memory ran out", ""], output::first_left);
    let budget = match report.budget_bytes {
        output::NO_LIMIT => "none".into(),
        bytes => bytes_in_words(bytes),
    };
    table.add_row(["asked for now".into(), bytes_in_words(report.requested_bytes)]);
    table.add_row(["budget".into(), budget]);
    for (name, bytes) in [
        ("reserved", report.reserved_bytes),
        ("  live", report.live_bytes),
        ("  cached", report.cached_bytes),
        ("  quarantined", report.quarantined_bytes),
        ("  free", report.free_bytes),
        ("largest free range", report.largest_free_bytes),
    ] {
        table.add_row([name.into(), bytes_in_words(bytes)]);
    }
    for usage in &report.largest_tags {
        table.add_row([format!("asked for under tag {}", usage.tag), bytes_in_words(usage.live_bytes)]);
    }
    table
}

/// What also helps where sizes are rounded to powers of two.
pub(crate) const LESS_ROUNDING: &str = "; or --policy blocks, which rounds less";

/// What may help a replay that stopped. `limit` names what bounds the memory, and `room` what a driver's own, `peak_bytes` is what the whole
/// trace has live at most.
pub(crate) fn hint(
    error: &ReplayError,
    (limit, room): (&str, &str),
    peak_bytes: u64,
    is_power_of_two: bool,
) -> String {
    let ReplayError::Allocation { error, .. } = error else { return String::new() };
    let peak = bytes_in_words(peak_bytes);
    let mut hint = if error.kind() == ErrorKind::OutOfMemory && error.message().contains("driver") {
        format!("{room}; the trace has {peak} live at most")
    } else {
        format!(
            "a larger {limit}: the trace has {peak} live at most, and rounding and free ranges take some more"
        )
    };
    if is_power_of_two {
        hint.push_str(LESS_ROUNDING);
    }
    hint
}
