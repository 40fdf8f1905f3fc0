//! What must hold, kept in the most naive way.

use aquifer_core::{Backend, Buffer, ByteCounter, Statistics, Tag};
use std::collections::HashMap;

/// The bytes of host addresses that one live buffer occupies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct LiveRange {
    start: u64,
    end: u64,
}

/// One size that goes up and down.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    current: u64,
    peak: u64,
    total: u64,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.current += bytes;
        self.total += bytes;
        self.peak = self.peak.max(self.current);
    }

    fn counter(self) -> ByteCounter {
        ByteCounter { current: self.current, peak: self.peak, total: self.total }
    }
}

/// A sorted list of live ranges, and sums: what a manager must agree with when one thread uses it.
#[derive(Debug, Default)]
pub struct Oracle {
    ranges: Vec<LiveRange>,
    requested: Sum,
    allocated: Sum,
    tags: HashMap<Tag, (String, Sum)>,
    allocation_count: u64,
    deallocation_count: u64,
}

impl Oracle {
    /// One of a manager that has not been used.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives a tag its name, under which the statistics list it.
    pub fn name_tag(&mut self, tag: Tag, name: &str) {
        self.tags.entry(tag).or_default().0 = name.to_owned();
    }

    /// Takes note of a new buffer.
    ///
    /// # Panics
    ///
    /// If it is smaller than what was asked for, not aligned, or shares a byte with a live one.
    pub fn allocated<B: Backend>(&mut self, buffer: &Buffer<B>, requested_bytes: u64, alignment: u64) {
        let allocated_bytes = buffer.allocated_bytes();
        assert_eq!(buffer.size_bytes(), requested_bytes);
        assert!(
            allocated_bytes >= requested_bytes,
            "{requested_bytes} bytes asked for, {allocated_bytes} allocated"
        );
        if let Some(address) = buffer.host_pointer() {
            let start = address.addr().get() as u64;
            assert_eq!(start % alignment.max(256), 0, "{buffer:?} is not aligned to {alignment}");
            let range = LiveRange { start, end: start + allocated_bytes };
            let place = self.ranges.partition_point(|other| other.start < range.start);
            let before = place.checked_sub(1).map(|before| self.ranges[before]);
            assert!(before.is_none_or(|before| before.end <= range.start), "{range:x?} overlaps {before:x?}");
            let after = self.ranges.get(place);
            assert!(after.is_none_or(|after| range.end <= after.start), "{range:x?} overlaps {after:x?}");
            self.ranges.insert(place, range);
        }
        self.requested.add(requested_bytes);
        self.allocated.add(allocated_bytes);
        self.tags.entry(buffer.tag()).or_default().1.add(requested_bytes);
        self.allocation_count += 1;
    }

    /// Takes note that a buffer is about to be freed.
    ///
    /// # Panics
    ///
    /// If it is not a live one, at the place where it was.
    pub fn freed<B: Backend>(&mut self, buffer: &Buffer<B>) {
        if let Some(address) = buffer.host_pointer() {
            let start = address.addr().get() as u64;
            let place = self.ranges.binary_search_by_key(&start, |range| range.start);
            let range = self.ranges.remove(place.expect("a live buffer is where it was"));
            assert_eq!(range.end - range.start, buffer.allocated_bytes());
        }
        self.requested.current -= buffer.size_bytes();
        self.allocated.current -= buffer.allocated_bytes();
        self.tags.entry(buffer.tag()).or_default().1.current -= buffer.size_bytes();
        self.deallocation_count += 1;
    }

    /// Allocated bytes of what is live.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.allocated.current
    }

    /// Compares every number that the oracle knows, peaks included, and calls [`assert_balanced`].
    ///
    /// # Panics
    ///
    /// If one differs.
    pub fn check(&self, statistics: &Statistics) {
        assert_balanced(statistics);
        assert_eq!(statistics.requested, self.requested.counter(), "requested");
        assert_eq!(statistics.allocated, self.allocated.counter(), "allocated");
        assert_eq!(statistics.allocation_count, self.allocation_count);
        assert_eq!(statistics.deallocation_count, self.deallocation_count);
        assert!(statistics.allocated.peak <= statistics.reserved.peak);
        for (name, sum) in self.tags.values() {
            let name = if name.is_empty() { "untagged" } else { name };
            let listed = statistics.tags.iter().find(|listed| listed.name == *name);
            let listed = listed.unwrap_or_else(|| panic!("tag {name} is not listed"));
            assert_eq!((listed.current_bytes, listed.peak_bytes), (sum.current, sum.peak), "tag {name}");
        }
    }
}

