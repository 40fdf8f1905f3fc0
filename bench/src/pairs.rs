//! The schedule of `pairs`: which peers are measured in which configuration, in what order.
//!
//! Every thread of a configuration holds one lane of each peer and goes through the same schedule: fill every live set;
//! warm up and choose the length of a batch; then, repetition by repetition, one batch of each peer, so that the
//! machine's drift hits all peers alike. Threads start a batch together, and the first to finish ends it for all, so
//! that no thread runs alone for longer than it takes to look at a flag.

use std::error::Error;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::PairsArgs;
use crate::lane::{Lane, Tally};
use crate::mix::{DRAWS_MAX, Draws, Mix};
use crate::peers::{Entry, LOOP, PAIRS, Space};
use crate::report::{self, PairsRow};

const UNIT_BYTES: u64 = 256;
/// A range is so many times as large as the bytes expected to be live, at least `RANGE_BYTES_MIN`.
const RANGE_FACTOR: f64 = 4.0;
const RANGE_BYTES_MIN: u64 = 64 << 20;
/// What a batch should take; the bounds on its pairs come first, but no batch may take `BATCH_MAX`.
const BATCH: Duration = Duration::from_millis(40);
const BATCH_MAX: Duration = Duration::from_millis(200);
const BATCH_PAIRS_MIN: usize = 100_000;
const BATCH_PAIRS_QUICK: usize = 10_000;
const LIVE: [u32; 3] = [1_000, 100_000, 1_000_000];

/// Whose live buffers a thread replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Set {
    /// Its own.
    Own,
    /// Those of all threads.
    Shared,
}

/// One configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) mix: Mix,
    pub(crate) threads: u32,
    pub(crate) set: Set,
    /// Live buffers: of each thread (`Own`), or in all (`Shared`).
    pub(crate) live: u32,
    pub(crate) space: Space,
    pub(crate) repetitions: u32,
    pub(crate) seed: u64,
    quick: bool,
}

impl Plan {
    fn new(mix: Mix, threads: u32, set: Set, live: u32, arguments: &PairsArgs) -> Self {
        let allocations = if set == Set::Own { live * threads } else { live };
        let range = (f64::from(allocations) * mix.mean_bytes() * RANGE_FACTOR) as u64;
        let space = Space {
            unit_bytes: UNIT_BYTES,
            range_bytes: range.max(RANGE_BYTES_MIN).next_multiple_of(UNIT_BYTES),
            allocations_max: allocations + threads,
        };
        let (repetitions, seed) = (if arguments.quick { 1 } else { arguments.repetitions }, arguments.seed);
        Self { mix, threads, set, live, space, repetitions, seed, quick: arguments.quick }
    }

    /// Buffers are freed as soon as they are allocated.
    pub(crate) fn is_hot(&self) -> bool {
        self.mix == Mix::Hot
    }

    /// Bytes live at a time, as expected.
    fn live_bytes(&self) -> u64 {
        (f64::from(self.space.allocations_max) * self.mix.mean_bytes()) as u64
    }

    /// Pairs before the first repetition: enough to replace most of the live set.
    fn warm_up_pairs(&self) -> usize {
        if self.quick { BATCH_PAIRS_QUICK } else { (self.live as usize).clamp(BATCH_PAIRS_MIN, DRAWS_MAX) }
    }

    /// Pairs of a batch, for a pair that takes `ns`.
    fn batch_pairs(&self, ns: f64) -> usize {
        if self.quick {
            return BATCH_PAIRS_QUICK;
        }
        let within = |limit: Duration| (limit.as_nanos() as f64 / ns.max(0.1)) as usize;
        within(BATCH).clamp(BATCH_PAIRS_MIN, DRAWS_MAX).min(within(BATCH_MAX).max(1))
    }
}

/// Measures what `arguments` ask for and prints it.
pub(crate) fn run(arguments: &PairsArgs) -> Result<(), Box<dyn Error>> {
    if arguments.json {
        report::line(&report::Machine::here())?;
    }
    let mut rows = Vec::new();
    for plan in plans(arguments) {
        eprintln!("{} {} thread(s), {:?} set, {} live", plan.mix, plan.threads, plan.set, plan.live);
        let measured = measure(&plan, arguments);
        if arguments.json {
            measured.iter().try_for_each(report::line)?;
        }
        rows.extend(measured);
    }
    if !arguments.json {
        println!("seed {}\n{}", arguments.seed, report::pairs_table(&rows));
    }
    Ok(())
}

