//! `replay`: recorded traces on the peers, for the memory they reserve and the time they take.
//!
//! The memory is only accounted for, never allocated, so peers that write into what they manage are left out.

use std::error::Error;
use std::time::{Duration, Instant};

use crate::ReplayArgs;
use crate::peers::{
    Aquifer, BestFit, Driver, LOOP, LoopOnly, OffsetAllocator, PytorchLike, REFERENCE, RangePeer, Replayer,
    Space, VkMem,
};
use crate::report::{self, ReplayRow};
use crate::trace::{self, Operation, Trace};

/// The budget if none is asked for: more than any trace can fill.
const UNLIMITED_BYTES: u64 = 1 << 40;
/// As PyTorch rounds, so that the policies compare.
const UNIT_BYTES: u64 = 512;

/// What came of one run.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    elapsed: Duration,
    reserved_bytes_peak: Option<u64>,
    driver: Option<Driver>,
    /// The operation that found no memory, which was the last.
    failed: Option<usize>,
}

struct Entry {
    name: &'static str,
    /// Runs a trace in a budget of so many bytes: what may be reserved, or the size of the range.
    run: fn(&Trace, u64) -> Outcome,
}

/// The peers of `replay`, in the order of every repetition.
#[rustfmt::skip]
const REPLAYS: &[Entry] = &[
    Entry { name: LOOP, run: |trace, _| play(LoopOnly, trace) },
    Entry { name: "aquifer", run: |trace, budget| play(Aquifer::on_sim(None, budget), trace) },
    Entry { name: "aquifer-blocks", run: |trace, budget| play(Aquifer::on_sim(Some("blocks"), budget), trace) },
    Entry { name: "aquifer-power-of-two", run: |trace, budget| play(Aquifer::on_sim(Some("power-of-two"), budget), trace) },
    Entry { name: "aquifer-on-host", run: |trace, budget| play(Aquifer::on_host(budget), trace) },
    Entry { name: REFERENCE, run: |trace, budget| play(HighestOffset::new(OffsetAllocator::new(&space(trace, budget))), trace) },
    Entry { name: "vk-mem", run: |trace, budget| play(HighestOffset::new(VkMem::new(&space(trace, budget))), trace) },
    Entry { name: "best-fit-one-range", run: |trace, budget| play(BestFit::new(budget), trace) },
    Entry { name: "pytorch-like", run: |trace, budget| play(PytorchLike::new(budget), trace) },
];

/// The names `replay --peer` accepts.
pub(crate) fn names() -> Vec<&'static str> {
    REPLAYS.iter().map(|entry| entry.name).collect()
}

/// Replays what `arguments` ask for and prints it.
pub(crate) fn run(arguments: &ReplayArgs) -> Result<(), Box<dyn Error>> {
    if arguments.json {
        report::line(&report::Machine::here())?;
    }
    let wanted =
        |entry: &&Entry| arguments.peer.is_empty() || arguments.peer.iter().any(|name| name == entry.name);
    let entries: Vec<_> = REPLAYS.iter().filter(wanted).collect();
    let repetitions = if arguments.quick { 1 } else { arguments.repetitions };
    let budgets: Vec<_> = match arguments.budget_over_peak.as_slice() {
        [] => vec![None],
        ratios => ratios.iter().copied().map(Some).collect(),
    };
    let mut rows = Vec::new();
    for path in &arguments.traces {
        let recorded = trace::read(path)?;
        let variants: Vec<Trace> = (1..=arguments.variants).map(|number| recorded.variant(number)).collect();
        for trace in std::iter::once(&recorded).chain(&variants) {
            for &budget in &budgets {
                for row in replay(&entries, trace, budget, repetitions) {
                    if arguments.json {
                        report::line(&row)?;
                    }
                    rows.push(row);
                }
            }
        }
    }
    if !arguments.json {
        println!("{}", report::replay_table(&rows));
    }
    Ok(())
}

