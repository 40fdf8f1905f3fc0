//! When a pool grows, by how much, and what it gives back first.
//!
//! For pools whose memory is mapped behind addresses most of this has no bearing ([`crate::range`] composes runs); what
//! follows is of blocks that have memory of their own.
//!
//! The rule, in five sentences. Holes of partly used blocks are tried before idle blocks. An idle block much larger
//! than the request is refused, so that large blocks stay whole for large requests. When nothing fits, a block is
//! made: of just the size asked for from [`EXACT_BYTES_MIN`] up, a share of the peak below. If that would raise
//! reserved bytes above their limit (the peak so far, or a little more than was ever used), idle blocks are given back
//! first, longest idle first, until it would not. Refusing and giving back cost driver calls, so both stop when an
//! allowance of misses is used up, and new blocks are then larger; what always holds is one of "few requests miss" and
//! "reserved is near the peak of used".
//!
//! ARCHITECTURE.md has the figures behind the constants; which of them matter is said at each.

use super::state::State;
use crate::range::{Area, IdleBlock, QueueIndex, Range};

/// Blocks are multiples of this many bytes. Coarser is much worse: 16 MiB costs 6 % of memory on recorded workloads.
pub(crate) const BLOCK_GRANULE_BYTES: u64 = 2 << 20;
/// Requests from here up get a block of just their size. 4 to 16 MiB are alike.
pub(crate) const EXACT_BYTES_MIN: u64 = 8 << 20;
/// Smaller ones get a block of this share of the peak, up to a limit. A 16th to a 48th are alike.
const SHARE: u64 = 16;
pub(crate) const SHARED_BLOCK_BYTES_MAX: u64 = 256 << 20;
/// An idle block is refused if it is larger than all three of: this many quarters of the request,
const REFUSE_ABOVE_QUARTERS: u64 = 5;
/// this many bytes,
const REFUSE_ABOVE_BYTES: u64 = 32 << 20;
/// and this share of the peak.
const REFUSE_ABOVE_SHARE: u64 = 64;
/// For a range of this share of what is reserved the caches are always emptied first.
const FLUSH_ABOVE_SHARE: u64 = 64;
/// Reserved bytes may exceed the peak of used bytes by so many before anything is given back.
const SLACK_BYTES: u64 = 32 << 20;
/// Reserved bytes may always be held down to this many percent of the peak of used bytes, whatever it costs.
const GUARD_PERCENT: u64 = 115;

/// Of a pool whose memory is mapped: ranges up to this size, and slabs, keep to physical blocks of their own.
const SMALL_BYTES_MAX: u64 = 512 << 10;

/// How many requests there were, and how many of them missed.
///
/// What misses buy is memory, so they are allowed, but ever fewer: with the square root of the requests, the cost of a
/// long run's misses vanishes beside its requests, while a recorded run of 100,000 requests may spend 380 on refusing
/// and 570 in all.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    requests: u64,
    misses: u64,
    flushed_places: u64,
}

impl Allowance {
    pub(super) fn count_requests(&mut self, count: u64) {
        self.requests += count;
    }

    /// Learns how many requests there were in all: thread caches serve most of them without a word.
    pub(super) fn set_requests(&mut self, requests: u64) {
        self.requests = self.requests.max(requests);
    }

    pub(super) fn count_miss(&mut self) {
        self.misses += 1;
    }

    /// Whether the caches may be emptied: each place that they lose costs a search for another, so up to one place in
    /// 256 requests, and 20,000 to start with.
    fn may_flush(&self) -> bool {
        self.flushed_places < 20_000 + self.requests / 256
    }

    pub(super) fn count_flushed(&mut self, places: u64) {
        self.flushed_places += places;
    }

    /// Whether blocks may be refused.
    fn may_refuse(&self) -> bool {
        self.misses < 64 + self.requests.isqrt()
    }

    /// Whether blocks may be given back to hold the peak.
    fn may_evict(&self) -> bool {
        self.misses < 3 * (64 + self.requests.isqrt()) / 2
    }
}

/// How choosy a search is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fit {
    /// Idle blocks that are much too large stay whole.
    Good,
    /// Whatever holds the request.
    Any,
}

/// How to make room for a request that nothing was a good fit for.
#[derive(Debug)]
pub(super) enum Plan {
    /// Take what fits, after all.
    TakeAnyFit,
    /// Destroy so many bytes of what is set aside, and these blocks, which the pool has let go, then create one of so many
    /// bytes.
    Create { aside_bytes: u64, evicted: Vec<IdleBlock>, bytes: u64 },
}

