//! Transfers on simulated devices: how long they take in virtual time, and what becomes of those that are cancelled.

mod simulated;

use aquifer::sim::{Costs, Sim, SimDesc};
use aquifer::{CopyDesc, MemoryManager, Route, TransferConfig, Transfers, VirtualCopyThreads};

const LINK: u64 = 55_000_000_000;
const THREAD: u64 = 6_000_000_000;
const THREADS: usize = 8;

fn desc() -> SimDesc {
    let costs = Costs { host_copy_bytes_per_second: LINK, ..SimDesc::discrete().costs };
    SimDesc { costs, ..SimDesc::discrete() }
}

/// With chunks as they are by default.
fn manager(sim: &Sim) -> MemoryManager<Sim> {
    let (mut config, default) = (simulated::config(sim), TransferConfig::default());
    config.transfers.chunk_bytes = default.chunk_bytes;
    config.transfers.staging_bytes = default.staging_bytes;
    MemoryManager::with_config(sim.clone(), config).unwrap()
}

/// Bytes that repeat after a number of them that is no multiple of a chunk's parts.
fn pattern(bytes: usize, period: u8) -> Vec<u8> {
    let period: Vec<u8> = (0..period).collect();
    let mut values = period.repeat(bytes / period.len() + 1);
    values.truncate(bytes);
    values
}

/// What a transfer achieved, of the best that the model allows.
fn ratio(transfers: &Transfers<Sim>, route: Route, best: u64) -> f64 {
    let statistics = transfers.statistics().route(route);
    assert_eq!((statistics.count, statistics.cancelled, statistics.failed), (1, 0, 0));
    let ratio = statistics.bytes_per_second().unwrap() / best as f64;
    println!("{route}: {:.1} GB/s, {ratio:.3} of the best", statistics.bytes_per_second().unwrap() / 1e9);
    ratio
}

#[test]
fn staging_is_as_fast_as_the_threads_or_the_link() {
    let bytes = 256 << 20;
    let sim = Sim::new(desc());
    let manager = manager(&sim);
    let transfers = manager.transfers();
    let threads = VirtualCopyThreads::new(&sim, THREADS, THREAD);
    let values = pattern(bytes, 251);
    let buffer = manager.allocate(bytes as u64).unwrap();
    let transfer = transfers.upload_async(values.clone(), buffer, 0).unwrap();
    threads.run(&transfers, || transfer.is_over());
    let (buffer, _) = transfer.wait().unwrap();
    let best = LINK.min(THREAD * THREADS as u64);
    assert!(ratio(&transfers, Route::HostToDevice, best) >= 0.95);

    let transfer = transfers.download_async(buffer, 0, vec![0_u8; bytes]).unwrap();
    threads.run(&transfers, || transfer.is_over());
    let (_, back) = transfer.wait().unwrap();
    assert!(back == values);
    assert!(ratio(&transfers, Route::DeviceToHost, best) >= 0.95);
    drop((transfers, manager));
    sim.assert_no_violations();
    assert_eq!(sim.books().live_blocks, 0);
}

#[test]
fn staging_between_peers_is_as_fast_as_the_link() {
    let bytes = 256 << 20;
    let sim = Sim::new(desc());
    let other = sim.peer(desc());
    let (manager, peer) = (manager(&sim), manager(&other));
    let transfers = manager.transfers();
    let values = pattern(bytes, 249);
    let mut source = manager.allocate(bytes as u64).unwrap();
    transfers.upload(&values, &mut source, 0).unwrap();
    let destination = peer.allocate(bytes as u64).unwrap();
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: bytes as u64 };
    let transfer = transfers.copy_async(source, destination, desc).unwrap();
    VirtualCopyThreads::new(&sim, 1, THREAD).run(&transfers, || transfer.is_over());
    let (source, destination) = transfer.wait().unwrap();
    assert!(ratio(&transfers, Route::PeerStaged, LINK) >= 0.95);
    let mut back = vec![0_u8; bytes];
    peer.transfers().download(&destination, 0, &mut back).unwrap();
    assert!(back == values);
    drop((source, destination, transfers, manager, peer));
    sim.assert_no_violations();
    assert_eq!((sim.books().live_blocks, other.books().live_blocks), (0, 0));
}
