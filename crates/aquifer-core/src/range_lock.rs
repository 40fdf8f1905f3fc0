//! Who uses which part of something, first come, first served.
//!
//! Bookkeeping only; it knows no memory. A *claim* is a range with an access. It is put at the end of the list at once, and
//! is *granted* as soon as no earlier claim conflicts with it: overlaps it, unless both only read. Once granted it
//! stays so until it is released. So
//!
//! - of two granted claims that overlap, both only read;
//! - nobody is starved: a claim waits for those before it, never for one that came later;
//! - who claims two parts does it at once ([`RangeLock::claim_pair`]), so two who claim the same parts crosswise find the same one
//!   first in both lists.
//!
//! Each claim counts the earlier ones that it conflicts with. One that is released is taken off the counts of the later ones that
//! it conflicts with, and wakes those that come to zero, after the lock. The list is a vector, which keeps its room: to claim and
//! release allocates nothing unless somebody waits.

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::calls::wake_all;
use crate::sync::{Mutex, Rank, Sleeper};
use std::ops::Range;
use std::sync::Arc;
use std::task::Waker;

/// What a claim allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    /// Reading, beside others who read.
    Read,
    /// Reading and writing, alone.
    Write,
}

/// A claim in its list. Later ones are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ClaimId(u64);

#[derive(Debug)]
struct Claim {
    id: ClaimId,
    /// The first of the pair that it is of, or itself.
    pair: ClaimId,
    range: Range<u64>,
    access: Access,
    /// How many earlier claims it conflicts with.
    blocker_count: usize,
    /// Of the last poll, until it is granted.
    waker: Option<Waker>,
}

/// Whether two ranges have a byte in common.
pub(crate) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start.max(other.start) < one.end.min(other.end)
}

impl Claim {
    fn conflicts_with(&self, other: &Self) -> bool {
        self.pair != other.pair
            && (self.access == Access::Write || other.access == Access::Write)
            && overlap(&self.range, &other.range)
    }
}

#[derive(Debug, Default)]
struct State {
    claimed_count: u64,
    /// In the order of their ids.
    claims: Vec<Claim>,
}

impl State {
    fn next(&self, range: Range<u64>, access: Access, pair: Option<ClaimId>) -> Claim {
        let id = ClaimId(self.claimed_count);
        let mut claim = Claim { id, pair: pair.unwrap_or(id), range, access, blocker_count: 0, waker: None };
        claim.blocker_count = self.claims.iter().filter(|earlier| claim.conflicts_with(earlier)).count();
        claim
    }

    fn push(&mut self, claim: Claim) -> ClaimId {
        let id = claim.id;
        self.claimed_count += 1;
        self.claims.push(claim);
        id
    }

    fn place(&self, id: ClaimId) -> usize {
        self.claims.binary_search_by_key(&id, |claim| claim.id).expect("only who has not released asks")
    }
}

/// The claims on the parts of one thing.
#[derive(Debug)]
pub(crate) struct RangeLock(Mutex<State>);

/// A lock, and what is claimed of it.
pub(crate) type Part<'a> = (&'a RangeLock, Range<u64>, Access);

impl RangeLock {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Rank::Parts, State::default()))
    }

    /// Puts a claim at the end of the list, granted or not. It must be [released](Self::release). Does not block.
    pub(crate) fn claim(&self, range: Range<u64>, access: Access) -> ClaimId {
        let mut state = self.0.lock();
        let claim = state.next(range, access, None);
        state.push(claim)
    }

    /// A claim, if it is granted at once; else nothing is changed. Does not block.
    pub(crate) fn try_claim(&self, range: Range<u64>, access: Access) -> Option<ClaimId> {
        let mut state = self.0.lock();
        let claim = state.next(range, access, None);
        (claim.blocker_count == 0).then(|| state.push(claim))
    }

    /// Puts two claims at the ends of their lists, which may be the same, so that nobody's claim comes between. They do not
    /// conflict with each other, wherever they are: whoever claims looks after that. Does not block.
    pub(crate) fn claim_pair(one: Part<'_>, other: Part<'_>) -> (ClaimId, ClaimId) {
        if std::ptr::eq(one.0, other.0) {
            let mut state = one.0.0.lock();
            let claim = state.next(one.1, one.2, None);
            let first = state.push(claim);
            let claim = state.next(other.1, other.2, Some(first));
            return (first, state.push(claim));
        }
        let (mut first, mut second) = Mutex::lock_both(&one.0.0, &other.0.0);
        let (one, other) = (first.next(one.1, one.2, None), second.next(other.1, other.2, None));
        (first.push(one), second.push(other))
    }

    /// Whether the claim is granted, as it then stays. What was done under earlier claims that conflict with it is then
    /// seen.
    pub(crate) fn is_granted(&self, id: ClaimId) -> bool {
        let state = self.0.lock();
        state.claims[state.place(id)].blocker_count == 0
    }

    /// Whether the claim is granted; if not, `waker` is woken when it is, in place of the one of an earlier poll.
    pub(crate) fn poll_granted(&self, id: ClaimId, waker: &Waker) -> bool {
        // To clone or drop a waker is the user's code, so neither is done under the lock.
        let waker = waker.clone();
        let mut state = self.0.lock();
        let place = state.place(id);
        let claim = &mut state.claims[place];
        let is_granted = claim.blocker_count == 0;
        let unused = if is_granted { Some(waker) } else { claim.waker.replace(waker) };
        drop(state);
        drop(unused);
        is_granted
    }

    /// Blocks until the claim is granted. In place of a poll: its waker is woken no more.
    pub(crate) fn wait(&self, id: ClaimId) {
        if self.is_granted(id) {
            return;
        }
        let sleeper = Sleeper::new();
        let waker = Waker::from(Arc::clone(&sleeper));
        while !self.poll_granted(id, &waker) {
            sleeper.sleep();
        }
    }

    /// Takes a claim out of the list, granted or not, and wakes who need not wait any more. Wakers are called on this thread.
    pub(crate) fn release(&self, id: ClaimId) {
        let mut woken = Vec::new();
        let mut state = self.0.lock();
        let place = state.place(id);
        let released = state.claims.remove(place);
        for later in &mut state.claims[place..] {
            if later.conflicts_with(&released) {
                later.blocker_count -= 1;
                if later.blocker_count == 0 {
                    woken.extend(later.waker.take());
                }
            }
        }
        drop(state);
        wake_all(woken);
        drop(released);
    }
}
