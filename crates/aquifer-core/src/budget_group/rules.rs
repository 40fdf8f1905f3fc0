//! Who may grow: the rules by which every member judges what it reads of the others. Numbers only.
//!
//! A claim is granted if the sum of what all have announced stays within the budget, and if whoever has waited longest can still
//! have what it waits for.

use std::time::Duration;

/// How long a member whose bytes are there keeps them from the others without taking them; and for how long at a time the bytes
/// that come free are kept together for one whose bytes are not all there yet.
pub(super) const TURN: Duration = Duration::from_millis(500);
/// How much longer a member may say that it has waited than the reader has seen it wait. Readers that wait look more often.
pub(super) const SENIORITY_UNSEEN: Duration = Duration::from_millis(250);

/// What one other member's record says, as the reader counts it: nothing above the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standing {
    pub(super) announced_bytes: u64,
    pub(super) leased_bytes: u64,
    /// What it waits for beyond all that it has announced; 0 if it does not wait.
    pub(super) wanted_bytes: u64,
    /// Where it is in the line.
    pub(super) place: LinePlace,
    /// Whether its want keeps others back now.
    pub(super) is_in_force: bool,
}

/// A place in the line of those who wait: the lowest is first. `Default` is before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct LinePlace {
    /// Since when the reader believes it to wait.
    pub(super) believed_since_ns: u64,
    /// Since when it says so itself.
    pub(super) since_ns: u64,
    /// Makes places differ.
    pub(super) tie_breaker: u64,
}

/// What comes of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Granted,
    /// Only while another member makes a claim too: try again in a moment.
    Contended,
    /// The others have leased too much.
    Short,
    /// There would be enough, but it is kept for one who has waited longer.
    Behind,
}

/// The bytes of a group that nobody has announced; `own_bytes` are the reader's.
pub(super) fn free_bytes(budget_bytes: u64, own_bytes: u64, others: &[Standing]) -> u64 {
    let sum = |sum: u64, other: &Standing| sum.saturating_add(other.announced_bytes);
    budget_bytes.saturating_sub(others.iter().fold(own_bytes, sum))
}

/// Judges the growth of a lease from `own_bytes` by `more_bytes`. `own_place` is the reader's in the line, if it waits.
pub(super) fn judge(
    budget_bytes: u64,
    own_bytes: u64,
    more_bytes: u64,
    own_place: Option<LinePlace>,
    others: &[Standing],
) -> Verdict {
    let free = free_bytes(budget_bytes, own_bytes, others);
    if more_bytes > free {
        let sum = |sum: u64, other: &Standing| sum.saturating_add(other.leased_bytes);
        let leased = others.iter().fold(own_bytes, sum);
        let would_fit = leased.saturating_add(more_bytes) <= budget_bytes;
        return if would_fit { Verdict::Contended } else { Verdict::Short };
    }
    let is_before = |other: &&Standing| {
        other.wanted_bytes > 0 && other.is_in_force && own_place.is_none_or(|own| other.place < own)
    };
    match others.iter().filter(is_before).min_by_key(|other| other.place) {
        Some(first) if more_bytes > free.saturating_sub(first.wanted_bytes) => Verdict::Behind,
        _ => Verdict::Granted,
    }
}

