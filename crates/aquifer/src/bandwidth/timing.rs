//! Two ways to do the same, timed in turns.

use crate::Error;
use std::time::Duration;

/// A repetition takes at least about so long, or is the most that is done in a row.
const REPETITION: Duration = Duration::from_micros(20);
/// The most that is done in a row for one repetition.
const IN_A_ROW_MAX: u32 = 64;
/// How often a reference is tried to learn how it is best done.
const TRIES: usize = 4;
const REPETITIONS_MIN: usize = 3;
const REPETITIONS_MAX: usize = 1000;
/// What takes longer than this the first time is not tried again to learn how long it takes warm.
const TRIED_AGAIN: Duration = Duration::from_millis(5);

/// A transfer, and what it is measured against.
pub(super) trait Contest {
    /// Does the transfer once.
    fn transfer(&mut self) -> Result<(), Error>;
    /// Does the reference once.
    fn reference(&mut self) -> Result<(), Error>;
}

/// Medians.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Timing {
    pub(super) seconds: f64,
    pub(super) reference_seconds: f64,
    pub(super) repetitions: u64,
}

type Clock<'a> = dyn Fn() -> Duration + 'a;

/// One of the two, and its times.
struct Side<'a> {
    run: &'a dyn Fn(&mut dyn Contest) -> Result<(), Error>,
    in_a_row: u32,
    /// In seconds, of one.
    times: Vec<f64>,
}

impl<'a> Side<'a> {
    /// Runs it once, and once more if that is short.
    fn warm_up(
        run: &'a dyn Fn(&mut dyn Contest) -> Result<(), Error>,
        contest: &mut dyn Contest,
        clock: &Clock<'_>,
    ) -> Result<Self, Error> {
        let mut side = Self { run, in_a_row: 1, times: Vec::new() };
        let cold = side.time(contest, clock)?;
        if cold < TRIED_AGAIN {
            let warm = side.time(contest, clock)?.max(Duration::from_nanos(1));
            let in_a_row = REPETITION.as_nanos().div_ceil(warm.as_nanos());
            side.in_a_row = u32::try_from(in_a_row).unwrap_or(u32::MAX).clamp(1, IN_A_ROW_MAX);
        }
        Ok(side)
    }

    fn time(&self, contest: &mut dyn Contest, clock: &Clock<'_>) -> Result<Duration, Error> {
        let start = clock();
        for _ in 0..self.in_a_row {
            (self.run)(contest)?;
        }
        Ok(clock().saturating_sub(start))
    }

    fn repeat(&mut self, contest: &mut dyn Contest, clock: &Clock<'_>) -> Result<(), Error> {
        let time = self.time(contest, clock)?;
        self.times.push(time.as_secs_f64() / f64::from(self.in_a_row));
        Ok(())
    }
}

/// Times both in turns, for `span` in all, and answers the medians.
pub(super) fn compare(contest: &mut dyn Contest, clock: &Clock<'_>, span: Duration) -> Result<Timing, Error> {
    let mut sides = [
        Side::warm_up(&|contest| contest.transfer(), contest, clock)?,
        Side::warm_up(&|contest| contest.reference(), contest, clock)?,
    ];
    let start = clock();
    for repetition in 0..REPETITIONS_MAX {
        if repetition >= REPETITIONS_MIN && clock().saturating_sub(start) >= span {
            break;
        }
        // Each goes first as often, since what the other leaves in the caches may help or harm.
        for turn in 0..2 {
            sides[(repetition + turn) % 2].repeat(contest, clock)?;
        }
    }
    let repetitions = sides[0].times.len() as u64;
    let [seconds, reference_seconds] = sides.map(|side| median(side.times));
    Ok(Timing { seconds, reference_seconds, repetitions })
}

/// The least time of some references, done after one that counts for nothing.
pub(super) fn reference_time(contest: &mut dyn Contest, clock: &Clock<'_>) -> Result<Duration, Error> {
    contest.reference()?;
    let mut least = Duration::MAX;
    for _ in 0..TRIES {
        let start = clock();
        contest.reference()?;
        least = least.min(clock().saturating_sub(start));
    }
    Ok(least)
}

/// The value in the middle, or the mean of the two that are. There is at least one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// Takes the times that it is told, in microseconds, again and again.
    struct Script<'a> {
        now_us: &'a Cell<u64>,
        transfer_us: &'a [u64],
        reference_us: u64,
        calls: (usize, usize),
    }

    impl Contest for Script<'_> {
        fn transfer(&mut self) -> Result<(), Error> {
            let us = self.transfer_us[self.calls.0 % self.transfer_us.len()];
            self.now_us.set(self.now_us.get() + us);
            self.calls.0 += 1;
            Ok(())
        }

        fn reference(&mut self) -> Result<(), Error> {
            self.now_us.set(self.now_us.get() + self.reference_us);
            self.calls.1 += 1;
            Ok(())
        }
    }

    fn run(transfer_us: &[u64], reference_us: u64, span: Duration) -> (Timing, (usize, usize)) {
        let now_us = Cell::new(0);
        let mut script = Script { now_us: &now_us, transfer_us, reference_us, calls: (0, 0) };
        let timing = compare(&mut script, &|| Duration::from_micros(now_us.get()), span).unwrap();
        (timing, script.calls)
    }

    #[test]
    fn medians_are_of_what_came_after_warming_up() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        // The first is cold, the next three count.
        let (timing, calls) = run(&[9_000, 300, 100, 200], 400, Duration::ZERO);
        assert_eq!(timing, Timing { seconds: 200e-6, reference_seconds: 400e-6, repetitions: 3 });
        // The reference is short enough to be tried warm before.
        assert_eq!(calls, (4, 5));
    }

    #[test]
    fn repetitions_fill_the_time_and_no_more_than_a_thousand() {
        let (timing, _) = run(&[300], 700, Duration::from_millis(50));
        assert_eq!(timing.repetitions, 50);
        let (timing, _) = run(&[30], 70, Duration::from_secs(5));
        assert_eq!(timing.repetitions, 1000);
    }

    #[test]
    fn references_are_as_fast_as_at_best() {
        let now_us = Cell::new(0);
        let mut script = Script { now_us: &now_us, transfer_us: &[1], reference_us: 3, calls: (0, 0) };
        let time = reference_time(&mut script, &|| Duration::from_micros(now_us.get())).unwrap();
        assert_eq!((time, script.calls), (Duration::from_micros(3), (0, 1 + TRIES)));
    }

    #[test]
    fn what_is_short_is_done_several_times_in_a_row() {
        let (timing, calls) = run(&[7], 1, Duration::ZERO);
        assert_eq!((calls.0, calls.1), (2 + 3 * 3, 2 + 3 * 20));
        assert!((timing.seconds - 7e-6).abs() < 1e-12 && (timing.reference_seconds - 1e-6).abs() < 1e-12);
        // A clock that stands still ends all the same.
        let (_, calls) = run(&[0], 0, Duration::from_secs(1));
        assert_eq!(calls.0, 2 + 1000 * 64);
    }
}
