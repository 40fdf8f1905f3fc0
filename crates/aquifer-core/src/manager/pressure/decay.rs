//! What time does to memory that nobody uses.

use super::monitor::Monitor;
use crate::clock::whole_ms;
use crate::pressure::PressureResponse;
use aquifer_backend::Backend;
use tracing::debug;

/// How often a level's limits of what is idle are kept up at least, in milliseconds.
const KEEP_UP_MS: u64 = 1_000;

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
    fn decay_ms(&self, heap_index: usize) -> Option<u64> {
        self.keeper.decay(&self.response_of(heap_index)).map(whole_ms)
    }

    /// How often it is to be looked at what is idle; `None` if that may be so for ever.
    pub(super) fn keep_up_ms(&self) -> Option<u64> {
        let times = (0..self.keeper.ledgers.len()).flat_map(|heap_index| {
            let response = self.response_of(heap_index);
            let is_limited = response.idle_share_max.is_some() || response.mark_purgeable;
            // Blocks go at most a quarter later than they may.
            [self.decay_ms(heap_index).map(|decay_ms| decay_ms / 4), is_limited.then_some(KEEP_UP_MS)]
        });
        times.flatten().min()
    }

    /// Lets what is idle decay, and keeps up the limits of the level that lasts.
    pub(super) fn keep_up(&mut self, now_ms: u64) {
        let Some(keep_up_ms) = self.keep_up_ms() else { return };
        if now_ms < self.decay_at_ms {
            return;
        }
        let tick_ms = whole_ms(self.config.tick).max(1);
        self.decay_at_ms = now_ms.saturating_add(keep_up_ms.max(tick_ms));
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
        let decay_ms = self.decay_ms(self.keeper.pools[pool].heap_index);
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
        let is_long = decay_ms.is_some_and(|decay_ms| now_ms.saturating_sub(quiet.since_ms) >= decay_ms);
        if is_long && !std::mem::replace(&mut quiet.has_no_holes, true) {
            self.keeper.release_quiet_holes(typed);
        }
    }
}
