//! Random programs with unified buffers on the simulated device, beside the naive oracle: a vector of bytes for each buffer.
//!
//! Every step changes the vectors at once. What the device ought to see of them is settled when a kernel is enqueued, and looked at when
//! it runs, in virtual time; what the host ought to see, when it reads.

#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod scene;

use crate::common::{quiet_config, sim_manager};
use aquifer_core::{DeviceAccess, MemoryManager, MemoryOptions, Queue, Side, UnifiedBuffer, UnifiedOnDevice};
use aquifer_sim::{Access, ClaimId, Kernel, Lateness, Sim, SimDesc, Violation};
use aquifer_testkit::{Pattern, Random};
use std::ops::Range;
use std::time::Duration;

const QUEUES: usize = 3;
const BUFFERS_MAX: usize = 4;
const BYTES_MAX: u64 = 6000;

/// A device like a discrete GPU, or an integrated one, that is late.
pub(crate) fn late(desc: SimDesc, seed: u64) -> Sim {
    Sim::new(SimDesc { seed, lateness: Lateness::WILD, ..desc })
}

struct Held {
    buffer: UnifiedBuffer<Sim>,
    claim: ClaimId,
    oracle: Vec<u8>,
}

/// Bytes that no other seed has.
pub(crate) fn bytes(seed: u64, count: u64) -> Vec<u8> {
    let mut bytes = vec![0; count as usize];
    Pattern::new(seed).bytes(0, &mut bytes);
    bytes
}

fn part<'a>(oracle: &'a mut [u8], range: &Range<u64>) -> &'a mut [u8] {
    &mut oracle[range.start as usize..range.end as usize]
}

/// Launches a kernel under a guard, which expects, and then writes, bytes at offsets of the guard's part.
pub(crate) fn launch(
    sim: &Sim,
    guard: &UnifiedOnDevice<'_, Sim>,
    expected: Option<Vec<u8>>,
    written: Option<(u64, Vec<u8>)>,
) {
    let address = guard.device_address().expect("the device uses addresses");
    let accesses: Vec<_> = match &written {
        _ if guard.size_bytes() == 0 => return,
        Some(_) => vec![Access::write(address, guard.size_bytes())],
        None => vec![Access::read(address, guard.size_bytes())],
    };
    // SAFETY: the host reaches these bytes through the buffer only, which waits for the guard's marker: that it does is what is tested. The
    // simulation moves bytes under the lock of its calls, which one thread makes.
    let launched = unsafe {
        sim.launch_program(guard.queue().raw(), Kernel::new(accesses), move |memory| {
            if let Some(expected) = &expected {
                memory.expect(address, expected);
            }
            if let Some((offset, bytes)) = &written {
                memory.write(address + offset, bytes);
            }
        })
    };
    launched.expect("the device is there");
}

/// See the module's text.
pub(crate) struct Program {
    sim: Sim,
    // Before the manager's handle, so that they may be its last users.
    held: Vec<Held>,
    queues: Vec<Queue<Sim>>,
    manager: MemoryManager<Sim>,
    random: Random,
    /// Tells what is written from all else.
    next_content: u64,
    /// Whether only few bytes are used at a time, and hardly ever all are brought over.
    is_scattered: bool,
    /// The most ranges that were newer on a side.
    ranges_max: usize,
}

/// What a buffer says of itself.
fn said(buffer: &UnifiedBuffer<Sim>, field: &str) -> usize {
    let text = format!("{buffer:?}");
    let (_, rest) = text.split_once(&format!("{field}: ")).expect("it is said");
    let digits = rest.split(|letter: char| !letter.is_ascii_digit()).next();
    digits.and_then(|digits| digits.parse().ok()).expect("a number")
}

/// How many ranges are newer on the host, and on the device.
pub(crate) fn newer(buffer: &UnifiedBuffer<Sim>) -> [usize; 2] {
    ["ranges_newer_on_host", "ranges_newer_on_device"].map(|field| said(buffer, field))
}

