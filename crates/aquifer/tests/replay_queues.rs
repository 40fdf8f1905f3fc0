//! Replays on queues: memory that another queue still uses is not used again before its completion.

use std::num::NonZeroUsize;
use std::time::Duration;

use aquifer::sim::{Costs, Sim, SimDesc};
use aquifer::trace::{
    ReplayDevice, ReplayError, ReplayOptions, ReplayOutcome, Trace, TraceEvent, TraceOp, replay_on,
};
use aquifer::{
    Buffer, Config, Error, ErrorKind, Host, HostReplay, MemoryManager, Queue, SimReplay, SyncBackend,
};

const MIB: u64 = 1 << 20;

fn trace(lines: &str) -> Trace {
    Trace::read("test", format!("t_us,op,id,bytes,stream\n{lines}").as_bytes()).unwrap()
}

fn threads(count: usize) -> ReplayOptions {
    ReplayOptions::default().threads(NonZeroUsize::new(count).unwrap())
}

fn config(budget_bytes: u64) -> Config {
    let mut config = Config::default();
    config.budget_bytes = Some(budget_bytes);
    config
}

fn on_host(trace: &Trace, budget_bytes: u64, count: usize) -> Result<ReplayOutcome, ReplayError> {
    let config = HostReplay.configure(config(budget_bytes));
    let manager = MemoryManager::with_config(Host::new().unwrap(), config).unwrap();
    let outcome = replay_on(&manager, trace, &threads(count), &HostReplay);
    assert_nothing_leaked(&manager);
    outcome
}

/// A simulated replay, with its device, which has found no violation.
fn on_sim(trace: &Trace, memory_bytes: u64, count: usize) -> (Result<ReplayOutcome, ReplayError>, SimReplay) {
    let desc = SimDesc { memory_bytes, block_bytes_max: memory_bytes, ..SimDesc::default() };
    let device = SimReplay::new(desc);
    let manager =
        MemoryManager::with_config(device.sim().clone(), device.configure(Config::default())).unwrap();
    let outcome = replay_on(&manager, trace, &threads(count), &device);
    assert_nothing_leaked(&manager);
    drop(manager);
    device.sim().assert_no_violations();
    assert_eq!(device.sim().books().live_blocks, 0);
    (outcome, device)
}

fn assert_nothing_leaked<B: SyncBackend>(manager: &MemoryManager<B>) {
    assert_eq!(manager.live_allocations().live_count, 0);
    // Puts markers into queues, lets them pass, and looks; the first time with what caches keep, which is bound to queues.
    for _ in 0..2 {
        manager.trim();
        manager.settle();
        manager.queue().unwrap().synchronize(Duration::from_secs(10)).unwrap();
        manager.settle();
    }
    manager.trim();
    let statistics = manager.statistics();
    assert_eq!((statistics.quarantined_bytes, statistics.reserved.current), (0, 0));
}

/// The most reserved, on the host and simulated, which agree.
fn reserved_peak(lines: &str) -> u64 {
    let trace = trace(lines);
    let peaks = [1, 2, 3].map(|count| {
        let host = on_host(&trace, u64::MAX, count).unwrap().statistics.reserved.peak;
        let (sim, _) = on_sim(&trace, 140 << 30, count);
        assert_eq!(sim.unwrap().statistics.reserved.peak.next_multiple_of(MIB), host.next_multiple_of(MIB));
        host
    });
    assert!(peaks.iter().all(|&peak| peak == peaks[0]), "{peaks:?}");
    peaks[0]
}

#[test]
fn memory_is_used_again_after_the_completion_and_not_before() {
    // One stream: its own memory is free at once, but not while another queue uses it.
    let large = 300 * MIB;
    let freed = format!("0,a,1,{large},0\n10,f,1,0,0\n");
    assert_eq!(reserved_peak(&format!("{freed}20,a,2,{large},0\n")), large);
    assert_eq!(reserved_peak(&format!("{freed}15,c,1,0,0\n20,a,2,{large},0\n")), large);
    assert_eq!(reserved_peak(&format!("{freed}20,a,2,{large},0\n3000,c,1,0,0\n")), 2 * large);
    assert_eq!(reserved_peak(&format!("{freed}10,c,1,0,0\n10,a,2,{large},0\n")), large);
    // Another stream's is, as soon as that has passed a marker.
    assert_eq!(reserved_peak(&format!("{freed}5000,a,2,{large},4\n")), large);
    assert_eq!(reserved_peak(&format!("{freed}20,c,1,0,0\n5000,a,2,{large},4\n")), large);
    assert_eq!(reserved_peak(&format!("{freed}5000,a,2,{large},4\n9000,c,1,0,0\n")), 2 * large);
}

