//! `aquifer replay`.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;

use aquifer::trace::{ReplayError, ReplayOptions, ReplayOutcome, Trace};
use aquifer::{Config, DriverCalls, MemoryBucket, Statistics};
use serde::Serialize;

use crate::args::{BackendName, ReplayArguments};
use crate::error::{CliError, LESS_ROUNDING, Status, hint};
use crate::job::{Failed, Job, Replayed, configure, is_power_of_two, is_too_little};
use crate::output::{
    self, NO_LIMIT, Stream, bucket_in_words, bytes_in_words, count_in_words, percent_in_words,
};
use crate::progress::Progress;
use crate::remapping::Remapping;
use crate::simulation::{self, Costs, DoesNotFit};
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
    /// One for each stream; 0 where queues make no difference.
    queues: usize,
    events: usize,
    allocations: usize,
    peak_requested_bytes: u64,
    peak_allocated_bytes: u64,
    /// Freed, but still used by another stream.
    peak_quarantined_bytes: u64,
    peak_reserved_bytes: u64,
    reserved_over_requested: f64,
    hit_rate: f64,
    driver_calls: u64,
    driver_calls_by_kind: Calls,
    /// Allocations that found memory only when completions were brought forward.
    stalls: usize,
    stalled_seconds: f64,
    /// How many neighbouring completions were awaited as one.
    completions_merged: usize,
    ns_per_pair: f64,
    elapsed_seconds: f64,
    live_at_end_bytes: u64,
    reserved_at_end_bytes: u64,
    trimmed_bytes: u64,
    reserved_after_trim_bytes: u64,
    buckets: Vec<Bucket>,
    #[serde(flatten)]
    remapping: Option<Remapping>,
    #[serde(flatten)]
    costs: Option<Costs>,
}

#[derive(Debug, Serialize)]
struct Calls {
    create: u64,
    reserve: u64,
    unreserve: u64,
    map: u64,
    unmap: u64,
    destroy: u64,
    release: u64,
    purge: u64,
    signal: u64,
    failed: u64,
}

impl From<DriverCalls> for Calls {
    fn from(calls: DriverCalls) -> Self {
        let DriverCalls { create, reserve, unreserve, map, unmap, destroy, release, purge, signal, failed } =
            calls;
        Self { create, reserve, unreserve, map, unmap, destroy, release, purge, signal, failed }
    }
}

/// A bucket that was used.
#[derive(Debug, Serialize)]
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

impl From<MemoryBucket> for Bucket {
    fn from(bucket: MemoryBucket) -> Self {
        Self {
            bucket_bytes: bucket.size_bytes,
            allocations: bucket.allocations,
            misses: bucket.misses,
            hit_rate: bucket.hit_rate(),
            evictions: bucket.evictions,
            requested_bytes_total: bucket.requested_bytes_total,
            allocated_bytes_total: bucket.allocated_bytes_total,
            waste: bucket.waste_total(),
        }
    }
}

/// Replays every trace; tells of those that fail and goes on.
pub(crate) fn run(arguments: &ReplayArguments) -> Result<Status, CliError> {
    let config = configure(&arguments.manager, arguments.budget)?;
    let replay_one = |path: &Path| replay_one(path, &config, arguments);
    for_each_trace(&arguments.traces, arguments.json, replay_one, print)
}

fn replay_one(path: &Path, config: &Config, arguments: &ReplayArguments) -> Result<Row, CliError> {
    let progress = Progress::reading(path, !arguments.json);
    let trace = Trace::open(path)?;
    let threads = NonZeroUsize::new(arguments.threads as usize).unwrap_or(NonZeroUsize::MIN);
    let options = ReplayOptions::default().threads(threads).progress(progress.done());
    let job = Job::new(&trace, config, options, &arguments.manager);
    let replayed = progress.replaying(trace.name(), job.summary.event_count, || {
        job.replay().map_err(|failed| match failed {
            Failed::Manager(error) => CliError::Manager(error),
            Failed::Replay(error) => stopped(&job, error),
        })
    });
    drop(progress);
    Ok(row(&job, arguments, replayed?))
}

