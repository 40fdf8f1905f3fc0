//! How a thread passes its time while it waits for a word that a device writes.

use std::time::{Duration, Instant};

/// How long a wait looks without sleeping, while it offers the processor to others: who sleeps wakes some 60 us late, which is more than a
/// hundredth of so short a wait. (`cuStreamSynchronize` looks for as long as it takes, where there are processors enough.)
const SPIN: Duration = Duration::from_millis(5);
/// From then on it sleeps between looks, for this part of the time that it has waited, so that it comes later by no more than that.
const SLEEP_PART: u32 = 200;
const SLEEP_MIN: Duration = Duration::from_micros(20);
const SLEEP_MAX: Duration = Duration::from_micros(500);
/// How often the driver is asked whether the stream is well. Nothing else tells of a kernel that trapped.
const QUESTION_EVERY: Duration = Duration::from_millis(1);
/// Without sleep, how many looks there are for each time that the processor is offered to others.
const LOOKS_PER_YIELD: u32 = 16;

/// One wait's time. Before each new look, [`Pause::pass`] is called.
#[derive(Debug)]
pub(super) struct Pause {
    start: Instant,
    looks: u32,
    questions: u32,
}

impl Pause {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), looks: 0, questions: 0 }
    }

    /// How long the wait has taken.
    pub(super) fn waited(&self) -> Duration {
        self.start.elapsed()
    }

    /// Lets some time pass, at most `left`, after so long a wait.
    pub(super) fn pass(&mut self, waited: Duration, left: Duration) {
        self.looks = self.looks.wrapping_add(1);
        match sleep_after(waited) {
            Some(sleep) => std::thread::sleep(sleep.min(left)),
            None if self.looks.is_multiple_of(LOOKS_PER_YIELD) => std::thread::yield_now(),
            None => std::hint::spin_loop(),
        }
    }

    /// Whether it is time to ask the driver; the answer counts as having asked.
    pub(super) fn is_question_due(&mut self, waited: Duration) -> bool {
        let due = u32::try_from(waited.as_nanos() / QUESTION_EVERY.as_nanos()).unwrap_or(u32::MAX);
        let is_due = due > self.questions;
        self.questions = due;
        is_due
    }
}

/// How long to sleep, if at all, after so long a wait.
fn sleep_after(waited: Duration) -> Option<Duration> {
    (waited >= SPIN).then(|| (waited / SLEEP_PART).clamp(SLEEP_MIN, SLEEP_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_do_not_sleep_and_long_ones_come_little_later() {
        let micros = Duration::from_micros;
        assert_eq!(sleep_after(micros(4999)), None);
        assert_eq!(sleep_after(micros(5000)), Some(micros(25)));
        assert_eq!(sleep_after(micros(20_000)), Some(micros(100)));
        assert_eq!(sleep_after(Duration::from_secs(3600)), Some(micros(500)));
    }

    #[test]
    fn the_driver_is_asked_once_a_millisecond() {
        let mut pause = Pause::new();
        let at = [0, 900, 1000, 1001, 1999, 2400, 7000, 7100];
        let due = at.map(|micros| pause.is_question_due(Duration::from_micros(micros)));
        assert_eq!(due, [false, false, true, false, false, true, true, false]);
    }
}
