//! What the monitor does each time it wakes: reads what is due, follows the levels, responds.

use super::decay::Quiet;
use super::escalation::REPEAT_MS;
use super::heaps::Heaps;
use super::watched::Watched;
use crate::clock::{Clock, whole_ms};
use crate::pressure::{Admission, Alarm, PressureConfig, PressureDetail, PressureEvent, SourceState};
use crate::raw::allocation::Keeper;
use aquifer_backend::{Backend, Error, ErrorKind, PressureLevel, PressureNotifier, PressureSource};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a source that has failed rests before it is started again, in milliseconds.
const RETRY_MS: u64 = 5_000;

/// A manager's monitor without its thread.
pub(super) struct Monitor<B: Backend> {
    pub(super) keeper: Keeper<B>,
    pub(super) config: PressureConfig,
    pub(super) watched: Vec<Watched>,
    pub(super) quiet: Vec<Quiet>,
    pub(super) decay_at_ms: u64,
    pub(super) repeat_at_ms: u64,
    pub(super) repeat_ms: u64,
    /// The source because of which the level is what it is.
    pub(super) top: usize,
    /// What the gate is set to.
    pub(super) gate_level: PressureLevel,
    events: Vec<PressureEvent>,
}

impl<B: Backend> Monitor<B> {
    /// Starts all sources.
    pub(super) fn new(
        keeper: Keeper<B>,
        sources: Vec<(Heaps, Box<dyn PressureSource>)>,
        alarm: &Arc<Alarm>,
    ) -> Self {
        let config = keeper.config.pressure.clone();
        let now_ms = keeper.config.clock.now_ms();
        let pools = keeper.pools.len();
        let watched = sources.into_iter().map(|(heaps, source)| Watched::new(heaps, source)).collect();
        let mut monitor = Self {
            keeper,
            config,
            watched,
            quiet: vec![Quiet::since(now_ms); pools],
            decay_at_ms: now_ms,
            repeat_at_ms: 0,
            repeat_ms: REPEAT_MS,
            top: 0,
            gate_level: PressureLevel::Normal,
            events: Vec::new(),
        };
        let entries = monitor.watched.iter().map(Watched::statistics).collect();
        monitor.keeper.pressure.book().begin(now_ms, entries);
        for place in 0..monitor.watched.len() {
            monitor.start(place, alarm, now_ms);
        }
        monitor.set_gate(PressureLevel::Normal);
        monitor
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.keeper.config.clock
    }

    fn start(&mut self, place: usize, alarm: &Arc<Alarm>, now_ms: u64) {
        let watched = &mut self.watched[place];
        let (has_news, alarm) = (Arc::clone(&watched.has_news), Arc::clone(alarm));
        let notifier = PressureNotifier::new(move || {
            has_news.store(true, Ordering::Release);
            alarm.ring();
        });
        // Whether it works shows when it is read.
        match watched.start(&notifier) {
            Ok(()) => self.update_entry(place),
            Err(error) => self.fail(place, &error, now_ms),
        }
    }

    fn fail(&mut self, place: usize, error: &Error, now_ms: u64) {
        let watched = &mut self.watched[place];
        // One that has worked may come back, as when the limit of a control group is lifted for a while.
        let is_absent = error.kind() == ErrorKind::Unsupported && watched.read_at_ms.is_none();
        let message = error.to_string();
        let state = if is_absent {
            SourceState::Absent(message.clone())
        } else {
            SourceState::Failed(message.clone())
        };
        let is_news = watched.failure.replace(state.clone()).as_ref() != Some(&state);
        watched.state = state;
        watched.retry_at_ms = now_ms.saturating_add(RETRY_MS);
        watched.tracker.forget();
        watched.reading = None;
        if is_news {
            self.record(place, PressureDetail::SourceFailed { is_absent, message });
        }
        self.update_entry(place);
    }

    fn update_entry(&self, place: usize) {
        let watched = &self.watched[place];
        let mut book = self.keeper.pressure.book();
        let entry = &mut book.sources[place];
        entry.state = watched.state.clone();
        entry.reading = watched.reading;
        entry.level = watched.tracker.level();
    }

    pub(super) fn record(&mut self, place: usize, detail: PressureDetail) {
        let at = self.clock().now();
        let event = self.keeper.pressure.book().record(at, place, detail);
        self.events.push(event);
    }