impl State {
    /// The best range for a request on `queue`; none if nothing fits well enough.
    pub(super) fn find_range(
        &mut self,
        queue: QueueIndex,
        bytes: u64,
        alignment: u64,
        fit: Fit,
    ) -> Option<Range> {
        let area = self.area_for(bytes);
        if let Some(range) = self.ranges.allocate_in_hole(area, queue, bytes, alignment) {
            return Some(range);
        }
        let other = if area == Area::Small { Area::General } else { Area::Small };
        if fit == Fit::Any
            && self.is_elastic
            && let Some(range) = self.ranges.allocate_in_hole(other, queue, bytes, alignment)
        {
            return Some(range);
        }
        let idle_bytes = self.ranges.smallest_idle_fit(queue, bytes)?;
        if fit == Fit::Good && self.allowance.may_refuse() && self.is_far_too_large(idle_bytes, bytes) {
            return None;
        }
        self.ranges.allocate_in_idle(queue, bytes)
    }

    /// Where a request for a range of `bytes` looks first.
    pub(super) fn area_for(&self, bytes: u64) -> Area {
        if self.is_elastic && bytes <= SMALL_BYTES_MAX { Area::Small } else { Area::General }
    }

    fn is_far_too_large(&self, idle_bytes: u64, bytes: u64) -> bool {
        idle_bytes > self.good_fit_bytes_max(bytes)
    }

    /// The largest block that is not far too large for a range of `bytes`.
    pub(super) fn good_fit_bytes_max(&self, bytes: u64) -> u64 {
        let share_of_peak = self.ranges.reserved_bytes_peak() / REFUSE_ABOVE_SHARE;
        let enough = (bytes / 4).saturating_mul(REFUSE_ABOVE_QUARTERS);
        enough.max(REFUSE_ABOVE_BYTES).max(share_of_peak)
    }

    /// Whether to empty the caches before growing for a range of `bytes`: if that is allowed for, or if the range is so
    /// large that a few cached places, which keep blocks from being idle, could cost more memory than they are worth.
    pub(super) fn should_flush(&self, bytes: u64) -> bool {
        self.allowance.may_flush() || bytes >= self.ranges.reserved_bytes() / FLUSH_ABOVE_SHARE
    }

    /// Decides how to make room for a range of `bytes` that [`State::find_range`] did not find.
    pub(super) fn plan_growth(
        &mut self,
        queue: QueueIndex,
        bytes: u64,
        block_granularity_bytes: u64,
    ) -> Plan {
        let granule = BLOCK_GRANULE_BYTES.max(block_granularity_bytes);
        let needed = bytes.next_multiple_of(granule);
        let peak = self.ranges.reserved_bytes_peak();
        let limit = peak.max(self.ranges.used_bytes_peak() + SLACK_BYTES);
        let reserved = self.ranges.reserved_bytes();
        let is_refusal = self.ranges.smallest_idle_fit(queue, bytes).is_some();
        let aside = self.ranges.aside_bytes();
        if is_refusal && reserved - self.ranges.idle_bytes() - aside + needed > limit {
            // To refuse must never raise the limit.
            return Plan::TakeAnyFit;
        }
        let share_of = |whole: u64| {
            (whole / SHARE).next_multiple_of(granule).clamp(granule, SHARED_BLOCK_BYTES_MAX.max(granule))
        };
        let mut wanted = if bytes >= EXACT_BYTES_MIN { needed } else { needed.max(share_of(peak)) };
        if !self.allowance.may_refuse() {
            wanted = wanted.max(share_of(reserved));
        }
        let guard = self.ranges.used_bytes_peak() / 100 * GUARD_PERCENT;
        let (mut aside_bytes, mut evicted) = (0, Vec::new());
        if self.allowance.may_evict() || reserved + wanted > guard {
            // What is set aside goes first: it is of the least use.
            aside_bytes = (reserved + wanted).saturating_sub(limit).min(aside);
            evicted = self.release_idle(|_, reserved| reserved - aside_bytes + wanted > limit);
        }
        Plan::Create { aside_bytes, evicted, bytes: wanted }
    }

    /// Lets go of idle blocks, longest idle first, for as long as `wants_more` says so of the next one and of what is
    /// reserved now.
    pub(super) fn release_idle(
        &mut self,
        mut wants_more: impl FnMut(&IdleBlock, u64) -> bool,
    ) -> Vec<IdleBlock> {
        let mut released = Vec::new();
        while let Some(idle) = self.ranges.longest_idle()
            && wants_more(&idle, self.ranges.reserved_bytes())
        {
            self.ranges.remove_block(idle.block).expect("an idle block can be removed");
            released.push(idle);
        }
        released
    }
}
