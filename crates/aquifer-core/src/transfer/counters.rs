//! What is counted of transfers, route by route.

use super::Route;
use crate::sync::{AtomicU64, Ordering};
use std::time::Duration;

/// What has gone one route so far. Transfers are counted when they are over, whatever became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RouteStatistics {
    /// Transfers.
    pub count: u64,
    /// Those of them that were cancelled before all bytes had arrived.
    pub cancelled: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// Bytes that have arrived, of cancelled and failed transfers too.
    pub bytes: u64,
    /// How long they took, from beginning to end, each for itself: transfers at the same time count several times.
    pub time: Duration,
}

impl RouteStatistics {
    /// Bytes that one transfer moved in a second, on average; `None` before anything has.
    #[must_use]
    pub fn bytes_per_second(&self) -> Option<f64> {
        let seconds = self.time.as_secs_f64();
        (seconds > 0.0 && self.bytes > 0).then(|| self.bytes as f64 / seconds)
    }
}

/// What a manager has counted of transfers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferStatistics {
    routes: [RouteStatistics; Route::ALL.len()],
    /// Pinned memory that is kept for staging, in bytes; among live bytes, under the tag `staging`.
    pub staging_bytes: u64,
}

impl TransferStatistics {
    /// What has gone one route.
    #[must_use]
    pub fn route(&self, route: Route) -> RouteStatistics {
        self.routes[route as usize]
    }
}

/// How a transfer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Cancelled,
    Failed,
}

#[derive(Debug, Default)]
struct Counter {
    count: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    ns: AtomicU64,
}

/// All routes.
#[derive(Debug, Default)]
pub(crate) struct RouteCounters([Counter; Route::ALL.len()]);

impl RouteCounters {
    pub(crate) fn add(&self, route: Route, end: End, bytes: u64, time: Duration) {
        let counter = &self.0[route as usize];
        let add = |to: &AtomicU64, amount: u64| {
            to.fetch_add(amount, Ordering::Relaxed);
        };
        add(&counter.count, 1);
        match end {
            End::Done => {}
            End::Cancelled => add(&counter.cancelled, 1),
            End::Failed => add(&counter.failed, 1),
        }
        add(&counter.bytes, bytes);
        add(&counter.ns, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    fn route(&self, route: Route) -> RouteStatistics {
        let counter = &self.0[route as usize];
        RouteStatistics {
            count: counter.count.load(Ordering::Relaxed),
            cancelled: counter.cancelled.load(Ordering::Relaxed),
            failed: counter.failed.load(Ordering::Relaxed),
            bytes: counter.bytes.load(Ordering::Relaxed),
            time: Duration::from_nanos(counter.ns.load(Ordering::Relaxed)),
        }
    }

    pub(crate) fn statistics(&self, staging_bytes: u64) -> TransferStatistics {
        TransferStatistics { routes: Route::ALL.map(|route| self.route(route)), staging_bytes }
    }
}
