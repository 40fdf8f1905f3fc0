//! The end of a manager: what goes with its last handle, and what with the last of its buffers.

use super::shared::Shared;
use super::typed_pool::TypedPool;
use crate::pool::{Closing, Return};
use crate::raw::allocation::destroy_block;
use aquifer_backend::Backend;
use std::time::Duration;
use tracing::{error, warn};

/// How long the last free of a closed manager waits for its queues; then another thread does.
const GOING_WAIT: Duration = Duration::from_millis(10);
/// How long a manager that goes without a thread to wait for it waits for its queues at least, whatever allocations do: what they may still use then is lost.
const DRAIN_WAIT: Duration = Duration::from_secs(10);

impl<B: Backend> Shared<B> {
    /// Ends allocation and gives back what nobody uses; returns how many pools have nothing live.
    pub(crate) fn close(&self) -> usize {
        self.pressure.close();
        // What was kept for staging is no leak.
        self.close_transfers();
        let leaks = self.leak_report();
        if leaks.live_count > 0 {
            warn!("the manager is dropped with allocations live, which keep their blocks:\n{leaks}");
        }
        // Nobody is left who could free them.
        drop(self.raw_buffers.close());
        self.stop_reaper();
        self.tell_loss();
        if !self.config.reaper && self.has_in_flight() {
            // Nobody else will look.
            self.flush_quarantine();
            self.drain(self.drain_wait());
            self.settle();
        }
        let close_one = |typed: &TypedPool<B::Block>| {
            let closing = typed.pool.close();
            let growing = &mut typed.lock_growth();
            // What the lanes' caches kept is bound to their queues now.
            self.settle_soon(growing);
            self.release_down_to(growing, 0);
            closing
        };
        self.pools.iter().map(close_one).filter(|&closing| closing == Closing::Drained).count()
    }

    /// Whether the queues are done with all memory, so that the state may be destroyed now that nobody needs it. Waits for
    /// them, but not for long if there may be a thread that waits for longer.
    pub(crate) fn may_go(&self) -> bool {
        let patience = if self.finish_later.get().is_some() { GOING_WAIT } else { self.drain_wait() };
        self.drain(patience)
    }

    fn drain_wait(&self) -> Duration {
        self.config.in_flight_wait.max(DRAIN_WAIT)
    }
}

impl<B: Backend> Drop for Shared<B> {
    fn drop(&mut self) {
        // All queues are drained, so nothing that waits for them need wait any more.
        self.queues.all().iter().for_each(|queue| queue.timeline.end());
        self.close_imported();
        let mut are_destroyed = false;
        for typed in &self.pools {
            // A free that was under way when the pool was closed may have moved places to the depot after that.
            typed.pool.flush();
            if let Some((id, _)) = typed.pool.begin_seal_open() {
                typed.pool.finish_seal(id, Vec::new());
            }
            typed.pool.settle(Return::ToRanges);
            typed.pool.flush();
            typed.pool.settle(Return::ToRanges);
            let mut growing = typed.lock_growth();
            // Addresses go whether something is mapped there or not.
            self.remove_unused_sparse(&mut growing, None, usize::MAX);
            let purgeable = growing.purgeable.take_oldest(|_| true);
            for block in purgeable.into_iter().chain(typed.pool.release_idle(|_, _| true)) {
                let is_physical = typed.is_elastic && typed.pool.is_physical(block.block);
                if is_physical && !self.unmap_everywhere(&mut growing, block.block, block.bytes) {
                    error!(bytes = block.bytes, "a block is lost: the driver would not unmap it");
                    continue;
                }
                match destroy_block(&self.backend, typed.take_block(block.block)) {
                    Ok(()) => {
                        are_destroyed = true;
                        self.ledgers[typed.heap_index].refund(block.reserved_bytes);
                    }
                    Err(refused) => {
                        error!(bytes = block.bytes, error = %refused.error, "a block is lost: the driver would not take it back");
                    }
                }
                if is_physical {
                    typed.pool.forget_physical(block.block);
                }
            }
            self.remove_empty_sparse(&mut growing);
        }
        if are_destroyed {
            self.backend.flush_destroyed();
        }
    }
}
