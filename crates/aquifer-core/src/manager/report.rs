//! Statistics put together and in words, for people and in errors.

use super::elastic::RemappingCounters;
use super::observers::TrackedAllocation;
use super::shared::Shared;
use crate::pool::Request;
use crate::pressure::PressureStatistics;
use crate::statistics::{ByteCounter, RemappingStatistics, Statistics, TagStatistics, in_words};
use crate::sync::{AtomicU64, Ordering};
use crate::transfer::Route;
use aquifer_backend::{Backend, Error, ErrorKind, OutOfMemoryReport, Properties, TagUsage};
use std::backtrace::Backtrace;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

/// How many tags an out-of-memory report names.
const REPORTED_TAGS: usize = 5;

impl<B: Backend> Shared<B> {
    /// Sums up what all pools and threads have counted.
    pub(crate) fn statistics(&self) -> Statistics {
        let mut sum = Statistics {
            driver_calls: self.driver_calls(),
            remapping: self.remapping_so_far(),
            recovered_block_count: self.purgeable.recovered.load(Ordering::Relaxed),
            recovered_bytes: self.purgeable.recovered_bytes.load(Ordering::Relaxed),
            purged_block_count: self.purgeable.purged.load(Ordering::Relaxed),
            purged_bytes: self.purgeable.purged_bytes.load(Ordering::Relaxed),
            reclaim_count: self.reclaim.calls(),
            reclaim_panic_count: self.reclaim.panics(),
            imported: self.imported.bytes(),
            imported_block_count: self.imported.count(),
            pinned: self.pinned.registry().statistics(),
            transfers: self.transfers.statistics(self),
            pressure: self.pressure.statistics(&self.config.clock),
            sub_budgets: self.sub_budgets.statistics(),
            ..Statistics::default()
        };
        for ledger in &self.ledgers {
            sum.budget_bytes = sum.budget_bytes.saturating_add(ledger.budget_bytes());
            let counter = ledger.counter();
            sum.reserved.current += counter.current;
            sum.reserved.peak += counter.peak;
            sum.reserved.total += counter.total;
        }
        for typed in &self.pools {
            let pool = typed.pool.snapshot();
            sum.cached_bytes += pool.cached_bytes;
            sum.quarantined_bytes += pool.quarantined_bytes;
            sum.free_bytes += pool.free_bytes;
            sum.purgeable_bytes += pool.purgeable_bytes;
            sum.largest_free_bytes = sum.largest_free_bytes.max(pool.largest_free_bytes);
            sum.free_range_count += pool.free_range_count;
            sum.block_count += pool.block_count;
            sum.remapping.physical_block_count += pool.physical_block_count;
            sum.remapping.mapping_count += pool.mapping_count;
            for class in pool.classes {
                sum.allocation_count += class.allocations;
                sum.deallocation_count += class.deallocations;
                sum.miss_count += class.misses;
                sum.requested.current += class.requested_bytes;
                sum.requested.total += class.requested_bytes_total;
                sum.allocated.current += class.allocated_bytes;
                sum.allocated.total += class.allocated_bytes_total;
                if class.allocations > 0 || class.cached_bytes > 0 {
                    sum.classes.push(class);
                }
            }
        }
        let caches: Vec<_> = self.pools.iter().flat_map(|typed| typed.pool.thread_caches()).collect();
        let tally = &*self.tally;
        let _still = tally.hold_still();
        (_, sum.requested.peak) = tally.requested.read(caches.iter().map(|cache| &cache.tally().requested));
        (_, sum.allocated.peak) = tally.allocated.read(caches.iter().map(|cache| &cache.tally().allocated));
        sum.tags = self
            .tags
            .all()
            .into_iter()
            .enumerate()
            .map(|(index, name)| {
                let locals = caches.iter().map(|cache| &cache.tally().tags[index]);
                let (current_bytes, peak_bytes) = tally.tags[index].read(locals);
                TagStatistics { name, current_bytes, peak_bytes }
            })
            .collect();
        sum
    }

    /// All but what the pools know: physical blocks and mappings.
    fn remapping_so_far(&self) -> RemappingStatistics {
        let calls = self.driver_calls();
        let sum = |counter: fn(&RemappingCounters) -> &AtomicU64| {
            self.pools.iter().map(|typed| counter(&typed.remapping).load(Ordering::Relaxed)).sum()
        };
        let is_elastic = self.pools.iter().any(|typed| typed.is_elastic);
        RemappingStatistics {
            physical_page_bytes: if is_elastic { self.backend.properties().physical_page_bytes } else { 0 },
            sparse_block_count: calls.reserve.saturating_sub(calls.unreserve),
            dropped_mapping_count: sum(|pool| &pool.dropped_mappings),
            composition_count: sum(|pool| &pool.compositions),
            remapped_count: sum(|pool| &pool.remapped),
            remapped_bytes: sum(|pool| &pool.remapped_bytes),
            ..RemappingStatistics::default()
        }
    }