/// What to say of a replay that stopped.
fn stopped(job: &Job<'_>, error: ReplayError) -> CliError {
    if job.backend == BackendName::Sim {
        return does_not_fit(job, error);
    }
    // Where nobody has set one, the budget is what the device has free.
    let limit = if job.config.budget_bytes.is_some() { "--budget (or AQUIFER_BUDGET)" } else { "device" };
    let bounds = (limit, job.backend.more_room());
    let hint = hint(&error, bounds, job.summary.live_bytes_peak, is_power_of_two(&job.config));
    CliError::Replay { hint, error, does_not_fit: None }
}

/// The answer if a trace stopped on a simulated device: with how much memory it would not have.
fn does_not_fit(job: &Job<'_>, error: ReplayError) -> CliError {
    if !is_too_little(&error) {
        return CliError::Replay { error, hint: String::new(), does_not_fit: None };
    }
    let desc = &job.sim;
    let budget_bytes = job.config.budget_bytes.unwrap_or(desc.memory_bytes);
    let enough_bytes = enough_bytes(job);
    let is_device = budget_bytes >= desc.memory_bytes;
    let option = match enough_bytes {
        _ if is_device => "--device-memory",
        Some(bytes) if bytes > desc.memory_bytes => "--device-memory and --budget",
        _ => "--budget (or AQUIFER_BUDGET)",
    };
    let peak = bytes_in_words(job.summary.live_bytes_peak);
    let mut hint = match enough_bytes {
        Some(bytes) => format!(
            "a larger {option}: {}M, which is {}, is enough; the trace has {peak} live at most",
            bytes >> 20,
            bytes_in_words(bytes)
        ),
        None => format!("a larger {option}: the trace has {peak} live at most, and needs some more"),
    };
    if is_power_of_two(&job.config) {
        hint.push_str(LESS_ROUNDING);
    }
    let row = DoesNotFit {
        trace: job.trace.name().to_owned(),
        backend: "sim",
        device_memory_bytes: desc.memory_bytes,
        budget_bytes,
        fits: false,
        peak_requested_bytes: job.summary.live_bytes_peak,
        enough_bytes,
    };
    CliError::Replay { error, hint, does_not_fit: Some(Box::new(row)) }
}

/// How much memory is enough for a trace: what it reserves where there is no limit, in whole MiB, if it fits in that.
fn enough_bytes(job: &Job<'_>) -> Option<u64> {
    let reserved_peak = |memory_bytes: u64| {
        let sim = simulation::desc(Some(memory_bytes));
        let replayed = Job { sim, ..job.with_budget(None) }.replay().ok()?;
        Some(replayed.outcome.statistics.reserved.peak)
    };
    let bytes = reserved_peak(UNLIMITED_BYTES)?.checked_next_multiple_of(1 << 20)?;
    reserved_peak(bytes).map(|_| bytes)
}

/// More than any trace needs that could have been recorded.
const UNLIMITED_BYTES: u64 = 1 << 46;

fn row(job: &Job<'_>, arguments: &ReplayArguments, replayed: Replayed) -> Row {
    let Replayed { backend, policy, outcome, costs, .. } = replayed;
    let Job { trace, summary, config, .. } = job;
    let ReplayOutcome { statistics, .. } = &outcome;
    Row {
        trace: trace.name().to_owned(),
        backend,
        policy,
        sub_classes: config.layout.sub_classes(),
        budget_bytes: Some(statistics.budget_bytes).filter(|&bytes| bytes != NO_LIMIT),
        threads: arguments.threads,
        queues: outcome.queue_count,
        events: summary.event_count,
        allocations: summary.allocation_count,
        peak_requested_bytes: summary.live_bytes_peak,
        peak_allocated_bytes: outcome.allocated_bytes_peak,
        peak_quarantined_bytes: outcome.quarantined_bytes_peak,
        peak_reserved_bytes: statistics.reserved.peak,
        reserved_over_requested: statistics.reserved.peak as f64 / summary.live_bytes_peak as f64,
        hit_rate: statistics.pool_hit_rate(),
        driver_calls: statistics.driver_calls.count(),
        driver_calls_by_kind: statistics.driver_calls.into(),
        stalls: outcome.stall_count,
        stalled_seconds: outcome.stalled.as_secs_f64(),
        completions_merged: outcome.merged_completion_count,
        ns_per_pair: outcome.ns_per_pair(),
        elapsed_seconds: outcome.elapsed.as_secs_f64(),
        live_at_end_bytes: summary.live_bytes_end,
        reserved_at_end_bytes: statistics.reserved.current,
        trimmed_bytes: outcome.trimmed_bytes,
        reserved_after_trim_bytes: outcome.reserved_after_trim_bytes,
        buckets: used_buckets(statistics),
        remapping: Remapping::new(statistics),
        costs,
    }
}

