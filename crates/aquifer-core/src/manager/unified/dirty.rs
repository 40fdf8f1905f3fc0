//! Which bytes of a buffer one side has newer than the other, as ranges. Numbers only.

use crate::range_lock::overlap;
use std::ops::Range;

/// A set of bytes. Its ranges are sorted, and between two of them is at least one byte that is not in it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct DirtyRanges(Vec<Range<u64>>);

impl DirtyRanges {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn all(&self) -> Vec<Range<u64>> {
        self.0.clone()
    }

    pub(super) fn smallest(&self) -> Option<Range<u64>> {
        self.0.iter().min_by_key(|one| one.end - one.start).cloned()
    }

    pub(super) fn insert(&mut self, range: &Range<u64>) {
        if range.is_empty() {
            return;
        }
        // Those that touch it become one with it.
        let first = self.0.partition_point(|one| one.end < range.start);
        let end = self.0.partition_point(|one| one.start <= range.end);
        let joined = self.0[first..end]
            .iter()
            .fold(range.clone(), |all, one| all.start.min(one.start)..all.end.max(one.end));
        self.0.splice(first..end, [joined]);
    }

    pub(super) fn remove(&mut self, range: &Range<u64>) {
        let touched = self.touched(range);
        let Some((first, last)) = self.0[touched.clone()].first().zip(self.0[touched.clone()].last()) else {
            return;
        };
        let rest = [first.start..range.start, range.end..last.end];
        self.0.splice(touched, rest.into_iter().filter(|one| !one.is_empty()));
    }

    pub(super) fn overlaps(&self, range: &Range<u64>) -> bool {
        !self.touched(range).is_empty()
    }

    /// The bytes of it that are in a range.
    pub(super) fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let clip = |one: &Range<u64>| one.start.max(range.start)..one.end.min(range.end);
        self.0[self.touched(range)].iter().map(clip).collect()
    }

    /// Joins neighbours, over the smallest gaps first, until there are at most `count_max` ranges. No byte of `other` comes in: it
    /// is newer on the other side. False if there are still too many, since such a byte is in every gap.
    pub(super) fn join(&mut self, count_max: usize, other: &Self) -> bool {
        while self.len() > count_max {
            let gaps = self.0.windows(2).map(|pair| pair[0].end..pair[1].start);
            let smallest = gaps.filter(|gap| !other.overlaps(gap)).min_by_key(|gap| gap.end - gap.start);
            let Some(gap) = smallest else { return false };
            self.insert(&gap);
        }
        true
    }

    /// The indices of the ranges that have a byte in common with one.
    fn touched(&self, range: &Range<u64>) -> Range<usize> {
        if range.is_empty() {
            return 0..0;
        }
        let first = self.0.partition_point(|one| one.end <= range.start);
        let end = self.0.partition_point(|one| one.start < range.end);
        debug_assert!(self.0[first..end].iter().all(|one| overlap(one, range)));
        first..end
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const BYTES: u64 = 96;

    type Bitmap = [bool; BYTES as usize];

    fn bitmap(ranges: &DirtyRanges) -> Bitmap {
        let mut bits = [false; BYTES as usize];
        ranges.0.iter().flat_map(Clone::clone).for_each(|byte| bits[byte as usize] = true);
        bits
    }

    fn assert_sound(ranges: &DirtyRanges) {
        assert!(ranges.0.iter().all(|one| one.start < one.end), "{ranges:?}");
        assert!(ranges.0.windows(2).all(|pair| pair[0].end < pair[1].start), "{ranges:?}");
    }

    fn any_range() -> impl Strategy<Value = Range<u64>> {
        (0..BYTES, 0..20_u64).prop_map(|(start, bytes)| start..(start + bytes).min(BYTES))
    }

    /// Whether a range is inserted, or removed.
    fn any_steps() -> impl Strategy<Value = Vec<(bool, Range<u64>)>> {
        vec((any::<bool>(), any_range()), 0..60)
    }

    fn run(steps: &[(bool, Range<u64>)]) -> (DirtyRanges, Bitmap) {
        let (mut ranges, mut oracle) = (DirtyRanges::default(), [false; BYTES as usize]);
        for (is_inserted, range) in steps {
            if *is_inserted {
                ranges.insert(range)
            } else {
                ranges.remove(range)
            }
            range.clone().for_each(|byte| oracle[byte as usize] = *is_inserted);
            assert_sound(&ranges);
            assert_eq!(bitmap(&ranges), oracle, "after {range:?} of {is_inserted}");
        }
        (ranges, oracle)
    }

    proptest! {
        #[test]
        fn it_holds_what_a_bitmap_holds(steps in any_steps(), asked in any_range()) {
            let (ranges, oracle) = run(&steps);
            let mut found = [false; BYTES as usize];
            for piece in ranges.within(&asked) {
                prop_assert!(asked.start <= piece.start && piece.start < piece.end && piece.end <= asked.end);
                piece.for_each(|byte| found[byte as usize] = true);
            }
            for byte in 0..BYTES {
                let is_expected = asked.contains(&byte) && oracle[byte as usize];
                prop_assert_eq!(found[byte as usize], is_expected, "byte {}", byte);
            }
            prop_assert_eq!(ranges.overlaps(&asked), found.contains(&true));
        }

        #[test]
        fn joining_takes_no_byte_of_the_other_side(
            steps in any_steps(),
            other in any_steps(),
            count_max in 1..8_usize,
        ) {
            let (before, bits) = run(&steps);
            let (mut other, _) = run(&other);
            // The two sides never have the same byte.
            before.0.iter().for_each(|one| other.remove(one));
            let mut after = before.clone();
            let is_small = after.join(count_max, &other);
            assert_sound(&after);
            prop_assert_eq!(is_small, after.len() <= count_max);
            let (joined, others) = (bitmap(&after), bitmap(&other));
            for byte in 0..BYTES as usize {
                prop_assert!(joined[byte] || !bits[byte], "byte {} is lost", byte);
                prop_assert!(!(joined[byte] && others[byte]), "byte {} is newer on both sides", byte);
            }
            if before.len() <= count_max {
                prop_assert_eq!(&after, &before);
            }
            if !is_small {
                let mut gaps = after.0.windows(2).map(|pair| pair[0].end..pair[1].start);
                prop_assert!(gaps.all(|gap| other.overlaps(&gap)));
            }
        }
    }

    #[test]
    fn the_smallest_gaps_go_first() {
        let mut ranges = DirtyRanges::default();
        for range in [0..4, 12..16, 20..24, 64..68] {
            ranges.insert(&range);
        }
        assert!(ranges.join(3, &DirtyRanges::default()));
        assert_eq!(ranges.all(), [0..4, 12..24, 64..68]);
        let mut other = DirtyRanges::default();
        other.insert(&(8..9));
        assert!(ranges.join(2, &other));
        assert_eq!(ranges.all(), [0..4, 12..68], "not over what the other side has newer");
        assert!(!ranges.join(1, &other));
        assert_eq!((ranges.smallest(), other.smallest()), (Some(0..4), Some(8..9)));
        assert_eq!(DirtyRanges::default().smallest(), None);
    }
}
