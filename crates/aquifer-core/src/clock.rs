//! Time as the core sees it: since the manager was made.

use crate::sync::{AtomicU64, Ordering};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Where a manager takes the time from. Only slow paths ask.
#[derive(Debug, Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(Instant),
    Manual(Arc<AtomicU64>),
    Function(Arc<dyn Fn() -> Duration + Send + Sync>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(start) => f.debug_tuple("System").field(start).finish(),
            Self::Manual(now) => f.debug_tuple("Manual").field(now).finish(),
            Self::Function(_) => f.write_str("Function"),
        }
    }
}

impl Default for Clock {
    /// The system's monotonic clock, starting now.
    fn default() -> Self {
        Self(Source::System(Instant::now()))
    }
}

impl Clock {
    /// A clock that stands still at zero until [`Clock::advance`] moves it, for tests and simulation. Clones share
    /// their time.
    #[must_use]
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(AtomicU64::new(0))))
    }

    /// A clock that asks `now`, for simulation: the time since some moment, which must never go back.
    ///
    /// The manager calls it on any thread, also under its locks, so it must not call the manager. It should not panic.
    #[must_use]
    pub fn from_fn(now: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self(Source::Function(Arc::new(now)))
    }

    /// Moves a manual clock on, by whole milliseconds; every other clock moves by itself and ignores this.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now) = &self.0 {
            now.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
        }
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now().as_millis() as u64
    }

    pub(crate) fn now(&self) -> Duration {
        match &self.0 {
            Source::System(start) => start.elapsed(),
            Source::Manual(now) => Duration::from_millis(now.load(Ordering::Relaxed)),
            Source::Function(now) => now(),
        }
    }
}

/// A time in whole milliseconds; one that is too long for the clock is the longest there is.
pub(crate) fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_function_tells_the_time() {
        let clock = Clock::from_fn(|| Duration::from_micros(7_999));
        clock.advance(Duration::from_secs(1));
        assert_eq!(clock.clone().now_ms(), 7);
        assert_eq!(format!("{clock:?}"), "Clock(Function)");
    }
}
