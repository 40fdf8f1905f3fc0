//! `aquifer fit`.

mod search;

use std::io;
use std::path::Path;

use aquifer::Config;
use aquifer::trace::{ReplayError, ReplayOptions, Trace};
use serde::Serialize;

use self::search::{Attempt, Found, Ladder};
use crate::args::{BackendName, FitArguments};
use crate::error::{CliError, Status, hint};
use crate::job::{Failed, Job, Replayed, configure, is_power_of_two, is_too_little};
use crate::output::{self, NO_LIMIT, Stream, bytes_in_words, count_in_words};
use crate::progress::Progress;
use crate::simulation::Costs;
use crate::traces::for_each_trace;

/// The finest steps that are worth a replay, in bytes: a physical page of most GPUs,
const STEP_BYTES_MAX: u64 = 2 << 20;
/// and, for small traces, this part of the peak.
const STEPS_IN_PEAK: u64 = 1000;

/// What one trace came to: a line of `--json`.
#[derive(Debug, Serialize)]
struct Row {
    trace: String,
    backend: &'static str,
    policy: &'static str,
    sub_classes: u32,
    events: usize,
    peak_requested_bytes: u64,
    /// The whole trace was replayed in it.
    smallest_budget_bytes: u64,
    /// Over the peak of requested bytes.
    over_peak: f64,
    /// One step below, in which it was not; `None` if there is no such budget, for it would be below the peak.
    too_small_bytes: Option<u64>,
    step_bytes: u64,
    replays: u32,
    /// From here on in the smallest budget.
    peak_reserved_bytes: u64,
    driver_calls: u64,
    /// Allocations that found memory only when completions were brought forward.
    stalls: usize,
    stalled_seconds: f64,
    #[serde(flatten)]
    costs: Option<Costs>,
}

/// Finds a budget for every trace; tells of those that fail and goes on.
pub(crate) fn run(arguments: &FitArguments) -> Result<Status, CliError> {
    let mut config = configure(&arguments.manager, None)?;
    // What other processes leave of a group's budget would be no property of the trace.
    config.budget_group = None;
    let fit = |path: &Path| fit(path, &config, arguments);
    for_each_trace(&arguments.traces, arguments.json, fit, print)
}

fn fit(path: &Path, config: &Config, arguments: &FitArguments) -> Result<Row, CliError> {
    let progress = Progress::reading(path, !arguments.json);
    let trace = Trace::open(path)?;
    let options = ReplayOptions::default().progress(progress.done());
    let job = Job::new(&trace, config, options, &arguments.manager);
    let mut fitting = Fitting { job, progress, replays: 0 };
    let at_most =
        fitting.replay("all there is", None, None)?.map_err(|error| no_budget(&fitting.job, error))?;

    let peak_bytes = fitting.job.summary.live_bytes_peak;
    let step_bytes = arguments.precision.unwrap_or((peak_bytes / STEPS_IN_PEAK).min(STEP_BYTES_MAX));
    let statistics = &at_most.outcome.statistics;
    let (guess_bytes, most_bytes) = (statistics.reserved.peak, statistics.budget_bytes);
    let ladder = Ladder::new(peak_bytes, step_bytes, most_bytes, at_most.unit_bytes);
    let found = ladder.search(guess_bytes, at_most, |Attempt { budget_bytes, left }| {
        let replayed = fitting.replay(&bytes_in_words(budget_bytes), Some(budget_bytes), left)?;
        Ok::<_, CliError>(replayed.ok())
    })?;
    Ok(row(&fitting, &ladder, found))
}

/// One trace on its way.
struct Fitting<'a> {
    job: Job<'a>,
    progress: Progress,
    replays: u32,
}

