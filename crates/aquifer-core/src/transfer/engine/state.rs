//! What is under the engine's lock, and who is next.

use super::super::entry::{Entry, Rank, Spare, Want};
use super::super::ring::{PARTS_PER_CHUNK, Ring, SlotIndex, SlotSize};
use super::Outcome;
use crate::raw::transfer::SlotPart;
use aquifer_backend::Backend;
use std::task::Waker;

pub(super) struct State<B: Backend> {
    pub(super) entries: Vec<Entry<B>>,
    /// What is over, and has not been asked for yet.
    pub(super) ended: Vec<(u64, Outcome<B>)>,
    pub(super) ring: Ring<B>,
    pub(super) spares: Vec<Spare>,
    pub(super) last_id: u64,
    /// Pieces that processors are at.
    pub(super) copying: usize,
}

impl<B: Backend> Default for State<B> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            ended: Vec::new(),
            ring: Ring::default(),
            spares: Vec::new(),
            last_id: 0,
            copying: 0,
        }
    }
}

impl<B: Backend> State<B> {
    pub(super) fn entry(&mut self, id: u64) -> Option<&mut Entry<B>> {
        self.entries.iter_mut().find(|entry| entry.id == id)
    }

    /// Who is next of those of whom `wants` says that they want something, if it can be had. Nobody gets a slot that is for another
    /// who comes before, whatever that one wants it for.
    pub(super) fn pick(
        &mut self,
        only: Option<u64>,
        bell: &Waker,
        wants: impl Fn(&mut Entry<B>) -> Option<Want>,
    ) -> Option<usize> {
        let (share, mut may_stage) = (self.share(), true);
        loop {
            let can = |(index, entry): (usize, &mut Entry<B>)| {
                if only.is_some_and(|id| id != entry.id) {
                    return None;
                }
                let Want { slot } = wants(entry)?;
                (may_stage || slot.is_none()).then(|| (entry.rank(share, slot), index, slot))
            };
            let candidates = self.entries.iter_mut().enumerate().filter_map(can);
            let (rank, index, slot) = candidates.min_by_key(|(rank, index, _)| (*rank, *index))?;
            if slot.is_none_or(|size| self.can_have(rank, share, size, bell)) {
                return Some(index);
            }
            may_stage = false;
        }
    }

    /// How many parts of chunks are each transfer's part of the ring, if all that stage share alike.
    fn share(&self) -> usize {
        let sharers = self.entries.iter().filter(|entry| entry.desc.way.is_staged()).count();
        (self.ring.existing() * PARTS_PER_CHUNK).div_ceil(sharers.max(1))
    }

    /// Whether so much is left for who has this rank: nothing if any that is more urgent wants something; and one slot is kept for each other
    /// who comes before.
    fn can_have(&mut self, rank: Rank, share: usize, size: SlotSize, bell: &Waker) -> bool {
        let Self { entries, ring, .. } = self;
        let mut left = ring.free().without(size);
        for entry in entries {
            let Some(wanted) = entry.wants_slot(bell) else { continue };
            let other = entry.rank(share, Some(wanted));
            if other.0 < rank.0 {
                return false;
            }
            if other < rank {
                left = left.and_then(|left| left.without(wanted));
            }
        }
        left.is_some()
    }

    /// A slot as who copies uses it.
    pub(super) fn slot_part(&self, index: SlotIndex, chunk_bytes: u64) -> SlotPart<B> {
        let (slot, parts) = self.ring.slot(index);
        SlotPart::new(slot, parts * (chunk_bytes / PARTS_PER_CHUNK as u64))
    }
}
