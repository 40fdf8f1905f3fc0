//! What it costs that freed memory may still be in use: frees and pairs on queues beside plain ones.
//!
//! Batches of [`BATCH`] buffers are allocated untimed and freed timed. All ways of freeing take turns, batch by batch, in one
//! process and from one manager each, so that the machine's drift hits all alike.

use std::error::Error;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use aquifer::{Buffer, Config, Host, HostMemoryManager, Queue};
use clap::ValueEnum;
use serde::Serialize;

use crate::OrderingArgs;
use crate::mix::{Draws, Mix};
use crate::report::{self, hundredths, median, sorted_of};

/// How many buffers are freed in a row: what one marker serves.
const BATCH: usize = 64;
/// So many batches go by before a queue that lags passes its work.
const LAG_BATCHES: usize = 8;
/// More than is ever live; no memory is touched.
const BUDGET_BYTES: u64 = 1 << 40;

/// How buffers are used before they are freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Way {
    /// By no queue.
    Plain,
    /// Allocated on a queue and freed there.
    Home,
    /// Recorded for a queue that has nothing to do.
    Recorded,
    /// Recorded for a queue that lags eight batches behind.
    RecordedLate,
}

const WAYS: [Way; 4] = [Way::Plain, Way::Home, Way::Recorded, Way::RecordedLate];

/// One way in one mix.
#[derive(Debug, Serialize)]
struct Row {
    bench: &'static str,
    way: Way,
    mix: String,
    /// Of a free alone, in a batch of 64.
    free_ns_median: f64,
    free_ns_min: f64,
    over_plain: f64,
    /// Markers that were put into the queue, for each free.
    markers_per_free: f64,
    repetitions: u32,
    batches: usize,
}

/// A manager whose buffers are freed in one way.
struct Subject {
    way: Way,
    manager: HostMemoryManager,
    queue: Queue<Host>,
    buffers: Vec<Buffer<Host>>,
    /// What lets the queue go on, if it is held up.
    held: Option<mpsc::Sender<()>>,
    batch_count: usize,
}

impl Subject {
    fn new(way: Way) -> Self {
        let mut config = Config::default();
        config.budget_bytes = Some(BUDGET_BYTES);
        let host = Host::new().expect("host memory can be had");
        let manager = HostMemoryManager::with_config(host, config).expect("the configuration is good");
        let queue = manager.queue().expect("a first queue can be had");
        Self { way, manager, queue, buffers: Vec::with_capacity(BATCH), held: None, batch_count: 0 }
    }

    /// Allocates a batch and frees it; the time of the frees.
    fn run(&mut self, sizes: impl Iterator<Item = u64>) -> Duration {
        if self.way == Way::RecordedLate && self.batch_count.is_multiple_of(LAG_BATCHES) {
            // Lets go what was held, and holds the queue again.
            self.held = None;
            let (release, held) = mpsc::channel::<()>();
            self.queue.raw().submit(move || {
                let _ = held.recv();
            });
            self.held = Some(release);
        }
        self.batch_count += 1;
        for bytes in sizes {
            let buffer = match self.way {
                Way::Home => self.queue.allocate(bytes),
                _ => self.manager.allocate(bytes),
            };
            let buffer = buffer.expect("the budget holds it");
            if matches!(self.way, Way::Recorded | Way::RecordedLate) {
                buffer.record_use(&self.queue).expect("the queue is the manager's");
            }
            self.buffers.push(buffer);
        }
        let start = Instant::now();
        self.buffers.clear();
        start.elapsed()
    }

    fn markers(&self) -> u64 {
        self.manager.statistics().driver_calls.signal
    }
}

/// Measures and prints.
pub(crate) fn run(arguments: &OrderingArgs) -> Result<(), Box<dyn Error>> {
    if arguments.json {
        report::line(&report::Machine::here())?;
    }
    let mut rows = Vec::new();
    for &mix in &arguments.mix {
        rows.extend(measure(mix, arguments));
    }
    if arguments.json {
        return Ok(rows.iter().try_for_each(report::line)?);
    }
    let header = ["mix", "way", "ns per free", "least", "over plain", "markers per free"];
    let mut table = report::table(&header, 2);
    for row in &rows {
        table.add_row([
            row.mix.clone(),
            format!("{:?}", row.way),
            format!("{:.1}", row.free_ns_median),
            format!("{:.1}", row.free_ns_min),
            format!("{:.2}", row.over_plain),
            format!("{:.4}", row.markers_per_free),
        ]);
    }
    println!("{table}");
    Ok(())
}

fn measure(mix: Mix, arguments: &OrderingArgs) -> Vec<Row> {
    let (repetitions, batches) =
        if arguments.quick { (1, 2 * LAG_BATCHES) } else { (arguments.repetitions, 2000) };
    let mut subjects = WAYS.map(Subject::new);
    let mut draws = Draws::new(mix, 1, arguments.seed);
    let mut samples = WAYS.map(|_| Vec::new());
    let mut markers = [0; WAYS.len()];
    // The first repetition warms up.
    for repetition in 0..=repetitions {
        draws.draw(BATCH * batches);
        let mut times = [Duration::ZERO; WAYS.len()];
        let before: Vec<u64> = subjects.iter().map(Subject::markers).collect();
        for batch in draws.table().chunks(BATCH) {
            for (subject, time) in subjects.iter_mut().zip(&mut times) {
                *time += subject.run(batch.iter().map(|draw| draw.bytes.into()));
            }
        }
        if repetition > 0 {
            for (index, time) in times.into_iter().enumerate() {
                samples[index].push(time.as_nanos() as f64 / (BATCH * batches) as f64);
                markers[index] += subjects[index].markers() - before[index];
            }
        }
    }
    let medians = samples.each_ref().map(|samples| median(&sorted_of(samples)).unwrap_or(0.0));
    let row = |index: usize| Row {
        bench: "ordering",
        way: WAYS[index],
        mix: mix.to_string(),
        free_ns_median: hundredths(medians[index]),
        free_ns_min: hundredths(sorted_of(&samples[index])[0]),
        over_plain: hundredths(medians[index] / medians[0]),
        markers_per_free: markers[index] as f64 / (f64::from(repetitions) * (BATCH * batches) as f64),
        repetitions,
        batches,
    };
    (0..WAYS.len()).map(row).collect()
}
