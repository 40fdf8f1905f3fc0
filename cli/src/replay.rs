//! `aquifer replay`.

use std::collections::BTreeMap;
use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use aquifer::trace::{ReplayError, ReplayOptions, ReplayOutcome, Trace, replay};
use aquifer::{BucketLayout, ClassStatistics, Config, Host, MemoryManager, ZeroPolicy};
use serde::Serialize;

use crate::args::ReplayArguments;
use crate::error::{CliError, Status, hint};
use crate::output::{
    self, NO_LIMIT, Stream, bucket_in_words, bytes_in_words, count_in_words, percent_in_words,
};
use crate::progress::Progress;
use crate::traces::for_each_trace;

/// What one trace came to: a line of `--json`.
#[derive(Debug, Serialize)]
struct Row {
    trace: String,
    backend: &'static str,
    policy: &'static str,
    sub_classes: u32,
    /// `None`: no limit.
    budget_bytes: Option<u64>,
    threads: u32,
    events: usize,
    allocations: usize,
    peak_requested_bytes: u64,
    peak_allocated_bytes: u64,
    peak_reserved_bytes: u64,
    reserved_over_requested: f64,
    hit_rate: f64,
    driver_calls: u64,
    ns_per_pair: f64,
    elapsed_seconds: f64,
    live_at_end_bytes: u64,
    reserved_at_end_bytes: u64,
    trimmed_bytes: u64,
    reserved_after_trim_bytes: u64,
    buckets: Vec<Bucket>,
}

/// The classes between one power of two and the next.
#[derive(Debug, Default, Serialize)]
struct Bucket {
    /// The largest request that it takes; `None` for what is larger than every bucket.
    bucket_bytes: Option<u64>,
    allocations: u64,
    misses: u64,
    hit_rate: f64,
    evictions: u64,
    requested_bytes_total: u64,
    allocated_bytes_total: u64,
    /// The share of the allocated bytes that rounding added.
    waste: f64,
}

/// Replays every trace; tells of those that fail and goes on.
pub(crate) fn run(arguments: &ReplayArguments) -> Result<Status, CliError> {
    let config = configure(arguments)?;
    let replay_one = |path: &Path| replay_one(path, &config, arguments);
    for_each_trace(&arguments.traces, arguments.json, replay_one, print)
}

/// The environment's settings, and the options' over them.
fn configure(arguments: &ReplayArguments) -> Result<Config, CliError> {
    let mut config = Config::default().with_environment()?;
    // What is replayed has been recorded already.
    config.record_to = None;
    if let Some(layout) = arguments.layout() {
        config.layout = layout;
    }
    config.budget_bytes = arguments.budget.or(config.budget_bytes);
    if config.budget_bytes.is_none() && config.zero_policy == ZeroPolicy::OnRequest {
        // Nothing is touched, so this machine's memory is no limit. Clearing would touch it.
        config.budget_bytes = Some(NO_LIMIT);
    }
    Ok(config)
}

fn replay_one(path: &Path, config: &Config, arguments: &ReplayArguments) -> Result<Row, CliError> {
    let progress = Progress::reading(path, !arguments.json);
    let trace = Trace::open(path)?;
    let summary = trace.summary();
    let manager = MemoryManager::with_config(Host::new()?, config.clone())?;
    let threads = NonZeroUsize::new(arguments.threads as usize).unwrap_or(NonZeroUsize::MIN);
    let options = ReplayOptions::default().threads(threads).progress(progress.done());
    let outcome =
        progress.replaying(trace.name(), summary.event_count, || replay(&manager, &trace, &options));
    drop(progress);
    let is_power_of_two = config.layout == BucketLayout::power_of_two();
    let outcome = outcome.map_err(|error: ReplayError| CliError::Replay {
        hint: hint(&error, summary.live_bytes_peak, is_power_of_two),
        error,
    })?;
    let ReplayOutcome { statistics, .. } = &outcome;
    Ok(Row {
        trace: trace.name().to_owned(),
        backend: manager.properties().backend,
        policy: if is_power_of_two { "power-of-two" } else { "blocks" },
        sub_classes: config.layout.sub_classes(),
        budget_bytes: Some(statistics.budget_bytes).filter(|&bytes| bytes != NO_LIMIT),
        threads: arguments.threads,
        events: summary.event_count,
        allocations: summary.allocation_count,
        peak_requested_bytes: summary.live_bytes_peak,
        peak_allocated_bytes: outcome.allocated_bytes_peak,
        peak_reserved_bytes: statistics.reserved.peak,
        reserved_over_requested: statistics.reserved.peak as f64 / summary.live_bytes_peak as f64,
        hit_rate: statistics.pool_hit_rate(),
        driver_calls: statistics.driver_calls.count(),
        ns_per_pair: outcome.ns_per_pair(),
        elapsed_seconds: outcome.elapsed.as_secs_f64(),
        live_at_end_bytes: summary.live_bytes_end,
        reserved_at_end_bytes: statistics.reserved.current,
        trimmed_bytes: outcome.trimmed_bytes,
        reserved_after_trim_bytes: outcome.reserved_after_trim_bytes,
        buckets: buckets(&statistics.classes),
    })
}

