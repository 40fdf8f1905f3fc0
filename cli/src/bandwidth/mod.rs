//! `aquifer bandwidth`.

pub(crate) mod devices;
mod plot;

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

use aquifer::Config;
use aquifer::Route;
use aquifer::bandwidth::{LeftOut, Memory, Outcome, Row, SIZES};
use serde::Serialize;

use crate::args::{BackendName, BandwidthArguments};
use crate::cuda;
use crate::error::{CliError, Status};
use crate::metal;
use crate::output::{self, Align, Stream, bucket_in_words, count_in_words};
use crate::progress::Steps;

pub(crate) use devices::Measured;

/// The largest size whose time is shown besides its rate.
const TIME_SHOWN_BYTES_MAX: u64 = 1 << 20;

/// What to measure.
pub(crate) struct Job<'a> {
    sizes: Vec<u64>,
    /// `None`: as long as is right for the device.
    span: Option<Duration>,
    threads: Option<usize>,
    config: Config,
    steps: &'a Steps,
}

/// The object of `--json`.
#[derive(Debug, Serialize)]
struct Report {
    backend: &'static str,
    device: String,
    /// `real` or `virtual`.
    time: &'static str,
    /// How many threads copy for the transfers.
    copy_threads: usize,
    seconds_per_size: f64,
    rows: Vec<JsonRow>,
    left_out: Vec<JsonLeftOut>,
}

#[derive(Debug, Serialize)]
struct JsonRow {
    route: String,
    memory: &'static str,
    bytes: u64,
    bytes_per_second: f64,
    reference: String,
    /// `None`: the driver's.
    reference_threads: Option<usize>,
    reference_bytes_per_second: f64,
    ratio: f64,
    seconds_median: f64,
    reference_seconds_median: f64,
    repetitions: u64,
}

#[derive(Debug, Serialize)]
struct JsonLeftOut {
    /// `None`: all routes.
    route: Option<String>,
    memory: Option<&'static str>,
    bytes: Vec<u64>,
    reason: String,
}

/// Words as one name: `host-to-device`.
fn one_name(words: &str) -> String {
    words.replace(' ', "-")
}

impl From<&Row> for JsonRow {
    fn from(row: &Row) -> Self {
        Self {
            route: one_name(row.route.as_str()),
            memory: row.memory.as_str(),
            bytes: row.bytes,
            bytes_per_second: row.bytes_per_second(),
            reference: one_name(row.reference.as_str()),
            reference_threads: row.reference_threads,
            reference_bytes_per_second: row.reference_bytes_per_second(),
            ratio: row.ratio(),
            seconds_median: row.seconds,
            reference_seconds_median: row.reference_seconds,
            repetitions: row.repetitions,
        }
    }
}

impl From<&LeftOut> for JsonLeftOut {
    fn from(left_out: &LeftOut) -> Self {
        Self {
            route: left_out.route.map(|(route, _)| one_name(route.as_str())),
            memory: left_out.route.map(|(_, memory)| memory.as_str()),
            bytes: left_out.sizes.clone(),
            reason: left_out.reason.clone(),
        }
    }
}

/// A route with the memory at its end, where there is a choice: `host to device, pinned`.
fn name(route: Route, memory: Memory) -> String {
    match memory {
        Memory::Device => route.to_string(),
        _ => format!("{route}, {memory}"),
    }
}

/// Measures, draws and tells.
pub(crate) fn run(arguments: &BandwidthArguments) -> Result<Status, CliError> {
    let sizes = sizes(arguments)?;
    let config = configure()?;
    let plot = arguments.plot.as_deref().map(PlotFile::open).transpose()?;
    let steps = Steps::new(!arguments.json);
    let threads = arguments.threads.map(|count| count as usize);
    let job = Job { sizes, span: arguments.seconds_per_size, threads, config, steps: &steps };
    let measured = match arguments.backend {
        BackendName::Host => devices::on_host(&job),
        BackendName::Cuda => cuda::bandwidth(&job),
        BackendName::Metal => metal::bandwidth(&job),
        BackendName::Sim => devices::on_sim(&job),
    };
    drop(steps);
    let measured = measured?;
    if measured.outcome.rows.is_empty() {
        let reason = measured.outcome.left_out.first().map(|left_out| left_out.reason.clone());
        return Err(CliError::NothingMeasured { reason: reason.unwrap_or_default() });
    }
    if let Some(plot) = plot {
        plot.write(&measured)?;
    }
    match arguments.json {
        true => output::json_line(&report(&measured))?,
        false => print(&measured)?,
    }
    Ok(Status::Done)
}

/// The sizes to measure: at least one.
fn sizes(arguments: &BandwidthArguments) -> Result<Vec<u64>, CliError> {
    if !arguments.sizes.is_empty() {
        return Ok(arguments.sizes.clone());
    }
    let bytes_max = arguments.max_size.unwrap_or(u64::MAX);
    let sizes: Vec<u64> = SIZES.into_iter().filter(|&bytes| bytes <= bytes_max).collect();
    if sizes.is_empty() {
        let smallest = bucket_in_words(SIZES[0]);
        let reason = format!("the smallest of the default sizes is {smallest}; name others with --sizes");
        return Err(CliError::NothingMeasured { reason });
    }
    Ok(sizes)
}

