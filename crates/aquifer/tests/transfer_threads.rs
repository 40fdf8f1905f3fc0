//! Transfers from many threads at once, with copy threads, and as futures.

use aquifer::sim::{Sim, SimDesc};
use aquifer::{
    Backend, CancelToken, Config, CopyDesc, HostMemoryManager, MemoryManager, Priority, Route, SyncBackend,
};
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

const THREADS: u64 = 8;
const ROUNDS: u64 = 150;
const BYTES_MAX: u64 = 400_000;

fn config(copy_threads: usize) -> Config {
    let mut config = Config::default();
    config.budget_bytes = Some(1 << 30);
    config.transfers.copy_threads = copy_threads;
    config.transfers.chunk_bytes = 64 << 10;
    config.transfers.staging_bytes = 5 * (64 << 10);
    config
}

fn discrete(copy_threads: usize) -> (Sim, MemoryManager<Sim>) {
    let sim = Sim::new(SimDesc::discrete());
    (sim.clone(), MemoryManager::with_config(sim, config(copy_threads)).unwrap())
}

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }

    fn bytes(&mut self, count: u64) -> Vec<u8> {
        let start = self.0;
        (0..count).map(|index| (start.wrapping_add(index) % 251) as u8).collect()
    }
}

/// What one of many threads does: random transfers, each of which is checked.
fn work<B: SyncBackend>(manager: &MemoryManager<B>, seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut buffer = manager.allocate(BYTES_MAX).unwrap();
    let mut other = manager.allocate(BYTES_MAX).unwrap();
    for _ in 0..ROUNDS {
        let priority = [Priority::Low, Priority::Normal, Priority::High][random.below(3) as usize];
        let transfers = manager.transfers().priority(priority);
        let bytes = 1 + random.below(BYTES_MAX);
        let offset = random.below(BYTES_MAX - bytes + 1);
        let values = random.bytes(bytes);
        let mut back = vec![0_u8; bytes as usize];
        if random.below(2) == 0 {
            transfers.upload(&values, &mut buffer, offset).unwrap();
        } else {
            let transfer = transfers.upload_async(values.clone(), buffer, offset).unwrap();
            (buffer, _) = transfer.wait().unwrap();
        }
        if random.below(2) == 0 {
            let desc = CopyDesc { source_offset: offset, destination_offset: 0, bytes };
            (buffer, other) = transfers.copy_async(buffer, other, desc).unwrap().wait().unwrap();
            transfers.download(&other, 0, &mut back).unwrap();
        } else {
            (buffer, back) = transfers.download_async(buffer, offset, back).unwrap().wait().unwrap();
        }
        assert!(back == values, "seed {seed}: {bytes} bytes at {offset}");
        if random.below(8) == 0 {
            // Somebody else's, as far as this thread is concerned.
            let token = CancelToken::new();
            let detached = manager.allocate(bytes).unwrap();
            drop(transfers.cancel_token(&token).upload_async(values, detached, 0).unwrap());
            if random.below(2) == 0 {
                token.cancel();
            }
        }
        if random.below(32) == 0 {
            manager.trim();
        }
    }
}

