//! What a tool that checks the device's accesses is told: compute-sanitizer, through NVTX.
//!
//! Each block of the driver's allocator is a heap to the tool, each allocation a region of it. Mapped memory is no heap that the tool's manual
//! knows of, so while there is a tool the device has none; page-locked memory is left to what the tool knows itself.

use std::collections::BTreeMap;

use nvtx_memory::{Domain, Heap};
use parking_lot::Mutex;

#[derive(Debug)]
pub(crate) struct Sanitizer {
    domain: Domain,
    /// By their addresses.
    heaps: Mutex<BTreeMap<u64, WatchedHeap>>,
}

#[derive(Debug)]
struct WatchedHeap {
    heap: Heap,
    /// Ends of the regions that the tool knows, by their starts.
    regions: BTreeMap<u64, u64>,
}

impl Sanitizer {
    /// `None` unless the program runs under such a tool. After CUDA is initialised.
    pub(crate) fn find() -> Option<Self> {
        Some(Self { domain: Domain::create("aquifer")?, heaps: Mutex::default() })
    }

    /// A new block, of which nothing is in use.
    pub(crate) fn add_block(&self, address: u64, bytes: u64) {
        let heap = self.domain.register_heap(address, bytes, "block");
        let watched = heap.map(|heap| WatchedHeap { heap, regions: BTreeMap::new() });
        // Without a heap the tool sees the block as any other memory of the driver's.
        self.heaps.lock().extend(watched.map(|watched| (address, watched)));
    }

    /// Before the block goes back to the driver.
    pub(crate) fn remove_block(&self, address: u64) {
        self.heaps.lock().remove(&address);
    }

    /// `bytes` bytes from `address` are in use. What was in use there, and never came back, is no more.
    pub(crate) fn add_region(&self, address: u64, bytes: u64) {
        let heaps = &mut *self.heaps.lock();
        let Some((_, watched)) = heaps.range_mut(..=address).next_back() else { return };
        let end = address + bytes;
        let lies_there =
            |(&start, &other_end): (&u64, &u64)| (start < end && other_end > address).then_some(start);
        let stale: Vec<u64> = watched.regions.iter().filter_map(lies_there).collect();
        for start in stale {
            watched.regions.remove(&start);
            watched.heap.unregister_region(start);
        }
        if watched.heap.register_region(address, bytes, None) {
            watched.regions.insert(address, end);
        }
    }

    /// What is in use from `address` on is so no longer.
    pub(crate) fn remove_region(&self, address: u64) {
        let heaps = &mut *self.heaps.lock();
        let Some((_, watched)) = heaps.range_mut(..=address).next_back() else { return };
        if watched.regions.remove(&address).is_some() {
            watched.heap.unregister_region(address);
        }
    }
}