#[test]
fn completions_may_come_in_another_order_than_frees() {
    let large = 300 * MIB;
    let freed = format!("0,a,1,{large},0\n0,a,2,{large},1\n10,f,1,0,0\n20,f,2,0,1\n");
    // The second free completes first, and serves the next request. Then the first one does.
    let lines = format!("{freed}3000,c,2,0,1\n6000,a,3,{large},0\n9000,c,1,0,0\n12000,a,4,{large},1\n");
    assert_eq!(reserved_peak(&lines), 2 * large);
    let lines = format!("{freed}3000,c,2,0,1\n6000,a,3,{large},0\n7000,a,4,{large},1\n9000,c,1,0,0\n");
    assert_eq!(reserved_peak(&lines), 3 * large);
}

#[test]
fn small_memory_waits_as_large_does() {
    // More frees than one batch of the core's, with and without a marker yet, each half completing on its own.
    let all: String = (0..200).map(|id| format!("0,a,{id},1024,0\n")).collect();
    let freed: String = (0..200).map(|id| format!("1,f,{id},0,0\n")).collect();
    let half =
        |first: usize| -> String { (0..100).map(|id| format!("2,c,{},0,0\n", 2 * id + first)).collect() };
    let lines = format!("{all}{freed}{}2,a,900,1024,0\n{}", half(0), half(1));
    let outcome = on_host(&trace(&lines), u64::MAX, 1).unwrap();
    assert_eq!((outcome.queue_count, outcome.merged_completion_count), (1, 1));
    assert_eq!(outcome.quarantined_bytes_peak, 200 * 1024);
    assert_eq!(outcome.statistics.deallocation_count, 200);
    assert_eq!(outcome.statistics.allocated.current, 1024);
    let (outcome, _) = on_sim(&trace(&lines), 140 << 30, 1);
    assert_eq!(outcome.unwrap().statistics.allocated.current, 1024);
}

