//! The checker: who owns which bytes, who has used them last, and who still will.
//!
//! It believes no manager. What a user holds is what a test has *claimed*; what touches memory is what the schedule has
//! run. Owners are numbered as they appear: each claim is one, and so is each access to memory that nobody has claimed (a
//! manager clearing it, say). The rule, for every byte: all that older owners do ends before a newer one begins.
//!
//! Costs: an access looks up its block, its claim and its place among the used ranges, each in a tree; a beginning access is
//! also compared with those that run at that moment, of which there are a few for each busy queue.

mod mappings;
mod purge;
mod ranges;

use crate::violation::{Violation, ViolationKind};
use crate::{Access, AccessKind, ClaimId, QueueId};
use mappings::Sparse;
use purge::Purge;
use ranges::{LastUse, Ranges, overlapping};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A command, for the words of a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Who {
    /// `None`: the host.
    pub(crate) queue: Option<QueueId>,
    pub(crate) command: u64,
    pub(crate) what: &'static str,
}

impl Who {
    pub(crate) const HOST: Self = Self { queue: None, command: 0, what: "access" };
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.queue {
            Some(queue) => write!(f, "{} {} on {queue}", self.what, self.command),
            None => f.write_str("the host"),
        }
    }
}

/// A part of an access that has one owner.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Touch {
    block_address: u64,
    /// Tells a block from a later one at the same address.
    block_number: u64,
    start: u64,
    end: u64,
    owner: u64,
    kind: AccessKind,
    number: u64,
}

/// A [`Touch`] that has been queued and has not ended.
#[derive(Debug)]
struct Unfinished {
    touch: Touch,
    who: Who,
}

impl Unfinished {
    fn overlaps(&self, start: u64, end: u64) -> bool {
        self.touch.start < end && start < self.touch.end
    }
}

#[derive(Debug)]
struct Claim {
    end: u64,
    owner: u64,
}

#[derive(Debug)]
struct Block {
    number: u64,
    end: u64,
    claims: BTreeMap<u64, Claim>,
    released: BTreeMap<u64, u64>,
    purge: Purge,
    /// By the number of the touch.
    unfinished: BTreeMap<u64, Unfinished>,
    uses: Ranges,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    blocks: BTreeMap<u64, Block>,
    sparse: BTreeMap<u64, Sparse>,
    /// What runs now, in no order.
    running: Vec<Unfinished>,
    /// Claims of nothing, and those that were refused with a violation each: giving them up is no second one.
    refused_claims: BTreeSet<u64>,
    next_owner: u64,
    next_number: u64,
    pub(crate) violations: Vec<Violation>,
}

impl Block {
    fn released_bytes(&self) -> u64 {
        self.released.iter().map(|(start, end)| end - start).sum()
    }
}

impl Checker {
    pub(crate) fn report(&mut self, kind: ViolationKind, at_ns: u64, place: (u64, u64), message: String) {
        let (address, bytes) = place;
        self.violations.push(Violation { kind, at_ns, address, bytes, message });
    }

    fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    fn new_owner(&mut self) -> u64 {
        self.next_owner += 1;
        self.next_owner
    }

    /// The address of the block in which a range lies wholly.
    fn block_of(&self, address: u64, bytes: u64) -> Option<u64> {
        let (&start, block) = self.blocks.range(..=address).next_back()?;
        (address < block.end && address.checked_add(bytes)? <= block.end).then_some(start)
    }

    pub(crate) fn add_block(&mut self, address: u64, bytes: u64) {
        let number = self.number();
        let block = Block {
            number,
            end: address + bytes,
            claims: BTreeMap::new(),
            released: BTreeMap::new(),
            purge: Purge::No,
            unfinished: BTreeMap::new(),
            uses: Ranges::default(),
        };
        let old = self.blocks.insert(address, block);
        assert!(old.is_none(), "two blocks at {address:#x}");
    }

    /// Forgets a block, after a look at whether it may go: how many of its bytes have been released.
    pub(crate) fn remove_block(&mut self, at_ns: u64, address: u64) -> u64 {
        let Some(end) = self.blocks.get(&address).map(|block| block.end) else { return 0 };
        self.check_given_back(at_ns, address, (address, end), "destroy_block");
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
        self.check_given_back(at_ns, block_address, (start, end), "release_range");
        let Some(block) = self.blocks.get_mut(&block_address) else { return 0 };
        if overlapping(&block.released, start, end, |&end| end).next().is_some() {
            let message = "release_range of what has been released already".to_owned();
            self.report(ViolationKind::Contract, at_ns, (start, bytes), message);
            return 0;
        }
        block.released.insert(start, end);
        bytes
    }

