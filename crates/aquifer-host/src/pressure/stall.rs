//! How much of the last while was stalled, from counters that only rise.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time stalled: since the kernel began to count, or within a window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stalled {
    pub(super) some: Duration,
    pub(super) full: Duration,
}

impl Stalled {
    /// What a pressure file says in its `total` fields; `None` if it is garbled.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let total = |kind: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))?;
            let micros = line.split(' ').find_map(|field| field.strip_prefix("total="))?;
            Some(Duration::from_micros(micros.parse().ok()?))
        };
        Some(Self { some: total("some")?, full: total("full")? })
    }

    fn each(self, other: Self, f: impl Fn(Duration, Duration) -> Duration) -> Self {
        Self { some: f(self.some, other.some), full: f(self.full, other.full) }
    }

    fn minus(self, other: Self) -> Self {
        self.each(other, Duration::saturating_sub)
    }

    fn times(self, share: f64) -> Self {
        self.each(self, |time, _| time.mul_f64(share))
    }
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    total: Stalled,
}

/// The counters as they were in the last window.
#[derive(Debug, Clone)]
pub(super) struct StallWindow {
    window: Duration,
    /// From how much on somebody is woken.
    least: Duration,
    /// Rising, never empty; the first may be older than the window. At most some twenty: see `SAMPLES`.
    samples: VecDeque<Sample>,
}

/// Into how many parts the window is cut. What is read more often than that is used but not kept.
const SAMPLES: u32 = 16;

impl StallWindow {
    pub(super) fn new(window: Duration, least: Duration, now: Instant, total: Stalled) -> Self {
        Self { window, least, samples: VecDeque::from([Sample { at: now, total }]) }
    }

    /// How long it was stalled within the window that ends now, where `total` are the counters.
    ///
    /// Between two samples stalls are spread evenly. If nobody has looked for longer than the window, it is not known when the
    /// time between was stalled. Then the average is taken; but where enough has come together to wake somebody, at least so
    /// much is taken to have been now, as it was if it did.
    pub(super) fn add(&mut self, now: Instant, total: Stalled) -> Stalled {
        let Some(&last) = self.samples.back() else { return Stalled::default() };
        let gap = now.saturating_duration_since(last.at);
        if gap > self.window {
            let since = total.minus(last.total);
            let mut stalled = since.times(self.window.div_duration_f64(gap));
            stalled.some = stalled.some.max(since.some.min(self.least));
            self.samples = VecDeque::from([Sample { at: now, total: total.minus(stalled) }]);
            return stalled;
        }
        while self
            .samples
            .get(1)
            .is_some_and(|second| now.saturating_duration_since(second.at) >= self.window)
        {
            self.samples.pop_front();
        }
        let stalled = total.minus(self.total_when_it_began(Sample { at: now, total }));
        if gap >= self.window / SAMPLES {
            self.samples.push_back(Sample { at: now, total });
        }
        stalled
    }

    /// The counters one window before `now`; or the oldest that are known.
    fn total_when_it_began(&self, now: Sample) -> Stalled {
        let mut samples = self.samples.iter().copied().chain([now]);
        let (Some(first), Some(second)) = (samples.next(), samples.next()) else { return now.total };
        let before = now.at.saturating_duration_since(first.at).saturating_sub(self.window);
        let between = second.at.saturating_duration_since(first.at);
        if before.is_zero() || between.is_zero() {
            return first.total;
        }
        let grown = second.total.minus(first.total).times(before.div_duration_f64(between));
        first.total.each(grown, |first, grown| first + grown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(2);
    const LEAST: Duration = Duration::from_millis(100);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn stalled(some: u64, full: u64) -> Stalled {
        Stalled { some: ms(some), full: ms(full) }
    }

    /// Each read at so many milliseconds with such counters, and what it answers.
    fn check(reads: &[(u64, Stalled, Stalled)]) {
        let start = Instant::now();
        let mut window = StallWindow::new(WINDOW, LEAST, start, stalled(1000, 500));
        for (at, total, expected) in reads {
            let total = Stalled { some: total.some + ms(1000), full: total.full + ms(500) };
            assert_eq!(window.add(start + ms(*at), total), *expected, "at {at} ms");
            assert!(window.samples.len() <= SAMPLES as usize + 2);
        }
    }

    #[test]
    fn files_are_read_and_garbled_ones_told() {
        let text = "some avg10=0.00 avg60=1.00 avg300=0.00 total=9874949\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let expected = Stalled { some: Duration::from_micros(9_874_949), full: Duration::from_micros(7) };
        assert_eq!(Stalled::parse(text), Some(expected));
        for garbled in [
            "",
            "some total=1\n",
            "full total=1\n",
            "some avg10=0.00\nfull total=1",
            "some total=\nfull total=1",
            "some total=-1\nfull total=1",
            "some total=x\nfull total=1",
            "some total=99999999999999999999\nfull total=1",
            "sometotal=1\nfulltotal=1",
        ] {
            assert_eq!(Stalled::parse(garbled), None, "{garbled:?}");
        }
        // The largest number is no trap either.
        let start = Instant::now();
        let most =
            Stalled::parse("some total=18446744073709551615\nfull total=18446744073709551615").unwrap();
        let mut window = StallWindow::new(WINDOW, LEAST, start, Stalled::default());
        window.add(start, most);
        window.add(start + WINDOW * 1000, most);
        window.add(start + WINDOW * 1001, most);
    }

    #[test]
    fn it_counts_what_was_within_the_window_and_forgets_it() {
        check(&[
            (500, stalled(50, 0), stalled(50, 0)),
            (1000, stalled(250, 100), stalled(250, 100)),
            (2000, stalled(250, 100), stalled(250, 100)),
            // Now the window begins in the middle of the first half second.
            (2250, stalled(250, 100), stalled(225, 100)),
            (2500, stalled(250, 100), stalled(200, 100)),
            (2750, stalled(250, 100), stalled(100, 50)),
            (3000, stalled(250, 100), stalled(0, 0)),
        ]);
    }

    #[test]
    fn after_long_sleep_what_woke_counts_and_no_more() {
        check(&[
            // A minute at half a percent, which woke nobody, and a tenth of a second that did, or may have.
            (60_000, stalled(400, 390), Stalled { some: LEAST, full: ms(13) }),
            // It goes after one window, and what comes is added.
            (60_500, stalled(600, 590), Stalled { some: ms(300), full: ms(213) }),
            (62_000, stalled(600, 590), Stalled { some: ms(300), full: ms(213) }),
            (62_500, stalled(600, 590), stalled(0, 0)),
            // Too little to wake anybody.
            (120_000, stalled(640, 590), Stalled { some: ms(40), full: ms(0) }),
        ]);
    }

    #[test]
    fn reading_too_often_and_counters_that_fall_change_nothing() {
        let start = Instant::now();
        let mut window = StallWindow::new(WINDOW, LEAST, start, stalled(0, 0));
        for at in 0..20_000 {
            let found = window.add(start + ms(at), stalled(at / 10, 0));
            assert!(window.samples.len() <= SAMPLES as usize + 2);
            let expected = at.min(2000) / 10;
            assert!(found.some.abs_diff(ms(expected)) <= ms(2), "{found:?} at {at} ms");
        }
        assert_eq!(window.add(start + ms(20_000), stalled(0, 0)), stalled(0, 0));
        assert_eq!(window.add(start + ms(60_000), stalled(0, 0)), stalled(0, 0));
    }
}
