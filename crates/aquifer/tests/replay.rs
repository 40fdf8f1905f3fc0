//! Replays on host memory: against a naive oracle, on several threads, and out of memory.

use std::collections::HashSet;
use std::error::Error as _;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aquifer::trace::{ReplayError, ReplayOptions, ReplayOutcome, Trace, TraceEvent, TraceOp, replay};
use aquifer::{BucketLayout, Config, ErrorKind, Host, HostMemoryManager, MemoryManager};

/// How much of its part of the byte counts a thread may keep to itself; peaks are inexact by as much.
const UNTOLD_BYTES_MAX: u64 = 4 << 20;

fn manager(layout: BucketLayout, budget_bytes: u64) -> HostMemoryManager {
    let mut config = Config::default();
    config.layout = layout;
    config.budget_bytes = Some(budget_bytes);
    MemoryManager::with_config(Host::new().unwrap(), config).unwrap()
}

fn threads(count: usize) -> ReplayOptions {
    ReplayOptions::default().threads(NonZeroUsize::new(count).unwrap())
}

/// A trace that allocates and frees at random on `streams` streams. A third of the frees completes later.
fn generated(streams: u64, event_count: usize) -> Trace {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut live, mut completing, mut events) = (Vec::<TraceEvent>::new(), Vec::new(), Vec::new());
    while events.len() < event_count {
        let time_us = events.len() as u64;
        let next = random(10);
        let event = if next < 4 + u64::from(live.len() < 200) {
            // From bytes to 8 MiB, each order of magnitude as likely as the next.
            let bytes_max = 8 << random(21);
            let bytes = 1 + random(bytes_max);
            let id = 10 * time_us;
            live.push(TraceEvent { time_us, op: TraceOp::Allocate, id, bytes, stream: random(streams) });
            live[live.len() - 1]
        } else if next < 8 && !live.is_empty() {
            let freed = live.swap_remove(random(live.len() as u64) as usize);
            if random(3) == 0 {
                completing.push(freed);
            }
            TraceEvent { time_us, op: TraceOp::Free, ..freed }
        } else if !completing.is_empty() {
            let freed = completing.swap_remove(random(completing.len() as u64) as usize);
            TraceEvent { time_us, op: TraceOp::FreeCompleted, ..freed }
        } else {
            continue;
        };
        events.push(event);
    }
    Trace::from_events("generated", events).unwrap()
}

/// What any correct replay must count. Bytes are current, peak and total.
#[derive(Debug, Default)]
struct Oracle {
    allocations: u64,
    frees: u64,
    requested: [u64; 3],
    allocated: [u64; 3],
}

impl Oracle {
    fn new(trace: &Trace, layout: BucketLayout) -> Self {
        let mut oracle = Self::default();
        let completions = trace.events().iter().filter(|event| event.op == TraceOp::FreeCompleted);
        let completed: HashSet<u64> = completions.map(|event| event.id).collect();
        for event in trace.events() {
            let sizes = [event.bytes, layout.round_up(event.bytes).unwrap()];
            let counters = [&mut oracle.requested, &mut oracle.allocated];
            if event.op == TraceOp::Allocate {
                oracle.allocations += 1;
                for ([current, peak, total], bytes) in counters.into_iter().zip(sizes) {
                    *current += bytes;
                    *peak = (*peak).max(*current);
                    *total += bytes;
                }
            } else if event.op == TraceOp::FreeCompleted || !completed.contains(&event.id) {
                oracle.frees += 1;
                for ([current, ..], bytes) in counters.into_iter().zip(sizes) {
                    *current -= bytes;
                }
            }
        }
        oracle
    }

    fn check(&self, outcome: &ReplayOutcome, threads: u64) {
        let statistics = &outcome.statistics;
        assert_eq!(statistics.allocation_count, self.allocations);
        assert_eq!(statistics.deallocation_count, self.frees);
        assert_eq!(outcome.operation_count as u64, self.allocations + self.frees);
        assert_eq!(outcome.allocated_bytes_peak, self.allocated[1]);
        let inexact = threads * UNTOLD_BYTES_MAX;
        for (counter, [current, peak, total]) in
            [(statistics.requested, self.requested), (statistics.allocated, self.allocated)]
        {
            assert_eq!((counter.current, counter.total), (current, total));
            assert!(counter.peak.abs_diff(peak) <= inexact, "{counter:?}, expected {peak}");
        }
        let tag = statistics.tags.iter().find(|tag| tag.name == "replay").unwrap();
        assert_eq!(tag.current_bytes, self.requested[0]);
        let parts = statistics.allocated.current + statistics.cached_bytes + statistics.free_bytes;
        assert_eq!(parts, statistics.reserved.current);
        assert!(self.allocated[1] <= statistics.reserved.peak);
        assert!(outcome.reserved_after_trim_bytes >= statistics.allocated.current);
        assert_eq!(outcome.reserved_after_trim_bytes + outcome.trimmed_bytes, statistics.reserved.current);
    }
}