    fn check_given_back(&mut self, at_ns: u64, block_address: u64, place: (u64, u64), call: &str) {
        let (start, end) = place;
        let Some(block) = self.blocks.get(&block_address) else { return };
        let used = block.unfinished.values().find(|unfinished| unfinished.overlaps(start, end)).map(|used| {
            let count = block.unfinished.values().filter(|other| other.overlaps(start, end)).count();
            let words = format!(
                "{call} while {count} queued accesses have not ended, the first by {} for owner {}",
                used.who, used.touch.owner
            );
            ((used.touch.start, used.touch.end - used.touch.start), words)
        });
        let claimed =
            overlapping(&block.claims, start, end, |claim| claim.end).next().map(|(&start, claim)| {
                ((start, claim.end - start), format!("{call} under the live claim of owner {}", claim.owner))
            });
        if let Some((place, message)) = used {
            self.report(ViolationKind::GivenBackWhileUsed, at_ns, place, message);
        }
        if let Some((place, message)) = claimed {
            self.report(ViolationKind::GivenBackWhileClaimed, at_ns, place, message);
        }
    }

    /// What speaks against a claim, if anything.
    fn claim_obstacle(
        &self,
        block_address: Option<u64>,
        place: (u64, u64),
    ) -> Option<(ViolationKind, String)> {
        let Some(block) = block_address.and_then(|address| self.blocks.get(&address)) else {
            return Some((ViolationKind::OutOfBlock, String::new()));
        };
        let (start, end) = (place.0, place.0 + place.1);
        if let Some((&other_start, other)) = overlapping(&block.claims, start, end, |claim| claim.end).next()
        {
            let bytes = other.end - other_start;
            let words = format!(" on what owner {} holds, {bytes} bytes at {other_start:#x}", other.owner);
            return Some((ViolationKind::ClaimsOverlap, words));
        }
        if let Some(words) = block.purge.obstacle() {
            return Some((ViolationKind::PurgeableMemoryUsed, words.to_owned()));
        }
        let is_released = overlapping(&block.released, start, end, |&end| end).next().is_some();
        is_released.then(|| (ViolationKind::ReleasedMemoryUsed, String::new()))
    }

    pub(crate) fn claim(&mut self, at_ns: u64, address: u64, bytes: u64) -> ClaimId {
        let owner = self.new_owner();
        let block_address = self.block_of(address, bytes);
        let obstacle = self.claim_obstacle(block_address, (address, bytes));
        let block = block_address.and_then(|address| self.blocks.get_mut(&address));
        match block.filter(|_| obstacle.is_none() && bytes > 0) {
            Some(block) => {
                block.claims.insert(address, Claim { end: address + bytes, owner });
            }
            None => {
                self.refused_claims.insert(owner);
            }
        }
        if let Some((kind, words)) = obstacle {
            self.report(kind, at_ns, (address, bytes), format!("claim of owner {owner}{words}"));
        }
        ClaimId { owner, address }
    }

    pub(crate) fn give_up(&mut self, at_ns: u64, claim: ClaimId) {
        let ClaimId { owner, address } = claim;
        if self.refused_claims.remove(&owner) {
            return;
        }
        let block = self.blocks.range_mut(..=address).next_back().map(|(_, block)| block);
        if let Some(block) = block
            && block.claims.get(&address).is_some_and(|claim| claim.owner == owner)
        {
            block.claims.remove(&address);
            return;
        }
        let message = format!("owner {owner} gives up a claim that is not there any more");
        self.report(ViolationKind::NotClaimed, at_ns, (address, 0), message);
    }

