//! What can be chosen when a backend is made.

use std::num::NonZeroU64;

/// How many resources Metal makes for a process. No document of Apple's says it; MLX took it from the system's variable
/// `iogpu.rsrc_limit` (ANCHORS-METAL.md, demand 9), and a later system makes more.
const RESOURCE_COUNT_MAX: u64 = 499_000;

/// Settings of a [`Metal`](crate::Metal) backend. The defaults are right for most programs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MetalOptions {
    /// Whether memory may be asked for beyond what the device recommends for good performance. Metal itself does not refuse
    /// it, but swaps, and then everything is slow. Off: such a request is answered with out of memory.
    pub overcommit: bool,
    /// Whether blocks are put into residency sets, which are attached to the queues: Metal then makes all of them resident
    /// at once instead of each resource with each command buffer. Has an effect from macOS 15 on.
    pub residency_sets: bool,
    /// The most Metal resources (heaps and buffers) that blocks may take. A block that is cut is two, one for a single
    /// allocation is one.
    pub resource_count_max: NonZeroU64,
}

impl Default for MetalOptions {
    fn default() -> Self {
        Self {
            overcommit: false,
            residency_sets: true,
            resource_count_max: NonZeroU64::new(RESOURCE_COUNT_MAX).expect("it is not zero"),
        }
    }
}

impl MetalOptions {
    /// The same with [`MetalOptions::overcommit`].
    #[must_use]
    pub fn overcommit(mut self, overcommit: bool) -> Self {
        self.overcommit = overcommit;
        self
    }

    /// The same with [`MetalOptions::residency_sets`].
    #[must_use]
    pub fn residency_sets(mut self, residency_sets: bool) -> Self {
        self.residency_sets = residency_sets;
        self
    }

    /// The same with [`MetalOptions::resource_count_max`].
    #[must_use]
    pub fn resource_count_max(mut self, resource_count_max: NonZeroU64) -> Self {
        self.resource_count_max = resource_count_max;
        self
    }
}