/// Checks everything that must hold of any manager's statistics while no other thread uses it.
///
/// # Panics
///
/// If something does not hold.
pub fn assert_balanced(statistics: &Statistics) {
    let Statistics { requested, allocated, reserved, cached_bytes, quarantined_bytes, free_bytes, .. } =
        statistics;
    let parts = allocated.current + cached_bytes + quarantined_bytes + free_bytes;
    assert_eq!(
        parts, reserved.current,
        "live, cached, quarantined and free are not what is reserved: {statistics:#?}"
    );
    assert!(requested.current <= allocated.current && allocated.current <= reserved.current);
    assert!(requested.total <= allocated.total);
    assert!(reserved.peak <= statistics.budget_bytes, "more than the budget: {statistics:#?}");
    let imported = &statistics.imported;
    for counter in [requested, allocated, reserved, imported] {
        assert!(counter.current <= counter.peak && counter.peak <= counter.total, "{counter:?}");
    }
    assert!(statistics.largest_free_bytes <= free_bytes - statistics.purgeable_bytes);
    assert_eq!(statistics.largest_free_bytes > 0, statistics.free_range_count > 0);
    assert_eq!(statistics.block_count > 0, reserved.current > 0);
    let calls = statistics.driver_calls;
    let blocks = statistics.block_count + statistics.imported_block_count;
    assert_eq!(calls.create - calls.destroy, blocks, "{calls:?}");
    let served = calls.create + calls.map + statistics.recovered_block_count;
    assert!(statistics.miss_count <= served, "{} misses, {calls:?}", statistics.miss_count);
    assert_mappings_add_up(statistics);
    assert!(statistics.purgeable_bytes <= *free_bytes);
    assert!(statistics.purged_block_count <= statistics.recovered_block_count);
    assert!(statistics.purged_bytes <= statistics.recovered_bytes);
    assert!(2 * statistics.recovered_block_count <= calls.purge, "each was made purgeable before: {calls:?}");
    assert!((0.0..=1.0).contains(&statistics.pool_hit_rate()));
    assert!((0.0..=100.0).contains(&statistics.fragmentation_percentage()));
    assert!((0.0..=100.0).contains(&statistics.waste_percentage()));

    let sum =
        |part: fn(&aquifer_core::ClassStatistics) -> u64| statistics.classes.iter().map(part).sum::<u64>();
    assert_eq!(sum(|class| class.allocations), statistics.allocation_count);
    assert_eq!(sum(|class| class.deallocations), statistics.deallocation_count);
    assert_eq!(sum(|class| class.misses), statistics.miss_count);
    assert_eq!(sum(|class| class.hits()), statistics.allocation_count - statistics.miss_count);
    assert_eq!(sum(|class| class.requested_bytes), requested.current);
    assert_eq!(sum(|class| class.requested_bytes_total), requested.total);
    assert_eq!(sum(|class| class.allocated_bytes), allocated.current);
    assert_eq!(sum(|class| class.allocated_bytes_total), allocated.total);
    assert_eq!(sum(|class| class.cached_bytes), *cached_bytes);
    assert_eq!(sum(|class| class.waste_bytes()), allocated.current - requested.current);
    let tagged = statistics.tags.iter().map(|tag| tag.current_bytes).sum::<u64>();
    assert_eq!(tagged, requested.current + imported.current, "the tags' sum");
    for tag in &statistics.tags {
        assert!(tag.current_bytes <= tag.peak_bytes, "{tag:?}");
    }
}

/// Checks what must hold of memory that is mapped behind addresses.
fn assert_mappings_add_up(statistics: &Statistics) {
    let Statistics { remapping, driver_calls: calls, .. } = statistics;
    let gone = calls.unmap + remapping.dropped_mapping_count;
    assert_eq!(calls.map - gone, remapping.mapping_count, "{remapping:?}, {calls:?}");
    assert_eq!(calls.reserve - calls.unreserve, remapping.sparse_block_count, "{remapping:?}, {calls:?}");
    assert!(remapping.mapping_count == 0 || remapping.sparse_block_count > 0, "{remapping:?}");
    assert!(remapping.physical_block_count <= statistics.block_count, "{remapping:?}");
    // A composition maps something, and new memory is mapped once as such.
    assert!(remapping.composition_count <= calls.map, "{remapping:?}, {calls:?}");
    assert!(remapping.remapped_count <= calls.map, "{remapping:?}, {calls:?}");
    assert!(calls.map - remapping.remapped_count <= calls.create, "{remapping:?}, {calls:?}");
    if !remapping.is_elastic() {
        assert_eq!(*remapping, Default::default(), "no pool is elastic");
        return;
    }
    let page_bytes = remapping.physical_page_bytes;
    assert_eq!(remapping.remapped_bytes % page_bytes, 0, "whole pages are mapped: {remapping:?}");
    assert!(remapping.remapped_bytes / page_bytes >= remapping.remapped_count, "{remapping:?}");
}