    pub(crate) fn leak_report(&self) -> LeakReport {
        let statistics = self.statistics();
        let live = self.observers.live().map(|live| {
            let mut live: Vec<LiveAllocation> =
                live.into_iter().map(|tracked| LiveAllocation::new(tracked, &self.tags)).collect();
            live.sort_by_key(|allocation| std::cmp::Reverse(allocation.bytes));
            live
        });
        LeakReport {
            live_count: statistics.live_count() + self.imported.live_count(),
            live_bytes: statistics.requested.current + statistics.imported.current,
            tags: statistics.tags.into_iter().filter(|tag| tag.current_bytes > 0).collect(),
            allocations: live,
        }
    }

    #[cold]
    pub(super) fn out_of_memory(
        &self,
        kind: ErrorKind,
        message: String,
        heap_index: usize,
        request: Request,
    ) -> Error {
        self.out_of_memory_in("allocate", kind, message, heap_index, request.requested_bytes)
    }

    #[cold]
    pub(super) fn out_of_memory_in(
        &self,
        operation: &'static str,
        kind: ErrorKind,
        message: String,
        heap_index: usize,
        requested_bytes: u64,
    ) -> Error {
        let statistics = self.statistics();
        let mut largest_tags: Vec<TagUsage> = statistics
            .tags
            .iter()
            .filter(|tag| tag.current_bytes > 0)
            .map(|tag| TagUsage { tag: tag.name.clone(), live_bytes: tag.current_bytes })
            .collect();
        largest_tags.sort_by_key(|usage| std::cmp::Reverse(usage.live_bytes));
        largest_tags.truncate(REPORTED_TAGS);
        let mut report = OutOfMemoryReport::default();
        report.requested_bytes = requested_bytes;
        report.budget_bytes = self.ledgers[heap_index].budget_bytes();
        report.reserved_bytes = statistics.reserved.current;
        report.live_bytes = statistics.allocated.current;
        report.cached_bytes = statistics.cached_bytes;
        report.quarantined_bytes = statistics.quarantined_bytes;
        report.free_bytes = statistics.free_bytes;
        report.largest_free_bytes = statistics.largest_free_bytes;
        report.largest_tags = largest_tags;
        Error::new(kind, operation, message).with_out_of_memory(report)
    }
}

/// A manager's device and statistics. `Display` is a page of text.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Report {
    /// The backend's short name.
    pub backend: &'static str,
    /// The device's name.
    pub device: String,
    /// What has been counted.
    pub statistics: Statistics,
}

