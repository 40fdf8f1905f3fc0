//! What a monitor counts.

use super::event::{PressureDetail, PressureEvent};
use aquifer_backend::{PressureLevel, PressureReading};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// How many events are remembered.
const HISTORY_MAX: usize = 64;
/// Upper bounds of the times to resolution, in milliseconds; what takes longer is counted last.
const RESOLUTION_BOUNDS_MS: [u64; 9] = [10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000];

/// How a source is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum SourceState {
    /// It wakes the monitor when it has news.
    Listening,
    /// It is read at this interval.
    Polled(Duration),
    /// It does not work now, and is tried again some seconds later.
    Failed(String),
    /// This system does not have it, or does not let this process use it.
    Absent(String),
}

/// One source.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceStatistics {
    /// Its name.
    pub name: Arc<str>,
    /// Whether it works, and how its news come.
    pub state: SourceState,
    /// What it said last.
    pub reading: Option<PressureReading>,
    /// Its level, as its readings so far make it.
    pub level: PressureLevel,
    /// How often it was read.
    pub reading_count: u64,
    /// How often it had news by itself.
    pub wake_count: u64,
    /// How often the manager's level rose to each level, or was kept there, because of it; lowest first.
    pub event_counts: [u64; 5],
}

/// What has been counted of a manager's pressure, since its monitor was started. All zero if there never was one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PressureStatistics {
    /// Whether there is a monitor now.
    pub is_monitored: bool,
    /// The level now.
    pub level: PressureLevel,
    /// How often it rose.
    pub rise_count: u64,
    /// How often it fell.
    pub fall_count: u64,
    /// For how long it was at each level so far, lowest first.
    pub time_at: [Duration; 5],
    /// What responses were asked for, in bytes, where a source said so,
    pub asked_bytes: u64,
    /// what they released to the driver, as the manager counts it,
    pub released_bytes: u64,
    /// and what came back as the system or the driver counts it.
    pub given_back_bytes: u64,
    /// What decayed: was released because it had been idle for long.
    pub decayed_bytes: u64,
    /// How often it took so long until memory was no longer short: each a bound in milliseconds, and how many times were below it and not
    /// below the one before; the last bound is `u64::MAX`.
    pub resolution_counts: Vec<(u64, u64)>,
    /// Requests that were refused because of their priority,
    pub refused_count: u64,
    /// and those that had to wait.
    pub queued_count: u64,
    /// How often a listener panicked.
    pub listener_panic_count: u64,
    /// All sources, those that do not work too.
    pub sources: Vec<SourceStatistics>,
    /// The last events, 64 at most, oldest first.
    pub history: Vec<PressureEvent>,
}

/// The same while it is being counted.
#[derive(Debug, Default)]
pub(crate) struct PressureBook {
    pub(crate) is_monitored: bool,
    level: PressureLevel,
    level_since_ms: u64,
    short_since_ms: Option<u64>,
    rises: u64,
    falls: u64,
    time_at_ms: [u64; 5],
    asked_bytes: u64,
    released_bytes: u64,
    given_back_bytes: u64,
    pub(crate) decayed_bytes: u64,
    resolutions: [u64; RESOLUTION_BOUNDS_MS.len() + 1],
    pub(crate) sources: Vec<SourceStatistics>,
    history: VecDeque<PressureEvent>,
    events: u64,
}

impl PressureBook {
    /// Begins anew.
    pub(crate) fn begin(&mut self, now_ms: u64, sources: Vec<SourceStatistics>) {
        *self = Self { is_monitored: true, level_since_ms: now_ms, sources, ..Self::default() };
    }

    /// The monitor has gone: nobody knows the level any more.
    pub(crate) fn end(&mut self, now_ms: u64) {
        self.set_level(now_ms, PressureLevel::Normal);
        self.is_monitored = false;
    }

    pub(crate) fn level(&self) -> PressureLevel {
        self.level
    }

