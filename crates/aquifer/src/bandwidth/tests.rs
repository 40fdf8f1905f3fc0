use super::*;
use crate::sim::{Sim, SimDesc};
use crate::{Clock, Config, HostMemoryManager, VirtualCopyThreads};
use std::time::Instant;

const LINK: u64 = 50_000_000_000;
const PEER_LINK: u64 = 90_000_000_000;
const THREAD: u64 = 6_000_000_000;

fn desc(reads_peers: bool) -> SimDesc {
    let mut desc = SimDesc { reads_peers, ..SimDesc::discrete() };
    desc.costs.host_copy_bytes_per_second = LINK;
    desc.costs.peer_copy_bytes_per_second = PEER_LINK;
    desc
}

fn simulated(sim: &Sim) -> MemoryManager<Sim> {
    let clock = sim.clone();
    let mut config = Config::default();
    config.reaper = false;
    config.transfers.copy_threads = 0;
    config.clock = Clock::from_fn(move || Duration::from_nanos(clock.now_ns()));
    MemoryManager::with_config(sim.clone(), config).unwrap()
}

/// Measures a simulated device, and a peer that it reads but that does not read it.
fn measure_simulated(sizes: &[u64], thread_count: usize) -> Outcome {
    let sim = Sim::new(desc(true));
    let other = sim.peer(desc(false));
    let (manager, peer) = (simulated(&sim), simulated(&other));
    let threads = VirtualCopyThreads::new(&sim, thread_count, THREAD);
    let options = Options::new(|| Duration::from_nanos(sim.now_ns()))
        .sizes(sizes.iter().copied())
        .span(Duration::ZERO)
        .between(&peer, &manager)
        .between(&manager, &peer)
        .driven_by(|transfers, is_done| threads.run(transfers, is_done));
    let outcome = measure(&manager, &options, |_| {}).unwrap();
    let counted = [
        manager.transfers().statistics().route(Route::PeerDirect).count,
        peer.transfers().statistics().route(Route::PeerStaged).count,
    ];
    let sum = |route| {
        let rows = outcome.rows.iter().filter(|row| row.route == route);
        rows.map(|row| row.repetitions).sum::<u64>()
    };
    assert!(counted[0] >= sum(Route::PeerDirect) && counted[1] >= sum(Route::PeerStaged), "{counted:?}");
    drop(options);
    drop((manager, peer));
    sim.assert_no_violations();
    assert_eq!((sim.books().live_blocks, other.books().live_blocks), (0, 0));
    outcome
}

fn row(outcome: &Outcome, route: Route, memory: Memory, bytes: u64) -> &Row {
    let is_it = |row: &&Row| (row.route, row.memory, row.bytes) == (route, memory, bytes);
    outcome.rows.iter().find(is_it).unwrap_or_else(|| panic!("no {route}, {memory}, {bytes}: {outcome:?}"))
}

#[test]
fn simulated_devices_are_as_fast_as_they_were_told_to_be() {
    let bytes = 16 << 20;
    let outcome = measure_simulated(&[bytes], 1);
    assert_eq!(outcome.left_out, []);
    let near = |rate: f64, expected: u64| (0.9..1.001).contains(&(rate / expected as f64));
    for route in [Route::HostToDevice, Route::DeviceToHost] {
        let pinned = row(&outcome, route, Memory::Pinned, bytes);
        assert!(near(pinned.bytes_per_second(), LINK), "{pinned:?}");
        assert!(near(pinned.reference_bytes_per_second(), LINK), "{pinned:?}");
        // One thread is slower than the link, and the reference needs none.
        let plain = row(&outcome, route, Memory::Plain, bytes);
        assert!(near(plain.bytes_per_second(), THREAD), "{plain:?}");
        assert_eq!(
            (plain.reference, plain.reference_seconds),
            (Reference::DriverCopy, pinned.reference_seconds)
        );
        assert!((plain.ratio() - plain.bytes_per_second() / plain.reference_bytes_per_second()).abs() < 1e-9);
    }
    let direct = row(&outcome, Route::PeerDirect, Memory::Device, bytes);
    assert!(near(direct.reference_bytes_per_second(), PEER_LINK), "{direct:?}");
    assert_eq!(direct.reference, Reference::DriverPeerCopy);
    let staged = row(&outcome, Route::PeerStaged, Memory::Device, bytes);
    // One copy after the other.
    assert!(near(staged.reference_bytes_per_second(), LINK / 2), "{staged:?}");
    assert!(staged.ratio() > 1.0 && staged.reference == Reference::DriverTwoCopies, "{staged:?}");
    assert!(row(&outcome, Route::Fill, Memory::Device, bytes).ratio() > 0.5);
    assert!(row(&outcome, Route::DeviceToDevice, Memory::Device, bytes).ratio() > 0.5);
}

