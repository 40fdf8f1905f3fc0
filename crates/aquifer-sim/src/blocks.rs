//! Which blocks there are, by the device's addresses and by the host's.

use crate::Access;
use crate::span::{Memory, Span};
use std::collections::BTreeMap;

/// On which side of the link a block's memory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The memory of the device with this index.
    Device(usize),
    /// Memory of the host's that its device reaches by itself.
    Host,
}

/// A block that exists.
#[derive(Debug, Clone)]
pub(crate) struct Placed {
    pub(crate) end: u64,
    pub(crate) side: Side,
    pub(crate) content: Option<Memory>,
    /// Where the host sees it.
    pub(crate) host_address: Option<usize>,
}

/// All blocks of a machine.
#[derive(Debug, Default)]
pub(crate) struct Blocks {
    by_address: BTreeMap<u64, Placed>,
    /// The addresses of those that the host sees, by where it does.
    by_host_address: BTreeMap<usize, u64>,
}

impl Blocks {
    pub(crate) fn add(&mut self, address: u64, placed: Placed) {
        if let Some(host_address) = placed.host_address {
            self.by_host_address.insert(host_address, address);
        }
        self.by_address.insert(address, placed);
    }

    pub(crate) fn remove(&mut self, address: u64) {
        let placed = self.by_address.remove(&address);
        if let Some(host_address) = placed.and_then(|placed| placed.host_address) {
            self.by_host_address.remove(&host_address);
        }
    }

    pub(crate) fn get(&self, address: u64) -> Option<&Placed> {
        self.by_address.get(&address)
    }

    /// The block in which a range of device addresses lies, with its first address.
    pub(crate) fn find(&self, address: u64, bytes: u64) -> Option<(u64, &Placed)> {
        let (&start, placed) = self.by_address.range(..=address).next_back()?;
        (address.checked_add(bytes)? <= placed.end).then_some((start, placed))
    }

    /// The memory behind an access; `None` if it lies in no block that has any.
    pub(crate) fn span_of(&self, access: Access) -> Option<Span> {
        let (start, placed) = self.find(access.address, access.bytes)?;
        placed.content.as_ref()?.span(access.address - start, access.bytes)
    }

    /// The device address of what the host sees at an address of its own; `None` if it does not lie in one block.
    pub(crate) fn address_of_host(&self, host_address: usize, bytes: u64) -> Option<u64> {
        let (&host_start, &start) = self.by_host_address.range(..=host_address).next_back()?;
        let address = start.checked_add((host_address - host_start) as u64)?;
        // What lies behind the block is not of it, whatever has that address on the device.
        self.find(address, bytes).filter(|&(found, _)| found == start).map(|_| address)
    }
}