    /// Sets the level. Answers how long memory was short, if it is no longer.
    pub(crate) fn set_level(&mut self, now_ms: u64, level: PressureLevel) -> Option<Duration> {
        self.time_at_ms[self.level as usize] += now_ms.saturating_sub(self.level_since_ms);
        self.level_since_ms = now_ms;
        let before = std::mem::replace(&mut self.level, level);
        self.rises += u64::from(level > before);
        self.falls += u64::from(level < before);
        match level {
            PressureLevel::Normal => {
                let took_ms = now_ms.saturating_sub(self.short_since_ms.take()?);
                let slot = RESOLUTION_BOUNDS_MS.partition_point(|&bound| bound <= took_ms);
                self.resolutions[slot] += 1;
                Some(Duration::from_millis(took_ms))
            }
            _ => {
                self.short_since_ms.get_or_insert(now_ms);
                None
            }
        }
    }

    /// Writes an event down that is about the source in this place, and numbers it.
    pub(crate) fn record(&mut self, at: Duration, place: usize, detail: PressureDetail) -> PressureEvent {
        let source = Arc::clone(&self.sources[place].name);
        let event = PressureEvent { number: self.events, at, source, detail };
        self.events += 1;
        if let PressureDetail::Rose { to: level, given_back, .. }
        | PressureDetail::Lasted { level, given_back, .. } = &event.detail
        {
            // A source may say what it likes.
            self.asked_bytes = self.asked_bytes.saturating_add(given_back.asked_bytes.unwrap_or(0));
            self.released_bytes = self.released_bytes.saturating_add(given_back.released_bytes());
            self.given_back_bytes = self.given_back_bytes.saturating_add(given_back.bytes());
            self.sources[place].event_counts[*level as usize] += 1;
        }
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(event.clone());
        event
    }

    pub(crate) fn statistics(&self, now_ms: u64) -> PressureStatistics {
        let mut time_at_ms = self.time_at_ms;
        if self.is_monitored {
            time_at_ms[self.level as usize] += now_ms.saturating_sub(self.level_since_ms);
        }
        let bounds = RESOLUTION_BOUNDS_MS.into_iter().chain([u64::MAX]);
        let has_counted = self.is_monitored || self.events > 0 || time_at_ms != [0; 5];
        PressureStatistics {
            is_monitored: self.is_monitored,
            level: self.level,
            rise_count: self.rises,
            fall_count: self.falls,
            time_at: time_at_ms.map(Duration::from_millis),
            asked_bytes: self.asked_bytes,
            released_bytes: self.released_bytes,
            given_back_bytes: self.given_back_bytes,
            decayed_bytes: self.decayed_bytes,
            resolution_counts: if has_counted { bounds.zip(self.resolutions).collect() } else { Vec::new() },
            sources: self.sources.clone(),
            history: self.history.iter().cloned().collect(),
            ..PressureStatistics::default()
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn times_and_levels_are_counted() {
        let mut book = PressureBook::default();
        assert_eq!(book.statistics(5), PressureStatistics::default());
        book.begin(1000, Vec::new());
        assert_eq!(book.set_level(1500, PressureLevel::Warning), None);
        assert_eq!(book.set_level(1600, PressureLevel::Emergency), None);
        assert_eq!(book.set_level(1700, PressureLevel::Moderate), None);
        assert_eq!(book.set_level(1900, PressureLevel::Normal), Some(Duration::from_millis(400)));
        let statistics = book.statistics(2000);
        assert_eq!(statistics.time_at.map(|time| time.as_millis()), [600, 200, 100, 0, 100]);
        assert_eq!((statistics.rise_count, statistics.fall_count), (2, 2));
        let resolved: Vec<_> =
            statistics.resolution_counts.into_iter().filter(|&(_, count)| count > 0).collect();
        assert_eq!(resolved, [(1000, 1)]);
    }

    #[test]
    fn the_history_is_bounded() {
        let mut book = PressureBook::default();
        let source = SourceStatistics {
            name: "a source".into(),
            state: SourceState::Listening,
            reading: None,
            level: PressureLevel::Normal,
            reading_count: 0,
            wake_count: 0,
            event_counts: [0; 5],
        };
        book.begin(0, vec![source]);
        for _ in 0..100 {
            book.record(Duration::ZERO, 0, PressureDetail::SourceWorks);
        }
        let history = book.statistics(0).history;
        assert_eq!((history.len(), history[0].number), (64, 36));
    }
}