/// Nothing is live, and everything can go back.
fn assert_nothing_leaked(manager: &HostMemoryManager) {
    assert_eq!(manager.live_allocations().live_count, 0);
    manager.trim();
    let statistics = manager.statistics();
    assert_eq!((statistics.reserved.current, statistics.allocated.current), (0, 0));
}

#[test]
fn any_number_of_threads_counts_as_the_oracle_does() {
    for (streams, layout) in [(5, BucketLayout::default()), (2, BucketLayout::power_of_two())] {
        let trace = generated(streams, 6000);
        let oracle = Oracle::new(&trace, layout);
        assert!(oracle.requested[0] > 0 && trace.summary().completion_count > 500);
        for count in [1, 2, 4] {
            let manager = manager(layout, u64::MAX);
            let outcome = replay(&manager, &trace, &threads(count)).unwrap();
            oracle.check(&outcome, count as u64);
            assert_nothing_leaked(&manager);
        }
    }
}

#[test]
fn the_shipped_trace_counts_as_its_summary_does() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces/moe_train_start.csv.gz");
    let trace = Trace::open(path).unwrap();
    let (manager, summary) = (manager(BucketLayout::default(), u64::MAX), trace.summary());
    let progress = Arc::new(AtomicU64::new(0));
    let outcome = replay(&manager, &trace, &threads(1).progress(Arc::clone(&progress))).unwrap();
    assert_eq!(progress.load(Ordering::Relaxed), summary.event_count as u64);
    // Nothing completes late in this trace, so the manager sees the same peak.
    assert!(outcome.statistics.requested.peak.abs_diff(summary.live_bytes_peak) <= UNTOLD_BYTES_MAX);
    assert!(outcome.allocated_bytes_peak >= summary.live_bytes_peak);
    assert_eq!(outcome.statistics.requested.current, summary.live_bytes_end);
    assert_eq!(outcome.statistics.live_count(), summary.live_count_end as u64);
    assert!(outcome.ns_per_pair() > 0.0);
    assert_nothing_leaked(&manager);
}

#[test]
fn out_of_memory_says_where_and_leaves_nothing_behind() {
    let trace = generated(3, 4000);
    let peak = Oracle::new(&trace, BucketLayout::default()).allocated[1];
    for count in [1, 2, 3, 8] {
        let manager = manager(BucketLayout::default(), peak / 2);
        let error = replay(&manager, &trace, &threads(count)).unwrap_err();
        let text = error.to_string();
        let ReplayError::Allocation { event_index, event_count, event, error: refusal, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(*event_count, trace.events().len());
        assert_eq!(*event, trace.events()[*event_index]);
        assert_eq!(event.op, TraceOp::Allocate);
        assert!(text.starts_with("generated: allocation") && text.contains(" of 4000"), "{text}");
        assert_eq!(refusal.kind(), ErrorKind::OutOfMemory);
        let report = refusal.out_of_memory().unwrap();
        assert_eq!((report.budget_bytes, report.requested_bytes), (peak / 2, event.bytes));
        assert_eq!(report.largest_tags[0].tag, "replay");
        assert!(error.source().is_some());
        assert_nothing_leaked(&manager);
    }
}

#[test]
fn what_can_never_fit_is_told_apart() {
    let events = [TraceEvent { time_us: 2_500_000, op: TraceOp::Allocate, id: 1, bytes: 1 << 40, stream: 0 }];
    let trace = Trace::from_events("large", events).unwrap();
    // Also: no more threads than steps.
    for count in [1, usize::MAX] {
        let error = replay(&manager(BucketLayout::default(), 1 << 20), &trace, &threads(count)).unwrap_err();
        let expected =
            "large: allocation 1 of 1099511627776 bytes failed, event 1 of 1, 2.500000 s into the trace";
        assert_eq!(error.to_string(), expected);
        assert!(error.source().unwrap().to_string().starts_with("can never fit"));
    }
}
