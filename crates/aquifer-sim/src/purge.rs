//! Purgeable blocks, and when the system takes their memory.

use crate::random::Random;
use crate::sim::Sim;
use crate::span::Memory;
use crate::state::{Machine, State};
use crate::{Purging, SimDesc};
use std::collections::BTreeMap;

/// Tells the numbers drawn here from those of the schedule, which has the same seed.
const SALT: u64 = 0x7075_7267_6561_626c;

#[derive(Debug)]
struct PurgeableBlock {
    /// Those that take memory while it is not purged.
    bytes: u64,
    heap_index: usize,
    /// When the system takes them, unless it does so before.
    due_ns: Option<u64>,
    is_purged: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct PurgeableBlocks {
    random: Random,
    purging: Purging,
    /// By address.
    blocks: BTreeMap<u64, PurgeableBlock>,
}

impl PurgeableBlocks {
    pub(crate) fn new(desc: &SimDesc) -> Self {
        let random = Random::new(desc.seed ^ SALT);
        Self { random, purging: desc.purging, blocks: BTreeMap::new() }
    }

    fn draw_due_ns(&mut self, now_ns: u64) -> Option<u64> {
        let is_taken = self.random.hits(self.purging.per_mille);
        is_taken.then(|| now_ns.saturating_add(self.random.up_to(self.purging.after_ns_max)))
    }
}

impl State<'_> {
    /// Makes a block purgeable of which `bytes` take memory.
    pub(crate) fn make_purgeable(&mut self, address: u64, bytes: u64, heap_index: usize) {
        if self.own().purgeable.blocks.contains_key(&address) {
            return self
                .schedule
                .breach(format!("make_purgeable of the block at {address:#x}, which is purgeable already"));
        }
        let now_ns = self.schedule.now_ns();
        self.schedule.checker.make_purgeable(now_ns, address);
        let own = self.own_mut();
        let due_ns = own.purgeable.draw_due_ns(now_ns);
        let block = PurgeableBlock { bytes, heap_index, due_ns, is_purged: false };
        own.purgeable.blocks.insert(address, block);
        own.books.purgeable_bytes += bytes;
    }

    /// Gives a block its memory back, and answers whether it had kept its content; `None` if there is not enough.
    pub(crate) fn make_nonpurgeable(&mut self, address: u64) -> Option<bool> {
        let block = self.own_mut().purgeable.blocks.remove(&address);
        let Some(PurgeableBlock { bytes, heap_index, is_purged, .. }) = block else {
            self.schedule
                .breach(format!("make_nonpurgeable of the block at {address:#x}, which is not purgeable"));
            return Some(true);
        };
        if is_purged && !self.make_room(bytes, heap_index) {
            let block = PurgeableBlock { bytes, heap_index, due_ns: None, is_purged };
            self.own_mut().purgeable.blocks.insert(address, block);
            return None;
        }
        let own = self.own_mut();
        own.books.purgeable_bytes -= bytes;
        if is_purged {
            own.books.purged_bytes -= bytes;
            own.add_live_bytes(heap_index, bytes);
        }
        self.schedule.checker.make_nonpurgeable(address);
        Some(!is_purged)
    }

    /// Forgets a block that is being destroyed; how many bytes of memory it had not any more, since the system had taken them.
    pub(crate) fn forget_purgeable(&mut self, address: u64) -> u64 {
        let own = self.own_mut();
        let Some(block) = own.purgeable.blocks.remove(&address) else { return 0 };
        own.books.purgeable_bytes -= block.bytes;
        let purged_bytes = if block.is_purged { block.bytes } else { 0 };
        own.books.purged_bytes -= purged_bytes;
        purged_bytes
    }

    /// Takes the memory of purgeable blocks whose time has come.
    pub(crate) fn purge_due(&mut self) {
        let now_ns = self.schedule.now_ns();
        self.purge_where(|block| block.due_ns.is_some_and(|due_ns| due_ns <= now_ns));
    }

    fn purge_where(&mut self, mut is_chosen: impl FnMut(&PurgeableBlock) -> bool) -> u64 {
        let device = self.device;
        let Machine { schedule, devices, blocks, .. } = &mut **self;
        let own = &mut devices[device];
        let mut taken_bytes = 0;
        for (&address, block) in &mut own.purgeable.blocks {
            if block.is_purged || !is_chosen(block) {
                continue;
            }
            block.is_purged = true;
            taken_bytes += block.bytes;
            own.books.live_bytes_by_heap[block.heap_index] -= block.bytes;
            schedule.checker.purge(address);
            let content = blocks.get(address).and_then(|placed| placed.content.as_ref());
            if let Some(Memory::Own(content)) = content {
                // SAFETY: who made the block purgeable vouches that nobody uses it until it is not any more.
                unsafe { content.spoil() };
            }
        }
        own.books.live_bytes -= taken_bytes;
        own.books.purged_bytes += taken_bytes;
        taken_bytes
    }

    /// Takes memory of purgeable blocks until a heap has room for `bytes`; whether it has.
    pub(crate) fn make_room(&mut self, bytes: u64, heap_index: usize) -> bool {
        let mut available_bytes = self.own().available_bytes(heap_index);
        self.purge_where(|block| {
            let is_needed = available_bytes < bytes && block.heap_index == heap_index;
            available_bytes += if is_needed { block.bytes } else { 0 };
            is_needed
        });
        self.own().available_bytes(heap_index) >= bytes
    }
}

/// Purgeable memory.
impl Sim {
    /// Lets the system take the memory of all purgeable blocks now; how many bytes that were.
    pub fn purge(&self) -> u64 {
        self.state().purge_where(|_| true)
    }
}
