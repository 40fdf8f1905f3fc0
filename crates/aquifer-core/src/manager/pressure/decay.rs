//! What time does to memory that nobody uses.

use super::monitor::Monitor;
use crate::pressure::PressureResponse;
use aquifer_backend::Backend;
use tracing::debug;

/// How long a pool has not been used.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Quiet {
    request_count: u64,
    since_ms: u64,
    is_flushed: bool,
    has_no_holes: bool,
}

impl Quiet {
    pub(super) fn since(now_ms: u64) -> Self {
        Self { since_ms: now_ms, ..Self::default() }
    }
}

impl<B: Backend> Monitor<B> {
    /// What is done about a heap now.
    fn response_of(&self, heap_index: usize) -> PressureResponse {
        let about_it = self.watched.iter().filter(|watched| watched.heaps.has(heap_index));
        let level = about_it.map(|watched| watched.tracker.level()).max().unwrap_or_default();
        *self.config.response(level)
    }

    /// How long blocks of a heap may be idle now.
    fn decay_ms_of(&self, heap_index: usize) -> Option<u64> {
        self.keeper.decay(&self.response_of(heap_index)).map(|decay| decay.as_millis() as u64)
    }

    /// The same of the heap where it is the shortest.
    pub(super) fn decay_ms(&self) -> Option<u64> {
        (0..self.keeper.ledgers.len()).filter_map(|heap_index| self.decay_ms_of(heap_index)).min()
    }

    /// Lets what is idle decay, and keeps up the limits of the level that lasts.
    pub(super) fn keep_up(&mut self, now_ms: u64) {
        let Some(decay_ms) = self.decay_ms() else { return };
        if now_ms < self.decay_at_ms {
            return;
        }
        let tick_ms = (self.config.tick.as_millis() as u64).max(1);
        // Blocks go at most a quarter later than they may.
        self.decay_at_ms = now_ms.saturating_add((decay_ms / 4).max(tick_ms));
        let before = self.keeper.reserved_bytes();
        for pool in 0..self.quiet.len() {
            self.look_whether_quiet(pool, now_ms);
        }
        self.keeper.give_back(|heap_index| Some(self.response_of(heap_index)), false);
        let decayed_bytes = before.saturating_sub(self.keeper.reserved_bytes());
        self.keeper.pressure.book().decayed_bytes += decayed_bytes;
        if decayed_bytes > 0 {
            debug!(bytes = decayed_bytes, "idle memory was given back");
        }
    }

    /// Empties the caches of a pool that was not used since the last look, and gives its holes back when it was not for long.
    fn look_whether_quiet(&mut self, pool: usize, now_ms: u64) {
        let Some(decay_ms) = self.decay_ms_of(self.keeper.pools[pool].heap_index) else { return };
        let typed = &self.keeper.pools[pool];
        let quiet = &mut self.quiet[pool];
        let request_count = typed.pool.request_count();
        if request_count != quiet.request_count {
            *quiet = Quiet { request_count, ..Quiet::since(now_ms) };
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
