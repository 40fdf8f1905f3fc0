//! Ranges of addresses in a tree, and what was last done to each.

use super::Who;
use std::collections::BTreeMap;

/// The newest owner that has used a range, and by what.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LastUse {
    pub(crate) owner: u64,
    pub(crate) who: Who,
}

#[derive(Debug)]
struct Used {
    end: u64,
    last: LastUse,
}

/// Which owner has used which bytes last. Ranges do not overlap; bytes that nobody has used are in none.
#[derive(Debug, Default)]
pub(crate) struct Ranges(BTreeMap<u64, Used>);

/// The ranges of a tree, keyed by where they start and not overlapping, that overlap `start..end`; in order.
pub(crate) fn overlapping<T>(
    tree: &BTreeMap<u64, T>,
    start: u64,
    end: u64,
    end_of: impl Fn(&T) -> u64,
) -> impl Iterator<Item = (&u64, &T)> {
    let before = tree.range(..start).next_back().filter(|(_, range)| start < end_of(range) && start < end);
    before.into_iter().chain(tree.range(start..end.max(start)))
}

/// Takes `start..end` out of a tree of ranges that do not overlap: how many of its bytes were in it.
pub(super) fn carve(tree: &mut BTreeMap<u64, u64>, start: u64, end: u64) -> u64 {
    let found: Vec<(u64, u64)> =
        overlapping(tree, start, end, |&end| end).map(|(&start, &end)| (start, end)).collect();
    let mut carved_bytes = 0;
    for (other_start, other_end) in found {
        tree.remove(&other_start);
        if other_start < start {
            tree.insert(other_start, start);
        }
        if end < other_end {
            tree.insert(end, other_end);
        }
        carved_bytes += other_end.min(end) - other_start.max(start);
    }
    carved_bytes
}

impl Ranges {
    /// Notes a use of `start..end`, unless an owner newer than it has used a byte of that: then answers that use.
    pub(crate) fn note(&mut self, start: u64, end: u64, last: LastUse) -> Option<LastUse> {
        let mut is_covered = false;
        for (&used_start, used) in overlapping(&self.0, start, end, |used| used.end) {
            if used.last.owner > last.owner {
                return Some(used.last);
            }
            is_covered = used.last.owner == last.owner && used_start <= start && end <= used.end;
        }
        // An owner that comes again to what it has used is the common case.
        if !is_covered {
            self.replace(start, end, last);
        }
        None
    }

    fn replace(&mut self, start: u64, mut end: u64, last: LastUse) {
        let mut new_start = start;
        if let Some((&before_start, before)) = self.0.range_mut(..start).next_back()
            && start <= before.end
        {
            let (before_end, before_last) = (before.end, before.last);
            if before_last.owner == last.owner {
                // The two become one.
                self.0.remove(&before_start);
                new_start = before_start;
                end = end.max(before_end);
            } else {
                before.end = start;
                if end < before_end {
                    self.0.insert(end, Used { end: before_end, last: before_last });
                }
            }
        }
        while let Some((&inner_start, inner)) = self.0.range(start..=end).next() {
            let (inner_end, inner_last) = (inner.end, inner.last);
            if inner_last.owner != last.owner && inner_start == end {
                break;
            }
            self.0.remove(&inner_start);
            if inner_last.owner == last.owner {
                end = end.max(inner_end);
            } else if end < inner_end {
                self.0.insert(end, Used { end: inner_end, last: inner_last });
                break;
            }
        }
        self.0.insert(new_start, Used { end, last });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn agrees_with_an_array_of_bytes() {
        for seed in 0..200 {
            let mut random = Random::new(seed);
            let mut ranges = Ranges::default();
            let mut bytes = [0_u64; 64];
            for _ in 0..100 {
                let start = random.draw() % 64;
                let end = start + 1 + random.draw() % (64 - start);
                let owner = 1 + random.draw() % 12;
                let place = start as usize..end as usize;
                let is_newest = bytes[place.clone()].iter().all(|&other| other <= owner);
                let newer = ranges.note(start, end, LastUse { owner, who: Who::HOST });
                assert_eq!(newer.is_none(), is_newest, "seed {seed}");
                match newer {
                    Some(newer) => assert!(bytes[place].contains(&newer.owner) && newer.owner > owner),
                    None => bytes[place].fill(owner),
                }
                let mut seen = [0_u64; 64];
                let mut last = None;
                for (&start, used) in &ranges.0 {
                    assert!(start < used.end, "seed {seed}: an empty range");
                    assert!(last.is_none_or(|(end, _)| end <= start), "seed {seed}");
                    assert_ne!(last, Some((start, used.last.owner)), "seed {seed}: two that should be one");
                    last = Some((used.end, used.last.owner));
                    seen[start as usize..used.end as usize].fill(used.last.owner);
                }
                assert_eq!(seen, bytes, "seed {seed}");
            }
        }
    }

    #[test]
    fn what_is_carved_out_is_gone_and_nothing_else() {
        let carved = |start, end| {
            let mut tree = BTreeMap::from([(10, 20), (20, 30), (40, 50)]);
            let bytes = carve(&mut tree, start, end);
            (bytes, tree.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(carved(0, 10), (0, vec![(10, 20), (20, 30), (40, 50)]));
        assert_eq!(carved(12, 15), (3, vec![(10, 12), (15, 20), (20, 30), (40, 50)]));
        assert_eq!(carved(15, 45), (20, vec![(10, 15), (45, 50)]));
        assert_eq!(carved(0, 100), (30, vec![]));
    }

    #[test]
    fn overlaps_are_found_at_both_ends() {
        let tree = BTreeMap::from([(10, 20), (20, 30), (40, 50)]);
        let found = |start, end| -> Vec<u64> {
            overlapping(&tree, start, end, |&end| end).map(|(&start, _)| start).collect()
        };
        assert_eq!(found(0, 10), []);
        assert_eq!(found(19, 20), [10]);
        assert_eq!(found(19, 41), [10, 20, 40]);
        assert_eq!(found(30, 40), []);
        assert_eq!(found(15, 15), []);
    }
}