#[test]
fn in_virtual_time_the_same_comes_out_again() {
    let sizes = [4 << 10, 3, 3 << 20];
    let (one, other) = (measure_simulated(&sizes, 4), measure_simulated(&sizes, 4));
    assert_eq!(one, other);
    let measured: Vec<u64> = one.rows.iter().take(3).map(|row| row.bytes).collect();
    assert_eq!(measured, [3, 4 << 10, 3 << 20]);
    // More threads, and only what they copy is faster.
    let fewer = measure_simulated(&sizes, 1);
    for (many, few) in one.rows.iter().zip(&fewer.rows) {
        let is_faster = many.seconds < few.seconds;
        assert_eq!(is_faster, many.memory == Memory::Plain && many.bytes == 3 << 20, "{many:?} {few:?}");
    }
}

#[test]
fn on_the_host_the_reference_is_memcpy() {
    let (manager, peer) = (HostMemoryManager::new().unwrap(), HostMemoryManager::new().unwrap());
    let start = Instant::now();
    let options = Options::new(|| start.elapsed())
        .sizes([1 << 20, 4096, 4096])
        .span(Duration::ZERO)
        .between(&peer, &manager);
    let mut steps = Vec::new();
    let outcome = measure(&manager, &options, |step| steps.push(step)).unwrap();
    assert_eq!((steps.len(), steps[0].count, steps[13].done), (14, 14, 13));
    assert_eq!(outcome.thread_count, manager.config().transfers.copy_threads);
    // Where nothing may be locked there is no pinned memory, which is then said.
    let pinned_count: usize = outcome.left_out.iter().map(|left_out| left_out.sizes.len()).sum();
    assert_eq!(outcome.rows.len() + pinned_count, 14, "{outcome:?}");
    for row in &outcome.rows {
        assert!(row.seconds > 0.0 && row.reference_seconds > 0.0 && row.repetitions == 3, "{row:?}");
        let expected = if row.route == Route::Fill { Reference::Memset } else { Reference::Memcpy };
        assert_eq!(row.reference, expected);
        assert!((1..=outcome.thread_count).contains(&row.reference_threads.unwrap()), "{row:?}");
    }
    assert_eq!(row(&outcome, Route::PeerDirect, Memory::Device, 4096).bytes, 4096);
    for (route, memory) in outcome.left_out.iter().filter_map(|left_out| left_out.route) {
        assert!(memory == Memory::Pinned, "{route}");
    }
    let statistics = manager.statistics();
    assert_eq!((statistics.live_count(), statistics.reserved.current), (0, 0), "all is given back");
}

#[test]
fn what_does_not_fit_is_named() {
    let manager = HostMemoryManager::builder().budget_bytes(16 << 20).build().unwrap();
    let start = Instant::now();
    let options = |sizes: &[u64]| {
        Options::<crate::Host>::new(move || start.elapsed()).sizes(sizes.iter().copied()).span(Duration::ZERO)
    };
    let outcome = measure(&manager, &options(&[4096, 2 << 20, (2 << 20) + 1, u64::MAX]), |_| {}).unwrap();
    let left_out = &outcome.left_out[0];
    assert_eq!((left_out.route, &left_out.sizes[..]), (None, &[(2 << 20) + 1, u64::MAX][..]));
    assert!(left_out.reason.contains("a quarter of the 16 MiB"), "{}", left_out.reason);
    assert!(outcome.rows.iter().any(|row| row.bytes == 2 << 20));

    let refused = measure(&manager, &options(&[4096, 0]), |_| {}).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidArgument);
}

#[test]
fn devices_without_pinned_memory_are_measured_without() {
    let sim = Sim::new(SimDesc::default());
    let manager = simulated(&sim);
    let options = Options::new(|| Duration::from_nanos(sim.now_ns())).sizes([4096, 1 << 20]);
    let outcome = measure(&manager, &options.span(Duration::ZERO), |_| {}).unwrap();
    let routes: Vec<_> = outcome.rows.iter().map(|row| row.route).collect();
    assert_eq!(routes, [Route::DeviceToDevice, Route::DeviceToDevice, Route::Fill, Route::Fill]);
    assert_eq!(outcome.left_out.len(), 4);
    for left_out in &outcome.left_out {
        assert_eq!(left_out.sizes, [4096, 1 << 20]);
        assert!(left_out.reason.contains("pinned memory"), "{}", left_out.reason);
    }
}
