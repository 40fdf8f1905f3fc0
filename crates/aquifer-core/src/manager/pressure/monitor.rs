//! What the monitor does each time it wakes: reads what is due, follows the levels, responds.

use super::respond::Held;
use crate::clock::Clock;
use crate::pressure::{
    Admission, Alarm, GivenBack, PressureConfig, PressureDetail, PressureEvent, SourceState,
    SourceStatistics, Tracker,
};
use crate::raw::allocation::Keeper;
use aquifer_backend::{
    Backend, Error, ErrorKind, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// How long a source that has failed rests before it is started again, in milliseconds.
const RETRY_MS: u64 = 5_000;
/// How long the monitor waits before it responds again to a level that lasts; twice as long each time, up to a limit.
const REPEAT_MS: u64 = 1_000;
const REPEAT_MS_MAX: u64 = 60_000;
/// Where a source tells a level and no bytes: the share of reserved bytes that must have come back for the level to be looked at anew
/// before the user's memory is asked for.
const SUBSTANTIAL_SHARE: u64 = 8;

/// One source, and what is known of it.
struct Watched {
    heap_index: usize,
    source: Box<dyn PressureSource>,
    name: Arc<str>,
    tracker: Tracker,
    reading: Option<PressureReading>,
    state: SourceState,
    has_failed: bool,
    /// Set by the source's notifier, or when a wake came too soon after the last reading.
    has_news: Arc<AtomicBool>,
    read_at_ms: Option<u64>,
    retry_at_ms: u64,
}

impl Watched {
    fn is_working(&self) -> bool {
        matches!(self.state, SourceState::Listening | SourceState::Polled(_))
    }

    fn next_reading_ms(&self, config: &PressureConfig) -> u64 {
        self.read_at_ms.map_or(0, |at_ms| at_ms.saturating_add(config.debounce.as_millis() as u64))
    }
}

/// How long a pool has not been used.
#[derive(Debug, Default, Clone, Copy)]
struct Quiet {
    request_count: u64,
    since_ms: u64,
    is_flushed: bool,
    has_no_holes: bool,
}

/// A manager's monitor without its thread.
pub(super) struct Monitor<B: Backend> {
    keeper: Keeper<B>,
    config: PressureConfig,
    watched: Vec<Watched>,
    quiet: Vec<Quiet>,
    decay_at_ms: u64,
    repeat_at_ms: u64,
    repeat_ms: u64,
    /// The source because of which the level is what it is.
    top: usize,
    /// What the gate is set to.
    gate_level: PressureLevel,
    events: Vec<PressureEvent>,
}

impl<B: Backend> Monitor<B> {
    /// Starts all sources.
    pub(super) fn new(
        keeper: Keeper<B>,
        sources: Vec<(usize, Box<dyn PressureSource>)>,
        alarm: &Arc<Alarm>,
    ) -> Self {
        let config = keeper.config.pressure.clone();
        let now_ms = keeper.config.clock.now_ms();
        let pools = keeper.pools.len();
        let watched = sources.into_iter().map(|(heap_index, source)| watch(heap_index, source)).collect();
        let mut monitor = Self {
            keeper,
            config,
            watched,
            quiet: vec![Quiet { since_ms: now_ms, ..Quiet::default() }; pools],
            decay_at_ms: now_ms,
            repeat_at_ms: 0,
            repeat_ms: REPEAT_MS,
            top: 0,
            gate_level: PressureLevel::Normal,
            events: Vec::new(),
        };
        let entries = monitor.watched.iter().map(entry).collect();
        monitor.keeper.pressure.book().begin(now_ms, entries);
        for place in 0..monitor.watched.len() {
            monitor.start(place, alarm, now_ms);
        }
        monitor
    }

    fn clock(&self) -> &Clock {
        &self.keeper.config.clock
    }

    fn start(&mut self, place: usize, alarm: &Arc<Alarm>, now_ms: u64) {
        let watched = &mut self.watched[place];
        let (has_news, alarm) = (Arc::clone(&watched.has_news), Arc::clone(alarm));
        let notifier = PressureNotifier::new(move || {
            has_news.store(true, Ordering::Release);
            alarm.ring();
        });
        let was_failed = watched.has_failed;
        let started = guarded("a pressure source", || watched.source.start(&notifier));
        match started {
            Ok(()) => {
                watched.state = match watched.source.wake() {
                    PressureWake::Interval(interval) => SourceState::Polled(interval),
                    _ => SourceState::Listening,
                };
                watched.has_news.store(true, Ordering::Release);
                watched.has_failed = false;
                if was_failed {
                    self.record(place, PressureDetail::SourceWorks);
                }
            }
            Err(error) => self.fail(place, &error, now_ms),
        }
        self.update_entry(place);
    }

    fn fail(&mut self, place: usize, error: &Error, now_ms: u64) {
        let watched = &mut self.watched[place];
        let is_absent = error.kind() == ErrorKind::Unsupported;
        let message = error.to_string();
        let state = if is_absent {
            SourceState::Absent(message.clone())
        } else {
            SourceState::Failed(message.clone())
        };
        let is_news = watched.state != state;
        watched.state = state;
        watched.has_failed = true;
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

    fn record(&mut self, place: usize, detail: PressureDetail) {
        let at = self.clock().now();
        let event = self.keeper.pressure.book().record(at, &self.watched[place].name, detail);
        self.events.push(event);
    }

    /// Sleeps until there is something to do. Answers which sources have news.
    pub(super) fn sleep(&mut self, alarm: &Alarm) -> Vec<bool> {
        let now_ms = self.clock().now_ms();
        let mut until_ms = self.next_ms(now_ms);
        let mut wakes = Vec::with_capacity(self.watched.len());
        for watched in &self.watched {
            let next_ms = watched.next_reading_ms(&self.config);
            let is_resting = next_ms > now_ms;
            if is_resting && watched.has_news.load(Ordering::Acquire) {
                until_ms = Some(until_ms.map_or(next_ms, |until_ms| until_ms.min(next_ms)));
            }
            // One that floods is not listened to until its rest is over.
            wakes.push(match watched.is_working() && !is_resting {
                true => watched.source.wake(),
                false => PressureWake::Notifies,
            });
            if watched.is_working() && is_resting {
                until_ms = Some(until_ms.map_or(next_ms, |until_ms| until_ms.min(next_ms)));
            }
        }
        let timeout = until_ms.map(|until_ms| Duration::from_millis(until_ms.saturating_sub(now_ms)));
        alarm.sleep(&wakes, timeout)
    }

    /// When there is something to do without any news; `None`: never.
    fn next_ms(&self, now_ms: u64) -> Option<u64> {
        let after = |time: Duration| now_ms.saturating_add(time.as_millis() as u64);
        let mut times = Vec::new();
        for watched in &self.watched {
            match (&watched.state, watched.read_at_ms) {
                (SourceState::Polled(interval), Some(at_ms)) => {
                    times.push(at_ms.saturating_add(interval.as_millis() as u64));
                }
                (SourceState::Polled(_), None) => times.push(now_ms),
                (SourceState::Failed(_), _) => times.push(watched.retry_at_ms),
                _ => {}
            }
            if watched.has_news.load(Ordering::Acquire) && watched.is_working() {
                times.push(watched.next_reading_ms(&self.config).max(now_ms));
            }
        }
        if self.level() > PressureLevel::Normal || self.could_rise() {
            times.push(after(self.config.tick));
        }
        if self.decay_ms().is_some() && self.keeper.ledgers.iter().any(|ledger| ledger.reserved_bytes() > 0) {
            times.push(self.decay_at_ms);
        }
        times.into_iter().min().map(|at_ms| at_ms.max(now_ms))
    }

    fn level(&self) -> PressureLevel {
        self.keeper.pressure.level()
    }

    /// Whether so much is reserved that live bytes alone may reach a threshold, of which nobody would tell. From less the monitor is told
    /// when more is reserved.
    fn could_rise(&self) -> bool {
        let is_decaying = self.decay_ms().is_some();
        let mut could_rise = false;
        for (heap_index, ledger) in self.keeper.ledgers.iter().enumerate() {
            let threshold_bytes = (self.config.thresholds[0] * ledger.budget_bytes() as f64) as u64;
            let reserved_bytes = ledger.reserved_bytes();
            could_rise |= reserved_bytes >= threshold_bytes;
            // What begins to be reserved is to decay again.
            let above_bytes = if is_decaying && reserved_bytes == 0 { 0 } else { threshold_bytes };
            self.keeper.pressure.growth.ring_above(heap_index, above_bytes);
        }
        could_rise
    }

    fn decay_ms(&self) -> Option<u64> {
        self.keeper.decay(self.config.response(self.level())).map(|decay| decay.as_millis() as u64)
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
        self.keep_up(now_ms);
        std::mem::take(&mut self.events)
    }

    /// Reads one source, if it is due.
    fn look_at(&mut self, place: usize, is_woken: bool, is_short: bool, alarm: &Arc<Alarm>, now_ms: u64) {
        let watched = &mut self.watched[place];
        if !watched.is_working() {
            if matches!(watched.state, SourceState::Failed(_)) && watched.retry_at_ms <= now_ms {
                self.start(place, alarm, now_ms);
            }
            if !self.watched[place].is_working() {
                return;
            }
        }
        let watched = &mut self.watched[place];
        let has_news = is_woken | watched.has_news.swap(false, Ordering::AcqRel);
        let passed_ms = watched.read_at_ms.map_or(u64::MAX, |at_ms| now_ms.saturating_sub(at_ms));
        let has_elapsed = |time: Duration| passed_ms >= time.as_millis() as u64;
        let is_due = has_news
            || (is_short && has_elapsed(self.config.tick))
            || matches!(watched.state, SourceState::Polled(interval) if has_elapsed(interval));
        if !is_due {
            return;
        }
        if has_news && !has_elapsed(self.config.debounce) {
            watched.has_news.store(true, Ordering::Release);
            return;
        }
        if is_woken {
            self.keeper.pressure.book().sources[place].wake_count += 1;
        }
        self.read(place, now_ms);
    }

    fn read(&mut self, place: usize, now_ms: u64) {
        let watched = &mut self.watched[place];
        watched.read_at_ms = Some(now_ms);
        match guarded("a pressure source", || watched.source.read()) {
            Ok(reading) => {
                watched.reading = Some(reading);
                watched.tracker.update(&self.config, now_ms, reading);
                self.keeper.pressure.book().sources[place].reading_count += 1;
                self.update_entry(place);
            }
            Err(error) => self.fail(place, &error, now_ms),
        }
    }

    /// The source with the highest level, and that level.
    fn highest(&self) -> (usize, PressureLevel) {
        let levels = self.watched.iter().map(|watched| watched.tracker.level()).enumerate();
        // Of equals the first.
        levels.rev().max_by_key(|&(_, level)| level).unwrap_or((0, PressureLevel::Normal))
    }

    fn follow_level(&mut self, now_ms: u64) {
        let from = self.level();
        let (place, to) = self.highest();
        if to == from {
            let is_felt =
                self.watched[place].reading.is_some_and(|reading| self.config.level_of(reading) == to);
            if to > PressureLevel::Normal && is_felt && now_ms >= self.repeat_at_ms {
                self.respond_again(place, to, now_ms);
            }
            return;
        }
        let resolved_after = self.keeper.pressure.book().set_level(now_ms, to);
        if to > from {
            self.top = place;
            self.decay_at_ms = now_ms;
            self.repeat_ms = REPEAT_MS;
            self.repeat_at_ms = now_ms.saturating_add(REPEAT_MS);
            let reading = self.watched[place].reading.unwrap_or(PressureReading::Level(to));
            let given_back = self.respond(place, to, reading);
            self.record(place, PressureDetail::Rose { from, to, reading, given_back });
        } else {
            // With it what the lower level still keeps back.
            let is_felt = self.felt_level() >= to;
            self.set_gate(if is_felt { to } else { PressureLevel::Normal });
            self.record(self.top, PressureDetail::Fell { from, to, resolved_after });
            self.top = place;
        }
    }

    fn respond_again(&mut self, place: usize, level: PressureLevel, now_ms: u64) {
        let reading = self.watched[place].reading.unwrap_or(PressureReading::Level(level));
        let given_back = self.respond(place, level, reading);
        let has_helped = given_back.bytes() > 0;
        self.repeat_ms = if has_helped { REPEAT_MS } else { (2 * self.repeat_ms).min(REPEAT_MS_MAX) };
        self.repeat_at_ms = now_ms.saturating_add(self.repeat_ms);
        if has_helped || given_back.callback_count > 0 {
            self.record(place, PressureDetail::Lasted { level, reading, given_back });
        }
    }

    /// The level that the last readings stand for, whatever was before.
    fn felt_level(&self) -> PressureLevel {
        let readings = self.watched.iter().filter_map(|watched| watched.reading);
        readings.map(|reading| self.config.level_of(reading)).max().unwrap_or_default()
    }

    fn set_gate(&mut self, level: PressureLevel) {
        self.gate_level = level;
        self.keeper.pressure.gate.set(&self.keeper.observers, self.config.response(level).admission);
    }

    /// Gives back what nobody uses; only if that does not end the pressure, asks for what is used, and keeps requests back.
    fn respond(&mut self, place: usize, level: PressureLevel, reading: PressureReading) -> GivenBack {
        let begun = Instant::now();
        let before = self.keeper.held();
        let response = *self.config.response(level);
        let mut purgeable_bytes = self.keeper.give_back(&response, true);
        let mut callback_count = 0;
        let asks_more = response.callbacks_up_to.is_some() || response.admission != [Admission::Accept; 3];
        let mut felt = if asks_more { self.felt_after(place, level, &before) } else { level };
        if let Some(up_to) = response.callbacks_up_to {
            let reclaim = Arc::clone(&self.keeper.reclaim);
            let (calls_before, mut after) = (reclaim.calls(), None);
            while self.config.response(felt).callbacks_up_to.is_some() {
                let needed_bytes = self.needed_bytes(place);
                after = reclaim.run_next_up_to(up_to, after, needed_bytes, self.watched[place].heap_index);
                if after.is_none() {
                    break;
                }
                purgeable_bytes += self.keeper.give_back(&response, true);
                felt = self.felt_after(place, level, &before);
            }
            callback_count = reclaim.calls() - calls_before;
        }
        // What is kept back is so until the level falls.
        self.set_gate(felt.max(self.gate_level));
        let after = self.keeper.held();
        GivenBack {
            asked_bytes: self.config.excess_bytes(reading),
            reserved_before_bytes: before.reserved_bytes,
            reserved_after_bytes: after.reserved_bytes,
            process_before_bytes: before.process_bytes,
            process_after_bytes: after.process_bytes,
            purgeable_bytes,
            callback_count,
            took: begun.elapsed(),
        }
    }

    /// The level that is left when memory has been given back.
    fn felt_after(&mut self, place: usize, level: PressureLevel, before: &Held) -> PressureLevel {
        let now_ms = self.clock().now_ms();
        self.read(place, now_ms);
        match self.watched[place].reading {
            // Such a source needs time to see it. If it still says so then, this level is responded to again.
            Some(PressureReading::Level(_)) => {
                let reserved_bytes = self.keeper.reserved_bytes();
                let released_bytes = before.reserved_bytes.saturating_sub(reserved_bytes);
                let is_substantial =
                    released_bytes > 0 && released_bytes >= before.reserved_bytes / SUBSTANTIAL_SHARE;
                if is_substantial { PressureLevel::Normal } else { level }
            }
            Some(reading) => self.config.level_of(reading).min(level),
            None => PressureLevel::Normal,
        }
    }

    /// What a callback is asked for: what is above every level, or, if that is not known, a share of what is live.
    fn needed_bytes(&self, place: usize) -> u64 {
        let excess = self.watched[place].reading.and_then(|reading| self.config.excess_bytes(reading));
        let share_of_live = || {
            (0..self.keeper.ledgers.len()).map(|heap| self.keeper.live_bytes_of(heap)).sum::<u64>()
                / SUBSTANTIAL_SHARE
        };
        excess.unwrap_or_else(share_of_live).max(1)
    }

    /// What time brings: decay, and the limits of the level that lasts.
    fn keep_up(&mut self, now_ms: u64) {
        if self.level() > PressureLevel::Normal {
            self.keeper.pressure.gate.wake_waiting();
        }
        let Some(decay_ms) = self.decay_ms() else { return };
        if now_ms < self.decay_at_ms {
            return;
        }
        let tick_ms = (self.config.tick.as_millis() as u64).max(1);
        // Blocks go at most a quarter later than they may.
        self.decay_at_ms = now_ms.saturating_add((decay_ms / 4).max(tick_ms));
        let response = *self.config.response(self.level());
        let before = self.keeper.reserved_bytes();
        for pool in 0..self.quiet.len() {
            self.look_whether_quiet(pool, decay_ms, now_ms);
        }
        self.keeper.give_back(&response, false);
        let decayed_bytes = before.saturating_sub(self.keeper.reserved_bytes());
        self.keeper.pressure.book().decayed_bytes += decayed_bytes;
        if decayed_bytes > 0 {
            debug!(bytes = decayed_bytes, "idle memory was given back");
        }
    }

    /// Empties the caches of a pool that was not used since the last look, and gives its holes back when it was not for long.
    fn look_whether_quiet(&mut self, pool: usize, decay_ms: u64, now_ms: u64) {
        let typed = &self.keeper.pools[pool];
        let quiet = &mut self.quiet[pool];
        let request_count = typed.pool.request_count();
        if request_count != quiet.request_count {
            *quiet = Quiet { request_count, since_ms: now_ms, ..Quiet::default() };
            return;
        }
        if !std::mem::replace(&mut quiet.is_flushed, true) {
            self.keeper.quiet_down(typed);
        }
        let is_long = now_ms.saturating_sub(quiet.since_ms) >= decay_ms;
        if is_long && !std::mem::replace(&mut quiet.has_no_holes, true) {
            self.keeper.release_quiet_holes(typed);
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

fn watch(heap_index: usize, source: Box<dyn PressureSource>) -> Watched {
    let name = guarded("a pressure source", || Ok(source.name()))
        .unwrap_or_else(|_| "a source without a name".into());
    Watched {
        heap_index,
        source,
        name: name.into(),
        tracker: Tracker::default(),
        reading: None,
        state: SourceState::Failed("not started".into()),
        has_failed: false,
        has_news: Arc::new(AtomicBool::new(false)),
        read_at_ms: None,
        retry_at_ms: 0,
    }
}

fn entry(watched: &Watched) -> SourceStatistics {
    SourceStatistics {
        name: Arc::clone(&watched.name),
        state: watched.state.clone(),
        reading: None,
        level: PressureLevel::Normal,
        reading_count: 0,
        wake_count: 0,
        event_counts: [0; 5],
    }
}

/// Calls a source, which may be the user's. Its panic is an error like others.
fn guarded<R>(what: &str, code: impl FnOnce() -> Result<R, Error>) -> Result<R, Error> {
    crate::calls::call(what, code)
        .unwrap_or_else(|| Err(Error::new(ErrorKind::Driver, "pressure", "the source panicked")))
}

/// Tells the log what has happened.
pub(super) fn log(event: &PressureEvent) {
    match &event.detail {
        PressureDetail::Rose { to, given_back, .. } => {
            let bytes = given_back.bytes();
            warn!(level = %to, source = &*event.source, given_back_bytes = bytes, "memory is short");
        }
        PressureDetail::Lasted { level, given_back, .. } => {
            let bytes = given_back.bytes();
            warn!(level = %level, source = &*event.source, given_back_bytes = bytes, "memory is still short");
        }
        PressureDetail::Fell { to, .. } => {
            info!(level = %to, source = &*event.source, "memory is less short")
        }
        PressureDetail::SourceFailed { is_absent: true, message } => {
            debug!(source = &*event.source, message, "a source of pressure is not there");
        }
        PressureDetail::SourceFailed { message, .. } => {
            warn!(source = &*event.source, message, "a source of pressure does not work");
        }
        PressureDetail::SourceWorks => info!(source = &*event.source, "a source of pressure works again"),
    }
}
