//! One source as the monitor has it: when it is read, and how it is doing.

use super::heaps::Heaps;
use crate::clock::whole_ms;
use crate::pressure::{PressureConfig, SourceState, SourceStatistics, Tracker};
use aquifer_backend::{
    Error, ErrorKind, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One source, and what is known of it.
pub(super) struct Watched {
    pub(super) source: Box<dyn PressureSource>,
    /// What it is about.
    pub(super) heaps: Heaps,
    pub(super) name: Arc<str>,
    pub(super) tracker: Tracker,
    /// The level that has been responded to.
    pub(super) answered: PressureLevel,
    pub(super) reading: Option<PressureReading>,
    pub(super) state: SourceState,
    /// What it was told to have failed with; `None` once it has been read again.
    pub(super) failure: Option<SourceState>,
    /// Since it was last looked whether it has failed.
    has_wake_panicked: Cell<bool>,
    /// Set by the source's notifier, or when news came too soon after the last reading.
    pub(super) has_news: Arc<AtomicBool>,
    pub(super) read_at_ms: Option<u64>,
    pub(super) retry_at_ms: u64,
}

impl Watched {
    pub(super) fn new(heaps: Heaps, source: Box<dyn PressureSource>) -> Self {
        let name = guarded(|| Ok(source.name())).unwrap_or_else(|_| "a source without a name".into());
        Self {
            source,
            heaps,
            name: name.into(),
            tracker: Tracker::default(),
            answered: PressureLevel::Normal,
            reading: None,
            state: SourceState::Failed("not started".into()),
            failure: None,
            has_wake_panicked: Cell::new(false),
            has_news: Arc::new(AtomicBool::new(false)),
            read_at_ms: None,
            retry_at_ms: 0,
        }
    }

    pub(super) fn statistics(&self) -> SourceStatistics {
        SourceStatistics {
            name: Arc::clone(&self.name),
            state: self.state.clone(),
            reading: self.reading,
            level: self.tracker.level(),
            reading_count: 0,
            wake_count: 0,
            event_counts: [0; 5],
        }
    }

    pub(super) fn is_working(&self) -> bool {
        matches!(self.state, SourceState::Listening | SourceState::Polled(_))
    }

    /// Asks the source how its news come. Should it panic, it is to be looked at soon.
    fn ask_wake(&self) -> PressureWake<'_> {
        guarded(|| Ok(self.source.wake())).unwrap_or_else(|_| {
            self.has_wake_panicked.set(true);
            PressureWake::Notifies
        })
    }

    /// # Errors
    ///
    /// It has panicked when it was asked how its news come; told once.
    pub(super) fn check_wake(&self) -> Result<(), Error> {
        if self.has_wake_panicked.take() { Err(panicked()) } else { Ok(()) }
    }

    /// How often it must be read now, if nobody tells.
    fn interval(&self) -> Option<Duration> {
        match self.ask_wake() {
            PressureWake::Interval(interval) => Some(interval),
            _ => None,
        }
    }

    pub(super) fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        guarded(|| self.source.start(notifier))?;
        self.state = self.interval().map_or(SourceState::Listening, SourceState::Polled);
        self.check_wake()?;
        self.has_news.store(true, Ordering::Release);
        Ok(())
    }

    pub(super) fn read(&mut self, config: &PressureConfig, now_ms: u64) -> Result<(), Error> {
        self.read_at_ms = Some(now_ms);
        let reading = guarded(|| self.source.read())?;
        self.reading = Some(reading);
        self.tracker.update(config, now_ms, reading);
        Ok(())
    }

    /// Before this it is not read again, whatever news it has.
    fn rests_until_ms(&self, config: &PressureConfig) -> u64 {
        self.read_at_ms.map_or(0, |at_ms| at_ms.saturating_add(whole_ms(config.debounce)))
    }

    /// Whether it is to be read. News that come too soon are kept for later.
    pub(super) fn take_due(
        &self,
        config: &PressureConfig,
        has_news: bool,
        is_short: bool,
        now_ms: u64,
    ) -> bool {
        let passed_ms = self.read_at_ms.map_or(u64::MAX, |at_ms| now_ms.saturating_sub(at_ms));
        let has_elapsed = |time: Duration| passed_ms >= whole_ms(time);
        let is_rested = has_elapsed(config.debounce);
        if has_news | self.has_news.swap(false, Ordering::AcqRel) {
            if !is_rested {
                // Never cleared here: news that have come since are others, which the next reading might miss.
                self.has_news.store(true, Ordering::Release);
            }
            return is_rested;
        }
        is_rested && ((is_short && has_elapsed(config.tick)) || self.interval().is_some_and(has_elapsed))
    }

    /// What the kernel is to wait for, and until when at most.
    pub(super) fn wake(&self, config: &PressureConfig, now_ms: u64) -> (PressureWake<'_>, Option<u64>) {
        if !self.is_working() {
            let retry_at_ms = matches!(self.state, SourceState::Failed(_)).then_some(self.retry_at_ms);
            return (PressureWake::Notifies, retry_at_ms);
        }
        let rests_until_ms = self.rests_until_ms(config);
        if rests_until_ms > now_ms {
            // One that floods is not listened to until its rest is over.
            return (PressureWake::Notifies, Some(rests_until_ms));
        }
        if self.has_news.load(Ordering::Acquire) {
            return (PressureWake::Notifies, Some(now_ms));
        }
        let wake = self.ask_wake();
        let until_ms = match wake {
            _ if self.has_wake_panicked.get() => Some(now_ms),
            PressureWake::Interval(interval) => {
                let last_ms = self.read_at_ms.unwrap_or(0);
                Some(last_ms.saturating_add(whole_ms(interval)))
            }
            _ => None,
        };
        (wake, until_ms)
    }
}

/// Calls a source, which may be the user's. Its panic is an error like others.
fn guarded<R>(code: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    crate::calls::call("a pressure source", code).unwrap_or_else(|| Err(panicked()))
}

fn panicked() -> Error {
    Error::new(ErrorKind::Driver, "pressure", "the source panicked")
}
