//! What time does to memory that nobody uses.

use super::monitor::Monitor;
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
    /// How long blocks may be idle at this level.
    pub(super) fn decay_ms(&self) -> Option<u64> {
        self.keeper.decay(self.config.response(self.level())).map(|decay| decay.as_millis() as u64)
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
