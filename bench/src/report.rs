//! What is printed: rows as JSON lines, or as a table.

use std::fs;
use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::pairs::{Plan, Samples, Set};
use crate::peers::{FLOOR, REFERENCE};

/// Where the numbers come from: the first line of a run with `--json`.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    bench: &'static str,
    version: &'static str,
    os: &'static str,
    arch: &'static str,
    cores: usize,
    /// None where /proc does not tell.
    cpu: Option<String>,
    /// Other work on the machine, at the start.
    load_average: Option<f64>,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let cpu = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        let load = fs::read_to_string("/proc/loadavg").ok();
        Self {
            bench: "machine",
            version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu,
            load_average: load.and_then(|text| text.split(' ').next()?.parse().ok()),
        }
    }
}

/// A peer in one configuration of `pairs`.
#[derive(Debug, Serialize)]
pub(crate) struct PairsRow {
    bench: &'static str,
    pub(crate) peer: &'static str,
    threads: u32,
    set: Set,
    live: u32,
    mix: String,
    /// Per pair and thread; none if skipped.
    pub(crate) ns_median: Option<f64>,
    ns_min: Option<f64>,
    /// The same loop without an allocator.
    pub(crate) loop_ns_median: Option<f64>,
    repetitions: u32,
    /// Of each thread, in one repetition.
    pairs: usize,
    seed: u64,
    /// Median of the slowest thread's pairs over the fastest's, both within one batch: far below 1 means that the
    /// threads did not run at the same time. None with one thread.
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
}

impl PairsRow {
    pub(crate) fn new(peer: &'static str, plan: &Plan, samples: &Samples) -> Self {
        let sorted = sorted_of(&samples.ns);
        let balance = median(&sorted_of(&samples.balance)).filter(|_| plan.threads > 1);
        let row = Self {
            bench: "pairs",
            peer,
            threads: plan.threads,
            set: plan.set,
            live: plan.live,
            mix: plan.mix.to_string(),
            ns_median: median(&sorted).map(hundredths),
            ns_min: sorted.first().copied().map(hundredths),
            loop_ns_median: None,
            repetitions: plan.repetitions,
            pairs: samples.pairs,
            seed: plan.seed,
            balance: balance.map(hundredths),
            skipped: None,
        };
        match samples.failures {
            0 => row,
            failures => Self {
                ns_median: None,
                ns_min: None,
                skipped: Some(format!("{failures} allocations failed")),
                ..row
            },
        }
    }

    pub(crate) fn skipped(peer: &'static str, plan: &Plan, reason: String) -> Self {
        Self { skipped: Some(reason), ..Self::new(peer, plan, &Samples::default()) }
    }

    /// Whether both rows are of the same configuration.
    fn beside(&self, other: &Self) -> bool {
        self.mix == other.mix && (self.threads, self.set, self.live) == (other.threads, other.set, other.live)
    }
}

/// A peer on one trace of `replay`.
#[derive(Debug, Serialize)]
pub(crate) struct ReplayRow {
    pub(crate) bench: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) trace: String,
    pub(crate) events: usize,
    pub(crate) allocations: usize,
    pub(crate) peak_requested_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) budget_over_peak: Option<f64>,
    pub(crate) peak_reserved_bytes: Option<u64>,
    pub(crate) reserved_over_requested: Option<f64>,
    /// Of the peers that call a driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) driver_calls: Option<u64>,
    /// What these calls take on an H200: virtual time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) driver_seconds: Option<f64>,
    /// Of the median repetition.
    pub(crate) ns_per_pair: f64,
    pub(crate) ns_per_pair_min: f64,
    /// The whole trace, in the median repetition.
    pub(crate) elapsed_seconds: f64,
    pub(crate) repetitions: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) skipped: Option<String>,
}

pub(crate) fn sorted_of(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

pub(crate) fn median(sorted: &[f64]) -> Option<f64> {
    sorted.get(sorted.len() / 2).copied()
}

pub(crate) fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// Prints one JSON object and hands it on at once.
pub(crate) fn line(row: &impl Serialize) -> io::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer(&mut out, row)?;
    out.write_all(b"\n")?;
    out.flush()
}

/// Ratios are to the floor and to the bare reference, both as measured in the same loop; the reference is a one-thread
/// peer, so its one-thread row stands in where there are more threads.
pub(crate) fn pairs_table(rows: &[PairsRow]) -> Table {
    let mut table = table(
        &[
            "mix",
            "threads",
            "set",
            "live",
            "peer",
            "ns median",
            "ns min",
            "net of loop",
            "x floor",
            "x offset-allocator",
        ],
        5,
    );
    for row in rows {
        let set = if row.set == Set::Own { "own" } else { "shared" };
        let place = [row.mix.clone(), row.threads.to_string(), set.to_owned(), row.live.to_string()];
        let figures = match (&row.skipped, row.ns_median, row.ns_min) {
            (None, Some(median), Some(least)) => {
                let floor = median_of(rows, FLOOR, |other| other.beside(row));
                let reference = median_of(rows, REFERENCE, |other| {
                    other.mix == row.mix && other.live == row.live && other.threads == 1
                });
                let ratio =
                    |base: Option<f64>| base.map_or("-".to_owned(), |base| format!("{:.2}", median / base));
                let net = row.loop_ns_median.map_or("-".to_owned(), |only| format!("{:.1}", median - only));
                vec![format!("{median:.1}"), format!("{least:.1}"), net, ratio(floor), ratio(reference)]
            }
            (reason, ..) => vec![format!("skipped: {}", reason.as_deref().unwrap_or("not measured"))],
        };
        table.add_row(place.into_iter().chain([row.peer.to_owned()]).chain(figures));
    }
    table
}

fn median_of(rows: &[PairsRow], peer: &str, matches: impl Fn(&PairsRow) -> bool) -> Option<f64> {
    rows.iter().find(|row| row.peer == peer && matches(row))?.ns_median
}

pub(crate) fn replay_table(rows: &[ReplayRow]) -> Table {
    let mut table = table(
        &[
            "trace",
            "peer",
            "requested MiB",
            "budget / requested",
            "reserved MiB",
            "reserved / requested",
            "driver calls",
            "driver ms",
            "ns per pair",
            "ns min",
            "seconds",
        ],
        2,
    );
    let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    for row in rows {
        table.add_row([
            row.trace.clone(),
            row.peer.to_owned(),
            (row.peak_requested_bytes >> 20).to_string(),
            dash(row.budget_over_peak.map(|ratio| ratio.to_string())),
            row.skipped
                .clone()
                .unwrap_or_else(|| dash(row.peak_reserved_bytes.map(|bytes| (bytes >> 20).to_string()))),
            dash(row.reserved_over_requested.map(|ratio| format!("{ratio:.4}"))),
            dash(row.driver_calls.map(|calls| calls.to_string())),
            dash(row.driver_seconds.map(|seconds| format!("{:.2}", seconds * 1e3))),
            format!("{:.1}", row.ns_per_pair),
            format!("{:.1}", row.ns_per_pair_min),
            format!("{:.3}", row.elapsed_seconds),
        ]);
    }
    table
}

/// A Markdown table whose columns from `numbers` on are right-aligned.
pub(crate) fn table(header: &[&str], numbers: usize) -> Table {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN).set_header(header);
    table.column_iter_mut().skip(numbers).for_each(|column| {
        column.set_cell_alignment(CellAlignment::Right);
    });
    table
}
