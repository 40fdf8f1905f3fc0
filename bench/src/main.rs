//! Aquifer's peers, measured the way Aquifer is: how long a pair (one free and one allocation) takes, and how
//! much memory a real program's allocation trace makes an allocator reserve.
//!
//! `pairs` times the allocators, `ordering` and `monitoring` parts of Aquifer, `replay` runs traces; README.md says how to read the output.

mod lane;
mod mix;
mod monitoring;
mod ordering;
mod pairs;
mod peers;
mod replay;
mod report;
mod trace;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::mix::Mix;

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time one free plus one allocation, with a given number of live buffers.
    Pairs(PairsArgs),
    /// Time frees of buffers that queues may still use.
    Ordering(OrderingArgs),
    /// Time pairs of one manager with and without a pressure monitor, in turns.
    Monitoring(MonitoringArgs),
    /// Run recorded allocation traces and compare the memory reserved with the memory requested.
    Replay(ReplayArgs),
}

/// What `pairs` measures.
#[derive(Args)]
struct PairsArgs {
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these peers (the loop is always measured); all by default.
    #[arg(long, value_delimiter = ',', value_parser = peers::names())]
    peer: Vec<String>,
    /// Only these mixes.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Mix::ALL)]
    mix: Vec<Mix>,
    /// Threads that allocate from one allocator.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2], value_parser = clap::value_parser!(u32).range(1..=64))]
    threads: Vec<u32>,
    /// Live buffers of each thread (of all threads together in the shared set); 1e3, 1e5 and 1e6 by default.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    live: Vec<u32>,
    /// Repetitions; each runs every peer once.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Seed of the sizes and of the buffers to replace.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// In-band peers (they write into the memory they manage) are skipped above this many requested bytes.
    #[arg(long, default_value_t = 4 << 30)]
    memory_cap_bytes: u64,
    /// A smoke test: one short repetition, 1000 live buffers unless --live says otherwise.
    #[arg(long)]
    quick: bool,
}

/// What `ordering` measures.
#[derive(Args)]
struct OrderingArgs {
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these mixes.
    #[arg(long, value_delimiter = ',', value_enum, default_values_t = Mix::ALL)]
    mix: Vec<Mix>,
    /// Repetitions; each runs every way of freeing, batch by batch in turn.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Seed of the sizes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A smoke test: one short repetition.
    #[arg(long)]
    quick: bool,
}

/// What `monitoring` measures.
#[derive(Args)]
struct MonitoringArgs {
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// Repetitions; each runs with and without the monitor, a second each.
    #[arg(long, default_value_t = 11, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Seed of the sizes and of the buffers to replace.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A smoke test: one short repetition.
    #[arg(long)]
    quick: bool,
}

/// What `replay` runs.
#[derive(Args)]
struct ReplayArgs {
    /// Print one JSON object per line instead of a table.
    #[arg(long)]
    json: bool,
    /// Only these peers; all by default.
    #[arg(long, value_delimiter = ',', value_parser = replay::names())]
    peer: Vec<String>,
    /// Repetitions; each runs every peer once, from empty.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// A smoke test: one repetition.
    #[arg(long)]
    quick: bool,
    /// Also so many variants of each trace with other sizes: all scaled by a factor, each distinct size by its own on
    /// top. Lifetimes stay. What is tuned to the trace's sizes does worse on them.
    #[arg(long, default_value_t = 0)]
    variants: u64,
    /// Only in budgets of so many times the trace's peak of requested bytes, such as 1.01,1.05: which peers complete? Without
    /// it there is no limit.
    #[arg(long, value_name = "RATIO,...", value_delimiter = ',', value_parser = ratio)]
    budget_over_peak: Vec<f64>,
    /// Traces: CSV, gzip-compressed if the name ends in .gz.
    #[arg(required = true)]
    traces: Vec<PathBuf>,
}

/// A budget in peaks. Above a thousand it is a slip of the pen.
fn ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..=1000.0).contains(ratio));
    ratio.ok_or_else(|| "use a number from 0 to 1000, such as 1.05".to_owned())
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Pairs(arguments) => pairs::run(&arguments),
        Command::Ordering(arguments) => ordering::run(&arguments),
        Command::Monitoring(arguments) => monitoring::run(&arguments),
        Command::Replay(arguments) => replay::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("aquifer-bench: {error}");
            ExitCode::FAILURE
        }
    }
}