impl Fitting<'_> {
    /// Replays once, in so many bytes, or in as many as there may be. The inner error is that they are too few.
    fn replay(
        &mut self,
        budget: &str,
        budget_bytes: Option<u64>,
        left: Option<u32>,
    ) -> Result<Result<Replayed, ReplayError>, CliError> {
        self.replays += 1;
        let most = left.map_or_else(String::new, |left| format!(" of {} at most", self.replays + left));
        let name = format!("{} in {budget}, replay {}{most}", self.job.trace.name(), self.replays);
        let job = match budget_bytes {
            Some(_) => &self.job.with_budget(budget_bytes),
            None => &self.job,
        };
        match self.progress.replaying(&name, job.summary.event_count, || job.replay()) {
            Ok(replayed) => Ok(Ok(replayed)),
            Err(Failed::Replay(error)) if is_too_little(&error) => Ok(Err(error)),
            Err(Failed::Replay(error)) => {
                Err(CliError::Replay { error, hint: String::new(), does_not_fit: None })
            }
            Err(Failed::Manager(error)) => Err(error.into()),
        }
    }
}

/// The answer if a trace does not complete in as much as there may be.
fn no_budget(job: &Job<'_>, error: ReplayError) -> CliError {
    let of_environment = job.config.budget_bytes.filter(|&bytes| bytes != NO_LIMIT);
    let is_sim = job.backend == BackendName::Sim;
    let limit = match of_environment {
        Some(bytes) if !is_sim || bytes < job.sim.memory_bytes => "AQUIFER_BUDGET, or none",
        _ if is_sim => "--device-memory",
        _ => "device",
    };
    let hint = hint(
        &error,
        (limit, job.backend.more_room()),
        job.summary.live_bytes_peak,
        is_power_of_two(&job.config),
    );
    CliError::NoBudget { error, hint }
}

fn row(fitting: &Fitting<'_>, ladder: &Ladder, found: Found<Replayed>) -> Row {
    let Fitting { job, replays, .. } = fitting;
    let Found { budget_bytes, outcome: Replayed { backend, policy, outcome, costs, .. }, too_small_bytes } =
        found;
    let peak_bytes = job.summary.live_bytes_peak;
    Row {
        trace: job.trace.name().to_owned(),
        backend,
        policy,
        sub_classes: job.config.layout.sub_classes(),
        events: job.summary.event_count,
        peak_requested_bytes: peak_bytes,
        smallest_budget_bytes: budget_bytes,
        over_peak: budget_bytes as f64 / peak_bytes as f64,
        too_small_bytes,
        step_bytes: ladder.step_bytes(),
        replays: *replays,
        peak_reserved_bytes: outcome.statistics.reserved.peak,
        driver_calls: outcome.statistics.driver_calls.count(),
        stalls: outcome.stall_count,
        stalled_seconds: outcome.stalled.as_secs_f64(),
        costs,
    }
}

fn print(rows: &[Row]) -> io::Result<()> {
    let Some(first) = rows.first() else { return Ok(()) };
    output::line(format_args!("Smallest budgets, backend {}, policy {}", first.backend, first.policy))?;
    let header =
        ["trace", "peak requested", "smallest budget", "bytes", "over peak", "stalls", "waited", "replays"];
    let mut table = output::table(Stream::Output, header, output::first_left);
    for row in rows {
        table.add_row([
            row.trace.clone(),
            bytes_in_words(row.peak_requested_bytes),
            bytes_in_words(row.smallest_budget_bytes),
            // Without commas, so that it can be given to `replay --budget`.
            row.smallest_budget_bytes.to_string(),
            format!("{:.4}", row.over_peak),
            count_in_words(row.stalls as u64),
            format!("{:.3} s", row.stalled_seconds + row.costs.as_ref().map_or(0.0, Costs::waited_seconds)),
            row.replays.to_string(),
        ]);
    }
    if rows.len() > 1 {
        let mean = format!("{:.4}", geometric_mean(rows.iter().map(|row| row.over_peak)));
        table.add_row(["geometric mean", "", "", "", &mean, "", "", ""]);
    }
    output::line(table)
}

fn geometric_mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    (values.map(f64::ln).sum::<f64>() / count).exp()
}
