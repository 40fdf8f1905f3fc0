//! What an elastic heap did in a replay.

use aquifer::Statistics;
use serde::Serialize;

use crate::output::{bucket_in_words, bytes_in_words, count_in_words};

/// Part of a line of `--json`.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Remapping {
    physical_page_bytes: u64,
    /// At the peak of reserved bytes.
    peak_physical_pages: u64,
    /// Runs of addresses that were put together.
    compositions: u64,
    /// Mappings of memory that was there before,
    remapped: u64,
    /// and their bytes.
    remapped_bytes: u64,
    /// All that were made,
    mappings: u64,
    /// and those that the driver was told to remove.
    mappings_removed: u64,
}

impl Remapping {
    /// `None` where no pool was elastic.
    pub(crate) fn new(statistics: &Statistics) -> Option<Self> {
        let remapping = &statistics.remapping;
        remapping.is_elastic().then(|| Self {
            physical_page_bytes: remapping.physical_page_bytes,
            peak_physical_pages: statistics.reserved.peak.div_ceil(remapping.physical_page_bytes),
            compositions: remapping.composition_count,
            remapped: remapping.remapped_count,
            remapped_bytes: remapping.remapped_bytes,
            mappings: statistics.driver_calls.map,
            mappings_removed: statistics.driver_calls.unmap,
        })
    }

    /// Rows of the table.
    pub(crate) fn figures(&self) -> [(&'static str, String); 4] {
        let count = count_in_words;
        let page = bucket_in_words(self.physical_page_bytes);
        let remapped = bytes_in_words(self.remapped_bytes);
        [
            ("peak physical pages", format!("{} of {page}", count(self.peak_physical_pages))),
            ("compositions", count(self.compositions)),
            ("mappings", format!("{} made, {} removed", count(self.mappings), count(self.mappings_removed))),
            ("remapped", format!("{remapped} in {} mappings", count(self.remapped))),
        ]
    }
}
