//! What is counted of pinned memory.

/// Pinned memory of a manager: what is live, what was refused, and the limits. All sizes are requested bytes.
///
/// Each number is true at one moment under one lock, so they fit together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinnedStatistics {
    /// Allocations that are live, unlocked ones included.
    pub live_count: u64,
    /// Their bytes.
    pub live_bytes: u64,
    /// The most that were live at once. A collection's memory that is copied to grow counts once.
    pub peak_count: u64,
    /// The most bytes that were live at once.
    pub peak_bytes: u64,
    /// Of the live ones, those that the system would not lock
    /// ([`WhenRefused::UseUnlocked`](crate::WhenRefused::UseUnlocked)),
    pub unlocked_count: u64,
    /// and their bytes.
    pub unlocked_bytes: u64,
    /// How many requests were refused since as many as [`PinnedStatistics::count_max`] were live,
    pub refused_by_count: u64,
    /// since they were for more than [`PinnedStatistics::bytes_max`],
    pub refused_by_size: u64,
    /// and how many the driver or the system had no memory to lock for. Some of these may have been served with unlocked
    /// memory.
    pub refused_by_system: u64,
    /// In words, why the last request of those was refused, or another that came through
    /// [`PinnedAllocator`](crate::PinnedAllocator) as a collection's allocator, which cannot say it itself.
    pub last_refusal: Option<String>,
    /// How many may be live at once ([`PinnedConfig::count_max`](crate::PinnedConfig::count_max)).
    pub count_max: u64,
    /// How large each may be, in bytes ([`PinnedConfig::bytes_max`](crate::PinnedConfig::bytes_max)).
    pub bytes_max: u64,
}

impl PinnedStatistics {
    /// How many requests were refused, for whatever reason.
    #[must_use]
    pub fn refused_count(&self) -> u64 {
        self.refused_by_count + self.refused_by_size + self.refused_by_system
    }
}
