//! Which pinned allocations are live: by the host's address, and how many.

use super::PinnedConfig;
use crate::pool::{Place, Request};
use crate::statistics::PinnedStatistics;
use crate::sync::{AtomicUsize, Mutex, Ordering, Rank};
use aquifer_backend::Error;
use std::collections::BTreeMap;

/// A pinned allocation whose memory the host sees.
#[derive(Debug, Clone, Copy)]
pub(super) struct Live {
    pub(super) place: Place,
    pub(super) request: Request,
    /// Whether the system keeps it where it is.
    pub(super) is_locked: bool,
}

#[derive(Debug)]
struct State {
    /// By the address of the first byte.
    live: BTreeMap<usize, Live>,
    /// How many more are about to be.
    claimed: u64,
    counts: PinnedStatistics,
}

/// The pinned allocations of a manager.
#[derive(Debug)]
pub(crate) struct PinnedRegistry {
    /// How many there are by address, so that looking for one costs nothing where there is none.
    listed: AtomicUsize,
    state: Mutex<State>,
}

/// Why a claim was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Size,
    Count,
}

impl PinnedRegistry {
    pub(in crate::manager) fn new(config: PinnedConfig) -> Self {
        let counts = PinnedStatistics {
            count_max: config.count_max,
            bytes_max: config.bytes_max,
            ..PinnedStatistics::default()
        };
        let state = State { live: BTreeMap::new(), claimed: 0, counts };
        Self { listed: AtomicUsize::new(0), state: Mutex::new(Rank::Pinned, state) }
    }

    /// Counts one that is about to be, if the limits allow it. So many others are freed as soon as it is there.
    pub(super) fn claim(&self, bytes: u64, replaced: u64) -> Result<Claim<'_>, Refusal> {
        let State { claimed, counts, .. } = &mut *self.state.lock();
        if bytes > counts.bytes_max {
            counts.refused_by_size += 1;
            return Err(Refusal::Size);
        }
        if counts.live_count + *claimed >= counts.count_max.saturating_add(replaced) {
            counts.refused_by_count += 1;
            return Err(Refusal::Count);
        }
        *claimed += 1;
        Ok(Claim { registry: self, replaced })
    }

    /// Counts one that the system would not lock memory for.
    pub(super) fn count_refused_by_system(&self) {
        self.state.lock().counts.refused_by_system += 1;
    }

    /// Takes one off that is being freed. It lay at this address, if the host sees it.
    pub(super) fn remove(&self, address: Option<usize>, bytes: u64, is_locked: bool) {
        let State { live, counts, .. } = &mut *self.state.lock();
        if let Some(address) = address {
            live.remove(&address);
            self.listed.store(live.len(), Ordering::Relaxed);
        }
        counts.live_count -= 1;
        counts.live_bytes -= bytes;
        if !is_locked {
            counts.unlocked_count -= 1;
            counts.unlocked_bytes -= bytes;
        }
    }

    /// The live one that `bytes` bytes at an address lie in, and how far from its start they begin.
    pub(super) fn find(&self, address: usize, bytes: usize) -> Option<(Live, u64)> {
        // Who looks for memory has it, so that its allocation is live, and was listed before who looks got it.
        if bytes == 0 || self.listed.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let state = self.state.lock();
        let (start, live) = state.live.range(..=address).next_back()?;
        let skipped = (address - start) as u64;
        let end = skipped.checked_add(bytes as u64)?;
        (end <= live.request.requested_bytes).then_some((*live, skipped))
    }

    /// The live one that begins at an address.
    pub(super) fn at(&self, address: usize) -> Option<Live> {
        self.state.lock().live.get(&address).copied()
    }

    /// Notes why a request was refused.
    pub(super) fn note_refusal(&self, refusal: &Error) {
        let words = refusal.to_string();
        let replaced = self.state.lock().counts.last_refusal.replace(words);
        drop(replaced);
    }

    pub(in crate::manager) fn statistics(&self) -> PinnedStatistics {
        self.state.lock().counts.clone()
    }
}

/// One that is counted but not live yet. Taken back when dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    registry: &'a PinnedRegistry,
    replaced: u64,
}

impl Claim<'_> {
    /// The allocation is live from now on, at this address, if the host sees it.
    pub(super) fn keep(self, address: Option<usize>, allocation: Live) {
        let (registry, replaced) = (self.registry, self.replaced);
        let bytes = allocation.request.requested_bytes;
        // What the drop would do, under the same lock.
        std::mem::forget(self);
        let State { live, claimed, counts } = &mut *registry.state.lock();
        *claimed -= 1;
        if let Some(address) = address {
            let other = live.insert(address, allocation);
            debug_assert!(other.is_none(), "two live allocations at {address:#x}");
            registry.listed.store(live.len(), Ordering::Relaxed);
        }
        counts.live_count += 1;
        counts.live_bytes += bytes;
        counts.peak_count = counts.peak_count.max(counts.live_count.saturating_sub(replaced));
        counts.peak_bytes = counts.peak_bytes.max(counts.live_bytes);
        if !allocation.is_locked {
            counts.unlocked_count += 1;
            counts.unlocked_bytes += bytes;
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.registry.state.lock().claimed -= 1;
    }
}
