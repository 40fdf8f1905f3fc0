//! What a device is at the moment: its schedule, its addresses, its books.

use crate::faults::{Call, Fault, Faults};
use crate::purge::PurgeableBlocks;
use crate::schedule::{Schedule, Submission};
use crate::{Access, Books, Costs, QueueId, SimDesc};
use aquifer_backend::{Error, ErrorKind};
use std::collections::BTreeMap;

/// Where the first block starts.
const ADDRESS_MIN: u64 = 0x7f00_0000_0000;

/// What a device is at the moment.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) schedule: Schedule,
    pub(crate) costs: Costs,
    pub(crate) faults: Faults,
    pub(crate) books: Books,
    pub(crate) other_process_bytes: u64,
    pub(crate) purgeable: PurgeableBlocks,
    next_address: u64,
    /// Addresses of destroyed blocks by their size.
    free_addresses: BTreeMap<u64, Vec<u64>>,
}

fn lost(operation: &'static str) -> Error {
    Error::new(ErrorKind::DeviceLost, operation, "the simulated device is lost; drop what is on it")
}

impl State {
    pub(crate) fn new(desc: &SimDesc) -> Self {
        Self {
            schedule: Schedule::new(desc),
            costs: desc.costs,
            faults: Faults::default(),
            books: Books::default(),
            other_process_bytes: 0,
            purgeable: PurgeableBlocks::new(desc),
            next_address: ADDRESS_MIN,
            free_addresses: BTreeMap::new(),
        }
    }

    pub(crate) fn check_not_lost(&self, operation: &'static str) -> Result<(), Error> {
        if self.schedule.is_lost() { Err(lost(operation)) } else { Ok(()) }
    }

    /// Lets the host's time pass for a call.
    pub(crate) fn charge(&mut self, ns: u64) {
        let start_ns = self.schedule.now_ns();
        self.schedule.drive_to(start_ns.saturating_add(ns));
        self.books.driver_ns += self.schedule.now_ns() - start_ns;
    }

    /// Counts a call, lets its time pass, and answers the error that it is to fail with.
    pub(crate) fn enter(&mut self, call: Call, operation: &'static str, ns: u64) -> Result<(), Error> {
        self.books.calls[call as usize] += 1;
        self.charge(ns);
        self.purge_due();
        self.check_not_lost(operation)?;
        let Some(fault) = self.faults.befall(call) else { return Ok(()) };
        self.books.failed_calls += 1;
        if fault == Fault::LoseDevice {
            self.schedule.lose("the device was told to be lost");
            return Err(lost(operation));
        }
        Err(Error::new(fault.kind(call), operation, "the call was told to fail"))
    }

    pub(crate) fn available_bytes(&self, memory_bytes: u64) -> u64 {
        memory_bytes.saturating_sub(self.other_process_bytes).saturating_sub(self.books.live_bytes)
    }

    /// Counts memory that is taken.
    pub(crate) fn add_live_bytes(&mut self, bytes: u64) {
        self.books.live_bytes += bytes;
        self.books.live_bytes_peak = self.books.live_bytes_peak.max(self.books.live_bytes);
    }

    /// Addresses for a block: those of a destroyed one, or new ones with a gap behind them.
    pub(crate) fn take_address(&mut self, bytes: u64, unit: u64) -> Option<u64> {
        if let Some(address) = self.free_addresses.get_mut(&bytes).and_then(Vec::pop) {
            return Some(address);
        }
        let address = self.next_address.checked_next_multiple_of(unit)?;
        self.next_address = address.checked_add(bytes)?.checked_add(unit)?;
        Some(address)
    }

    /// Keeps the addresses of a destroyed block for another.
    pub(crate) fn give_address(&mut self, address: u64, bytes: u64) {
        self.free_addresses.entry(bytes).or_default().push(address);
    }

    /// Runs something on the driver's own queue, and waits for it.
    pub(crate) fn run_now(
        &mut self,
        what: &'static str,
        bytes: u64,
        duration_ns: u64,
        accesses: &[Access],
    ) -> Result<(), Error> {
        let start_ns = self.schedule.now_ns();
        let submission =
            Submission { what, accesses, duration_ns: Some(duration_ns), bytes, ticket: None, fails: false };
        self.schedule.submit(QueueId::DRIVER, submission);
        self.schedule.finish(QueueId::DRIVER);
        self.books.driver_ns += self.schedule.now_ns() - start_ns;
        self.check_not_lost(what)
    }
}
