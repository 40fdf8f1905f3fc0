//! `aquifer trace info`.

use std::io;
use std::path::Path;

use aquifer::trace::Trace;
use serde::Serialize;

use crate::args::TraceInfoArguments;
use crate::error::{CliError, Status};
use crate::output::{self, bytes_in_words, count_in_words};
use crate::progress::Progress;
use crate::traces::for_each_trace;

/// One trace: a line of `--json`.
#[derive(Debug, Serialize)]
struct Row {
    trace: String,
    events: usize,
    allocations: usize,
    frees: usize,
    completions: usize,
    streams: usize,
    duration_us: u64,
    peak_requested_bytes: u64,
    peak_requested_time_us: u64,
    peak_live_count: usize,
    live_at_end_bytes: u64,
    live_at_end_count: usize,
    size_bytes_min: u64,
    size_bytes_median: u64,
    size_bytes_p90: u64,
    size_bytes_max: u64,
    distinct_sizes: usize,
}

/// Describes every trace; tells of those that cannot be read and goes on.
pub(crate) fn run(arguments: &TraceInfoArguments) -> Result<Status, CliError> {
    let describe = |path: &Path| describe(path, !arguments.json);
    for_each_trace(&arguments.traces, arguments.json, describe, print)
}

fn describe(path: &Path, shows_progress: bool) -> Result<Row, CliError> {
    let _progress = Progress::reading(path, shows_progress);
    let trace = Trace::open(path)?;
    let summary = trace.summary();
    Ok(Row {
        trace: trace.name().to_owned(),
        events: summary.event_count,
        allocations: summary.allocation_count,
        frees: summary.free_count,
        completions: summary.completion_count,
        streams: summary.stream_count,
        duration_us: summary.duration_us,
        peak_requested_bytes: summary.live_bytes_peak,
        peak_requested_time_us: summary.live_bytes_peak_time_us,
        peak_live_count: summary.live_count_peak,
        live_at_end_bytes: summary.live_bytes_end,
        live_at_end_count: summary.live_count_end,
        size_bytes_min: summary.size_bytes_min,
        size_bytes_median: summary.size_bytes_median,
        size_bytes_p90: summary.size_bytes_p90,
        size_bytes_max: summary.size_bytes_max,
        distinct_sizes: summary.distinct_size_count,
    })
}

fn print(rows: &[Row]) -> io::Result<()> {
    for table in output::side_by_side(rows, |row| &row.trace, figures) {
        output::line(table)?;
    }
    Ok(())
}

fn figures(row: &Row) -> Vec<(&'static str, String)> {
    let count = |count: usize| count_in_words(count as u64);
    let seconds = |time_us: u64| format!("{:.3} s", time_us as f64 / 1e6);
    vec![
        ("events", count(row.events)),
        ("allocations", count(row.allocations)),
        ("frees", count(row.frees)),
        ("completed later", count(row.completions)),
        ("streams", count(row.streams)),
        ("duration", seconds(row.duration_us)),
        ("live at most", bytes_in_words(row.peak_requested_bytes)),
        ("  first reached after", seconds(row.peak_requested_time_us)),
        ("  allocations at most", count(row.peak_live_count)),
        ("live at end", bytes_in_words(row.live_at_end_bytes)),
        ("  allocations", count(row.live_at_end_count)),
        ("smallest size", bytes_in_words(row.size_bytes_min)),
        ("median size", bytes_in_words(row.size_bytes_median)),
        ("90 % of sizes up to", bytes_in_words(row.size_bytes_p90)),
        ("largest size", bytes_in_words(row.size_bytes_max)),
        ("different sizes", count(row.distinct_sizes)),
    ]
}