/// Allocates and frees at random on several streams; two thirds of the frees complete later, in any order, and a quarter of
/// the buffers is used again at once if the manager lets it.
fn generated(seed: u64, streams: u64, event_count: usize) -> Trace {
    let mut state = seed;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let (mut live, mut completing, mut events) = (Vec::<TraceEvent>::new(), Vec::new(), Vec::new());
    let mut time_us = 0;
    while events.len() < event_count {
        time_us += random(300);
        let next = random(10);
        let event = if next < 4 + u64::from(live.len() < 60) {
            // Some sizes only, so that what is freed fits what is asked for.
            let bytes = (1 + random(3)) << (8 + 4 * random(5));
            live.push(TraceEvent {
                time_us,
                op: TraceOp::Allocate,
                id: events.len() as u64,
                bytes,
                stream: random(streams),
            });
            live[live.len() - 1]
        } else if next < 8 && !live.is_empty() {
            let freed = live.swap_remove(random(live.len() as u64) as usize);
            if random(3) > 0 {
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

#[test]
fn the_checker_finds_no_memory_that_is_used_again_too_early() {
    for seed in [88_172_645_463_325_252, 2, 3] {
        println!("seed {seed}");
        let trace = generated(seed, 4, 5000);
        for count in [1, 3] {
            // Each free that completes later is a kernel that writes its buffer until then.
            let (outcome, device) = on_sim(&trace, 140 << 30, count);
            let outcome = outcome.unwrap();
            assert_eq!((outcome.queue_count, outcome.stall_count), (4, 0));
            assert!(outcome.statistics.driver_calls.signal > 0 && device.books().driver_ns > 0);
            let summary = trace.summary();
            assert_eq!(outcome.operation_count, summary.allocation_count + summary.free_count);
            assert_eq!(outcome.statistics.deallocation_count, summary.free_count as u64);
            assert_eq!(on_host(&trace, u64::MAX, count).unwrap().operation_count, outcome.operation_count);
        }
    }
}

#[test]
fn a_simulated_replay_is_the_same_each_time() {
    let trace = generated(7, 3, 3000);
    let once = || {
        let (outcome, device) = on_sim(&trace, 140 << 30, 1);
        let outcome = outcome.unwrap();
        (outcome.statistics, outcome.trimmed_bytes, device.books(), device.sim().now_ns())
    };
    assert_eq!(once(), once());
}

#[test]
fn an_allocation_that_finds_no_memory_waits_for_completions() {
    let large = 300 * MIB;
    let lines = format!(
        "0,a,1,{large},0\n0,a,2,{large},0\n1000,f,1,0,0\n1000,f,2,0,0\n2000,a,3,{large},0\n5000,c,1,0,0\n\
         6000,a,4,1024,0\n7000,c,2,0,0\n"
    );
    let trace = trace(&lines);
    for count in [1, 2] {
        let outcome = on_host(&trace, 2 * large + 64 * MIB, count).unwrap();
        assert_eq!((outcome.stall_count, outcome.stalled.as_micros()), (1, 3000));
        // The simulated manager waits in virtual time, until the first has completed.
        let (outcome, device) = on_sim(&trace, 2 * large + 64 * MIB, count);
        assert_eq!(outcome.unwrap().stall_count, 0);
        let waited_ns = device.books().waited_ns;
        assert!((2_900_000..30_000_000).contains(&waited_ns), "{waited_ns}");
    }
}

#[test]
fn out_of_memory_leaves_nothing_held() {
    let large = 300 * MIB;
    let lines = format!(
        "0,a,1,{large},0\n1,f,1,0,0\n2,a,2,{large},3\n3,a,3,{large},0\n4,c,1,0,0\n5,a,5,{large},0\n5,a,6,{large},0\n"
    );
    let trace = trace(&lines);
    let check = |error: ReplayError| {
        let ReplayError::Allocation { event, error, .. } = error else { panic!("{error:?}") };
        assert_eq!((event.id, error.kind()), (3, ErrorKind::OutOfMemory));
    };
    for count in [1, 2] {
        check(on_host(&trace, large + MIB, count).unwrap_err());
        check(on_sim(&trace, large + 2 * MIB, count).0.unwrap_err());
    }
}

#[test]
fn thousands_outstanding_at_once_need_few_queues_and_free_nothing_early() {
    let mut lines: String = (0..3000).map(|id| format!("0,a,{id},4096,{}\n0,f,{id},0,0\n", id % 3)).collect();
    for id in (0..3000).rev() {
        lines.push_str(&format!("{},c,{id},0,0\n{},a,{},4096,0\n", 3000 - id, 3000 - id, 5000 + id));
    }
    let trace = trace(&lines);
    let outcome = on_host(&trace, u64::MAX, 1).unwrap();
    assert!(outcome.merged_completion_count > 1);
    assert_eq!(outcome.quarantined_bytes_peak, 3000 * 4096);
    let (outcome, _) = on_sim(&trace, 140 << 30, 1);
    assert!(outcome.unwrap().statistics.reserved.peak >= 3000 * 4096);
}

#[test]
fn any_times_will_do() {
    let end = u64::MAX;
    let half = end / 2;
    let lines = format!("5,a,1,5000000,0\n6,f,1,0,0\n{half},a,2,5000000,0\n{end},c,1,0,0\n{end},a,3,9,1\n");
    let (outcome, _) = on_sim(&trace(&lines), 140 << 30, 1);
    assert_eq!(outcome.unwrap().statistics.allocation_count, 3);
    on_host(&trace(&lines), u64::MAX, 1).unwrap();
}

#[test]
fn one_stream_without_completions_has_no_queues() {
    let lines = "0,a,1,5000000,3\n1,f,1,0,3\n2000,a,2,5000000,3\n";
    let (outcome, device) = on_sim(&trace(lines), 140 << 30, 1);
    assert_eq!(outcome.unwrap().queue_count, 0);
    assert!(device.sim().now_ns() >= 2_000_000);
    assert_eq!(on_host(&trace(lines), u64::MAX, 1).unwrap().queue_count, 0);
}

#[test]
fn queues_that_cannot_be_held_are_an_error() {
    struct Stubborn;
    impl ReplayDevice<Sim> for Stubborn {
        type Hold = ();
        fn hold(&self, _queue: &Queue<Sim>, _buffer: &Buffer<Sim>, _until_us: u64) -> Result<(), Error> {
            Err(Error::new(ErrorKind::Driver, "hold", "told to fail"))
        }
        fn release(&self, _queue: &Queue<Sim>, _holds: Vec<()>) {}
    }
    let sim = Sim::new(SimDesc { costs: Costs::FREE, ..SimDesc::default() });
    let mut config = Config::default();
    config.reaper = false;
    let manager = MemoryManager::with_config(sim, config).unwrap();
    let trace = trace("0,a,1,5000,0\n1,f,1,0,0\n2,c,1,0,0\n");
    for count in [1, 2] {
        let error = replay_on(&manager, &trace, &threads(count), &Stubborn).unwrap_err();
        assert!(matches!(error, ReplayError::Queues(_)), "{error:?}");
        assert_nothing_leaked(&manager);
    }
}
