//! What a pressure monitor costs a busy manager: the same pairs of the same manager with and without one, in turns.
//!
//! The monitor has all the system's sources, and looks for idle memory ten times a second, which is as often as it does at a level
//! without pressure. Beside the mixes of `pairs` there is one of large buffers, which pass the thread caches and let blocks become idle,
//! so that they decay and are made anew.

use std::error::Error;
use std::time::{Duration, Instant};

use aquifer::{Buffer, Config, Host, HostMemoryManager, PressureMonitor, system_pressure_sources};
use serde::Serialize;

use crate::MonitoringArgs;
use crate::mix::{DRAWS_MAX, Draws, Mix};
use crate::report::{self, hundredths, median, sorted_of};

/// More than is ever live; no memory is touched.
const BUDGET_BYTES: u64 = 1 << 44;
const LIVE: u32 = 1000;
const TURN: Duration = Duration::from_secs(1);
const QUICK_TURN: Duration = Duration::from_millis(30);
/// Pairs between two looks at the clock.
const BATCH: usize = 4096;
/// By so much the sizes of the last mix are larger.
const LARGE_FACTOR: u64 = 64;

/// One mix.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    mix: String,
    ns_unmonitored_median: f64,
    ns_monitored_median: f64,
    /// The median of the ratios of neighbouring turns.
    over_unmonitored: f64,
    /// How often sources were read, in all monitored turns together.
    readings: u64,
    repetitions: u32,
}

/// Measures and prints.
pub(crate) fn run(arguments: &MonitoringArgs) -> Result<(), Box<dyn Error>> {
    if arguments.json {
        report::line(&report::Machine::here())?;
    }
    let mixes = Mix::ALL.map(|mix| (mix.to_string(), mix, 1));
    let large = ("16KiB-64MiB".to_owned(), Mix::To1MiB, LARGE_FACTOR);
    let mut table = report::table(&["mix", "ns without", "ns with", "over without", "readings"], 1);
    for (name, mix, factor) in mixes.into_iter().chain([large]) {
        let row = measure(name, mix, factor, arguments)?;
        if arguments.json {
            report::line(&row)?;
        }
        table.add_row([
            row.mix,
            format!("{:.1}", row.ns_unmonitored_median),
            format!("{:.1}", row.ns_monitored_median),
            format!("{:.3}", row.over_unmonitored),
            row.readings.to_string(),
        ]);
    }
    if !arguments.json {
        println!("{table}");
    }
    Ok(())
}

/// A manager that is busy.
struct Busy {
    manager: HostMemoryManager,
    live: Vec<Option<Buffer<Host>>>,
    draws: Draws,
    factor: u64,
}

impl Busy {
    /// Replaces buffers for so long; nanoseconds a pair.
    fn turn(&mut self, time: Duration) -> f64 {
        self.draws.draw(DRAWS_MAX);
        let mut pairs = 0_usize;
        let start = Instant::now();
        loop {
            for batch in self.draws.table().chunks(BATCH) {
                for draw in batch {
                    let slot = &mut self.live[draw.slot as usize];
                    *slot = None;
                    let bytes = u64::from(draw.bytes) * self.factor;
                    *slot = Some(self.manager.allocate(bytes).expect("the budget holds it"));
                }
                pairs += batch.len();
                let passed = start.elapsed();
                if passed >= time {
                    return passed.as_nanos() as f64 / pairs as f64;
                }
            }
        }
    }
}

fn measure(name: String, mix: Mix, factor: u64, arguments: &MonitoringArgs) -> Result<Row, Box<dyn Error>> {
    let (repetitions, time) = if arguments.quick { (1, QUICK_TURN) } else { (arguments.repetitions, TURN) };
    let slots = if mix == Mix::Hot { 1 } else { LIVE };
    let mut config = Config::default();
    config.budget_bytes = Some(BUDGET_BYTES);
    config.idle_decay = Some(Duration::from_millis(400));
    let manager = HostMemoryManager::with_config(Host::new()?, config)?;
    let live = (0..slots).map(|_| None).collect();
    let mut busy = Busy { manager, live, draws: Draws::new(mix, slots, arguments.seed), factor };
    let (mut without, mut with, mut ratios, mut readings) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // The first repetition warms up.
    for repetition in 0..=repetitions {
        let alone = busy.turn(time);
        let monitor = PressureMonitor::new(&busy.manager, system_pressure_sources())?;
        let monitored = busy.turn(time);
        let sources = busy.manager.statistics().pressure.sources;
        drop(monitor);
        if repetition > 0 {
            readings += sources.iter().map(|source| source.reading_count).sum::<u64>();
            without.push(alone);
            with.push(monitored);
            ratios.push(monitored / alone);
        }
    }
    let middle = |values: &[f64]| median(&sorted_of(values)).unwrap_or(f64::NAN);
    Ok(Row {
        bench: "monitoring",
        mix: name,
        ns_unmonitored_median: hundredths(middle(&without)),
        ns_monitored_median: hundredths(middle(&with)),
        over_unmonitored: (1000.0 * middle(&ratios)).round() / 1000.0,
        readings,
        repetitions,
    })
}
