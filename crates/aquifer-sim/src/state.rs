//! What devices are at the moment: their common schedule and addresses, and each one's books, faults and costs.

use crate::addresses::Addresses;
use crate::blocks::{Blocks, Side};
use crate::check::Recommitted;
use crate::command::Order;
use crate::faults::{Call, Fault, Faults};
use crate::purge::PurgeableBlocks;
use crate::schedule::{Schedule, Submission};
use crate::sim::BlockKind;
use crate::{Access, Books, Costs, SimDesc};
use aquifer_backend::{Error, ErrorKind};
use parking_lot::MutexGuard;
use std::ops::{Deref, DerefMut};

/// Where the first block starts.
const ADDRESS_MIN: u64 = 0x7f00_0000_0000;

/// Where the first physical block has its name: far beyond all addresses of devices.
const PHYSICAL_ADDRESS_MIN: u64 = 1 << 63;

/// Devices that share a clock.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) schedule: Schedule,
    pub(crate) devices: Vec<Device>,
    pub(crate) blocks: Blocks,
    addresses: Addresses,
    physical_addresses: Addresses,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) costs: Costs,
    pub(crate) faults: Faults,
    pub(crate) books: Books,
    pub(crate) other_process_bytes: u64,
    pub(crate) purgeable: PurgeableBlocks,
    pub(crate) reads_peers: bool,
    heap_sizes: Vec<u64>,
    sparse_bytes_max: u64,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            schedule: Schedule::new(),
            devices: Vec::new(),
            blocks: Blocks::default(),
            addresses: Addresses::from(ADDRESS_MIN),
            physical_addresses: Addresses::from(PHYSICAL_ADDRESS_MIN),
        }
    }

    /// Adds a device: its index.
    pub(crate) fn add_device(&mut self, desc: &SimDesc) -> usize {
        let heap_sizes: Vec<u64> = desc.properties().heaps.iter().map(|heap| heap.size_bytes).collect();
        self.schedule.add_device(desc);
        self.devices.push(Device {
            costs: desc.costs,
            faults: Faults::default(),
            books: Books { live_bytes_by_heap: vec![0; heap_sizes.len()], ..Books::default() },
            other_process_bytes: 0,
            purgeable: PurgeableBlocks::new(desc),
            reads_peers: desc.reads_peers,
            heap_sizes,
            sparse_bytes_max: desc.sparse_bytes_max,
        });
        self.devices.len() - 1
    }

    /// Where blocks of a kind get their addresses.
    pub(crate) fn addresses_of(&mut self, kind: BlockKind) -> &mut Addresses {
        match kind {
            BlockKind::Ordinary | BlockKind::Sparse => &mut self.addresses,
            BlockKind::Physical => &mut self.physical_addresses,
        }
    }
}

impl Device {
    /// How much of a heap is left. Another process has its memory from the first.
    pub(crate) fn available_bytes(&self, heap_index: usize) -> u64 {
        self.budget_bytes(heap_index).saturating_sub(self.books.live_bytes_by_heap[heap_index])
    }

    /// How much of a heap this process may have in all.
    pub(crate) fn budget_bytes(&self, heap_index: usize) -> u64 {
        let other_bytes = if heap_index == 0 { self.other_process_bytes } else { 0 };
        self.heap_sizes[heap_index].saturating_sub(other_bytes)
    }

    /// How many addresses are left for sparse blocks.
    pub(crate) fn left_sparse_bytes(&self) -> u64 {
        self.sparse_bytes_max.saturating_sub(self.books.sparse_bytes)
    }

    /// Counts memory that is taken.
    pub(crate) fn add_live_bytes(&mut self, heap_index: usize, bytes: u64) {
        self.books.live_bytes_by_heap[heap_index] += bytes;
        self.books.live_bytes += bytes;
        self.books.live_bytes_peak = self.books.live_bytes_peak.max(self.books.live_bytes);
    }

    /// Counts memory that is given back.
    pub(crate) fn remove_live_bytes(&mut self, heap_index: usize, bytes: u64) {
        self.books.live_bytes_by_heap[heap_index] -= bytes;
        self.books.live_bytes -= bytes;
    }
}

fn lost(operation: &'static str) -> Error {
    Error::new(ErrorKind::DeviceLost, operation, "the simulated device is lost; drop what is on it")
}