impl Report {
    pub(super) fn new(properties: &Properties, statistics: Statistics) -> Self {
        Self { backend: properties.backend, device: properties.device.clone(), statistics }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let statistics = &self.statistics;
        writeln!(f, "{} ({})", self.device, self.backend)?;
        writeln!(f, "            {:>12} {:>12} {:>12}", "current", "peak", "total")?;
        let mut line = |name: &str, counter: &ByteCounter| {
            let [current, peak, total] = [counter.current, counter.peak, counter.total].map(in_words);
            writeln!(f, "{name:<12}{current:>12} {peak:>12} {total:>12}")
        };
        line("requested", &statistics.requested)?;
        line("allocated", &statistics.allocated)?;
        line("reserved", &statistics.reserved)?;
        if statistics.imported.total > 0 {
            line("imported", &statistics.imported)?;
        }
        writeln!(
            f,
            "of reserved: {} live, {} cached, {} quarantined, {} free in {} ranges (largest {}), in {} blocks; budget {}",
            in_words(statistics.allocated.current),
            in_words(statistics.cached_bytes),
            in_words(statistics.quarantined_bytes),
            in_words(statistics.free_bytes),
            statistics.free_range_count,
            in_words(statistics.largest_free_bytes),
            statistics.block_count,
            in_words(statistics.budget_bytes),
        )?;
        if statistics.remapping.is_elastic() {
            writeln!(f, "{}", statistics.remapping)?;
        }
        if statistics.purgeable_bytes > 0 || statistics.recovered_block_count > 0 {
            writeln!(
                f,
                "of free: {} purgeable; so far {} purgeable blocks of {} used again, {} of {} of them purged",
                in_words(statistics.purgeable_bytes),
                statistics.recovered_block_count,
                in_words(statistics.recovered_bytes),
                statistics.purged_block_count,
                in_words(statistics.purged_bytes),
            )?;
        }
        let pinned = &statistics.pinned;
        if pinned.peak_count > 0 || pinned.refused_count() > 0 {
            writeln!(
                f,
                "pinned: {} in {} of {} allocations (peak {} in {}), {} of them unlocked; {} refused",
                in_words(pinned.live_bytes),
                pinned.live_count,
                pinned.count_max,
                in_words(pinned.peak_bytes),
                pinned.peak_count,
                in_words(pinned.unlocked_bytes),
                pinned.refused_count(),
            )?;
        }
        write_pressure(f, &statistics.pressure)?;
        writeln!(
            f,
            "{} allocations, {} freed; hit rate {:.2} %; fragmentation {:.1} %, waste {:.1} %",
            statistics.allocation_count,
            statistics.deallocation_count,
            100.0 * statistics.pool_hit_rate(),
            statistics.fragmentation_percentage(),
            statistics.waste_percentage(),
        )?;
        for route in Route::ALL {
            let counted = statistics.transfers.route(route);
            if counted.count == 0 {
                continue;
            }
            write!(f, "{route}: {} in {} transfers", in_words(counted.bytes), counted.count)?;
            if let Some(rate) = counted.bytes_per_second() {
                write!(f, ", {:.2} GB/s", rate / 1e9)?;
            }
            writeln!(f, "; {} cancelled, {} failed", counted.cancelled, counted.failed)?;
        }
        if statistics.transfers.staging_bytes > 0 {
            writeln!(f, "of live: {} kept for staging", in_words(statistics.transfers.staging_bytes))?;
        }
        let calls = &statistics.driver_calls;
        write!(f, "driver calls: {} create, {} destroy, ", calls.create, calls.destroy)?;
        if statistics.remapping.is_elastic() {
            write!(
                f,
                "{} reserve, {} unreserve, {} map, {} unmap, ",
                calls.reserve, calls.unreserve, calls.map, calls.unmap
            )?;
        }
        writeln!(
            f,
            "{} release, {} purge, {} signal, {} failed",
            calls.release, calls.purge, calls.signal, calls.failed
        )?;
        for tag in statistics.tags.iter().filter(|tag| tag.peak_bytes > 0) {
            let [current, peak] = [tag.current_bytes, tag.peak_bytes].map(in_words);
            writeln!(f, "tag {:<24} {current:>12} now {peak:>12} peak", tag.name)?;
        }
        for sub_budget in &statistics.sub_budgets {
            writeln!(f, "{sub_budget}")?;
        }
        Ok(())
    }
}

fn write_pressure(f: &mut fmt::Formatter<'_>, pressure: &PressureStatistics) -> fmt::Result {
    if !pressure.is_monitored && pressure.rise_count == 0 {
        return Ok(());
    }
    writeln!(
        f,
        "pressure: {}; {} rises, {} falls; of {} asked {} released and {} seen to come back, {} decayed; {} requests refused, {} queued",
        pressure.level,
        pressure.rise_count,
        pressure.fall_count,
        in_words(pressure.asked_bytes),
        in_words(pressure.released_bytes),
        in_words(pressure.given_back_bytes),
        in_words(pressure.decayed_bytes),
        pressure.refused_count,
        pressure.queued_count,
    )
}

/// One live allocation, as [`Tracking`](crate::Tracking) remembers it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LiveAllocation {
    /// Requested bytes.
    pub bytes: u64,
    /// The name of its tag.
    pub tag: String,
    /// Where it was allocated.
    pub location: &'static Location<'static>,
    /// The stack it was allocated from, with [`Tracking::Backtraces`](crate::Tracking::Backtraces).
    pub backtrace: Option<Arc<Backtrace>>,
}

impl LiveAllocation {
    fn new(tracked: TrackedAllocation, tags: &super::tags::TagNames) -> Self {
        let TrackedAllocation { bytes, tag, location, backtrace } = tracked;
        Self { bytes, tag: tags.name(tag), location, backtrace }
    }
}

/// What is live: in all, by tag, and one by one if it is tracked. `Display` is a list.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct LeakReport {
    /// How many allocations are live, imported ones included.
    pub live_count: u64,
    /// Their requested bytes.
    pub live_bytes: u64,
    /// The tags that have live bytes.
    pub tags: Vec<TagStatistics>,
    /// Each allocation, largest first; `None` unless the manager tracks them.
    pub allocations: Option<Vec<LiveAllocation>>,
}

impl fmt::Display for LeakReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} live allocations, {}", self.live_count, in_words(self.live_bytes))?;
        for tag in &self.tags {
            writeln!(f, "  tag {}: {}", tag.name, in_words(tag.current_bytes))?;
        }
        for allocation in self.allocations.iter().flatten() {
            writeln!(
                f,
                "  {} ({}) from {}",
                in_words(allocation.bytes),
                allocation.tag,
                allocation.location
            )?;
            if let Some(backtrace) = &allocation.backtrace {
                writeln!(f, "{backtrace}")?;
            }
        }
        Ok(())
    }
}
