//! Runs random programs against the core on the simulated device, and cuts those down that fail.
//!
//! Seeds are dealt to worker processes, one for each core, so that one worker's managers cannot change what another's
//! do, and one that dies or hangs costs one seed. The same seed gives the same program and the same run, whatever
//! the number of workers.

mod parent;
mod worker;

use clap::{Parser, ValueEnum};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

/// A bug to plant in the core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Plant {
    /// Memory is reused before its queue is done with it.
    Reuse,
    /// Memory that was freed is lost.
    Leak,
}

/// Runs random programs against the core on the simulated device.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// How many seeds to run
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// Run this seed only, and print its program if it fails
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed [default: another each time]
    #[arg(long)]
    from: Option<u64>,
    /// How many actions a program has
    #[arg(long, default_value_t = 1000)]
    ops: usize,
    /// On how many threads a program runs at most
    #[arg(long, default_value_t = 4)]
    threads: u8,
    /// How many processes share the work [default: one for each core]
    #[arg(long)]
    workers: Option<u64>,
    /// Plant a bug in the core, which must be found (needs the feature `planted-bugs`)
    #[arg(long)]
    plant: Option<Plant>,
    /// Stop at the first seed that fails
    #[arg(long)]
    fail_fast: bool,
    /// Print the program of --seed whether or not it fails
    #[arg(long)]
    verbose: bool,
    /// The number of this worker, and how many of its seeds are to be left out
    #[arg(long, hide = true, num_args = 2)]
    worker: Option<Vec<u64>>,
}

impl Arguments {
    /// The first seed and how many there are.
    fn range(&self) -> (u64, u64) {
        match (self.seed, self.from) {
            (Some(seed), _) => (seed, 1),
            (None, Some(from)) => (from, self.seeds),
            (None, None) => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                // Short enough to be typed.
                (aquifer_testkit::Random::new(since.as_nanos() as u64).below(1 << 40), self.seeds)
            }
        }
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    if arguments.plant.is_some() && cfg!(not(feature = "planted-bugs")) {
        eprintln!("--plant needs a build with --features planted-bugs");
        return ExitCode::from(2);
    }
    if let Some(worker) = arguments.worker.take() {
        worker::work(&arguments, worker[0], worker[1]);
        return ExitCode::SUCCESS;
    }
    let (from, count) = arguments.range();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let workers = arguments.workers.unwrap_or(cores).clamp(1, count.max(1));
    println!(
        "seeds {from} to {}, {} actions each",
        from.wrapping_add(count.saturating_sub(1)),
        arguments.ops
    );
    let arguments = Arguments { from: Some(from), seeds: count, workers: Some(workers), ..arguments };
    match parent::run(&arguments) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("workers cannot be run: {error}");
            ExitCode::from(2)
        }
    }
}