impl Program {
    pub(crate) fn new(sim: Sim, seed: u64) -> Self {
        let mut config = quiet_config(1 << 30);
        config.in_flight_wait = Duration::from_secs(10);
        let manager = sim_manager(&sim, config);
        let queues = (0..QUEUES).map(|_| manager.queue().expect("a queue")).collect();
        let random = Random::new(seed);
        let (held, next_content, is_scattered, ranges_max) = (Vec::new(), 1, false, 0);
        Self { sim, held, queues, manager, random, next_content, is_scattered, ranges_max }
    }

    /// As [`Program::run`], with one buffer of which few bytes are used at a time: answers also the most ranges that were newer on a side.
    pub(crate) fn run_scattered(mut self, steps: usize) -> (Vec<Violation>, usize) {
        self.is_scattered = true;
        for _ in 0..steps {
            self.step();
            let most = self.held.iter().flat_map(|held| newer(&held.buffer)).max();
            self.ranges_max = self.ranges_max.max(most.unwrap_or(0));
        }
        let most = self.ranges_max;
        (self.run(0), most)
    }

    /// Runs so many steps, and then looks at everything.
    pub(crate) fn run(mut self, steps: usize) -> Vec<Violation> {
        for _ in 0..steps {
            self.step();
        }
        while !self.held.is_empty() {
            self.read(0, true);
            self.give_up(0);
        }
        self.sim.run_all();
        self.manager.settle();
        assert_eq!(self.manager.statistics().allocated.current, 0);
        self.sim.violations()
    }

    fn step(&mut self) {
        if self.held.is_empty() {
            return self.make();
        }
        let index = self.random.below(self.held.len() as u64) as usize;
        // Of what brings everything over only a little.
        let is_rare = self.is_scattered && self.random.below(64) > 0;
        match self.random.below(100) {
            68..88 if is_rare => self.write(index),

            0..20 => self.read(index, false),
            20..40 => self.write(index),
            40..68 => self.kernels(index),
            68..76 => self.prefetch(index),
            76..80 => self.held[index].buffer.synchronize().expect("the device is there"),
            80..84 => self.give_up(index),
            84..88 if self.held.len() < BUFFERS_MAX => self.make(),
            88..94 => self.disturb(),
            94..96 => self.manager.settle(),
            _ => {
                let ns = self.random.size(20_000_000);
                self.sim.advance(ns);
            }
        }
    }

    fn make(&mut self) {
        let is_large = self.is_scattered || self.random.below(2) == 0;
        let size = if is_large { BYTES_MAX - self.random.below(2000) } else { self.random.size(BYTES_MAX) };
        let buffer = self.manager.unified_with(size, MemoryOptions::ZEROED).expect("there is room");
        let address = buffer.device_address().expect("the device uses addresses");
        let claim = self.sim.claim(address, size);
        self.held.push(Held { buffer, claim, oracle: vec![0; size as usize] });
    }

    fn give_up(&mut self, index: usize) {
        let held = self.held.swap_remove(index);
        self.sim.give_up(held.claim);
        drop(held);
    }

    fn content(&mut self, count: u64) -> Vec<u8> {
        self.next_content += 1;
        bytes(self.next_content, count)
    }

    fn range(&mut self, index: usize) -> Range<u64> {
        let size = self.held[index].buffer.size_bytes();
        match self.random.below(8) {
            0 if !self.is_scattered => 0..size,
            number if number < 4 || self.is_scattered => {
                // A few bytes, so that parts come to lie between parts.
                let start = self.random.below(size);
                start..(start + self.random.below(24)).min(size)
            }
            _ => {
                let (one, other) = (self.random.below(size + 1), self.random.below(size + 1));
                one.min(other)..one.max(other)
            }
        }
    }

    fn queue(&mut self) -> Queue<Sim> {
        let index = self.random.below(QUEUES as u64) as usize;
        self.queues[index].clone()
    }

