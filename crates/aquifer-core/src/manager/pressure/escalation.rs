//! What the monitor does when the level changes, or lasts.

use super::monitor::Monitor;
use super::respond::Held;
use crate::pressure::{Admission, GivenBack, PressureDetail};
use aquifer_backend::{Backend, PressureLevel, PressureReading};
use std::sync::Arc;
use std::time::Instant;

/// How long the monitor waits before it responds again to a level that lasts; twice as long each time, up to a limit.
pub(super) const REPEAT_MS: u64 = 1_000;
const REPEAT_MS_MAX: u64 = 60_000;
/// Where a source tells a level and no bytes: the share of reserved bytes that must have come back for the level to be looked at anew
/// before the user's memory is asked for.
const SUBSTANTIAL_SHARE: u64 = 8;

impl<B: Backend> Monitor<B> {
    /// The source with the highest level, and that level.
    fn highest(&self) -> (usize, PressureLevel) {
        let levels = self.watched.iter().map(|watched| watched.tracker.level()).enumerate();
        // Of equals the first.
        levels.rev().max_by_key(|&(_, level)| level).unwrap_or((0, PressureLevel::Normal))
    }

    pub(super) fn follow_level(&mut self, now_ms: u64) {
        let from = self.level();
        let (place, to) = self.highest();
        // Whoever says more than before is answered, also if another has said as much already, about whatever memory.
        let mut risen: Vec<usize> = Vec::new();
        for (place, watched) in self.watched.iter_mut().enumerate() {
            if std::mem::replace(&mut watched.answered, watched.tracker.level()) < watched.tracker.level() {
                risen.push(place);
            }
        }
        if to > from {
            risen.retain(|&other| other != place);
        }
        self.follow_highest((place, from, to), now_ms);
        for place in risen {
            let given_back = self.respond(place, self.watched[place].tracker.level());
            self.record_lasting(place, given_back);
        }
    }

    fn follow_highest(&mut self, (place, from, to): (usize, PressureLevel, PressureLevel), now_ms: u64) {
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
            let reading = self.reading_of(place);
            let given_back = self.respond(place, to);
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
        let given_back = self.respond(place, level);
        // Not by what the system sees: that of a process moves by itself.
        let has_helped = given_back.released_bytes() > 0 || given_back.purgeable_bytes > 0;
        self.repeat_ms = if has_helped { REPEAT_MS } else { (2 * self.repeat_ms).min(REPEAT_MS_MAX) };
        self.repeat_at_ms = now_ms.saturating_add(self.repeat_ms);
        if has_helped || given_back.callback_count > 0 {
            self.record_lasting(place, given_back);
        }
    }

    fn record_lasting(&mut self, place: usize, given_back: GivenBack) {
        let (level, reading) = (self.level(), self.reading_of(place));
        self.record(place, PressureDetail::Lasted { level, reading, given_back });
    }

    fn reading_of(&self, place: usize) -> PressureReading {
        let watched = &self.watched[place];
        watched.reading.unwrap_or(PressureReading::Level(watched.tracker.level()))
    }

    /// The level that the last readings stand for, whatever was before.
    fn felt_level(&self) -> PressureLevel {
        let readings = self.watched.iter().filter_map(|watched| watched.reading);
        readings.map(|reading| self.config.level_of(reading)).max().unwrap_or_default()
    }

    pub(super) fn set_gate(&mut self, level: PressureLevel) {
        self.gate_level = level;
        self.keeper.pressure.gate.set(&self.keeper.observers, self.config.response(level).admission);
    }

    /// Gives back what nobody uses; only if that does not end the pressure, asks for what is used, and keeps requests back.
    fn respond(&mut self, place: usize, level: PressureLevel) -> GivenBack {
        let begun = Instant::now();
        let (heaps, asked_bytes) =
            (self.watched[place].heaps, self.config.excess_bytes(self.reading_of(place)));
        let before = self.keeper.held(heaps);
        let response = *self.config.response(level);
        let response_of = |heap_index| heaps.has(heap_index).then_some(response);
        let mut purgeable_bytes = self.keeper.give_back(response_of, true);
        let mut callback_count = 0;
        let asks_more = response.callbacks_up_to.is_some() || response.admission != [Admission::Accept; 3];
        let mut felt = if asks_more { self.felt_after(place, level, &before) } else { level };
        if let Some(up_to) = response.callbacks_up_to {
            let reclaim = Arc::clone(&self.keeper.reclaim);
            let (calls_before, mut after) = (reclaim.calls(), None);
            while self.config.response(felt).callbacks_up_to.is_some() {
                let needed_bytes = self.needed_bytes(place);
                after = reclaim.run_next_up_to(up_to, after, needed_bytes, heaps.first());
                if after.is_none() {
                    break;
                }
                purgeable_bytes += self.keeper.give_back(response_of, true);
                felt = self.felt_after(place, level, &before);
            }
            callback_count = reclaim.calls() - calls_before;
        }
        // What is kept back is so until the level falls.
        self.set_gate(felt.max(self.gate_level));
        let after = self.keeper.held(heaps);
        GivenBack {
            asked_bytes,
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
                let reserved_bytes = self.keeper.held(self.watched[place].heaps).reserved_bytes;
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
}
