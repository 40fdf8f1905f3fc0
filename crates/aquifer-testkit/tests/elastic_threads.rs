//! Threads that allocate, free and trim memory that is mapped behind addresses, all at once: on the host with a cookie in every buffer,
//! and on the simulated device, whose checker knows who may use what.
//!
//! `AQUIFER_STRESS_SEED` sets the seed and `AQUIFER_STRESS_STEPS` the number of steps of each thread, for long runs.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod common;

use aquifer_core::{
    Backend, Buffer, Capabilities, Config, ErrorKind, MemoryManager, MemoryOptions, Policy, Queue,
};
use aquifer_host::Host;
use aquifer_sim::{Access, ClaimId, Kernel, Sim};
use aquifer_testkit::{Faulty, Pattern, Random, assert_balanced, config_with_budget};
use common::{MIB, host, sim};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

const THREADS: u64 = 4;
const SHELF_MAX: usize = 24;

fn variable(name: &str, default: u64) -> u64 {
    let Ok(value) = std::env::var(name) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{name}={value:?} is not a number"))
}

fn elastic(budget_bytes: u64) -> Config {
    let mut config = config_with_budget(budget_bytes);
    config.policy = Policy::Elastic;
    config.in_flight_wait = Duration::from_millis(5);
    config
}

fn can_map() -> bool {
    host().properties().capabilities.contains(Capabilities::SPARSE_BLOCKS)
}

/// Runs `work` on several threads, each with its own numbers.
fn on_threads(work: impl Fn(u64, Random) + Send + Sync + 'static) {
    let seed = variable("AQUIFER_STRESS_SEED", 1);
    println!("AQUIFER_STRESS_SEED={seed}");
    let mut random = Random::new(seed);
    let work = Arc::new(work);
    let threads: Vec<_> = (0..THREADS)
        .map(|index| {
            let (work, random) = (Arc::clone(&work), Random::new(random.draw()));
            thread::spawn(move || work(index, random))
        })
        .collect();
    for thread in threads {
        thread.join().expect("a worker failed; its message is above");
    }
}

/// Mostly small, now and then large enough to be put together.
fn size(random: &mut Random) -> u64 {
    let most = [4 << 10, 64 << 10, 600 << 10, 3 * MIB, 12 * MIB][random.below(5) as usize];
    random.size(most)
}

fn give_back<B: Backend>(manager: &MemoryManager<B>, random: &mut Random) {
    match random.below(4) {
        0 => drop(manager.trim()),
        1 => drop(manager.trim_to(8 * MIB)),
        2 => manager.settle(),
        _ => assert!(manager.statistics().budget_bytes > 0),
    }
}

type Device = Faulty<Host>;
type Shelf = Mutex<Vec<(Pattern, Buffer<Device>)>>;

/// Allocates, frees what anybody has allocated, and gives back. Every cookie stays.
fn exchange(budget_bytes: u64) {
    let steps = variable("AQUIFER_STRESS_STEPS", 250);
    let device = Faulty::new(host());
    let faults = device.faults();
    let manager = MemoryManager::with_config(device, elastic(budget_bytes)).expect("it can be sparse");
    let shelf = Arc::new(Shelf::default());
    let (worker, its_shelf) = (manager.clone(), Arc::clone(&shelf));
    on_threads(move |_, mut random| {
        for step in 0..steps {
            match random.below(16) {
                0 => give_back(&worker, &mut random),
                1..9 => {
                    let options = MemoryOptions::DEFAULT.zeroed(random.below(8) == 0);
                    match worker.allocate_with(size(&mut random), options) {
                        Ok(mut buffer) => {
                            let pattern = Pattern::new(random.draw() ^ step);
                            pattern.write(&mut buffer);
                            its_shelf.lock().push((pattern, buffer));
                        }
                        Err(error) => {
                            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                            its_shelf.lock().clear();
                        }
                    }
                }
                _ => {}
            }
            let taken = {
                let mut shelf = its_shelf.lock();
                let count = shelf.len();
                let is_one_taken = count > SHELF_MAX || count > 0 && random.below(2) == 0;
                is_one_taken.then(|| shelf.swap_remove(random.below(count as u64) as usize))
            };
            if let Some((pattern, buffer)) = taken {
                pattern.check(&buffer);
            }
        }
    });
    for (pattern, buffer) in shelf.lock().drain(..) {
        pattern.check(&buffer);
    }
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!(statistics.live_count(), 0);
    // The driver that counts is not told where parts that were given back come again.
    let may_return_parts = manager.properties().capabilities.contains(Capabilities::RELEASE_RANGE);
    assert!(statistics.reserved.current == faults.live_bytes() || may_return_parts);
    assert!(statistics.reserved.peak <= budget_bytes);
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
    drop(manager);
    assert_eq!((faults.live_blocks(), faults.refused_blocks()), (0, 0));
}

