//! Memory that is given back, all or in part: nobody may use it, nor hold it.

use super::ranges::overlapping;
use super::{Block, Checker, Unfinished};
use crate::violation::ViolationKind;
use std::ops::Range;

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
