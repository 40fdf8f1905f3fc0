//! What is tried before an allocation fails, the cheapest first:
//!
//! 1. what the pool has, and runs of addresses put together from it ([`super::elastic`]); what queues have passed meanwhile; all threads' caches; holes; idle blocks ([`super::growth`]);
//! 2. a purgeable block that fits ([`super::purgeable`]);
//! 3. a new block, within the budget, after giving back what is not needed ([`super::growth`]);
//! 4. what other memory types of the same heap hold for nobody: it is given back ([`super::shrink`]);
//! 5. what was preallocated, for this size or others: it is given up ([`super::shrink`]);
//! 6. the users' reclaim callbacks, one priority after the other, each followed by another try;
//! 7. what was freed but is still in use by a queue: waits for it, up to [`Config::in_flight_wait`](crate::Config);
//! 8. what other processes of the [group](crate::BudgetGroup) give back within a second, if the manager is in one and that could
//!    be enough;
//! 9. an error that says what was there.
//!
//! No lock is held while a callback runs or a queue is waited for.

use super::kinds::MemoryKind;
use super::options::MemoryOptions;
use super::queues::lost;
use super::reclaim::is_reclaiming;
use super::shared::{Home, Shared};
use crate::budget_group::GroupWait;
use crate::clock::whole_ms;
use crate::pool::{Place, Request, Return};
use aquifer_backend::{Backend, Error, ErrorKind};
use std::time::{Duration, Instant};

/// Whether the last rung is climbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InFlight {
    /// Blocks until queues have passed.
    Wait,
    /// Fails at once: the caller waits by other means.
    Fail,
}

impl<B: Backend> Shared<B> {
    /// Finds a place past the thread's cache. Answers whether it is memory fresh from the driver.
    pub(super) fn find(
        &self,
        home: Home,
        request: Request,
        in_flight: InFlight,
    ) -> Result<(Place, bool), Error> {
        if self.is_lost() {
            return Err(lost("allocate"));
        }
        let typed = &self.pools[request.memory_type()];
        let lane = typed.pool.lane(home.queue);
        let has_unbound = typed.is_elastic && !request.is_cached() && self.unbind_much(typed, &lane);
        let place = typed.pool.allocate(&lane, request);
        if has_unbound {
            self.bell.tell_news();
            self.tell_loss();
        }
        if let Some(place) = place {
            return Ok((place, false));
        }
        self.check_process("allocate")?;
        if self.look() {
            typed.pool.settle(Return::ToCaches);
            let place = typed.pool.allocate(&lane, request);
            self.bell.tell_news();
            if let Some(place) = place {
                return Ok((place, false));
            }
        }
        let mut answer = self.grow(&lane, request);
        let is_short = |answer: &Result<_, Error>| matches!(answer, Err(error) if error.kind() == ErrorKind::OutOfMemory);
        let mut asked = None;
        while is_short(&answer) && !self.reclaim.is_empty() {
            asked = self.reclaim.run_next(asked, request.requested_bytes, typed.heap_index);
            if asked.is_none() {
                break;
            }
            answer = self.grow(&lane, request);
        }
        if in_flight == InFlight::Fail || !is_short(&answer) {
            return answer;
        }
        let deadline_ms = self.config.clock.now_ms().saturating_add(whole_ms(self.config.in_flight_wait));
        let mut waited_ms = 0;
        while is_short(&answer) && self.wait_for_in_flight(request, deadline_ms, &mut waited_ms) {
            answer = self.grow(&lane, request);
        }
        // A callback may run on behalf of one who is in the line already.
        if is_short(&answer)
            && !is_reclaiming()
            && let Some(mut wait) = self.wait_in_group(request)
        {
            let deadline = Instant::now() + GROUP_WAIT;
            while is_short(&answer) && wait.wait_until(deadline) {
                answer = self.grow(&lane, request);
            }
        }
        answer
    }

    /// Gets in line for memory that other processes have of the group's budget; `None` if it is not that which a request is short of.
    fn wait_in_group(&self, request: Request) -> Option<GroupWait> {
        let typed = &self.pools[request.memory_type()];
        let granularity = self.backend.properties().block_granularity_bytes;
        let bytes = typed.pool.bytes(request).next_multiple_of(granularity);
        self.ledgers[typed.heap_index].wait_in_group(bytes)
    }

    /// As [`Shared::wait_in_group`], for an allocation that waits by other means.
    pub(super) fn line_up_in_group(
        &self,
        home: Home,
        bytes: u64,
        options: MemoryOptions,
    ) -> Option<GroupWait> {
        // What can never be is refused when its turn comes.
        self.check("allocate", bytes, &options).ok()?;
        let kind = options.memory_kind();
        let home = if kind == MemoryKind::Device { home } else { self.home_on(kind, home.queue).ok()? };
        self.wait_in_group(self.request(home, bytes, options))
    }

    /// Waits until a queue has passed something that could help a request; false if nothing can, or the time is over.
    fn wait_for_in_flight(&self, request: Request, deadline_ms: u64, waited_ms: &mut u64) -> bool {
        let typed = &self.pools[request.memory_type()];
        let next = typed.pool.next_in_flight();
        if next.is_none() && !typed.pool.has_in_flight() {
            return false;
        }
        // What the device still uses and what is there cannot make up for it: then waiting is in vain.
        let snapshot = typed.pool.snapshot();
        let ledger = &self.ledgers[typed.heap_index];
        let unreserved = ledger.budget_bytes().saturating_sub(ledger.reserved_bytes());
        let at_best = snapshot.quarantined_bytes + snapshot.free_bytes + snapshot.cached_bytes + unreserved;
        if at_best < typed.pool.bytes(request) {
            return false;
        }
        let Some((queue, value)) = next else {
            // Another thread is just putting the markers in.
            std::thread::sleep(Duration::from_millis(1));
            *waited_ms += 1;
            self.settle();
            return *waited_ms < whole_ms(self.config.in_flight_wait);
        };
        let queue = self.queues.get(queue);
        let mut step_ms = 1;
        loop {
            let left_ms = deadline_ms.saturating_sub(self.config.clock.now_ms());
            // The clock may be one that stands still.
            if left_ms == 0 || *waited_ms >= whole_ms(self.config.in_flight_wait) {
                return false;
            }
            *waited_ms += left_ms.min(step_ms);
            let waited = self.wait_a_while(&queue, value, Duration::from_millis(left_ms.min(step_ms)));
            if waited.is_err() && !self.is_lost() {
                return false;
            }
            // Any other queue will do too.
            if self.look() || waited.unwrap_or(true) {
                self.settle();
                return true;
            }
            step_ms = (2 * step_ms).min(WAIT_STEP_MS_MAX);
        }
    }
}

/// How long an allocation waits for other processes. Longer than a want that comes before keeps memory from others.
const GROUP_WAIT: Duration = Duration::from_secs(1);
/// How long one call waits for a queue at most before other queues are looked at too.
const WAIT_STEP_MS_MAX: u64 = 16;