/// Whether a want keeps others back. `are_there`: for how long the reader has seen all its bytes free; `None` if they are not.
/// `age`: how long it has waited.
pub(super) fn is_in_force(are_there: Option<Duration>, age: Duration) -> bool {
    match are_there {
        Some(time) => time < TURN,
        // Half of the time: for ever would let one who wants what nobody will give back keep all others from what is free.
        None => (age.as_nanos() / TURN.as_nanos()).is_multiple_of(2),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(since_ns: u64) -> LinePlace {
        LinePlace { believed_since_ns: since_ns, since_ns, tie_breaker: since_ns }
    }

    fn waiting(leased_bytes: u64, wanted_bytes: u64, since_ns: u64) -> Standing {
        let place = place(since_ns);
        Standing { announced_bytes: leased_bytes, leased_bytes, wanted_bytes, place, is_in_force: true }
    }

    #[test]
    fn who_has_waited_longest_is_first() {
        let others = [waiting(20, 60, 5), waiting(10, 50, 3)];
        // 70 are free, 50 of them for the first.
        assert_eq!(judge(100, 0, 20, None, &others), Verdict::Granted);
        assert_eq!(judge(100, 0, 21, None, &others), Verdict::Behind);
        assert_eq!(judge(100, 0, 21, Some(place(4)), &others), Verdict::Behind);
        assert_eq!(judge(100, 0, 70, Some(place(2)), &others), Verdict::Granted);
        assert_eq!(judge(100, 0, 71, Some(place(2)), &others), Verdict::Short);
        let passed_over = [others[0], Standing { is_in_force: false, ..others[1] }];
        assert_eq!(judge(100, 0, 21, Some(place(4)), &passed_over), Verdict::Granted);
        assert_eq!(judge(100, 0, 11, None, &passed_over), Verdict::Behind);
    }

    #[test]
    fn a_claim_that_is_being_made_is_no_shortage_yet() {
        let claiming = Standing { announced_bytes: 80, leased_bytes: 10, ..Standing::default() };
        assert_eq!(judge(100, 10, 20, None, &[claiming]), Verdict::Contended);
        assert_eq!(judge(100, 10, 81, None, &[claiming]), Verdict::Short);
        let huge = Standing { announced_bytes: u64::MAX, leased_bytes: u64::MAX, ..claiming };
        assert_eq!(judge(100, 10, u64::MAX, None, &[huge, huge]), Verdict::Short);
    }

    #[test]
    fn no_want_keeps_others_back_for_long() {
        let ms = Duration::from_millis;
        assert!(is_in_force(Some(ms(0)), ms(10_000)) && is_in_force(Some(ms(499)), ms(0)));
        assert!(!is_in_force(Some(ms(500)), ms(0)));
        assert!(is_in_force(None, ms(0)) && is_in_force(None, ms(499)) && is_in_force(None, ms(1000)));
        assert!(!is_in_force(None, ms(500)) && !is_in_force(None, ms(999)));
    }

    /// What one member of the model does, one step at a time, as the real one does it: each step reads or writes one record.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Idle,
        /// Announced; has read the others up to this one, and counted so much.
        Reading {
            more_bytes: u64,
            next: usize,
            sum: u64,
        },
    }

    proptest! {
        /// Members announce, read the records of the others one by one, and grant themselves what fits, withdraw, shrink and
        /// die, interleaved at random: what is leased is never above the budget.
        #[test]
        fn two_claims_are_never_both_granted_above_the_budget(
            choices in proptest::collection::vec((0_usize..4, 1_u64..80, 0_u8..8), 1..400),
        ) {
            const BUDGET: u64 = 100;
            let mut records = [Standing::default(); 4];
            let mut steps = [Step::Idle; 4];
            for (who, bytes, what) in choices {
                match steps[who] {
                    _ if what == 0 => {
                        // It dies, and its file is removed.
                        (records[who], steps[who]) = (Standing::default(), Step::Idle);
                    }
                    Step::Idle if what < 3 => {
                        let left = records[who].leased_bytes.saturating_sub(bytes);
                        (records[who].leased_bytes, records[who].announced_bytes) = (left, left);
                    }
                    Step::Idle => {
                        records[who].announced_bytes = records[who].leased_bytes + bytes;
                        steps[who] = Step::Reading { more_bytes: bytes, next: 0, sum: 0 };
                    }
                    Step::Reading { more_bytes, next, sum } if next < records.len() => {
                        let read = if next == who { 0 } else { records[next].announced_bytes };
                        steps[who] = Step::Reading { more_bytes, next: next + 1, sum: sum + read };
                    }
                    Step::Reading { more_bytes, sum, .. } => {
                        let seen = [Standing { announced_bytes: sum, ..Standing::default() }];
                        let own = &mut records[who];
                        match judge(BUDGET, own.leased_bytes, more_bytes, None, &seen) {
                            Verdict::Granted => own.leased_bytes = own.announced_bytes,
                            _ => own.announced_bytes = own.leased_bytes,
                        }
                        steps[who] = Step::Idle;
                    }
                }
                let leased: u64 = records.iter().map(|record| record.leased_bytes).sum();
                prop_assert!(leased <= BUDGET, "{records:?}");
            }
        }
    }
}
