//! What a replay on a simulated device says beyond one on the host.

use aquifer::SimReplay;
use aquifer::sim::{Books, SimDesc};
use serde::Serialize;

use crate::output::{bytes_in_words, percent_in_words};

/// The device that is simulated if none is asked for: an H200.
pub(crate) fn desc(memory_bytes: Option<u64>) -> SimDesc {
    let desc = SimDesc::default();
    let memory_bytes = memory_bytes.unwrap_or(desc.memory_bytes);
    SimDesc { memory_bytes, block_bytes_max: memory_bytes, ..desc }
}

/// The device whose transfers are measured, and with `reads_peers` false its peer: an H200 with memory behind it and behind the host's
/// side of its link.
pub(crate) fn transfer_desc(reads_peers: bool) -> SimDesc {
    let SimDesc { name, memory_bytes, block_bytes_max, .. } = SimDesc::default();
    let host_memory_bytes = memory_bytes;
    SimDesc { name, memory_bytes, block_bytes_max, host_memory_bytes, reads_peers, ..SimDesc::discrete() }
}

/// What the driver would have cost: part of a line of `--json`.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Costs {
    device_memory_bytes: u64,
    fits: bool,
    /// In all calls of the driver's but waiting.
    driver_seconds: f64,
    /// Waiting for queues, where an allocation needed memory that one still used.
    waited_seconds: f64,
    trace_seconds: f64,
    /// Both together; `None` for a trace that takes no time.
    driver_share_of_trace: Option<f64>,
}

impl Costs {
    /// Of a replay that came to its end.
    pub(crate) fn new(device: &SimReplay, desc: &SimDesc, trace_us: u64) -> Self {
        let Books { driver_ns, waited_ns, .. } = device.books();
        let (driver_seconds, waited_seconds) = (driver_ns as f64 / 1e9, waited_ns as f64 / 1e9);
        let trace_seconds = trace_us as f64 / 1e6;
        let share = (driver_seconds + waited_seconds) / trace_seconds;
        Self {
            device_memory_bytes: desc.memory_bytes,
            fits: true,
            driver_seconds,
            waited_seconds,
            trace_seconds,
            driver_share_of_trace: (trace_us > 0).then_some(share),
        }
    }

    pub(crate) fn waited_seconds(&self) -> f64 {
        self.waited_seconds
    }

    /// Rows of the table: what stands first,
    pub(crate) fn head(&self) -> Vec<(&'static str, String)> {
        let memory = bytes_in_words(self.device_memory_bytes);
        vec![("device memory", format!("{memory}, simulated")), ("fits", "yes".to_owned())]
    }

    /// and what follows the driver's calls.
    pub(crate) fn tail(&self) -> Vec<(&'static str, String)> {
        let share = self.driver_share_of_trace.map_or_else(|| "-".to_owned(), percent_in_words);
        vec![
            ("  would have taken", milliseconds(self.driver_seconds)),
            ("  waits for queues", milliseconds(self.waited_seconds)),
            ("  both, of the trace's time", format!("{share} of {:.3} s", self.trace_seconds)),
        ]
    }
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.3} ms", 1e3 * seconds)
}

/// A trace that does not fit: its line of `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct DoesNotFit {
    pub(crate) trace: String,
    pub(crate) backend: &'static str,
    pub(crate) device_memory_bytes: u64,
    pub(crate) budget_bytes: u64,
    pub(crate) fits: bool,
    pub(crate) peak_requested_bytes: u64,
    /// With so much it fits; `None` if no size that was tried is enough.
    pub(crate) enough_bytes: Option<u64>,
}
