//! What may be live in a sub-budget, and what is.

use super::in_words;
use aquifer_backend::{Error, ErrorKind};
use std::fmt;

/// The ceilings of a [`SubBudget`](crate::SubBudget): bytes as they were asked for, and allocations, that are live at once in it and in
/// all sub-budgets below it.
///
/// A hard limit is never exceeded, whatever threads do at the same time; a soft one may be, which is told. A limit of `u64::MAX` is as none.
///
/// ```
/// use aquifer_core::Limits;
/// const MODEL: Limits = Limits::NONE.hard_bytes(6 << 30).soft_bytes(4 << 30).hard_count(1000);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub struct Limits {
    /// The most bytes that may be live.
    pub hard_bytes: Option<u64>,
    /// More live bytes than this are told.
    pub soft_bytes: Option<u64>,
    /// The most allocations that may be live.
    pub hard_count: Option<u64>,
    /// More live allocations than this are told.
    pub soft_count: Option<u64>,
}

impl Limits {
    /// No limits: what is live is counted.
    pub const NONE: Self = Self { hard_bytes: None, soft_bytes: None, hard_count: None, soft_count: None };

    /// [`Limits::hard_bytes`].
    #[must_use]
    pub const fn hard_bytes(self, bytes: u64) -> Self {
        Self { hard_bytes: Some(bytes), ..self }
    }

    /// [`Limits::soft_bytes`].
    #[must_use]
    pub const fn soft_bytes(self, bytes: u64) -> Self {
        Self { soft_bytes: Some(bytes), ..self }
    }

    /// [`Limits::hard_count`].
    #[must_use]
    pub const fn hard_count(self, count: u64) -> Self {
        Self { hard_count: Some(count), ..self }
    }

    /// [`Limits::soft_count`].
    #[must_use]
    pub const fn soft_count(self, count: u64) -> Self {
        Self { soft_count: Some(count), ..self }
    }

    /// Refuses a soft limit that could never be exceeded.
    pub(crate) fn check(&self, operation: &'static str) -> Result<(), Error> {
        let pairs =
            [("bytes", self.soft_bytes, self.hard_bytes), ("allocations", self.soft_count, self.hard_count)];
        for (unit, soft, hard) in pairs {
            let (Some(soft), Some(hard)) = (soft, hard) else { continue };
            if soft > hard {
                let message = format!(
                    "soft limit of {soft} {unit}, hard limit of {hard}: the soft one would never be exceeded; \
                     let it be no more than the hard one"
                );
                return Err(Error::new(ErrorKind::InvalidArgument, operation, message));
            }
        }
        Ok(())
    }
}

/// What is live in a [`SubBudget`](crate::SubBudget), those below it included. Each number is true at some moment of the call; without other threads
/// at work, all of them are at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SubBudgetUsage {
    /// Live bytes, as they were asked for, and those of allocations under way.
    pub live_bytes: u64,
    /// The highest `live_bytes` has been right after an allocation that came about. Exact.
    pub peak_bytes: u64,
    /// Live allocations, and those under way.
    pub live_count: u64,
    /// The highest `live_count` has been, as exact.
    pub peak_count: u64,
    /// What may be live.
    pub limits: Limits,
    /// How often a soft limit was newly exceeded.
    pub soft_exceeded_count: u64,
    /// How many allocations this sub-budget's hard limits have refused. (Those that one above it has refused count there.)
    pub refused_count: u64,
    /// How often one of its reclaim callbacks was called,
    pub reclaim_count: u64,
    /// and how often one panicked.
    pub reclaim_panic_count: u64,
}

/// One sub-budget.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubBudgetStatistics {
    /// Its path: the names of those above it and its own, with slashes between.
    pub name: String,
    /// What is live in it.
    pub usage: SubBudgetUsage,
}

fn write_limits<T: fmt::Display>(
    f: &mut fmt::Formatter<'_>,
    hard: Option<T>,
    soft: Option<T>,
) -> fmt::Result {
    if let Some(hard) = hard {
        write!(f, " of {hard}")?;
    }
    if let Some(soft) = soft {
        write!(f, " (soft {soft})")?;
    }
    Ok(())
}

/// One line of a report.
impl fmt::Display for SubBudgetStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, usage } = self;
        let Limits { hard_bytes, soft_bytes, hard_count, soft_count } = usage.limits;
        let [current, peak] = [usage.live_bytes, usage.peak_bytes].map(in_words);
        write!(f, "sub-budget {name:<17} {current:>12} now {peak:>12} peak")?;
        write_limits(f, hard_bytes.map(in_words), soft_bytes.map(in_words))?;
        write!(f, ", in {} now {} peak", usage.live_count, usage.peak_count)?;
        write_limits(f, hard_count, soft_count)?;
        write!(f, "; {} times above soft, {} refused", usage.soft_exceeded_count, usage.refused_count)
    }
}
