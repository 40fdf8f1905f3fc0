//! Bisection.

/// The budgets that are tried: the least that can do, steps above it, and the most there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ladder {
    least_bytes: u64,
    step_bytes: u64,
    most_bytes: u64,
}

/// A budget to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attempt {
    pub(super) budget_bytes: u64,
    /// How many more there will be at most after this one; `None` while no sufficient budget of the ladder's is known.
    pub(super) left: Option<u32>,
}

/// The answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<T> {
    pub(super) budget_bytes: u64,
    /// What came of it.
    pub(super) outcome: T,
    /// The budget one step below, which did not do; `None` if there is none.
    pub(super) too_small_bytes: Option<u64>,
}

impl Ladder {
    /// A ladder in whole blocks of `granularity_bytes`, since less than one more makes no difference, unless `most_bytes` is none.
    ///
    /// `least_bytes` is raised to whole blocks, and so is `step_bytes`.
    pub(super) fn new(least_bytes: u64, step_bytes: u64, most_bytes: u64, granularity_bytes: u64) -> Self {
        let granularity_bytes = granularity_bytes.max(1);
        let whole = |bytes: u64| bytes.div_ceil(granularity_bytes).saturating_mul(granularity_bytes);
        Self {
            least_bytes: whole(least_bytes).min(most_bytes),
            step_bytes: whole(step_bytes.max(1)),
            most_bytes,
        }
    }

    pub(super) fn step_bytes(&self) -> u64 {
        self.step_bytes
    }

    /// The budget of a rung, counted from the least.
    fn budget_bytes(&self, rung: u64) -> u64 {
        self.least_bytes.saturating_add(rung.saturating_mul(self.step_bytes)).min(self.most_bytes)
    }

    /// The first rung with so many bytes, or the last.
    fn rung_of(&self, bytes: u64) -> u64 {
        bytes.min(self.most_bytes).saturating_sub(self.least_bytes).div_ceil(self.step_bytes)
    }

    /// Finds a budget that does while the rung below does not, or is none. `attempt` answers `None` for a budget that does not
    /// do. The most does, with the outcome `at_most`; `guess_bytes` is tried first.
    pub(super) fn search<T, E>(
        &self,
        guess_bytes: u64,
        at_most: T,
        mut attempt: impl FnMut(Attempt) -> Result<Option<T>, E>,
    ) -> Result<Found<T>, E> {
        let mut try_rung = |rung, left| attempt(Attempt { budget_bytes: self.budget_bytes(rung), left });
        let last = self.rung_of(self.most_bytes);
        // All rungs below `open` are known not to do, as if one followed from the other; `done` does.
        let (mut open, mut rung) = (0, self.rung_of(guess_bytes));
        let (mut done, mut outcome) = loop {
            if rung >= last {
                break (last, at_most);
            }
            if let Some(outcome) = try_rung(rung, None)? {
                break (rung, outcome);
            }
            open = rung + 1;
            rung = rung.saturating_mul(2).max(open);
        };
        while open < done {
            let middle = open + (done - open) / 2;
            // Each attempt leaves at most half of the rungs, rounded down.
            let left = (done - open).ilog2();
            match try_rung(middle, Some(left))? {
                Some(better) => (done, outcome) = (middle, better),
                None => open = middle + 1,
            }
        }
        let too_small_bytes = done.checked_sub(1).map(|rung| self.budget_bytes(rung));
        Ok(Found { budget_bytes: self.budget_bytes(done), outcome, too_small_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;

    /// The answer and the budgets that were tried, if those that `does` says do.
    fn search(ladder: Ladder, guess_bytes: u64, does: impl Fn(u64) -> bool) -> (Found<u64>, Vec<u64>) {
        let (mut tried, mut left_before) = (Vec::new(), None);
        let found = ladder.search(guess_bytes, ladder.most_bytes, |Attempt { budget_bytes, left }| {
            assert!(!tried.contains(&budget_bytes), "{budget_bytes} again, after {tried:?}");
            assert!(left_before.is_none_or(|before| left < Some(before)), "{left:?} after {left_before:?}");
            tried.push(budget_bytes);
            left_before = left;
            Ok::<_, Infallible>(does(budget_bytes).then_some(budget_bytes))
        });
        let Ok(found) = found;
        (found, tried)
    }

    #[test]
    fn the_least_that_does_is_found_from_every_guess() {
        let ladder = Ladder::new(100, 10, 1000, 1);
        for enough in 0..=1000 {
            for guess in [0, 100, 300, 990, 995, 1000, u64::MAX] {
                let (found, tried) = search(ladder, guess, |bytes| bytes >= enough);
                let expected = enough.max(100).next_multiple_of(10);
                assert_eq!((found.budget_bytes, found.outcome), (expected, expected), "{enough}");
                assert_eq!(found.too_small_bytes, expected.checked_sub(10).filter(|&bytes| bytes >= 100));
                assert!(tried.len() <= 14, "{tried:?}");
            }
        }
    }

    #[test]
    fn where_more_does_not_always_do_the_neighbours_differ() {
        let ladder = Ladder::new(0, 1, 4095, 1);
        for seed in 0..200_u64 {
            let does = |bytes: u64| {
                let mixed = (bytes ^ seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                bytes == 4095 || (mixed >> 32) % 4096 < bytes
            };
            let (found, tried) = search(ladder, 2000, does);
            assert!(does(found.budget_bytes), "seed {seed}");
            assert_eq!(found.outcome, found.budget_bytes);
            assert!(found.budget_bytes == 4095 || tried.contains(&found.budget_bytes));
            if let Some(below) = found.too_small_bytes {
                assert!(!does(below) && tried.contains(&below), "seed {seed}");
            }
        }
    }

    #[test]
    fn budgets_are_whole_blocks_but_for_the_most() {
        let ladder = Ladder::new(1000, 3, 5000, 4096);
        assert_eq!((ladder.least_bytes, ladder.step_bytes(), ladder.rung_of(5000)), (4096, 4096, 1));
        let (found, tried) = search(ladder, 4096, |bytes| bytes > 4096);
        assert_eq!((found.budget_bytes, found.too_small_bytes), (5000, Some(4096)));
        assert_eq!(tried, [4096]);
        let (found, tried) = search(Ladder::new(1000, 3, 900, 4096), 900, |_| false);
        assert_eq!((found.budget_bytes, found.too_small_bytes, tried), (900, None, vec![]));
    }

    #[test]
    fn no_size_is_too_large() {
        let ladder = Ladder::new(u64::MAX - 10, u64::MAX, u64::MAX, 1 << 21);
        assert_eq!(search(ladder, u64::MAX, |_| true).0.budget_bytes, u64::MAX);
        let (found, _) = search(Ladder::new(1, 1, 1 << 62, 1), 7, |bytes| bytes >= 1 << 61);
        assert_eq!(found.budget_bytes, 1 << 61);
    }

    #[test]
    fn an_error_ends_it() {
        let ladder = Ladder::new(100, 10, 1000, 1);
        assert_eq!(ladder.search(500, (), |_| Err("broken")), Err("broken"));
    }
}