    /// The host touches memory that the device has too: no queued work may be in its way.
    fn touch(&self, index: usize, range: &Range<u64>, is_written: bool) {
        let buffer = &self.held[index].buffer;
        if buffer.is_zero_copy() && !range.is_empty() {
            let address = buffer.device_address().expect("the device uses addresses") + range.start;
            let count = range.end - range.start;
            let access =
                if is_written { Access::write(address, count) } else { Access::read(address, count) };
            self.sim.host_access(access);
        }
    }

    fn read(&mut self, index: usize, is_all: bool) {
        let range = if is_all { 0..self.held[index].buffer.size_bytes() } else { self.range(index) };
        let held = &mut self.held[index];
        let found = held.buffer.read_range(range.clone()).expect("the device is there");
        self.sim.expect_host(&found, part(&mut held.oracle, &range));
        self.touch(index, &range, false);
    }

    fn write(&mut self, index: usize) {
        let range = self.range(index);
        let count = range.end - range.start;
        // Not always all that it could be.
        let written = self.random.below(count + 1)..count;
        let content = self.content(written.end - written.start);
        let held = &mut self.held[index];
        let mut found = held.buffer.write_range(range.clone()).expect("the device is there");
        let oracle = part(&mut held.oracle, &range);
        self.sim.expect_host(&found, oracle);
        part(&mut found, &written).copy_from_slice(&content);
        part(oracle, &written).copy_from_slice(&content);
        self.touch(index, &range, true);
    }

    fn kernels(&mut self, index: usize) {
        let (range, queue) = (self.range(index), self.queue());
        let count = range.end - range.start;
        let access =
            [DeviceAccess::Read, DeviceAccess::Write, DeviceAccess::ReadWrite][self.random.below(3) as usize];
        let kernels = 1 + self.random.below(2);
        let parts: Vec<_> = (0..kernels)
            .map(|number| {
                // The first kernel of those that only write writes everything.
                let all = access == DeviceAccess::Write && number == 0;
                let start = if all { 0 } else { self.random.below(count + 1) };
                (start, self.content(count - start))
            })
            .collect();
        let is_forgotten = self.random.below(16) == 0;
        let held = &mut self.held[index];
        let guard = held.buffer.on_device_range(&queue, range.clone(), access).expect("the device is there");
        let oracle = part(&mut held.oracle, &range);
        for (number, (start, content)) in parts.into_iter().enumerate() {
            let sees = access != DeviceAccess::Write || number > 0;
            let expected = sees.then(|| oracle.to_vec());
            let written = (access != DeviceAccess::Read).then_some((start, content));
            if let Some((start, content)) = &written {
                oracle[*start as usize..].copy_from_slice(content);
            }
            launch(&self.sim, &guard, expected, written);
        }
        if is_forgotten {
            std::mem::forget(guard);
        }
    }

    fn prefetch(&mut self, index: usize) {
        let queue = self.queue();
        let to = if self.random.below(2) == 0 { Side::Host } else { Side::Device };
        self.held[index].buffer.prefetch(to, &queue).expect("the device is there");
    }

    /// Somebody else gets memory, writes it on a queue and gives it up, so that what is given back too early is spoilt.
    fn disturb(&mut self) {
        let (size, queue) = (self.random.size(BYTES_MAX), self.queue());
        let options = if self.random.below(2) == 0 { MemoryOptions::DEFAULT } else { MemoryOptions::PINNED };
        let buffer = self.manager.allocate_with(size, options).expect("there is room");
        let address = buffer.device_address().expect("the device uses addresses");
        let claim = self.sim.claim(address, size);
        buffer.record_use(&queue).expect("one manager");
        let content = self.content(size);
        // SAFETY: nobody else has the buffer, and the host does not touch it.
        let launched = unsafe {
            self.sim.launch_program(queue.raw(), Kernel::new([Access::write(address, size)]), move |memory| {
                memory.write(address, &content)
            })
        };
        launched.expect("the device is there");
        self.sim.give_up(claim);
    }
}
