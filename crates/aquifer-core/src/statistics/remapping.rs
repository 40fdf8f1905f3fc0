//! What is counted of pools whose memory is mapped behind addresses.

use super::in_words;
use std::fmt;

/// Memory that is mapped behind addresses ([`Policy::Elastic`](crate::Policy::Elastic)), of all elastic pools together; all zero where
/// none is elastic. `Display` is a line of text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RemappingStatistics {
    /// Physical blocks are whole multiples of so many bytes, each mapped as a whole; 0 where no pool is elastic.
    pub physical_page_bytes: u64,
    /// Physical blocks that there are now: a part of [`Statistics::block_count`](crate::Statistics::block_count).
    pub physical_block_count: u64,
    /// Sparse blocks that there are now: addresses, without memory of their own. In no other count of blocks.
    pub sparse_block_count: u64,
    /// Mappings that there are now. A physical block may be mapped at several addresses, and is used at one at a time.
    pub mapping_count: u64,
    /// Mappings so far that went with their sparse block, since the driver would not remove them. None on a driver that
    /// does not fail.
    pub dropped_mapping_count: u64,
    /// How often addresses were mapped side by side, so far, for a request or to preallocate that found no free range long enough.
    pub composition_count: u64,
    /// Mappings so far of memory that had been made before: what blocks would have left as holes. The other mappings were of new
    /// memory.
    pub remapped_count: u64,
    /// The bytes of all these mappings.
    pub remapped_bytes: u64,
}

impl RemappingStatistics {
    /// Whether a pool is elastic.
    #[must_use]
    pub fn is_elastic(&self) -> bool {
        self.physical_page_bytes > 0
    }
}

impl fmt::Display for RemappingStatistics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "elastic: {} physical blocks (pages of {}), {} mappings behind {} sparse blocks; so far {} compositions, {} of {} remapped",
            self.physical_block_count,
            in_words(self.physical_page_bytes),
            self.mapping_count,
            self.sparse_block_count,
            self.composition_count,
            self.remapped_count,
            in_words(self.remapped_bytes),
        )
    }
}
