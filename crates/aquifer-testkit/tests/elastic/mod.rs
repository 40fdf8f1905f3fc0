//! A program for devices whose memory is mapped: it puts runs together out of what others left, gives back, makes ready, and drops.

#![allow(dead_code, reason = "each test binary uses a part")]

use aquifer_core::{
    Buffer, Capabilities, Config, Error, ErrorKind, MemoryManager, MemoryOptions, Policy, Queue, SyncBackend,
};
use aquifer_testkit::{Pattern, assert_balanced, config_with_budget};
use std::time::Duration;

pub(crate) const MIB: u64 = 1 << 20;
/// What the script can have. It needs nearly all of it.
pub(crate) const BUDGET_BYTES: u64 = 64 * MIB;

/// For a program that looks after everything itself and waits for nothing.
pub(crate) fn elastic_config(budget_bytes: u64) -> Config {
    let mut config = config_with_budget(budget_bytes);
    config.policy = Policy::Elastic;
    config.reaper = false;
    config.in_flight_wait = Duration::from_millis(1);
    config
}

/// A program in progress.
pub(crate) struct Program<B: SyncBackend> {
    pub(crate) manager: MemoryManager<B>,
    pub(crate) buffers: Vec<(Pattern, Buffer<B>)>,
    /// Whether the host sees what is in a buffer.
    has_content: bool,
    seed: u64,
    pub(crate) errors: Vec<Error>,
    /// What the driver has, in bytes of memory.
    driver_bytes: Box<dyn Fn() -> u64>,
}

impl<B: SyncBackend> Program<B> {
    pub(crate) fn new(
        manager: MemoryManager<B>,
        has_content: bool,
        driver_bytes: impl Fn() -> u64 + 'static,
    ) -> Self {
        let driver_bytes = Box::new(driver_bytes);
        Self { manager, buffers: Vec::new(), has_content, seed: 0, errors: Vec::new(), driver_bytes }
    }

    /// Keeps an error, which must be one that a poor driver explains.
    pub(crate) fn expect<T>(&mut self, answer: Result<T, Error>) -> Option<T> {
        answer
            .map_err(|error| {
                let kind = error.kind();
                let is_explained = matches!(
                    kind,
                    ErrorKind::Driver
                        | ErrorKind::OutOfMemory
                        | ErrorKind::CanNeverFit
                        | ErrorKind::DeviceLost
                );
                assert!(is_explained, "{error}");
                self.errors.push(error);
            })
            .ok()
    }

    /// Takes a new buffer in, if there is one.
    fn keep(&mut self, answer: Result<Buffer<B>, Error>) {
        if let Some(mut buffer) = self.expect(answer) {
            let pattern = Pattern::new(self.seed);
            self.seed += 1;
            if self.has_content {
                pattern.write(&mut buffer);
            }
            self.buffers.push((pattern, buffer));
        }
        self.check();
    }

    pub(crate) fn allocate(&mut self, bytes: u64) {
        let answer = self.manager.allocate(bytes);
        self.keep(answer);
    }

    pub(crate) fn allocate_zeroed(&mut self, bytes: u64) {
        let answer = self.manager.allocate_with(bytes, MemoryOptions::ZEROED);
        if self.has_content
            && let Ok(buffer) = &answer
        {
            let content: &[u8] = buffer.as_slice().expect("the host sees it");
            assert!(content.iter().step_by(509).all(|&byte| byte == 0), "not zeroed");
        }
        self.keep(answer);
    }

    fn allocate_on(&mut self, queue: Option<&Queue<B>>, bytes: u64) {
        match queue {
            Some(queue) => self.keep(queue.allocate(bytes)),
            None => self.allocate(bytes),
        }
    }

    /// Keeps every so-many-th buffer.
    pub(crate) fn free(&mut self, keep_every: usize) {
        let mut index = 0;
        self.buffers.retain(|_| {
            index += 1;
            index % keep_every == 0
        });
        self.check();
    }

    pub(crate) fn give_back(&mut self, call: impl FnOnce(&MemoryManager<B>) -> u64) {
        let before = self.manager.statistics().reserved.current;
        let bytes = call(&self.manager);
        assert_eq!(before - self.manager.statistics().reserved.current, bytes);
        self.check();
    }

    fn preallocate(&mut self, bytes: u64, count: u64) {
        let before = self.manager.statistics().reserved.current;
        let answer = self.manager.pool().preallocate(bytes, count);
        match self.expect(answer) {
            // What is fitting may have taken another's place.
            Some(made) => assert!(self.manager.statistics().reserved.current <= before + made),
            None => assert!(self.manager.statistics().reserved.current <= before.max(BUDGET_BYTES)),
        }
        self.check();
    }

    /// Books balance, the ledger is what the driver gave, and no buffer has changed.
    pub(crate) fn check(&self) {
        let statistics = self.manager.statistics();
        assert_balanced(&statistics);
        if self.manager.properties().capabilities.contains(Capabilities::RELEASE_RANGE) {
            // The driver that counts is not told where parts that were given back come again.
            assert!(statistics.reserved.current <= (self.driver_bytes)());
        } else {
            assert_eq!(statistics.reserved.current, (self.driver_bytes)());
        }
        assert_eq!(statistics.live_count(), self.buffers.len() as u64);
        if self.has_content {
            self.buffers.iter().for_each(|(pattern, buffer)| pattern.check(buffer));
        }
    }

    /// The script.
    pub(crate) fn run(&mut self) {
        for bytes in [100, 5000, 70_000, 3 * MIB, 9 * MIB, 600 << 10, 5 * MIB, MIB, 8 * MIB] {
            self.allocate(bytes);
        }
        self.free(2);
        // Out of holes, none of which is long enough.
        self.allocate(14 * MIB);
        self.allocate_zeroed(3000);
        self.free(3);
        self.allocate(20 * MIB);
        self.give_back(MemoryManager::trim);
        self.allocate(MIB);
        self.allocate(20 * MIB);
        self.preallocate(MIB, 6);
        (0..3).for_each(|_| self.allocate(MIB));
        self.free(4);
        self.allocate_zeroed(6 * MIB);
        self.give_back(|manager| manager.trim_to(8 * MIB));
        let queue = self.manager.queue();
        let queue = queue.ok().filter(|_| !self.has_content);
        for bytes in [2 * MIB, 7 * MIB, 300, 5 * MIB] {
            self.allocate_on(queue.as_ref(), bytes);
        }
        self.free(3);
        self.allocate_on(queue.as_ref(), 11 * MIB);
        self.manager.settle();
        self.check();
        self.free(2);
        self.allocate(30 * MIB);
        self.free(usize::MAX);
        drop(queue);
        self.manager.settle();
        // Nothing is live, so nearly all of the budget is to be had.
        self.allocate(40 * MIB);
        self.free(usize::MAX);
        self.preallocate(2 * MIB, 20);
        self.give_back(MemoryManager::trim);
        self.allocate(10_000);
        self.allocate(3 * MIB);
        self.allocate(50 * MIB);
    }

    /// On a device that has no faults any more everything comes back.
    pub(crate) fn end(self) {
        let Self { manager, mut buffers, has_content, .. } = self;
        let last = buffers.pop();
        drop(buffers);
        manager.settle();
        manager.trim();
        if last.is_none() {
            let statistics = manager.statistics();
            assert_eq!((statistics.reserved.current, statistics.block_count), (0, 0));
            drop(manager.allocate(BUDGET_BYTES / 2).expect("all is free"));
        }
        drop(manager);
        if let Some((pattern, buffer)) = last
            && has_content
        {
            pattern.check(&buffer);
        }
    }
}
