//! Claims: what users hold, as tests say.

use super::Checker;
use super::mappings::Place;
use super::ranges::overlapping;
use crate::ClaimId;
use crate::violation::ViolationKind;

/// What an owner holds of one block.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) end: u64,
    pub(super) owner: u64,
    /// The address by which its first byte was named.
    pub(super) seen: u64,
}

impl Checker {
    /// What speaks against a claim of one place, if anything.
    fn claim_obstacle(&self, place: &Place) -> Option<(ViolationKind, String)> {
        let Place { start, end, .. } = *place;
        let block = &self.blocks[&place.block_address];
        let mut others = overlapping(&block.claims, start, end, |claim| claim.end);
        if let Some((&other_start, other)) = others.next() {
            let (bytes, owner) = (other.end - other_start, other.owner);
            let words = format!(" on what owner {owner} holds, {bytes} bytes at {:#x}", other.seen);
            return Some((ViolationKind::ClaimsOverlap, words));
        }
        if let Some(words) = block.purge.obstacle() {
            return Some((ViolationKind::PurgeableMemoryUsed, words.to_owned()));
        }
        // That of a physical block comes again.
        let is_released =
            block.physical.is_none() && overlapping(&block.released, start, end, |&end| end).next().is_some();
        is_released.then(|| (ViolationKind::ReleasedMemoryUsed, String::new()))
    }

    /// Whether two of the places are the same memory, as behind addresses that are mapped to one block.
    fn own_overlap(places: &[Place]) -> Option<(ViolationKind, String)> {
        if places.len() < 2 {
            return None;
        }
        let mut sorted: Vec<&Place> = places.iter().collect();
        sorted.sort_unstable_by_key(|place| place.start);
        let doubled = sorted.windows(2).find(|pair| pair[1].start < pair[0].end)?;
        let (one, other) = (doubled[0].seen, doubled[1].seen);
        let words = format!(" twice on the same memory, behind {one:#x} and {other:#x}");
        Some((ViolationKind::ClaimsOverlap, words))
    }

    pub(crate) fn claim(&mut self, at_ns: u64, address: u64, bytes: u64) -> ClaimId {
        let owner = self.new_owner();
        let id = ClaimId { owner, address };
        let mut places = Vec::new();
        let hole = self.places(address, bytes, &mut places);
        let obstacle = hole
            .map(|hole| (hole.kind(), hole.words()))
            .or_else(|| places.iter().find_map(|place| self.claim_obstacle(place)))
            .or_else(|| Self::own_overlap(&places));
        if obstacle.is_some() || bytes == 0 {
            self.refused_claims.insert(owner);
        }
        if let Some((kind, words)) = obstacle {
            self.report(kind, at_ns, (address, bytes), format!("claim of owner {owner}{words}"));
            return id;
        }
        if bytes == 0 {
            return id;
        }
        for place in &places {
            let Place { block_address, start, end, seen, .. } = *place;
            let block = self.blocks.get_mut(&block_address);
            block.map(|block| block.claims.insert(start, Claim { end, owner, seen }));
        }
        // Of what lies where its addresses say, the address is enough to find it again.
        if places.iter().any(|place| place.start != place.seen) {
            self.mapped_claims.insert(owner, places);
        }
        id
    }

    pub(crate) fn give_up(&mut self, at_ns: u64, claim: ClaimId) {
        let ClaimId { owner, address } = claim;
        if self.refused_claims.remove(&owner) {
            return;
        }
        let is_given_up = match self.mapped_claims.remove(&owner) {
            Some(places) => places.iter().fold(true, |is_whole, place| {
                let number = Some(place.block_number);
                self.remove_claim(owner, place.block_address, number, place.start) && is_whole
            }),
            None => {
                let block_address = self.blocks.range(..=address).next_back().map(|(&start, _)| start);
                block_address.is_some_and(|block| self.remove_claim(owner, block, None, address))
            }
        };
        if !is_given_up {
            let message = format!("owner {owner} gives up a claim that is not there any more");
            self.report(ViolationKind::NotClaimed, at_ns, (address, 0), message);
        }
    }

    /// Removes an owner's claim from a block; whether it was there.
    fn remove_claim(&mut self, owner: u64, block_address: u64, number: Option<u64>, start: u64) -> bool {
        let Some(block) = self.blocks.get_mut(&block_address) else { return false };
        let is_there = number.is_none_or(|number| number == block.number)
            && block.claims.get(&start).is_some_and(|claim| claim.owner == owner);
        if is_there {
            block.claims.remove(&start);
        }
        is_there
    }
}
