//! Which of a device's heaps something is about.

use aquifer_backend::{Capabilities, MemoryFlags, Properties};

/// Some of a device's heaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Heaps(u64);

impl Heaps {
    pub(super) const ALL: Self = Self(u64::MAX);

    pub(super) fn one(heap_index: usize) -> Self {
        Self(1 << (heap_index % 64))
    }

    pub(super) fn has(self, heap_index: usize) -> bool {
        self.0 & Self::one(heap_index).0 != 0
    }

    /// The first of them.
    pub(super) fn first(self) -> usize {
        self.0.trailing_zeros().min(63) as usize
    }

    /// Those that are memory of the machine, of which the system speaks: a device of its own gives nothing to the machine by giving up
    /// its own memory. All, if none can be told apart.
    pub(super) fn of_the_machine(properties: &Properties) -> Self {
        if properties.capabilities.contains(Capabilities::RUNS_ON_HOST) {
            return Self::ALL;
        }
        let is_machines = |flags: MemoryFlags| {
            let is_visible = flags.contains(MemoryFlags::HOST_VISIBLE);
            flags.contains(MemoryFlags::PINNED) || is_visible && !flags.contains(MemoryFlags::DEVICE_LOCAL)
        };
        let types = properties.memory_types.iter().filter(|memory_type| is_machines(memory_type.flags));
        let heaps = types.fold(0, |heaps, memory_type| heaps | Self::one(memory_type.heap_index).0);
        if heaps == 0 { Self::ALL } else { Self(heaps) }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use aquifer_backend::{Heap, MemoryType};

    fn heaps(types: &[(usize, MemoryFlags)]) -> Heaps {
        let memory_types =
            types.iter().map(|&(heap_index, flags)| MemoryType { heap_index, flags }).collect();
        Heaps::of_the_machine(&Properties {
            backend: "none",
            device: String::new(),
            heaps: vec![Heap { size_bytes: 1 << 30 }; 3],
            memory_types,
            block_granularity_bytes: 4096,
            block_bytes_max: 1 << 30,
            block_count_max: 1,
            alignment_bytes_min: 4096,
            physical_page_bytes: 0,
            mapping_count_max: 0,
            mapping_costs: None,
            import_alignment_bytes: 0,
            capabilities: Capabilities::NONE,
        })
    }

    #[test]
    fn a_devices_own_memory_is_not_the_machines() {
        let local = MemoryFlags::DEVICE_LOCAL;
        let visible = MemoryFlags::HOST_VISIBLE;
        // A card: its memory, a window into it, and the machine's.
        let card =
            heaps(&[(0, local), (2, local | visible), (1, visible), (1, visible | MemoryFlags::PINNED)]);
        assert_eq!((card, card.first()), (Heaps::one(1), 1));
        // One memory for both.
        let unified = heaps(&[(0, local | visible | MemoryFlags::PINNED), (0, local)]);
        assert_eq!(unified, Heaps::one(0));
        // One that says nothing.
        assert_eq!(heaps(&[(0, MemoryFlags::NONE)]), Heaps::ALL);
        assert!(Heaps::ALL.has(0) && Heaps::ALL.has(2) && Heaps::ALL.first() == 0);
    }
}
