//! How large a size may be, so that measuring it takes no more than a part of what there is.

use super::driver;
use crate::{Backend, Error, HeapBudget, Host, MemoryManager, SyncBackend};

/// A size's buffers take at most this part of the memory.
const PART: u64 = 4;

/// The largest size that may be measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    bytes_max: u64,
    /// The memory that bounds it, in bytes, and how many buffers of it a size takes.
    memory_bytes: u64,
    buffers: u64,
}

impl Room {
    fn new(memory_bytes: u64, buffers: u64) -> Self {
        Self { bytes_max: memory_bytes / PART / buffers, memory_bytes, buffers }
    }

    /// What the devices of these managers and the host allow.
    pub(super) fn of<B: SyncBackend>(
        manager: &MemoryManager<B>,
        pairs: &[(&MemoryManager<B>, &MemoryManager<B>)],
    ) -> Result<Self, Error> {
        // Elsewhere than on the host, a reference may need pinned memory besides. What devices have may be the host's too.
        let buffers = if driver::runs_on_host(manager) { 2 } else { 3 };
        let mut rooms = Vec::new();
        if let Ok(host) = Host::new() {
            rooms.push(Self::new(least(host.budget(0)?), buffers));
        }
        for manager in pairs.iter().flat_map(|&(one, other)| [one, other]).chain([manager]) {
            rooms.push(Self::new(bytes_of(manager)?, 2));
        }
        Ok(rooms.into_iter().min_by_key(|room| room.bytes_max).expect("there is one of each manager"))
    }

    pub(super) fn has(&self, bytes: u64) -> bool {
        bytes <= self.bytes_max
    }

    /// Why others are left out.
    pub(super) fn in_words(&self) -> String {
        let Self { memory_bytes, buffers, .. } = *self;
        format!(
            "{buffers} buffers of that size are more than a quarter of the {} MiB that may be used; raise the budget, or free memory",
            memory_bytes >> 20
        )
    }
}

fn least(budget: HeapBudget) -> u64 {
    budget.budget_bytes.min(budget.available_bytes)
}

/// What a manager's ordinary buffers may take.
fn bytes_of<B: SyncBackend>(manager: &MemoryManager<B>) -> Result<u64, Error> {
    let heap_index = manager.properties().memory_types[0].heap_index;
    let heap_bytes = least(manager.backend().budget(heap_index)?);
    let bytes = manager.config().budget_bytes.map_or(heap_bytes, |budget| budget.min(heap_bytes));
    Ok(bytes.min(manager.properties().block_bytes_max))
}