    /// Sleeps until there is something to do. Answers which sources have news.
    pub(super) fn sleep(&mut self, alarm: &Alarm) -> Vec<bool> {
        let now_ms = self.clock().now_ms();
        let (wakes, times): (Vec<_>, Vec<_>) =
            self.watched.iter().map(|watched| watched.wake(&self.config, now_ms)).unzip();
        let is_gated = self.keeper.observers.are_gated();
        let is_short = self.level() > PressureLevel::Normal || self.could_rise() || is_gated;
        // Time is counted in whole milliseconds, and none of them would be no sleep.
        let tick_ms = now_ms.saturating_add(whole_ms(self.config.tick).max(1));
        let is_held = self.keeper.reserved_bytes() > 0;
        let own = [
            is_short.then_some(tick_ms),
            (is_held && self.keep_up_ms().is_some()).then_some(self.decay_at_ms),
        ];
        let until_ms = times.into_iter().chain(own).flatten().min();
        let timeout = until_ms.map(|until_ms| Duration::from_millis(until_ms.saturating_sub(now_ms)));
        alarm.sleep(&wakes, timeout)
    }

    pub(super) fn level(&self) -> PressureLevel {
        self.keeper.pressure.level()
    }

    /// Whether so much is reserved that live bytes alone may reach a threshold, of which nobody would tell. From less the monitor is told
    /// when more is reserved.
    fn could_rise(&self) -> bool {
        let ledgers = self.keeper.ledgers.iter().enumerate();
        let could_rise = ledgers.map(|(heap_index, ledger)| {
            let growth = &self.keeper.pressure.growth;
            let threshold_bytes = (self.config.thresholds[0] * ledger.budget_bytes() as f64) as u64;
            // At the threshold the level begins.
            let below_bytes = threshold_bytes.saturating_sub(1);
            // What begins to be reserved is to decay again.
            growth.ring_above(heap_index, if self.keep_up_ms().is_some() { 0 } else { below_bytes });
            if ledger.reserved_bytes() > 0 {
                growth.ring_above(heap_index, below_bytes);
            }
            ledger.reserved_bytes() >= threshold_bytes
        });
        // All of them are told.
        could_rise.fold(false, |any, one| any | one)
    }

    /// Reads what is due, and responds. Answers what has happened.
    pub(super) fn round(&mut self, news: &[bool], alarm: &Arc<Alarm>) -> Vec<PressureEvent> {
        if self.keeper.is_forked() {
            return Vec::new();
        }
        let now_ms = self.clock().now_ms();
        let is_short = self.level() > PressureLevel::Normal || self.could_rise();
        for place in 0..self.watched.len() {
            self.look_at(place, news.get(place).copied().unwrap_or(false), is_short, alarm, now_ms);
        }
        self.follow_level(now_ms);
        if self.keeper.observers.are_gated() {
            // Those who wait look whether their time is over.
            self.keeper.pressure.gate.wake_waiting();
        }
        self.keep_up(now_ms);
        std::mem::take(&mut self.events)
    }

    /// Reads one source, if it is due.
    fn look_at(&mut self, place: usize, is_woken: bool, is_short: bool, alarm: &Arc<Alarm>, now_ms: u64) {
        let watched = &self.watched[place];
        if matches!(watched.state, SourceState::Failed(_)) && watched.retry_at_ms <= now_ms {
            self.start(place, alarm, now_ms);
        }
        let watched = &self.watched[place];
        let is_due = watched.is_working() && watched.take_due(&self.config, is_woken, is_short, now_ms);
        if let Err(error) = watched.check_wake() {
            self.fail(place, &error, now_ms);
        } else if is_due {
            self.keeper.pressure.book().sources[place].wake_count += u64::from(is_woken);
            self.read(place, now_ms);
        }
    }

    pub(super) fn read(&mut self, place: usize, now_ms: u64) {
        match self.watched[place].read(&self.config, now_ms) {
            Ok(()) => {
                self.keeper.pressure.book().sources[place].reading_count += 1;
                self.update_entry(place);
                if self.watched[place].failure.take().is_some() {
                    self.record(place, PressureDetail::SourceWorks);
                }
            }
            Err(error) => self.fail(place, &error, now_ms),
        }
    }
}

impl<B: Backend> Drop for Monitor<B> {
    fn drop(&mut self) {
        let pressure = &self.keeper.pressure;
        pressure.growth.clear();
        pressure.gate.set_keeper(false);
        pressure.gate.set(&self.keeper.observers, [Admission::Accept; 3]);
        pressure.book().end(self.clock().now_ms());
        pressure.release_monitor();
    }
}
