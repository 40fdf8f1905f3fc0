//! Which addresses blocks get.

use std::collections::BTreeMap;

/// Hands addresses out, those of a destroyed block first.
#[derive(Debug)]
pub(crate) struct Addresses {
    next: u64,
    /// Those of destroyed blocks, by their size and the unit of their device.
    free: BTreeMap<(u64, u64), Vec<u64>>,
}

impl Addresses {
    pub(crate) fn from(start: u64) -> Self {
        Self { next: start, free: BTreeMap::new() }
    }

    /// Addresses for a block from a multiple of `unit`: those of a destroyed one, or new ones with a gap behind them.
    pub(crate) fn take(&mut self, bytes: u64, unit: u64) -> Option<u64> {
        if let Some(address) = self.free.get_mut(&(bytes, unit)).and_then(Vec::pop) {
            return Some(address);
        }
        let address = self.next.checked_next_multiple_of(unit)?;
        self.next = address.checked_add(bytes)?.checked_add(unit)?;
        Some(address)
    }

    /// Keeps the addresses of a destroyed block for another.
    pub(crate) fn give(&mut self, address: u64, bytes: u64, unit: u64) {
        self.free.entry((bytes, unit)).or_default().push(address);
    }
}
