//! `replay`: recorded traces on the peers, for the memory they reserve and the time they take.
//!
//! The memory is only accounted for, never allocated, so peers that write into what they manage are left out.

use std::error::Error;
use std::time::{Duration, Instant};

use ::aquifer::BucketLayout;

use crate::ReplayArgs;
use crate::peers::{
    Aquifer, BestFit, LOOP, LoopOnly, OffsetAllocator, PytorchLike, REFERENCE, RangePeer, Replayer, Space,
    VkMem,
};
use crate::report::{self, ReplayRow};
use crate::trace::{self, Operation, Trace};

/// The range of the peers that manage one: more than any trace can fill.
const RANGE_BYTES: u64 = 1 << 40;
/// As PyTorch rounds, so that the policies compare.
const UNIT_BYTES: u64 = 512;

/// What came of one run.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    elapsed: Duration,
    reserved_bytes_peak: Option<u64>,
    failures: usize,
}

struct Entry {
    name: &'static str,
    run: fn(&Trace) -> Outcome,
}

/// The peers of `replay`, in the order of every repetition.
#[rustfmt::skip]
const REPLAYS: &[Entry] = &[
    Entry { name: LOOP, run: |trace| play(LoopOnly, trace) },
    Entry { name: "aquifer", run: |trace| play(Aquifer::new(BucketLayout::default()), trace) },
    Entry { name: "aquifer-power-of-two", run: |trace| play(Aquifer::new(BucketLayout::power_of_two()), trace) },
    Entry { name: REFERENCE, run: |trace| play(HighestOffset::new(OffsetAllocator::new(&space(trace))), trace) },
    Entry { name: "vk-mem", run: |trace| play(HighestOffset::new(VkMem::new(&space(trace))), trace) },
    Entry { name: "best-fit-one-range", run: |trace| play(BestFit::default(), trace) },
    Entry { name: "pytorch-like", run: |trace| play(PytorchLike::new(), trace) },
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
    let mut rows = Vec::new();
    for path in &arguments.traces {
        let recorded = trace::read(path)?;
        let variants: Vec<Trace> = (1..=arguments.variants).map(|number| recorded.variant(number)).collect();
        for trace in std::iter::once(&recorded).chain(&variants) {
            let mut outcomes: Vec<Vec<Outcome>> = vec![Vec::new(); entries.len()];
            for _ in 0..repetitions {
                for (entry, outcomes) in entries.iter().zip(&mut outcomes) {
                    outcomes.push((entry.run)(trace));
                }
            }
            for (entry, outcomes) in entries.iter().zip(outcomes) {
                let row = summarise(entry.name, trace, outcomes);
                if arguments.json {
                    report::line(&row)?;
                }
                rows.push(row);
            }
        }
    }
    if !arguments.json {
        println!("{}", report::replay_table(&rows));
    }
    Ok(())
}

fn summarise(peer: &'static str, trace: &Trace, mut outcomes: Vec<Outcome>) -> ReplayRow {
    outcomes.sort_by_key(|outcome| outcome.elapsed);
    let median = outcomes[outcomes.len() / 2];
    let allocations =
        trace.operations.iter().filter(|operation| matches!(operation, Operation::Allocate { .. })).count();
    let pairs = trace.operations.len() as f64 / 2.0;
    let ns_per_pair = |outcome: &Outcome| outcome.elapsed.as_nanos() as f64 / pairs;
    let skipped = (median.failures > 0).then(|| format!("{} allocations failed", median.failures));
    let reserved = median.reserved_bytes_peak.filter(|_| skipped.is_none());
    ReplayRow {
        bench: "replay",
        peer,
        trace: trace.name.clone(),
        events: trace.events,
        allocations,
        peak_requested_bytes: trace.requested_bytes_peak,
        peak_reserved_bytes: reserved,
        reserved_over_requested: reserved.map(|reserved| reserved as f64 / trace.requested_bytes_peak as f64),
        ns_per_pair: ns_per_pair(&median),
        ns_per_pair_min: ns_per_pair(&outcomes[0]),
        elapsed_seconds: median.elapsed.as_secs_f64(),
        repetitions: outcomes.len(),
        skipped,
    }
}

/// Runs the trace once. What is still live at its end is not freed.
fn play<R: Replayer>(mut peer: R, trace: &Trace) -> Outcome {
    let mut handles: Vec<Option<R::Handle>> = (0..trace.ids).map(|_| None).collect();
    let mut failures = 0;
    let start = Instant::now();
    for operation in &trace.operations {
        match *operation {
            Operation::Allocate { id, bytes, stream } => {
                let handle = peer.allocate(bytes, stream);
                failures += usize::from(handle.is_none());
                handles[id as usize] = handle;
            }
            Operation::Free { id } => {
                if let Some(handle) = handles[id as usize].take() {
                    peer.free(handle);
                }
            }
        }
    }
    Outcome { elapsed: start.elapsed(), reserved_bytes_peak: peer.reserved_bytes_peak(), failures }
}

fn space(trace: &Trace) -> Space {
    Space { unit_bytes: UNIT_BYTES, range_bytes: RANGE_BYTES, allocations_max: trace.ids }
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