/// Runs a trace on every peer, in a budget of so many times the trace's peak.
fn replay(
    entries: &[&Entry],
    trace: &Trace,
    budget_over_peak: Option<f64>,
    repetitions: u32,
) -> Vec<ReplayRow> {
    let in_peaks = |ratio: f64| (trace.requested_bytes_peak as f64 * ratio) as u64 / UNIT_BYTES * UNIT_BYTES;
    let budget_bytes = budget_over_peak.map_or(UNLIMITED_BYTES, in_peaks);
    let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); entries.len()];
    for _ in 0..repetitions {
        for (entry, outcomes) in entries.iter().zip(&mut outcomes) {
            outcomes.push((entry.run)(trace, budget_bytes));
        }
    }
    let rows = entries.iter().zip(outcomes);
    rows.map(|(entry, outcomes)| summarise(entry.name, trace, budget_over_peak, outcomes)).collect()
}

fn summarise(
    peer: &'static str,
    trace: &Trace,
    budget_over_peak: Option<f64>,
    mut outcomes: Vec<Outcome>,
) -> ReplayRow {
    outcomes.sort_by_key(|outcome| outcome.elapsed);
    let median = outcomes[outcomes.len() / 2];
    let allocations =
        trace.operations.iter().filter(|operation| matches!(operation, Operation::Allocate { .. })).count();
    let pairs = trace.operations.len() as f64 / 2.0;
    let ns_per_pair = |outcome: &Outcome| outcome.elapsed.as_nanos() as f64 / pairs;
    let out_of_memory = |place| format!("out of memory at operation {place} of {}", trace.operations.len());
    let skipped = median.failed.map(out_of_memory);
    let reserved = median.reserved_bytes_peak.filter(|_| skipped.is_none());
    let driver = median.driver.filter(|_| skipped.is_none());
    ReplayRow {
        bench: "replay",
        peer,
        trace: trace.name.clone(),
        events: trace.events,
        allocations,
        peak_requested_bytes: trace.requested_bytes_peak,
        budget_over_peak,
        peak_reserved_bytes: reserved,
        reserved_over_requested: reserved.map(|reserved| reserved as f64 / trace.requested_bytes_peak as f64),
        driver_calls: driver.map(|driver| driver.calls),
        driver_seconds: driver.and_then(|driver| driver.ns).map(|ns| ns as f64 / 1e9),
        ns_per_pair: ns_per_pair(&median),
        ns_per_pair_min: ns_per_pair(&outcomes[0]),
        elapsed_seconds: median.elapsed.as_secs_f64(),
        repetitions: outcomes.len(),
        skipped,
    }
}

/// Runs the trace once, up to the first allocation that fails. What is still live at its end is not freed.
fn play<R: Replayer>(mut peer: R, trace: &Trace) -> Outcome {
    let mut handles: Vec<Option<R::Handle>> = (0..trace.ids).map(|_| None).collect();
    let mut failed = None;
    let start = Instant::now();
    for (place, operation) in trace.operations.iter().enumerate() {
        match *operation {
            Operation::Allocate { id, bytes, stream } => {
                let handle = peer.allocate(bytes, stream);
                if handle.is_none() {
                    failed = Some(place);
                    break;
                }
                handles[id as usize] = handle;
            }
            Operation::Free { id } => {
                if let Some(handle) = handles[id as usize].take() {
                    peer.free(handle);
                }
            }
        }
    }
    let elapsed = start.elapsed();
    Outcome { elapsed, reserved_bytes_peak: peer.reserved_bytes_peak(), driver: peer.driver(), failed }
}

fn space(trace: &Trace, range_bytes: u64) -> Space {
    Space { unit_bytes: UNIT_BYTES, range_bytes, allocations_max: trace.ids }
}

/// A peer of one range, for which what was reserved is all up to the highest offset ever used.
struct HighestOffset<P> {
    peer: P,
    highest: u64,
}

impl<P> HighestOffset<P> {
    fn new(peer: P) -> Self {
        Self { peer, highest: 0 }
    }
}

impl<P: RangePeer> Replayer for HighestOffset<P> {
    type Handle = P::Handle;

    #[inline]
    fn allocate(&mut self, bytes: u64, _: u64) -> Option<P::Handle> {
        let handle = self.peer.allocate(bytes)?;
        let end = self.peer.offset_bytes(&handle) + bytes.next_multiple_of(UNIT_BYTES);
        self.highest = self.highest.max(end);
        Some(handle)
    }

    #[inline]
    fn free(&mut self, handle: P::Handle) {
        self.peer.free(handle);
    }

    fn reserved_bytes_peak(&self) -> Option<u64> {
        Some(self.highest)
    }
}
