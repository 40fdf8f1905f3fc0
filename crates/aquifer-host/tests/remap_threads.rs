//! Threads that make, map, unmap, release and destroy at once: each finds in its memory what it has put there.

#![cfg(target_os = "linux")]

mod common;
#[path = "common/remapped.rs"]
mod remapped;

use aquifer_backend::Backend;
use aquifer_host::{Host, HostBlock};
use aquifer_testkit::Random;
use common::skipped;
use remapped::{destroy, host, map, physical, read, release, sparse, unmap, write};

const THREADS: u64 = 4;
const STEPS: u64 = 400;
/// Places for memory that each thread has in the block that they share.
const SLOTS: u64 = 8;
/// The longest physical block, in pages.
const PAGES_MAX: u64 = 6;

/// A physical block and what its pages hold.
struct Memory {
    block: HostBlock,
    pages: Vec<u64>,
    /// Where it is mapped.
    slots: Vec<u64>,
}

/// One thread, in its own slots.
struct Worker<'a> {
    host: &'a Host,
    addresses: &'a HostBlock,
    page: u64,
    index: u64,
    random: Random,
    memories: Vec<Memory>,
    free_slots: Vec<u64>,
}

impl Worker<'_> {
    fn at(&self, slot: u64, page: usize) -> u64 {
        ((self.index * SLOTS + slot) * PAGES_MAX + page as u64) * self.page
    }

    fn create(&mut self) {
        let count = 1 + self.random.below(PAGES_MAX);
        let block = physical(self.host, count * self.page);
        self.memories.push(Memory { block, pages: vec![0; count as usize], slots: Vec::new() });
    }

    fn map(&mut self, which: usize) {
        let Some(slot) = self.free_slots.pop() else { return };
        let bytes = self.memories[which].pages.len() as u64 * self.page;
        map(self.host, self.addresses, self.at(slot, 0), &self.memories[which].block, bytes).unwrap();
        self.memories[which].slots.push(slot);
        self.check(which);
    }

    fn unmap(&mut self, which: usize) {
        let Some(slot) = self.memories[which].slots.pop() else { return };
        let bytes = self.memories[which].pages.len() as u64 * self.page;
        unmap(self.host, self.addresses, self.at(slot, 0), bytes).unwrap();
        self.free_slots.push(slot);
        self.check(which);
    }

    /// Writes to both ends of a page, through one of its mappings, or gives the page back.
    fn change(&mut self, which: usize) {
        let Some(&slot) = self.memories[which].slots.first() else { return };
        let page = self.random.below(self.memories[which].pages.len() as u64) as usize;
        let value = if self.random.below(3) == 0 { 0 } else { self.random.draw() };
        let at = self.at(slot, page);
        if value == 0 {
            release(self.host, self.addresses, at, self.page);
        } else {
            write(self.host, self.addresses, at, value);
            write(self.host, self.addresses, at + self.page - 8, value);
        }
        self.memories[which].pages[page] = value;
        self.check(which);
    }

    /// Through all its mappings.
    fn check(&self, which: usize) {
        let Memory { pages, slots, .. } = &self.memories[which];
        for (&slot, (page, &value)) in
            slots.iter().flat_map(|slot| pages.iter().enumerate().map(move |page| (slot, page)))
        {
            let at = self.at(slot, page);
            let found = [at, at + self.page - 8].map(|at| read(self.host, self.addresses, at));
            assert_eq!(found, [value; 2], "thread {}, slot {slot}, page {page}", self.index);
        }
    }

    fn destroy(&mut self, which: usize) {
        while !self.memories[which].slots.is_empty() {
            self.unmap(which);
        }
        destroy(self.host, self.memories.swap_remove(which).block);
    }

    fn work(mut self) {
        for _ in 0..STEPS {
            if self.memories.is_empty() {
                self.create();
            }
            let which = self.random.below(self.memories.len() as u64) as usize;
            match self.random.below(10) {
                0 => self.create(),
                1 => self.destroy(which),
                2 => self.unmap(which),
                3..6 => self.map(which),
                _ => self.change(which),
            }
        }
        while !self.memories.is_empty() {
            self.check(0);
            self.destroy(0);
        }
    }
}

#[test]
fn threads_do_not_touch_each_others_memory() {
    let Some(host) = host() else { return skipped("memory cannot be mapped here") };
    let page = host.properties().physical_page_bytes;
    let addresses = sparse(&host, THREADS * SLOTS * PAGES_MAX * page);
    std::thread::scope(|scope| {
        for index in 0..THREADS {
            let (host, addresses, random) = (&host, &addresses, Random::new(index));
            let free_slots = (0..SLOTS).collect();
            let worker = Worker { host, addresses, page, index, random, memories: Vec::new(), free_slots };
            scope.spawn(|| worker.work());
        }
    });
    destroy(&host, addresses);
}