fn used_buckets(statistics: &Statistics) -> Vec<Bucket> {
    statistics.buckets().into_iter().filter(|bucket| bucket.allocations > 0).map(Bucket::from).collect()
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
        "power-of-two" => row.policy.to_owned(),
        policy => format!("{policy}, {} sub-classes", row.sub_classes),
    };
    let mut figures = vec![("backend", row.backend.to_owned())];
    figures.extend(row.costs.iter().flat_map(Costs::head));
    figures.extend([
        ("policy", policy),
        ("budget", row.budget_bytes.map_or_else(|| "no limit".to_owned(), bytes_in_words)),
        ("threads", row.threads.to_string()),
        ("queues", queues_in_words(row)),
        ("events", count_in_words(row.events as u64)),
        ("allocations", count_in_words(row.allocations as u64)),
        ("peak requested", bytes_in_words(row.peak_requested_bytes)),
        ("peak allocated", bytes_in_words(row.peak_allocated_bytes)),
        ("peak quarantined", bytes_in_words(row.peak_quarantined_bytes)),
        ("peak reserved", bytes_in_words(row.peak_reserved_bytes)),
        ("reserved / requested", format!("{:.4}", row.reserved_over_requested)),
        ("hit rate", percent_in_words(row.hit_rate)),
    ]);
    figures.extend(row.remapping.iter().flat_map(Remapping::figures));
    figures.push(("driver calls", count_in_words(row.driver_calls)));
    if let Some(costs) = &row.costs {
        let Calls { create, reserve, unreserve, map, unmap, destroy, release, purge, signal, failed } =
            row.driver_calls_by_kind;
        let kinds = [
            ("  blocks made", create),
            ("  addresses reserved", reserve),
            ("  addresses given back", unreserve),
            ("  mappings made", map),
            ("  mappings removed", unmap),
            ("  blocks given back", destroy),
            ("  parts given back", release),
            ("  purgeable or back", purge),
            ("  markers", signal),
            ("  failed", failed),
        ];
        figures.extend(kinds.map(|(name, count)| (name, count_in_words(count))));
        figures.extend(costs.tail());
    }
    figures.push(("stalls", format!("{}, {:.3} s", count_in_words(row.stalls as u64), row.stalled_seconds)));
    // Most of this is the simulation itself.
    if row.costs.is_none() {
        figures.push(("ns per pair", format!("{:.1}", row.ns_per_pair)));
    }
    figures.extend([
        (
            if row.costs.is_none() { "elapsed" } else { "simulated in" },
            format!("{:.4} s", row.elapsed_seconds),
        ),
        ("live at end", bytes_in_words(row.live_at_end_bytes)),
        ("reserved at end", bytes_in_words(row.reserved_at_end_bytes)),
        ("trim gave back", bytes_in_words(row.trimmed_bytes)),
        ("reserved after trim", bytes_in_words(row.reserved_after_trim_bytes)),
    ]);
    figures
}

fn queues_in_words(row: &Row) -> String {
    match (row.queues, row.completions_merged) {
        (0, _) => "not needed".to_owned(),
        (queues, 1) => queues.to_string(),
        (queues, merged) => format!("{queues}, {merged} completions awaited as one"),
    }
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