/// The classes, summed up to the next power of two.
fn buckets(classes: &[ClassStatistics]) -> Vec<Bucket> {
    // What is larger than every bucket comes last.
    let mut buckets = BTreeMap::<u64, Bucket>::new();
    for class in classes {
        let bucket_bytes = class.size_bytes.map(u64::next_power_of_two);
        let bucket = buckets.entry(bucket_bytes.unwrap_or(u64::MAX)).or_default();
        bucket.bucket_bytes = bucket_bytes;
        bucket.allocations += class.allocations;
        bucket.misses += class.misses;
        bucket.evictions += class.evictions;
        bucket.requested_bytes_total += class.requested_bytes_total;
        bucket.allocated_bytes_total += class.allocated_bytes_total;
    }
    for bucket in buckets.values_mut() {
        bucket.hit_rate = 1.0 - share(bucket.misses, bucket.allocations);
        bucket.waste = 1.0 - share(bucket.requested_bytes_total, bucket.allocated_bytes_total);
    }
    buckets.into_values().collect()
}

/// A part of a whole that is not zero: only classes with allocations are listed.
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

fn print(rows: &[Row]) -> io::Result<()> {
    for table in output::side_by_side(rows, |row| &row.trace, figures) {
        output::line(table)?;
    }
    for row in rows {
        output::line(format_args!("\n{}, by size of request", row.trace))?;
        output::line(bucket_table(&row.buckets))?;
    }
    Ok(())
}

fn figures(row: &Row) -> Vec<(&'static str, String)> {
    let policy = match row.policy {
        "blocks" => format!("blocks, {} sub-classes", row.sub_classes),
        policy => policy.to_owned(),
    };
    vec![
        ("backend", row.backend.to_owned()),
        ("policy", policy),
        ("budget", row.budget_bytes.map_or_else(|| "no limit".to_owned(), bytes_in_words)),
        ("threads", row.threads.to_string()),
        ("events", count_in_words(row.events as u64)),
        ("allocations", count_in_words(row.allocations as u64)),
        ("peak requested", bytes_in_words(row.peak_requested_bytes)),
        ("peak allocated", bytes_in_words(row.peak_allocated_bytes)),
        ("peak reserved", bytes_in_words(row.peak_reserved_bytes)),
        ("reserved / requested", format!("{:.4}", row.reserved_over_requested)),
        ("hit rate", percent_in_words(row.hit_rate)),
        ("driver calls", count_in_words(row.driver_calls)),
        ("ns per pair", format!("{:.1}", row.ns_per_pair)),
        ("elapsed", format!("{:.4} s", row.elapsed_seconds)),
        ("live at end", bytes_in_words(row.live_at_end_bytes)),
        ("reserved at end", bytes_in_words(row.reserved_at_end_bytes)),
        ("trim gave back", bytes_in_words(row.trimmed_bytes)),
        ("reserved after trim", bytes_in_words(row.reserved_after_trim_bytes)),
    ]
}

fn bucket_table(buckets: &[Bucket]) -> comfy_table::Table {
    let header = ["up to", "allocations", "hit rate", "requested in all", "waste", "evictions"];
    let mut table = output::table(Stream::Output, header, |_| output::Align::Right);
    for bucket in buckets {
        table.add_row([
            bucket.bucket_bytes.map_or_else(|| "larger".to_owned(), bucket_in_words),
            count_in_words(bucket.allocations),
            percent_in_words(bucket.hit_rate),
            bytes_in_words(bucket.requested_bytes_total),
            percent_in_words(bucket.waste),
            count_in_words(bucket.evictions),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_summed_into_their_bucket() {
        let class = |size_bytes, allocations, misses| ClassStatistics {
            size_bytes,
            allocations,
            misses,
            requested_bytes_total: 3 * allocations,
            allocated_bytes_total: 4 * allocations,
            ..ClassStatistics::default()
        };
        let classes =
            [class(None, 2, 2), class(Some(4608), 3, 1), class(Some(8192), 5, 1), class(Some(256), 1, 0)];
        let buckets = buckets(&classes);
        let sizes: Vec<_> = buckets.iter().map(|bucket| bucket.bucket_bytes).collect();
        assert_eq!(sizes, [Some(256), Some(8192), None]);
        assert_eq!((buckets[1].allocations, buckets[1].hit_rate, buckets[1].waste), (8, 0.75, 0.25));
    }
}
