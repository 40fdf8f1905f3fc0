//! The checker: who owns which bytes, who has used them last, and who still will.
//!
//! It believes no manager. What a user holds is what a test has *claimed*; what touches memory is what the schedule has
//! run. Owners are numbered as they appear: each claim is one, and so is each access to memory that nobody has claimed (a
//! manager clearing it, say). The rule, for every byte: all that older owners do ends before a newer one begins.
//!
//! Memory may be behind several addresses, or now behind these and then behind those. The bytes that count are those of memory:
//! addresses of sparse blocks are translated to what is mapped there when an access is queued or a claim is made, and as long as
//! either lasts the mapping must stay.
//!
//! Costs: an access looks up its block, its claim and its place among the used ranges, each in a tree; a beginning access is
//! also compared with those that run at that moment, of which there are a few for each busy queue.

mod claims;
mod given_back;
mod mappings;
mod purge;
mod ranges;

use crate::violation::{Violation, ViolationKind};
use crate::{Access, AccessKind, QueueId};
use claims::Claim;
pub(crate) use given_back::Recommitted;
pub(crate) use mappings::Home;
use mappings::{Physical, Place, Sparse};
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
    /// The address by which the first byte was named.
    seen: u64,
    owner: u64,
    kind: AccessKind,
    number: u64,
}

impl Touch {
    /// The addresses and the length, as a violation names them.
    fn seen_place(&self) -> (u64, u64) {
        (self.seen, self.end - self.start)
    }
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
struct Block {
    number: u64,
    end: u64,
    claims: BTreeMap<u64, Claim>,
    released: BTreeMap<u64, u64>,
    purge: Purge,
    /// By the number of the touch.
    unfinished: BTreeMap<u64, Unfinished>,
    /// What runs now, in no order.
    running: Vec<Unfinished>,
    uses: Ranges,
    /// `None`: its addresses are its own.
    physical: Option<Physical>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    blocks: BTreeMap<u64, Block>,
    sparse: BTreeMap<u64, Sparse>,
    /// Where those claims are that are not where their addresses say, by owner.
    mapped_claims: BTreeMap<u64, Vec<Place>>,
    /// Claims of nothing, and those that were refused with a violation each: giving them up is no second one.
    refused_claims: BTreeSet<u64>,
    recommitted: Vec<Recommitted>,
    next_owner: u64,
    next_number: u64,
    pub(crate) violations: Vec<Violation>,
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

    /// The address of the ordinary block in which a range lies wholly.
    fn block_of(&self, address: u64, bytes: u64) -> Option<u64> {
        let (&start, block) = self.blocks.range(..=address).next_back()?;
        let has_addresses = block.physical.is_none();
        (has_addresses && address < block.end && address.checked_add(bytes)? <= block.end).then_some(start)
    }

    pub(crate) fn add_block(&mut self, address: u64, bytes: u64) {
        self.insert_block(address, bytes, None);
    }

    fn insert_block(&mut self, address: u64, bytes: u64, physical: Option<Physical>) {
        let number = self.number();
        let block = Block {
            number,
            end: address + bytes,
            claims: BTreeMap::new(),
            released: BTreeMap::new(),
            purge: Purge::No,
            unfinished: BTreeMap::new(),
            running: Vec::new(),
            uses: Ranges::default(),
            physical,
        };
        let old = self.blocks.insert(address, block);
        assert!(old.is_none(), "two blocks at {address:#x}");
    }

    /// The parts of an access by their blocks and owners. What names no memory is left out, with a violation.
    fn split(&mut self, at_ns: u64, who: Who, access: Access, touches: &mut Vec<Touch>) {
        let Access { address, bytes, kind } = access;
        if bytes == 0 {
            return;
        }
        let mut places = Vec::new();
        if let Some(hole) = self.places(address, bytes, &mut places) {
            let message = format!("access by {who}{}", hole.words());
            self.report(hole.kind(), at_ns, (address, bytes), message);
        }
        let first = touches.len();
        let nobody = self.next_owner + 1;
        for place in places {
            self.split_place(at_ns, who, place, (kind, nobody), touches);
        }
        if touches[first..].iter().any(|touch| touch.owner == nobody) {
            self.next_owner = nobody;
        }
    }

    /// The parts of a place by their owners: whoever claims it, or `nobody`.
    fn split_place(
        &mut self,
        at_ns: u64,
        who: Who,
        place: Place,
        (kind, nobody): (AccessKind, u64),
        touches: &mut Vec<Touch>,
    ) {
        let Place { block_address, block_number, start: first, end, .. } = place;
        let block = &self.blocks[&block_address];
        let purge = block.purge;
        let is_released =
            block.physical.is_none() && overlapping(&block.released, first, end, |&end| end).next().is_some();
        let mut number = self.next_number;
        let mut add = |start, end, owner| {
            number += 1;
            let seen = place.seen + (start - first);
            touches.push(Touch { block_address, block_number, start, end, seen, owner, kind, number });
        };
        let mut cursor = first;
        for (&start, claim) in overlapping(&block.claims, first, end, |claim| claim.end) {
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
        self.recommit(&place);
        let seen_place = (place.seen, end - first);
        if let Some(words) = purge.obstacle() {
            let message = format!("access by {who}{words}");
            self.report(ViolationKind::PurgeableMemoryUsed, at_ns, seen_place, message);
        }
        if is_released {
            let message = format!("access by {who}");
            self.report(ViolationKind::ReleasedMemoryUsed, at_ns, seen_place, message);
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
        let Some(block) = self.block_mut(touch) else { return };
        let is_older =
            |other: &&Unfinished| other.touch.owner < touch.owner && other.overlaps(touch.start, touch.end);
        let overlapped = block.running.iter().find(is_older).map(|other| {
            format!(
                "{who}, for owner {}, began while {}, for the older owner {}, ran",
                touch.owner, other.who, other.touch.owner
            )
        });
        block.running.push(Unfinished { touch, who });
        if let Some(message) = overlapped {
            self.report(ViolationKind::ReusedWhileUsed, at_ns, touch.seen_place(), message);
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
            self.report(ViolationKind::ReusedWhileUsed, at_ns, touch.seen_place(), message);
        }
    }

    /// Notes that a queued access has ended, or never begins.
    pub(crate) fn end(&mut self, touch: Touch) {
        let Some(block) = self.block_mut(touch) else { return };
        block.unfinished.remove(&touch.number);
        if let Some(index) = block.running.iter().position(|running| running.touch.number == touch.number) {
            block.running.swap_remove(index);
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
                self.report(ViolationKind::HostTouchedQueued, at_ns, touch.seen_place(), message);
            }
            self.note_use(at_ns, Who::HOST, touch);
        }
    }
}
