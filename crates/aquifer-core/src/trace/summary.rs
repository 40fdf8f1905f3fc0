//! A trace in a few figures.

use std::collections::HashSet;

use super::{Trace, TraceOp};

/// What a trace asks for, all counted from the requests alone. Sizes in bytes.
///
/// An allocation is live from its `a` to its `f`; what other streams still used until `c` is not counted.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceSummary {
    /// Events of all kinds.
    pub event_count: usize,
    /// Allocations.
    pub allocation_count: usize,
    /// Frees.
    pub free_count: usize,
    /// Frees that completed later than they were requested.
    pub completion_count: usize,
    /// The most requested bytes that were live at once.
    pub live_bytes_peak: u64,
    /// When that was first reached, in microseconds since the trace began.
    pub live_bytes_peak_time_us: u64,
    /// The most allocations that were live at once.
    pub live_count_peak: usize,
    /// Requested bytes still live at the end.
    pub live_bytes_end: u64,
    /// Allocations still live at the end.
    pub live_count_end: usize,
    /// Different streams, over all events.
    pub stream_count: usize,
    /// The smallest size asked for.
    pub size_bytes_min: u64,
    /// The size that half of the allocations do not exceed.
    pub size_bytes_median: u64,
    /// The size that 90 % of the allocations do not exceed.
    pub size_bytes_p90: u64,
    /// The largest size asked for.
    pub size_bytes_max: u64,
    /// Different sizes.
    pub distinct_size_count: usize,
    /// From the first event to the last, in microseconds.
    pub duration_us: u64,
}

impl Trace {
    /// The trace in a few figures. Looks at every event and sorts the sizes.
    #[must_use]
    pub fn summary(&self) -> TraceSummary {
        let events = self.events();
        let (mut free_count, mut completion_count) = (0, 0);
        let (mut live_bytes, mut live_bytes_peak, mut live_bytes_peak_time_us) = (0, 0, 0);
        let (mut live_count, mut live_count_peak) = (0, 0);
        let mut sizes = Vec::new();
        let mut streams = HashSet::new();
        for event in events {
            streams.insert(event.stream);
            match event.op {
                TraceOp::Allocate => {
                    sizes.push(event.bytes);
                    live_bytes += event.bytes;
                    live_count += 1;
                    live_count_peak = live_count_peak.max(live_count);
                    if live_bytes > live_bytes_peak {
                        (live_bytes_peak, live_bytes_peak_time_us) = (live_bytes, event.time_us);
                    }
                }
                TraceOp::Free => {
                    free_count += 1;
                    live_bytes -= event.bytes;
                    live_count -= 1;
                }
                TraceOp::FreeCompleted => completion_count += 1,
            }
        }
        sizes.sort_unstable();
        TraceSummary {
            event_count: events.len(),
            allocation_count: sizes.len(),
            free_count,
            completion_count,
            live_bytes_peak,
            live_bytes_peak_time_us,
            live_count_peak,
            live_bytes_end: live_bytes,
            live_count_end: live_count,
            stream_count: streams.len(),
            size_bytes_min: sizes[0],
            size_bytes_median: percentile(&sizes, 50),
            size_bytes_p90: percentile(&sizes, 90),
            size_bytes_max: sizes[sizes.len() - 1],
            distinct_size_count: sizes.chunk_by(|a, b| a == b).count(),
            duration_us: events[events.len() - 1].time_us - events[0].time_us,
        }
    }
}

/// The smallest of the sorted `sizes` that at least `percent` of them do not exceed. `sizes` is not empty: a trace's
/// first event can only be an allocation.
fn percentile(sizes: &[u64], percent: usize) -> u64 {
    // Fewer than TRACE_EVENT_COUNT_MAX sizes, so the product fits, also in 64 bits on any machine.
    let rank = (sizes.len() as u64 * percent as u64).div_ceil(100);
    sizes[rank as usize - 1]
}
