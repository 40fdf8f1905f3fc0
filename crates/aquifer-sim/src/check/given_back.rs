//! Memory that is given back, all or in part: nobody may use it, nor hold it.

use super::mappings::{Home, Physical, Place};
use super::ranges::{carve, overlapping};
use super::{Block, Checker, Unfinished};
use crate::violation::ViolationKind;
use std::mem;
use std::ops::Range;

/// Memory that had been released, and has come again since it was touched.
#[derive(Debug)]
pub(crate) struct Recommitted {
    pub(crate) device: usize,
    pub(crate) heap_index: usize,
    pub(crate) bytes: u64,
}

impl Block {
    fn released_bytes(&self) -> u64 {
        self.released.iter().map(|(start, end)| end - start).sum()
    }
}

impl Checker {
    /// Forgets an ordinary or physical block, after a look at whether it may go: how many of its bytes have been released.
    pub(crate) fn remove_block(&mut self, at_ns: u64, address: u64) -> u64 {
        let Some(end) = self.blocks.get(&address).map(|block| block.end) else { return 0 };
        self.check_unmapped(at_ns, address);
        self.check_given_back(at_ns, address, (address, end), None, "destroy_block");
        let block = self.blocks.remove(&address);
        block.map_or(0, |block| block.released_bytes())
    }

    /// How many bytes of a block have been released.
    pub(crate) fn released_bytes(&self, address: u64) -> u64 {
        self.blocks.get(&address).map_or(0, Block::released_bytes)
    }

    /// Notes that a part of a block has no memory any more, after a look at whether it may go: how many bytes that were.
    pub(crate) fn release(&mut self, at_ns: u64, block_address: u64, start: u64, bytes: u64) -> u64 {
        let end = start + bytes;
        self.check_given_back(at_ns, block_address, (start, end), None, "release_range");
        let Some(block) = self.blocks.get_mut(&block_address) else { return 0 };
        if overlapping(&block.released, start, end, |&end| end).next().is_some() {
            let message = "release_range of what has been released already".to_owned();
            self.report(ViolationKind::Contract, at_ns, (start, bytes), message);
            return 0;
        }
        block.released.insert(start, end);
        bytes
    }

    /// Notes that a part of a physical block, that is behind addresses of a sparse one, has no memory until it is touched, after a
    /// look at whether it may go: how many bytes that were, or what is wrong.
    pub(crate) fn release_mapped(&mut self, at_ns: u64, start: u64, bytes: u64) -> Result<u64, String> {
        let mut places = Vec::new();
        let hole = self.places(start, bytes, &mut places);
        let ([place], None) = (&*places, hole) else {
            return Err(format!("{bytes} bytes at {start:#x}, which are not behind one mapping"));
        };
        let (start, end) = (place.start, place.end);
        self.check_given_back(at_ns, place.block_address, (start, end), None, "release_range");
        let Some(block) = self.blocks.get_mut(&place.block_address) else { return Ok(0) };
        let old_bytes = carve(&mut block.released, start, end);
        block.released.insert(start, end);
        Ok(bytes - old_bytes)
    }

    /// Gives what is touched of a physical block its memory back, if it has been released.
    pub(super) fn recommit(&mut self, place: &Place) {
        let Some(block) = self.blocks.get_mut(&place.block_address) else { return };
        let Some(Home { device, heap_index, granularity_bytes }) =
            block.physical.as_ref().map(Physical::home)
        else {
            return;
        };
        // A physical block starts at a multiple of it.
        let start = place.start / granularity_bytes * granularity_bytes;
        let end = place.end.next_multiple_of(granularity_bytes);
        let bytes = carve(&mut block.released, start, end);
        if bytes > 0 {
            self.recommitted.push(Recommitted { device, heap_index, bytes });
        }
    }

    /// What has got its memory back since this was last asked.
    pub(crate) fn take_recommitted(&mut self) -> Vec<Recommitted> {
        mem::take(&mut self.recommitted)
    }

    /// Reports uses and claims of `place`, from its start to its end, in a block; with `seen`, only those by these addresses.
    pub(super) fn check_given_back(
        &mut self,
        at_ns: u64,
        block_address: u64,
        place: (u64, u64),
        seen: Option<Range<u64>>,
        call: &str,
    ) {
        let (start, end) = place;
        let Some(block) = self.blocks.get(&block_address) else { return };
        let is_meant = |address: u64| seen.as_ref().is_none_or(|seen| seen.contains(&address));
        let is_used =
            |unfinished: &&Unfinished| unfinished.overlaps(start, end) && is_meant(unfinished.touch.seen);
        let used = block.unfinished.values().find(is_used).map(|used| {
            let count = block.unfinished.values().filter(is_used).count();
            let words = format!(
                "{call} while {count} queued accesses have not ended, the first by {} for owner {}",
                used.who, used.touch.owner
            );
            (used.touch.seen_place(), words)
        });
        let claimed =
            overlapping(&block.claims, start, end, |claim| claim.end).find(|(_, claim)| is_meant(claim.seen));
        let claimed = claimed.map(|(&start, claim)| {
            let words = format!("{call} under the live claim of owner {}", claim.owner);
            ((claim.seen, claim.end - start), words)
        });
        if let Some((place, message)) = used {
            self.report(ViolationKind::GivenBackWhileUsed, at_ns, place, message);
        }
        if let Some((place, message)) = claimed {
            self.report(ViolationKind::GivenBackWhileClaimed, at_ns, place, message);
        }
    }
}