fn plans(arguments: &PairsArgs) -> Vec<Plan> {
    let sizes = match arguments.live.as_slice() {
        [] if arguments.quick => &LIVE[..1],
        [] => &LIVE[..],
        chosen => chosen,
    };
    let mut plans = Vec::new();
    for &mix in &arguments.mix {
        for &threads in &arguments.threads {
            let mut plan = |set, live| plans.push(Plan::new(mix, threads, set, live, arguments));
            if mix == Mix::Hot {
                plan(Set::Own, 1);
                continue;
            }
            for &live in sizes {
                plan(Set::Own, live);
                if threads > 1 {
                    plan(Set::Shared, live);
                }
            }
        }
    }
    plans
}

/// One configuration: a row for each peer that can take part.
fn measure(plan: &Plan, arguments: &PairsArgs) -> Vec<PairsRow> {
    let wanted = |entry: &&Entry| {
        let named = arguments.peer.is_empty()
            || entry.name == LOOP
            || arguments.peer.iter().any(|name| name == entry.name);
        named && !(entry.bare && plan.threads > 1)
    };
    let capped = |entry: &&Entry| entry.in_band && plan.live_bytes() > arguments.memory_cap_bytes;
    let (skipped, entries): (Vec<&Entry>, Vec<&Entry>) = PAIRS.iter().filter(wanted).partition(capped);

    let samples = sample(plan, &entries);
    let mut rows: Vec<_> = entries
        .iter()
        .zip(samples)
        .map(|(entry, samples)| PairsRow::new(entry.name, plan, &samples))
        .collect();
    let loop_ns = rows.iter().find(|row| row.peer == LOOP).and_then(|row| row.ns_median);
    rows.iter_mut().for_each(|row| row.loop_ns_median = loop_ns);
    rows.extend(skipped.into_iter().map(|entry| {
        let reason = format!(
            "in-band, and about {} MiB would be live (cap {} MiB)",
            plan.live_bytes() >> 20,
            arguments.memory_cap_bytes >> 20
        );
        PairsRow::skipped(entry.name, plan, reason)
    }));
    rows
}

/// What was measured of one peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    /// The threads' time over the threads' pairs, one a repetition.
    pub(crate) ns: Vec<f64>,
    /// Pairs of the slowest thread over those of the fastest, one a repetition.
    pub(crate) balance: Vec<f64>,
    pub(crate) pairs: usize,
    pub(crate) failures: usize,
}

impl Samples {
    fn of_threads(threads: &[&Part]) -> Self {
        let mut samples = Self { pairs: threads[0].pairs, ..Self::default() };
        for repetition in 0..threads[0].batches.len() {
            let done = || threads.iter().map(|part| part.batches[repetition].1 as f64);
            let elapsed: Duration = threads.iter().map(|part| part.batches[repetition].0).sum();
            samples.ns.push(elapsed.as_nanos() as f64 / done().sum::<f64>());
            samples.balance.push(done().fold(f64::INFINITY, f64::min) / done().fold(0.0, f64::max));
        }
        samples.failures = threads.iter().map(|part| part.failures).sum();
        samples
    }
}

/// One thread's part in it.
#[derive(Clone, Debug, Default)]
struct Part {
    /// Time and pairs run, one a repetition.
    batches: Vec<(Duration, usize)>,
    /// Pairs in a whole batch.
    pairs: usize,
    failures: usize,
}

