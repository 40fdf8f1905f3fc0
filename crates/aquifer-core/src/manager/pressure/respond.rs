//! Giving memory back as a level's response says, and measuring what came of it.

use super::super::shared::Shared;
use super::super::shrink::Leaving;
use super::super::typed_pool::{Growing, TypedPool};
use super::heaps::Heaps;
use crate::pressure::PressureResponse;
use crate::range::IdleBlock;
use aquifer_backend::Backend;
use std::time::Duration;

/// What is held of all heaps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    pub(super) reserved_bytes: u64,
    /// By the driver's or the system's count.
    pub(super) process_bytes: Option<u64>,
}

impl<B: Backend> Shared<B> {
    /// What is in use of a heap: live, and freed but not yet reusable.
    pub(super) fn live_bytes_of(&self, heap_index: usize) -> u64 {
        self.pools_of(heap_index)
            .map(|typed| {
                let snapshot = typed.pool.snapshot();
                snapshot.quarantined_bytes
                    + snapshot.classes.iter().map(|class| class.allocated_bytes).sum::<u64>()
            })
            .sum()
    }

    /// What is reserved of a heap in blocks that hold nothing.
    pub(super) fn idle_bytes_of(&self, heap_index: usize) -> u64 {
        self.pools_of(heap_index).map(|typed| typed.pool.idle_bytes()).sum()
    }

    fn pools_of(&self, heap_index: usize) -> impl Iterator<Item = &TypedPool<B::Block>> {
        self.pools.iter().filter(move |typed| typed.heap_index == heap_index)
    }

    pub(super) fn reserved_bytes(&self) -> u64 {
        self.ledgers.iter().map(|ledger| ledger.reserved_bytes()).sum()
    }

    /// What is held of some heaps.
    pub(super) fn held(&self, heaps: Heaps) -> Held {
        let ledgers = || self.ledgers.iter().enumerate().filter(|&(heap_index, _)| heaps.has(heap_index));
        let process_bytes =
            ledgers().map(|(heap_index, _)| self.backend.budget(heap_index).ok()?.process_bytes).sum();
        Held { reserved_bytes: ledgers().map(|(_, ledger)| ledger.reserved_bytes()).sum(), process_bytes }
    }

    /// Does what the response of each heap, if it has one now, says about memory that nobody uses. Returns the bytes that became
    /// purgeable. `is_first`: a level has just begun, or is responded to again; not only kept up.
    pub(super) fn give_back(
        &self,
        response_of: impl Fn(usize) -> Option<PressureResponse>,
        is_first: bool,
    ) -> u64 {
        if self.is_forked() {
            return 0;
        }
        if is_first {
            self.let_go_of_imported();
        }
        let give_back_one = |typed: &TypedPool<B::Block>| {
            let Some(response) = response_of(typed.heap_index) else { return 0 };
            let keeps_nothing = response.idle_share_max == Some(0.0);
            if is_first && response.trim && keeps_nothing {
                drop(self.transfers.take_free_slots());
                typed.pool.free_preallocated();
            }
            // What may be kept, before the growth lock: counting takes others.
            let idle_bytes_max = response.idle_share_max.map(|share| {
                let live_bytes = if share > 0.0 { self.live_bytes_of(typed.heap_index) } else { 0 };
                (share * live_bytes as f64) as u64
            });
            let growing = &mut typed.lock_growth();
            if is_first && response.trim {
                self.flush_and_settle(growing);
            }
            let purgeable_bytes =
                if response.mark_purgeable { self.make_purgeable(growing, |_| true) } else { 0 };
            self.release_older(growing, self.decay(&response), self.config.purgeable_after);
            if let Some(idle_bytes_max) = idle_bytes_max {
                self.release_idle_above(growing, idle_bytes_max, keeps_nothing);
            }
            if is_first && response.trim {
                self.release_holes(growing);
            }
            purgeable_bytes
        };
        let bytes = self.pools.iter().map(give_back_one).sum();
        self.bell.tell_news();
        self.tell_loss();
        bytes
    }

    /// How long blocks may be idle, by a response and the configuration.
    pub(super) fn decay(&self, response: &PressureResponse) -> Option<Duration> {
        [response.idle_decay, self.config.idle_decay].into_iter().flatten().min()
    }

    /// Destroys idle blocks, those that have held nothing for longest first, until no more than so many bytes of the pool's are idle.
    fn release_idle_above(
        &self,
        growing: &mut Growing<'_, B::Block>,
        idle_bytes_max: u64,
        and_purgeable: bool,
    ) {
        let mut excess = growing.pool.idle_bytes_kept().saturating_sub(idle_bytes_max);
        let idle = growing.pool.release_idle(|idle, _| {
            let is_needed = excess > 0;
            excess = excess.saturating_sub(idle.reserved_bytes);
            is_needed
        });
        let purgeable =
            if and_purgeable { growing.purgeable.take_oldest(|_: &IdleBlock| true) } else { Vec::new() };
        self.destroy(growing, Leaving { purgeable, idle });
    }

    /// Empties the caches of a pool that nobody has used lately, so that what they keep can decay.
    pub(super) fn quiet_down(&self, typed: &TypedPool<B::Block>) {
        let growing = &mut typed.lock_growth();
        self.flush_and_settle(growing);
    }

    /// Gives back the free parts of the used blocks of a pool that nobody has used for long.
    pub(super) fn release_quiet_holes(&self, typed: &TypedPool<B::Block>) {
        let growing = &mut typed.lock_growth();
        self.release_holes(growing);
    }
}
