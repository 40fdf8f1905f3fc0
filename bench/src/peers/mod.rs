//! The allocators under test, one file each.
//!
//! A new peer implements [`Peer`] for the loops and, if a trace can be run on it, [`Replayer`]; it is entered in
//! [`PAIRS`] below and in `replay::REPLAYS`.

mod aquifer;
mod best_fit;
mod floor;
mod locked;
mod loop_only;
mod offset_allocator;
mod pytorch_like;
mod rlsf;
mod snmalloc;
mod vk_mem;

pub(crate) use aquifer::{Aquifer, AquiferOnQueue};
pub(crate) use best_fit::BestFit;
pub(crate) use loop_only::LoopOnly;
pub(crate) use offset_allocator::OffsetAllocator;
pub(crate) use pytorch_like::PytorchLike;
pub(crate) use vk_mem::VkMem;

use floor::Floor;
use locked::Locked;
use rlsf::Rlsf;
use snmalloc::Snmalloc;

use crate::lane::{Lane, alone, together};
use crate::pairs::Plan;

/// The name of the loop without an allocator, which every run measures.
pub(crate) const LOOP: &str = "loop";
/// The name of the floor, to which ratios are given.
pub(crate) const FLOOR: &str = "floor";
/// The name of the peer to which ratios are given.
pub(crate) const REFERENCE: &str = "offset-allocator";

/// One thread's way to an allocator. A peer that several threads can use is `Clone`: clones share the allocator.
pub(crate) trait Peer: Send {
    /// What the user keeps and frees by: with a lock and an `Option` around it, it must fit 64 bytes.
    type Handle: Send;

    /// At least `bytes` bytes; none if there is no room.
    fn allocate(&mut self, bytes: u64) -> Option<Self::Handle>;

    fn free(&mut self, handle: Self::Handle);

    /// Frees what is in a variable that goes out of scope, as it does in a user's block. A handle that frees itself does
    /// so where it is.
    #[inline]
    fn free_in_place(&mut self, handle: &mut Option<Self::Handle>) {
        if let Some(handle) = handle.take() {
            self.free(handle);
        }
    }
}

/// A peer whose allocations are places in one range.
pub(crate) trait RangePeer: Peer {
    fn offset_bytes(&self, handle: &Self::Handle) -> u64;
}

/// An allocator a trace can be run on.
pub(crate) trait Replayer {
    type Handle;

    /// At least `bytes` bytes, first used on `stream`; none if there is no room within the budget.
    fn allocate(&mut self, bytes: u64, stream: u64) -> Option<Self::Handle>;

    fn free(&mut self, handle: Self::Handle);

    /// The most memory ever taken from the layer below; none if the question makes no sense.
    fn reserved_bytes_peak(&self) -> Option<u64>;

    /// What the layer below was asked; none where there is none, or nobody counts.
    fn driver(&self) -> Option<Driver> {
        None
    }
}

/// Calls of the driver's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Driver {
    pub(crate) calls: u64,
    /// What they take, in virtual time; none but on a simulated device.
    pub(crate) ns: Option<u64>,
}

/// What a peer needs to know to be set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Space {
    /// Every size is rounded up to a multiple of this; a power of two.
    pub(crate) unit_bytes: u64,
    /// The range that a peer of fixed size manages.
    pub(crate) range_bytes: u64,
    /// Most allocations live at a time.
    pub(crate) allocations_max: u32,
}

/// An entry of `pairs`.
pub(crate) struct Entry {
    pub(crate) name: &'static str,
    /// Only one thread can use it.
    pub(crate) bare: bool,
    /// It writes into the memory it manages, so the memory must be there.
    pub(crate) in_band: bool,
    /// A new allocator, with one lane for each of the plan's threads.
    pub(crate) lanes: fn(&Plan) -> Vec<Box<dyn Lane>>,
}

/// The peers of `pairs`, in the order of every repetition.
#[rustfmt::skip]
pub(crate) const PAIRS: &[Entry] = &[
    Entry { name: LOOP, bare: false, in_band: false, lanes: |plan| together(LoopOnly, plan) },
    Entry { name: FLOOR, bare: false, in_band: false, lanes: |plan| together(Floor, plan) },
    Entry { name: "aquifer", bare: false, in_band: false, lanes: |plan| together(Aquifer::new(), plan) },
    Entry { name: "aquifer-on-queue", bare: false, in_band: false, lanes: |plan| together(AquiferOnQueue::new(), plan) },
    Entry { name: "aquifer-in-sub-budget", bare: false, in_band: false, lanes: |plan| together(Aquifer::in_sub_budget(1), plan) },
    Entry { name: "aquifer-in-3-sub-budgets", bare: false, in_band: false, lanes: |plan| together(Aquifer::in_sub_budget(3), plan) },
    Entry { name: REFERENCE, bare: true, in_band: false, lanes: |plan| alone(OffsetAllocator::new(&plan.space), plan) },
    Entry { name: "offset-allocator-mutex", bare: false, in_band: false, lanes: |plan| together(Locked::new(OffsetAllocator::new(&plan.space)), plan) },
    Entry { name: "vk-mem", bare: true, in_band: false, lanes: |plan| alone(VkMem::new(&plan.space), plan) },
    Entry { name: "vk-mem-mutex", bare: false, in_band: false, lanes: |plan| together(Locked::new(VkMem::new(&plan.space)), plan) },
    Entry { name: "rlsf", bare: true, in_band: true, lanes: |plan| alone(Rlsf::new(&plan.space), plan) },
    Entry { name: "rlsf-mutex", bare: false, in_band: true, lanes: |plan| together(Locked::new(Rlsf::new(&plan.space)), plan) },
    Entry { name: "snmalloc", bare: false, in_band: true, lanes: |plan| together(Snmalloc, plan) },
];

/// The names `pairs --peer` accepts.
pub(crate) fn names() -> Vec<&'static str> {
    PAIRS.iter().map(|entry| entry.name).collect()
}

#[cfg(test)]
mod tests;