fn many_threads<B: SyncBackend>(manager: MemoryManager<B>) {
    let threads: Vec<_> = (1..=THREADS)
        .map(|seed| {
            let manager = manager.clone();
            thread::spawn(move || work(&manager, seed))
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let statistics = manager.statistics().transfers;
    assert!(statistics.route(Route::HostToDevice).count >= THREADS * ROUNDS);
    assert!(Route::ALL.iter().all(|&route| statistics.route(route).failed == 0));
}

#[test]
fn many_threads_on_host_memory() {
    for copy_threads in [0, 3] {
        many_threads(
            HostMemoryManager::with_config(aquifer::Host::new().unwrap(), config(copy_threads)).unwrap(),
        );
    }
}

#[test]
fn many_threads_stage_through_few_chunks() {
    for copy_threads in [0, 3] {
        let (sim, manager) = discrete(copy_threads);
        many_threads(manager);
        sim.assert_no_violations();
    }
}

/// Waits until something holds that other threads bring about.
fn wait_until(mut holds: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if holds() {
            return;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    panic!("it does not come about");
}

#[test]
fn a_manager_may_go_while_transfers_that_nobody_waits_for_go_on() {
    for round in 0..30 {
        let (sim, manager) = discrete(1 + round % 3);
        for _ in 0..3 {
            let buffer = manager.allocate(BYTES_MAX).unwrap();
            drop(manager.transfers().upload_async(vec![1_u8; BYTES_MAX as usize], buffer, 0).unwrap());
        }
        drop(manager);
        // The last transfer closes the manager, on a copy thread.
        wait_until(|| sim.books().live_blocks == 0);
        sim.assert_no_violations();
    }
}

#[test]
fn a_manager_goes_at_once_when_its_transfers_are_over() {
    for round in 0..100 {
        let (sim, manager) = discrete(1 + round % 3);
        let buffer = manager.allocate(300_000).unwrap();
        let transfer = manager.transfers().upload_async(vec![1_u8; 300_000], buffer, 0).unwrap();
        drop(transfer.wait().unwrap());
        drop(manager);
        assert_eq!(sim.books().live_blocks, 0, "round {round}");
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls when it is woken, and else never.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park_timeout(Duration::from_secs(60)),
        }
    }
}

async fn there_and_back<B: SyncBackend>(manager: MemoryManager<B>, seed: u64) {
    let transfers = manager.transfers();
    for round in 0..20 {
        let values = Random(seed + round).bytes(300_000);
        let buffer = manager.allocate(300_000).unwrap();
        let (buffer, values) = transfers.upload_async(values, buffer, 0).unwrap().await.unwrap();
        let (low, high) = buffer.into_view().split_at(100_000).unwrap();
        // Begun together, awaited the other way round, though both are of one view.
        let first = transfers.fill_async(low.clone(), 0..1000, 1).unwrap();
        let second = transfers.download_async(low, 0, vec![0_u8; 100_000]).unwrap();
        let third = transfers.download_async(high, 0, vec![0_u8; 200_000]).unwrap();
        let (_, high) = third.await.unwrap();
        let (_, low) = second.await.unwrap();
        drop(first.await.unwrap());
        assert!(
            low[..1000] == [1; 1000] && low[1000..] == values[1000..100_000] && high == values[100_000..]
        );
    }
}

#[test]
fn transfers_are_futures_for_any_executor() {
    fn tasks<B: Backend + SyncBackend>(manager: &MemoryManager<B>) {
        let tasks: Vec<_> = (1..4)
            .map(|seed| {
                let manager = manager.clone();
                thread::spawn(move || block_on(there_and_back(manager, seed)))
            })
            .collect();
        tasks.into_iter().for_each(|task| task.join().unwrap());
    }
    let (sim, manager) = discrete(2);
    tasks(&manager);
    sim.assert_no_violations();
    let host = aquifer::Host::new().unwrap();
    tasks(&HostMemoryManager::with_config(host, config(2)).unwrap());
}

#[test]
fn a_future_that_is_cancelled_wakes_who_awaits_it() {
    let (_sim, manager) = discrete(1);
    let view = manager.allocate(300_000).unwrap().into_view();
    // It waits for who holds the view, who lets go only after that.
    let held = manager.allocate_with(300_000, aquifer::MemoryOptions::PINNED).unwrap().into_view();
    let guard = held.as_slice::<u8>().unwrap();
    let token = CancelToken::new();
    let transfer = manager
        .transfers()
        .cancel_token(&token)
        .copy_async(view, held.clone(), CopyDesc { source_offset: 0, destination_offset: 0, bytes: 300_000 })
        .unwrap();
    let canceller = thread::spawn(move || token.cancel());
    let error = block_on(transfer).unwrap_err();
    assert_eq!((error.error().kind(), error.done_bytes()), (aquifer::ErrorKind::Cancelled, 0));
    canceller.join().unwrap();
    drop(guard);
}