fn sample(plan: &Plan, entries: &[&Entry]) -> Vec<Samples> {
    let mut lanes: Vec<Vec<Box<dyn Lane>>> = (0..plan.threads).map(|_| Vec::new()).collect();
    for entry in entries {
        for (thread, lane) in (entry.lanes)(plan).into_iter().enumerate() {
            lanes[thread].push(lane);
        }
    }
    let gate = Gate::new(plan.threads as usize);
    let of_threads: Vec<Vec<Part>> = std::thread::scope(|scope| {
        let gate = &gate;
        let start = |(thread, lanes)| scope.spawn(move || Runner::new(plan, thread, gate).run(lanes));
        let running: Vec<_> = lanes.into_iter().enumerate().map(start).collect();
        running.into_iter().map(|thread| thread.join().expect("a peer panicked")).collect()
    });
    let parts = |peer: usize| of_threads.iter().map(|parts| &parts[peer]).collect::<Vec<_>>();
    (0..entries.len()).map(|peer| Samples::of_threads(&parts(peer))).collect()
}

/// Where the threads of a configuration meet.
struct Gate {
    barrier: Barrier,
    threads: usize,
    arrived: AtomicUsize,
    stop: AtomicBool,
    /// The last batch's ns per pair, summed over threads, in thousandths.
    last: AtomicU64,
}

impl Gate {
    fn new(threads: usize) -> Self {
        let (arrived, stop, last) = (AtomicUsize::new(0), AtomicBool::new(false), AtomicU64::new(0));
        Self { barrier: Barrier::new(threads), threads, arrived, stop, last }
    }
}

/// One thread's way through the schedule.
struct Runner<'a> {
    plan: &'a Plan,
    gate: &'a Gate,
    draws: Draws,
    leads: bool,
    starts: usize,
}

impl<'a> Runner<'a> {
    fn new(plan: &'a Plan, thread: usize, gate: &'a Gate) -> Self {
        // Seeds far apart: SplitMix64 started nearby would still be fine, equal seeds would not.
        let seed = plan.seed.wrapping_add((thread as u64) << 40);
        Self { plan, gate, draws: Draws::new(plan.mix, plan.live, seed), leads: thread == 0, starts: 0 }
    }

    fn run(&mut self, mut lanes: Vec<Box<dyn Lane>>) -> Vec<Part> {
        let mut parts = vec![Part::default(); lanes.len()];
        self.draws.draw(self.plan.live as usize);
        for (lane, part) in lanes.iter_mut().zip(&mut parts) {
            part.failures += lane.fill(self.draws.table());
        }
        self.draws.draw(self.plan.warm_up_pairs());
        for (lane, part) in lanes.iter_mut().zip(&mut parts) {
            part.failures += self.batch(lane.as_mut(), self.plan.warm_up_pairs()).1.failures;
            part.pairs = self.plan.batch_pairs(self.mean_of_last());
        }
        let most = parts.iter().map(|part| part.pairs).max().unwrap_or(0);
        for _ in 0..self.plan.repetitions {
            self.draws.draw(most);
            for (lane, part) in lanes.iter_mut().zip(&mut parts) {
                let (elapsed, tally) = self.batch(lane.as_mut(), part.pairs);
                part.batches.push((elapsed, tally.pairs));
                part.failures += tally.failures;
            }
        }
        self.gate.barrier.wait();
        lanes.iter_mut().for_each(|lane| lane.empty());
        parts
    }

    /// Runs the first `pairs` draws, together with the other threads.
    fn batch(&mut self, lane: &mut dyn Lane, pairs: usize) -> (Duration, Tally) {
        let Self { gate, draws, .. } = self;
        if self.leads {
            gate.stop.store(false, Relaxed);
            gate.last.store(0, Relaxed);
        }
        gate.barrier.wait();
        // The barrier wakes threads one after the other; those that are awake wait for the rest here.
        self.starts += 1;
        gate.arrived.fetch_add(1, Relaxed);
        while gate.arrived.load(Relaxed) < self.starts * gate.threads {
            std::hint::spin_loop();
        }
        let start = Instant::now();
        let tally = lane.run(&draws.table()[..pairs], &gate.stop);
        let elapsed = start.elapsed();
        gate.stop.store(true, Relaxed);
        gate.last.fetch_add(elapsed.as_nanos() as u64 * 1000 / tally.pairs as u64, Relaxed);
        gate.barrier.wait();
        (elapsed, tally)
    }

    /// The last batch's ns per pair, the same number in every thread.
    fn mean_of_last(&self) -> f64 {
        let last = self.gate.last.load(Relaxed) as f64 / 1000.0 / self.gate.threads as f64;
        self.gate.barrier.wait();
        last
    }
}
