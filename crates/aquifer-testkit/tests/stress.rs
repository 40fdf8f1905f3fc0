//! Threads that allocate, hand buffers to each other, die and come back, with a cookie in every buffer.
//!
//! The model is mimalloc's `test-stress.c`: it imitates a program whose work moves between threads, and is no
//! benchmark. `AQUIFER_STRESS_SEED` sets the seed and `AQUIFER_STRESS_ROUNDS` the number of rounds, for long runs.

#![cfg(any(target_os = "linux", target_os = "macos"))]

use aquifer_core::{Buffer, ErrorKind, MemoryManager, MemoryOptions, Tag};
use aquifer_host::Host;
use aquifer_testkit::{Faulty, Pattern, Random, assert_balanced, config_with_budget};
use parking_lot::Mutex;
use std::sync::Arc;
use std::thread;

type Device = Faulty<Host>;

struct Held {
    pattern: Pattern,
    buffer: Buffer<Device>,
}

impl Held {
    /// Checks the cookie and frees the buffer.
    fn free(self) {
        self.pattern.check(&self.buffer);
    }
}

/// Where threads leave buffers for each other.
type Transfer = Mutex<Vec<Option<Held>>>;

const THREADS: u64 = 5;
/// In the test that only hits caches.
const WORKERS: u64 = 3;
const STEPS: u64 = 1200;
const TRANSFER_SLOTS: u64 = 100;

fn variable(name: &str, default: u64) -> u64 {
    let Ok(value) = std::env::var(name) else { return default };
    value.parse().unwrap_or_else(|_| panic!("{name}={value:?} is not a number"))
}

struct Worker {
    manager: MemoryManager<Device>,
    transfer: Arc<Transfer>,
    random: Random,
    tags: [Tag; 3],
    held: Vec<Held>,
    refusals: u64,
}

impl Worker {
    /// One thread's life. What it still holds at its end goes to the threads after it, or is freed as it ends.
    fn run(mut self) -> u64 {
        for step in 0..STEPS {
            match self.random.below(100) {
                0..40 => self.allocate(step),
                40..70 => self.free_one(),
                70..98 => self.exchange(),
                98 => {
                    let _ = self.manager.statistics();
                }
                _ => match self.random.below(3) {
                    0 => drop(self.manager.trim()),
                    1 => drop(self.manager.trim_to(16 << 20)),
                    _ => drop(self.manager.release_idle()),
                },
            }
            while self.held.len() > 60 {
                self.free_one();
            }
        }
        while self.held.len() > 10 {
            self.free_one();
        }
        for _ in 0..self.held.len() / 2 {
            self.exchange();
        }
        for held in self.held {
            held.free();
        }
        self.refusals
    }

    fn allocate(&mut self, step: u64) {
        // Mostly small, now and then large enough for a range or a block of its own.
        let bytes_max = [512, 512, 8 << 10, 8 << 10, 128 << 10, 2 << 20][self.random.below(6) as usize];
        let bytes = self.random.size(bytes_max);
        let mut options = MemoryOptions::DEFAULT.tag(self.tags[self.random.below(3) as usize]);
        if self.random.below(16) == 0 {
            options = options.zeroed(true);
        }
        if self.random.below(32) == 0 {
            options = options.alignment(4096);
        }
        match self.manager.allocate_with(bytes, options) {
            Ok(mut buffer) => {
                let pattern = Pattern::new(self.random.draw() ^ step);
                pattern.write(&mut buffer);
                self.held.push(Held { pattern, buffer });
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                self.refusals += 1;
                self.held.drain(..self.held.len() / 2).for_each(Held::free);
            }
        }
    }

    fn free_one(&mut self) {
        if !self.held.is_empty() {
            let place = self.random.below(self.held.len() as u64) as usize;
            self.held.swap_remove(place).free();
        }
    }

    /// Leaves a buffer in the transfer and takes what was there.
    fn exchange(&mut self) {
        let mine = self.held.pop();
        let slot = self.random.below(TRANSFER_SLOTS) as usize;
        let theirs = {
            let mut transfer = self.transfer.lock();
            std::mem::replace(&mut transfer[slot], mine)
        };
        self.held.extend(theirs);
    }
}