/// The environment's settings. Pinned buffers may be as large as any, unless the environment says otherwise.
fn configure() -> Result<Config, CliError> {
    let mut config = Config::default();
    config.pinned = config.pinned.bytes_max(u64::MAX);
    let mut config = config.with_environment()?;
    // What is measured would only be slower.
    config.record_to = None;
    Ok(config)
}

/// The file of a plot, which can be written: known before anything is measured.
struct PlotFile<'a> {
    path: &'a Path,
    /// It was not there before, and goes if nothing is drawn.
    is_new: bool,
    is_drawn: bool,
}

impl<'a> PlotFile<'a> {
    fn open(path: &'a Path) -> Result<Self, CliError> {
        let is_new = match File::options().write(true).create_new(true).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                // What is there stays until there is something better.
                File::options().write(true).open(path).map(|_| false)
            }
            opened => opened.map(|_| true),
        };
        let is_new = is_new.map_err(|error| cannot_write(path, error))?;
        Ok(Self { path, is_new, is_drawn: false })
    }

    fn write(mut self, measured: &Measured) -> Result<(), CliError> {
        let svg = plot::draw(measured).map_err(|error| cannot_write(self.path, error))?;
        fs::write(self.path, svg).map_err(|error| cannot_write(self.path, error))?;
        self.is_drawn = true;
        Ok(())
    }
}

impl Drop for PlotFile<'_> {
    fn drop(&mut self) {
        if self.is_new && !self.is_drawn {
            // If it cannot go, it stays: empty.
            let _ = fs::remove_file(self.path);
        }
    }
}

fn cannot_write(path: &Path, error: io::Error) -> CliError {
    CliError::Plot { path: path.to_owned(), error }
}

fn report(measured: &Measured) -> Report {
    let Outcome { rows, left_out, .. } = &measured.outcome;
    Report {
        backend: measured.backend,
        device: measured.device.clone(),
        time: if measured.is_virtual { "virtual" } else { "real" },
        copy_threads: measured.copy_threads,
        seconds_per_size: measured.span.as_secs_f64(),
        rows: rows.iter().map(JsonRow::from).collect(),
        left_out: left_out.iter().map(JsonLeftOut::from).collect(),
    }
}

/// The device and how it was measured, in a line.
fn title(measured: &Measured) -> String {
    let Measured { backend, device, copy_threads, .. } = measured;
    let threads = if *copy_threads == 1 { "thread" } else { "threads" };
    let time = if measured.is_virtual { ", in virtual time" } else { "" };
    format!("{backend}: {device}, {copy_threads} copy {threads}{time}")
}

fn print(measured: &Measured) -> io::Result<()> {
    let Outcome { rows, left_out, .. } = &measured.outcome;
    output::line(title(measured))?;
    output::line(table(rows))?;
    for left_out in left_out {
        output::line(left_out_in_words(left_out))?;
    }
    Ok(())
}

fn left_out_in_words(left_out: &LeftOut) -> String {
    let sizes: Vec<_> = left_out.sizes.iter().map(|&bytes| bucket_in_words(bytes)).collect();
    let route = left_out.route.map(|(route, memory)| format!(" of {}", name(route, memory)));
    format!("left out: {}{} ({})", sizes.join(", "), route.unwrap_or_default(), left_out.reason)
}

fn table(rows: &[Row]) -> comfy_table::Table {
    let header =
        ["route", "memory", "size", "GB/s", "reference", "its GB/s", "ratio", "p50 us", "repetitions"];
    let is_text = |column| matches!(column, 0 | 1 | 4);
    let align = |column| if is_text(column) { Align::Left } else { Align::Right };
    let mut table = output::table(Stream::Output, header, align);
    for row in rows {
        let is_small = row.bytes <= TIME_SHOWN_BYTES_MAX;
        table.add_row([
            row.route.to_string(),
            row.memory.to_string(),
            bucket_in_words(row.bytes),
            gigabytes(row.bytes_per_second()),
            reference_in_words(row),
            gigabytes(row.reference_bytes_per_second()),
            format!("{:.3}", row.ratio()),
            if is_small { format!("{:.2}", row.seconds * 1e6) } else { String::new() },
            count_in_words(row.repetitions),
        ]);
    }
    table
}

fn reference_in_words(row: &Row) -> String {
    match row.reference_threads {
        None => row.reference.to_string(),
        Some(1) => format!("{}, 1 thread", row.reference),
        Some(count) => format!("{}, {count} threads", row.reference),
    }
}

/// A rate in GB/s, with three digits that say something.
fn gigabytes(bytes_per_second: f64) -> String {
    match bytes_per_second / 1e9 {
        rate if rate < 1.0 => format!("{rate:.3}"),
        rate => format!("{rate:.2}"),
    }
}