    /// The parts of an access by their owners. Empty, with a violation, if it lies in no block.
    fn split(&mut self, at_ns: u64, who: Who, access: Access, touches: &mut Vec<Touch>) {
        let Access { address, bytes, kind } = access;
        if bytes == 0 {
            return;
        }
        let Some(block_address) = self.block_of(address, bytes) else {
            self.report(ViolationKind::OutOfBlock, at_ns, (address, bytes), format!("access by {who}"));
            return;
        };
        let end = address + bytes;
        let block = &self.blocks[&block_address];
        let (block_number, purge) = (block.number, block.purge);
        let is_released = overlapping(&block.released, address, end, |&end| end).next().is_some();
        let first = touches.len();
        let mut number = self.next_number;
        let mut add = |start, end, owner| {
            number += 1;
            touches.push(Touch { block_address, block_number, start, end, owner, kind, number });
        };
        let nobody = self.next_owner + 1;
        let mut cursor = address;
        for (&start, claim) in overlapping(&block.claims, address, end, |claim| claim.end) {
            if cursor < start {
                add(cursor, start, nobody);
            }
            add(start.max(cursor), claim.end.min(end), claim.owner);
            cursor = claim.end.min(end);
        }
        if cursor < end {
            add(cursor, end, nobody);
        }
        self.next_number = number;
        if touches[first..].iter().any(|touch| touch.owner == nobody) {
            self.next_owner = nobody;
        }
        if let Some(words) = purge.obstacle() {
            let message = format!("access by {who}{words}");
            self.report(ViolationKind::PurgeableMemoryUsed, at_ns, (address, bytes), message);
        }
        if is_released {
            let message = format!("access by {who}");
            self.report(ViolationKind::ReleasedMemoryUsed, at_ns, (address, bytes), message);
        }
    }

    /// Notes an access that is being queued: who owns what it touches is settled now.
    pub(crate) fn enqueue(&mut self, at_ns: u64, who: Who, access: Access, touches: &mut Vec<Touch>) {
        let first = touches.len();
        self.split(at_ns, who, access, touches);
        for &touch in &touches[first..] {
            let block = self.blocks.get_mut(&touch.block_address).expect("just split");
            block.unfinished.insert(touch.number, Unfinished { touch, who });
        }
    }

    /// The block of a touch, if it has not been destroyed.
    fn block_mut(&mut self, touch: Touch) -> Option<&mut Block> {
        self.blocks.get_mut(&touch.block_address).filter(|block| block.number == touch.block_number)
    }

    /// Notes that a queued access begins now.
    pub(crate) fn begin(&mut self, at_ns: u64, who: Who, touch: Touch) {
        self.running.push(Unfinished { touch, who });
        let is_older = |other: &Unfinished| {
            other.touch.block_number == touch.block_number
                && other.touch.owner < touch.owner
                && other.overlaps(touch.start, touch.end)
        };
        let overlapped = self.running.iter().find(|other| is_older(other)).map(|other| {
            format!(
                "{who}, for owner {}, began while {}, for the older owner {}, ran",
                touch.owner, other.who, other.touch.owner
            )
        });
        let place = (touch.start, touch.end - touch.start);
        if let Some(message) = overlapped {
            self.report(ViolationKind::ReusedWhileUsed, at_ns, place, message);
        }
        self.note_use(at_ns, who, touch);
    }

    /// Makes an owner the last that used its bytes, unless a newer one was.
    fn note_use(&mut self, at_ns: u64, who: Who, touch: Touch) {
        let Some(block) = self.block_mut(touch) else { return };
        let last = LastUse { owner: touch.owner, who };
        if let Some(newer) = block.uses.note(touch.start, touch.end, last) {
            let message = format!(
                "{who}, for owner {}, began after {}, for the newer owner {}",
                touch.owner, newer.who, newer.owner
            );
            let place = (touch.start, touch.end - touch.start);
            self.report(ViolationKind::ReusedWhileUsed, at_ns, place, message);
        }
    }

    /// Notes that a queued access has ended, or never begins.
    pub(crate) fn end(&mut self, touch: Touch) {
        if let Some(index) = self.running.iter().position(|running| running.touch.number == touch.number) {
            self.running.swap_remove(index);
        }
        if let Some(block) = self.block_mut(touch) {
            block.unfinished.remove(&touch.number);
        }
    }

    /// The host touches memory now.
    pub(crate) fn host_access(&mut self, at_ns: u64, access: Access) {
        let mut touches = Vec::new();
        self.split(at_ns, Who::HOST, access, &mut touches);
        for touch in touches {
            let Some(block) = self.block_mut(touch) else { continue };
            let both_read = |other: &Unfinished| {
                other.touch.kind == AccessKind::Read
                    && touch.kind == AccessKind::Read
                    && other.touch.owner == touch.owner
            };
            let in_the_way =
                |other: &&Unfinished| other.overlaps(touch.start, touch.end) && !both_read(other);
            if let Some(other) = block.unfinished.values().find(in_the_way) {
                let message = format!(
                    "a {:?} for owner {}, while {}, for owner {}, has not ended",
                    touch.kind, touch.owner, other.who, other.touch.owner
                );
                let place = (touch.start, touch.end - touch.start);
                self.report(ViolationKind::HostTouchedQueued, at_ns, place, message);
            }
            self.note_use(at_ns, Who::HOST, touch);
        }
    }
}