/// All devices, locked, as one of them sees them.
pub(crate) struct State<'a> {
    pub(crate) machine: MutexGuard<'a, Machine>,
    /// The index of that one.
    pub(crate) device: usize,
}

impl Deref for State<'_> {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.machine
    }
}

impl DerefMut for State<'_> {
    fn deref_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }
}

impl State<'_> {
    /// What is the device's own.
    pub(crate) fn own(&self) -> &Device {
        &self.machine.devices[self.device]
    }

    pub(crate) fn own_mut(&mut self) -> &mut Device {
        let device = self.device;
        &mut self.machine.devices[device]
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.schedule.is_lost(self.device)
    }

    pub(crate) fn check_not_lost(&self, operation: &'static str) -> Result<(), Error> {
        if self.is_lost() { Err(lost(operation)) } else { Ok(()) }
    }

    pub(crate) fn lose(&mut self, reason: &str) {
        let device = self.device;
        self.schedule.lose(device, reason);
    }

    /// Lets the host's time pass for a call.
    pub(crate) fn charge(&mut self, ns: u64) {
        let start_ns = self.schedule.now_ns();
        self.schedule.drive_to(start_ns.saturating_add(ns));
        self.note_driver_ns(start_ns);
    }

    /// Counts the time since then as spent in the driver.
    pub(crate) fn note_driver_ns(&mut self, start_ns: u64) {
        let passed_ns = self.schedule.now_ns() - start_ns;
        self.own_mut().books.driver_ns += passed_ns;
    }

    /// Counts the memory that the system has taken or given meanwhile.
    pub(crate) fn catch_up(&mut self) {
        self.purge_due();
        for Recommitted { device, heap_index, bytes } in self.schedule.checker.take_recommitted() {
            self.devices[device].add_live_bytes(heap_index, bytes);
        }
    }

    /// Counts a call, lets its time pass, and answers the error that it is to fail with.
    pub(crate) fn enter(&mut self, call: Call, operation: &'static str, ns: u64) -> Result<(), Error> {
        self.own_mut().books.calls[call as usize] += 1;
        self.charge(ns);
        self.catch_up();
        self.check_not_lost(operation)?;
        let Some(fault) = self.own_mut().faults.befall(call) else { return Ok(()) };
        self.own_mut().books.failed_calls += 1;
        if fault == Fault::LoseDevice {
            self.lose("the device was told to be lost");
            return Err(lost(operation));
        }
        Err(Error::new(fault.kind(call), operation, "the call was told to fail"))
    }

    /// Lets the time of a launch pass, which is no call of the manager's.
    pub(crate) fn enter_launch(&mut self, operation: &'static str) -> Result<(), Error> {
        let until_ns = self.schedule.now_ns().saturating_add(self.own().costs.launch_ns);
        self.schedule.drive_to(until_ns);
        self.check_not_lost(operation)
    }

    /// Notes a kernel's accesses to another device's memory that this one cannot reach.
    pub(crate) fn check_accesses(&mut self, accesses: &[Access]) {
        if self.devices.len() == 1 || self.own().reads_peers {
            return;
        }
        for access in accesses {
            let placed = self.blocks.find(access.address, access.bytes).map(|(_, placed)| placed);
            if placed.is_some_and(|placed| matches!(placed.side, Side::Device(index) if index != self.device))
            {
                let address = access.address;
                self.schedule.breach(format!("a kernel uses {address:#x}, memory of a peer it cannot reach"));
            }
        }
    }

    /// Runs something on the driver's own queue, and waits for it.
    pub(crate) fn run_now(&mut self, order: Order) -> Result<(), Error> {
        let start_ns = self.schedule.now_ns();
        let what = order.what;
        let queue = self.schedule.driver_queue(self.device);
        let Order { accesses, bytes, duration_ns, direction, peer, motion, .. } = order;
        let submission = Submission {
            duration_ns: Some(duration_ns),
            bytes,
            direction,
            peer,
            motion,
            ..Submission::new(what, &accesses)
        };
        self.schedule.submit(queue, submission);
        self.schedule.finish(queue);
        self.note_driver_ns(start_ns);
        self.check_not_lost(what)
    }
}