#[test]
fn threads_exchange_mapped_memory() {
    if can_map() {
        exchange(256 * MIB);
    }
}

#[test]
fn threads_exchange_mapped_memory_under_a_tight_budget() {
    if can_map() {
        exchange(24 * MIB);
    }
}

/// Work of queues that is under way keeps its memory, whatever is given back meanwhile: each fill finds its bytes as it left them.
#[test]
fn queues_keep_what_they_use_while_others_trim() {
    if !can_map() {
        return;
    }
    let steps = variable("AQUIFER_STRESS_STEPS", 60);
    let device = Faulty::new(host());
    let faults = device.faults();
    let manager = MemoryManager::with_config(device, elastic(48 * MIB)).expect("it can be sparse");
    let worker = manager.clone();
    on_threads(move |index, mut random| {
        let queue: Queue<Device> = worker.queue().expect("the host has queues");
        let mut filled = Vec::new();
        for _ in 0..steps {
            if random.below(8) == 0 {
                give_back(&worker, &mut random);
            }
            let bytes = size(&mut random).min(2 * MIB);
            let value = (random.below(250) + index) as u8;
            match queue.allocate(bytes) {
                Ok(buffer) => filled.push((value, queue.fill(buffer, value).expect("it is begun"))),
                Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}"),
            }
            if filled.len() < 4 && random.below(3) > 0 {
                continue;
            }
            for (value, operation) in filled.drain(..) {
                if random.below(3) == 0 {
                    // Freed when it is over, bound to the queue.
                    drop(operation);
                    continue;
                }
                let buffer = operation.wait().expect("it is done");
                let content: &[u8] = buffer.as_slice().expect("the host sees it");
                let is_wrong = |place: usize| content[place] != value;
                assert!(!(0..content.len()).step_by(251).any(is_wrong), "somebody else wrote here");
            }
        }
    });
    manager.settle();
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert!(faults.live_bytes_peak() <= 48 * MIB);
    drop(manager);
    common::until("the driver has all back", || faults.live_blocks() == 0);
}

/// A buffer as the device's checker knows it.
struct Claimed {
    sim: Sim,
    claim: ClaimId,
    buffer: Buffer<Sim>,
}

impl Claimed {
    fn new(sim: &Sim, buffer: Buffer<Sim>) -> Self {
        let address = buffer.device_address().expect("the device uses addresses");
        Self { claim: sim.claim(address, buffer.allocated_bytes()), sim: sim.clone(), buffer }
    }

    fn free(self) {
        self.sim.give_up(self.claim);
        drop(self.buffer);
    }
}

/// The same on the device, with kernels under way.
#[test]
fn kernels_keep_what_they_use_while_others_trim() {
    let steps = variable("AQUIFER_STRESS_STEPS", 400);
    let sim = sim();
    let manager = MemoryManager::with_config(sim.clone(), elastic(192 * MIB)).expect("it can be sparse");
    let (worker, device) = (manager.clone(), sim.clone());
    on_threads(move |_, mut random| {
        let queue: Queue<Sim> = worker.queue().expect("a queue");
        let mut held: Vec<Claimed> = Vec::new();
        for _ in 0..steps {
            match random.below(12) {
                0 => give_back(&worker, &mut random),
                1 => device.advance(random.below(40_000)),
                2..8 => {
                    let on_queue = random.below(4) > 0;
                    let bytes = size(&mut random);
                    let answer = if on_queue { queue.allocate(bytes) } else { worker.allocate(bytes) };
                    match answer {
                        Ok(buffer) => {
                            let claimed = Claimed::new(&device, buffer);
                            let address = claimed.buffer.device_address().expect("as above");
                            if on_queue {
                                let access = Access::write(address, claimed.buffer.size_bytes());
                                let kernel = Kernel::new([access]).lasting(random.below(30_000));
                                device.launch(queue.raw(), kernel).expect("the device is there");
                            }
                            held.push(claimed);
                        }
                        Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}"),
                    }
                }
                _ => {}
            }
            if held.len() > 12 || !held.is_empty() && random.below(3) == 0 {
                held.swap_remove(random.below(held.len() as u64) as usize).free();
            }
        }
        held.into_iter().for_each(Claimed::free);
    });
    sim.run_all();
    manager.settle();
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!(statistics.live_count(), 0);
    assert!(sim.books().live_bytes_peak <= 192 * MIB);
    assert!(sim.books().mappings_made > 0);
    drop(manager);
    common::until("the driver has all back", || sim.books().live_blocks == 0);
    assert_eq!((sim.books().live_mappings, sim.books().sparse_bytes), (0, 0));
    sim.assert_no_violations();
}