/// Runs rounds of threads over one manager; how many requests were refused.
fn stress(budget_bytes: u64, seed: u64, rounds: u64) -> u64 {
    let device = Faulty::new(Host::new().expect("the system says how much memory it has"));
    let faults = device.faults();
    let manager = MemoryManager::with_config(device, config_with_budget(budget_bytes)).expect("a budget");
    let tags = ["one", "two", "three"].map(|name| manager.tag(name).expect("three tags"));
    let transfer = Arc::new(Mutex::new((0..TRANSFER_SLOTS).map(|_| None).collect::<Vec<_>>()));
    let mut random = Random::new(seed);
    let mut refusals = 0;
    for _ in 0..rounds {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let worker = Worker {
                    manager: manager.clone(),
                    transfer: Arc::clone(&transfer),
                    random: Random::new(random.draw()),
                    tags,
                    held: Vec::new(),
                    refusals: 0,
                };
                thread::spawn(move || worker.run())
            })
            .collect();
        for thread in threads {
            refusals += thread.join().expect("a worker failed; its message is above");
        }
        // All threads are gone: what they counted is final, and what lies in the transfer is what is live.
        let left = transfer.lock().iter().flatten().count();
        let statistics = manager.statistics();
        assert_balanced(&statistics);
        assert_eq!(statistics.live_count(), left as u64);
        assert_eq!(statistics.reserved.current, faults.live_bytes());
        assert!(faults.live_bytes_peak() <= budget_bytes);
        let mut transfer = transfer.lock();
        for held in transfer.iter_mut().step_by(2).filter_map(Option::take) {
            held.free();
        }
    }
    // The manager goes first; the last buffers take the rest with them.
    drop(manager);
    let mut transfer = transfer.lock();
    transfer.drain(..).flatten().for_each(Held::free);
    assert_eq!((faults.live_blocks(), faults.refused_blocks()), (0, 0));
    refusals
}

fn seeded(budget_bytes: u64) -> u64 {
    let seed = variable("AQUIFER_STRESS_SEED", 1);
    let rounds = variable("AQUIFER_STRESS_ROUNDS", 4);
    println!("AQUIFER_STRESS_SEED={seed} AQUIFER_STRESS_ROUNDS={rounds}");
    stress(budget_bytes, seed, rounds)
}

#[test]
fn threads_exchange_buffers() {
    assert_eq!(seeded(1 << 30), 0, "there is room for everything");
}

#[test]
fn threads_exchange_buffers_under_a_tight_budget() {
    assert!(seeded(12 << 20) > 0, "the budget is not tight");
}

/// Threads that do nothing but hit their caches, while another empties these caches all the time.
///
/// The other tests spend their time on content. Here nearly all of it is spent where the two may meet.
#[test]
fn caches_are_emptied_under_their_owners_hands() {
    let rounds = variable("AQUIFER_STRESS_ROUNDS", 4);
    let host = Host::new().expect("the system says how much memory it has");
    let manager = MemoryManager::with_config(host, config_with_budget(1 << 30)).expect("a budget");
    let running = Arc::new(Mutex::new(WORKERS));
    let workers: Vec<_> = (0..WORKERS)
        .map(|index| {
            let (manager, running) = (manager.clone(), Arc::clone(&running));
            thread::spawn(move || {
                for round in 0..rounds * 5000 {
                    let cookies = [round << 8 | index, !round << 8 | index];
                    let mut pair = cookies.map(|_| manager.allocate(300).expect("there is room"));
                    for (buffer, cookie) in pair.iter_mut().zip(cookies) {
                        buffer.write(0, &[cookie]).expect("in bounds");
                    }
                    for (buffer, cookie) in pair.iter().zip(cookies) {
                        let mut found = [0];
                        buffer.read(0, &mut found).expect("in bounds");
                        assert_eq!(found, [cookie], "two threads have the same place");
                    }
                }
                *running.lock() -= 1;
            })
        })
        .collect();
    while *running.lock() > 0 && workers.iter().any(|worker| !worker.is_finished()) {
        manager.release_idle();
    }
    for worker in workers {
        worker.join().expect("a worker failed; its message is above");
    }
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.allocation_count, statistics.live_count()), (WORKERS * rounds * 10_000, 0));
}
