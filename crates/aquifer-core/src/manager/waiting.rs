//! Allocations that wait until there is memory.

use super::MemoryManager;
use super::buffer::Buffer;
use super::options::MemoryOptions;
use super::queue::{Queue, foreign};
use super::reclaim::is_reclaiming;
use super::shared::{self, Home};
use crate::budget_group::GroupWait;
use crate::cancel::{CancelToken, Registration};
use crate::clock::whole_ms;
use crate::waiters::WaiterId;
use aquifer_backend::{Backend, Error, ErrorKind, SyncBackend};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::{self, Thread};
use std::time::Duration;

/// An allocation that waits for memory where [`MemoryManager::allocate`] fails; from [`MemoryManager::allocate_async`].
///
/// First come, first served: while one waits, those who came later wait behind it, also if they ask for less, so that a
/// large request is not starved by small ones. (Plain allocations do not wait, and take what there is.) One who does not
/// answer when it is its turn, because its future is forgotten or not polled, steps aside for the others after
/// [`ANSWER_WITHIN`].
///
/// Within a reclaim callback it does not wait, but fails with [`ErrorKind::OutOfMemory`].
///
/// In a [budget group](crate::BudgetGroup) it waits in the line of its processes, too. Two programs that each hold memory while they
/// wait for more can wait for each other for ever: set a [timeout](AllocateAsync::timeout), or [lease](crate::BudgetGroup::lease) all
/// that is needed before.
///
/// As a future it works under any executor; polled again after its answer, it is pending for ever. Dropping it leaves the line. [`AllocateAsync::wait`] blocks instead.
#[must_use = "an allocation that is neither polled nor waited for does not happen"]
pub struct AllocateAsync<B: Backend> {
    manager: MemoryManager<B>,
    home: Home,
    /// Whether it was to be on a queue of another manager.
    is_foreign: bool,
    bytes: u64,
    options: MemoryOptions,
    timeout: Option<Duration>,
    token: Option<CancelToken>,
    /// From the first poll on.
    deadline_ms: Option<Option<u64>>,
    registration: Option<Registration>,
    line: Option<InLine>,
    is_queued: bool,
    has_answered: bool,
    /// Only backends that may be shared between threads have one, which the future's type need not say.
    start_reaper: fn(&MemoryManager<B>) -> Result<(), Error>,
}

/// How long the rest of the line waits for one whose turn it is.
pub const ANSWER_WITHIN: Duration = Duration::from_millis(100);

struct InLine {
    id: WaiterId,
    /// A place in the line of the processes that share the budget, if it is that which is short.
    group_wait: Option<GroupWait>,
}

impl<B: Backend> fmt::Debug for AllocateAsync<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AllocateAsync")
            .field("bytes", &self.bytes)
            .field("is_in_line", &self.line.is_some())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> MemoryManager<B> {
    /// Allocates `bytes` bytes, waiting for memory where [`MemoryManager::allocate`] would fail with
    /// [`ErrorKind::OutOfMemory`]. Nothing happens before the answer is polled or waited for.
    ///
    pub fn allocate_async(&self, bytes: u64) -> AllocateAsync<B>
    where
        B: SyncBackend,
    {
        AllocateAsync {
            manager: self.clone(),
            home: self.owner.ordinary,
            is_foreign: false,
            bytes,
            options: MemoryOptions::DEFAULT,
            timeout: None,
            token: None,
            deadline_ms: None,
            registration: None,
            line: None,
            is_queued: false,
            has_answered: false,
            start_reaper: MemoryManager::start_reaper,
        }
    }
}

impl<B: Backend> AllocateAsync<B> {
    /// With options: tag, alignment, zeroed.
    pub fn options(mut self, options: MemoryOptions) -> Self {
        self.options = options;
        self
    }

    /// At home on a queue of the same manager; see [`Queue::allocate`]. A queue of another manager is refused when the
    /// answer is polled or waited for.
    pub fn on(mut self, queue: &Queue<B>) -> Self {
        self.home = Home { key: queue.state().lanes[0], queue: queue.state().index };
        self.is_foreign = !std::ptr::eq(&**self.manager.owner, &**queue.manager().owner);
        self
    }

    /// Waits no longer than this from the first poll on (not at all if it is zero, but tries), by the manager's [`Clock`](crate::Clock); then the answer is
    /// [`ErrorKind::TimedOut`], noticed within some milliseconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// Stops waiting when `token` is cancelled; the answer is then [`ErrorKind::Cancelled`].
    pub fn cancel_token(mut self, token: &CancelToken) -> Self {
        self.token = Some(token.clone());
        self
    }

    /// Blocks until there is an answer.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate`] but for [`ErrorKind::OutOfMemory`]; [`ErrorKind::InvalidArgument`] also for a queue of
    /// another manager; [`ErrorKind::TimedOut`], with what was there as an
    /// [out-of-memory report](Error::out_of_memory); [`ErrorKind::Cancelled`].
    pub fn wait(self) -> Result<Buffer<B>, Error> {
        struct Unpark(Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(thread::current())).into();
        let mut context = Context::from_waker(&waker);
        let mut future = std::pin::pin!(self);
        loop {
            if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
                return answer;
            }
            let owner = &future.manager.owner;
            if owner.config.reaper {
                thread::park_timeout(LOOK_AGAIN);
            } else {
                // Nobody else looks.
                thread::park_timeout(LOOK_OURSELVES);
                owner.settle();
                if future.line.as_ref().is_some_and(|line| line.group_wait.is_some()) {
                    // Other processes do not tell.
                    owner.bell.freed();
                }
                owner.tick_waiters();
            }
        }
    }

    fn poll_inner(&mut self, context: &mut Context<'_>) -> Poll<Result<Buffer<B>, Error>> {
        if self.has_answered {
            return Poll::Pending;
        }
        if self.token.as_ref().is_some_and(CancelToken::is_cancelled) {
            return Poll::Ready(Err(self.cancelled()));
        }
        if self.is_foreign {
            return Poll::Ready(Err(foreign("allocate_async")));
        }
        let deadline_ms = self.deadline_ms();
        let is_late = |now_ms: u64| deadline_ms.is_some_and(|deadline_ms| deadline_ms <= now_ms);
        let priority = self.options.request_priority();
        if !self.manager.owner.pressure.gate.poll(priority, context.waker(), &mut self.is_queued)? {
            // Not in the line, where it would be in the way of those that the gate lets pass.
            self.leave();
            // In a forked process nobody opens the gate.
            self.manager.owner.check_process("allocate_async")?;
            if self.is_cancelled(context) {
                return Poll::Ready(Err(self.cancelled()));
            }
            let now_ms = self.manager.owner.config.clock.now_ms();
            return if is_late(now_ms) { Poll::Ready(Err(self.timed_out(None))) } else { Poll::Pending };
        }
        if self.line.is_none() {
            // Past those who wait there is no way, unless all of them have stepped aside; or for a reclaim callback, which may
            // run on behalf of one of them, and would wait for itself.
            let is_reclaiming = is_reclaiming();
            if is_reclaiming || self.manager.owner.bell.waiters.is_empty() {
                match self.attempt() {
                    Err(error) if error.kind() == ErrorKind::OutOfMemory && !is_reclaiming => {}
                    answer => return Poll::Ready(answer),
                }
            } else if let Err(error) = self.manager.owner.check_limits(self.home, self.bytes, self.options) {
                return Poll::Ready(Err(error));
            }
            if let Err(error) = (self.start_reaper)(&self.manager) {
                return Poll::Ready(Err(error));
            }
            self.join(deadline_ms);
        }
        for _ in 0..TRIES_PER_POLL {
            if self.is_cancelled(context) {
                return Poll::Ready(Err(self.cancelled()));
            }
            let owner = &self.manager.owner;
            let id = self.line.as_ref().expect("in line since above").id;
            let now_ms = owner.config.clock.now_ms();
            // Nobody may have ticked for the line while it was aside.
            let came_back = || owner.bell.wake_reaper();
            let is_turn = owner.bell.waiters.poll_turn_or_come_back(id, now_ms, context.waker(), came_back);
            owner.hold_caches_for_waiters();
            let is_late = is_late(now_ms);
            if is_turn {
                let turn = Turn { manager: &self.manager, id, has_rested: false };
                match self.attempt() {
                    Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                        if is_late {
                            return Poll::Ready(Err(self.timed_out(Some(&error))));
                        }
                        if let Some(wait) = self.line.as_mut().and_then(|line| line.group_wait.as_mut()) {
                            wait.remind();
                        }
                    }
                    answer => return Poll::Ready(answer),
                }
                if turn.rest() {
                    return Poll::Pending;
                }
            } else if is_late {
                return Poll::Ready(Err(self.timed_out(None)));
            } else {
                return Poll::Pending;
            }
        }
        // Others free all the time, but never enough: let them run.
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn attempt(&self) -> Result<Buffer<B>, Error> {
        shared::allocate_without_waiting(&self.manager.owner, self.home, self.bytes, self.options)
            .map(Buffer::new)
    }

    fn deadline_ms(&mut self) -> Option<u64> {
        let clock = &self.manager.owner.config.clock;
        let after = |timeout: Duration| clock.now_ms().saturating_add(whole_ms(timeout));
        *self.deadline_ms.get_or_insert_with(|| self.timeout.map(after))
    }

    fn join(&mut self, deadline_ms: Option<u64>) {
        let owner = &self.manager.owner;
        let id = owner.bell.waiters.join(deadline_ms);
        let group_wait = owner.line_up_in_group(self.home, self.bytes, self.options);
        self.line = Some(InLine { id, group_wait });
        owner.hold_caches_for_waiters();
        owner.bell.wake_reaper();
    }

    fn is_cancelled(&mut self, context: &Context<'_>) -> bool {
        let Some(token) = &self.token else { return false };
        token.poll_cancelled(context.waker(), &mut self.registration)
    }

    fn cancelled(&self) -> Error {
        let message = format!("the request for {} bytes was cancelled", self.bytes);
        Error::new(ErrorKind::Cancelled, "allocate_async", message)
    }

    fn timed_out(&self, shortage: Option<&Error>) -> Error {
        let message = format!("{} bytes did not come free in time", self.bytes);
        let error = Error::new(ErrorKind::TimedOut, "allocate_async", message);
        match shortage.and_then(Error::out_of_memory) {
            Some(report) => error.with_out_of_memory(report.clone()),
            None => error,
        }
    }

    fn leave(&mut self) {
        if let Some(InLine { id, group_wait }) = self.line.take() {
            drop(group_wait);
            self.manager.owner.bell.waiters.leave(id);
            self.manager.owner.hold_caches_for_waiters();
        }
    }
}

/// A waiter whose turn it is, and who must rest or leave, also if the try unwinds.
struct Turn<'a, B: Backend> {
    manager: &'a MemoryManager<B>,
    id: WaiterId,
    has_rested: bool,
}

impl<B: Backend> Turn<'_, B> {
    fn rest(mut self) -> bool {
        self.has_rested = true;
        self.manager.owner.bell.waiters.rest(self.id)
    }
}

impl<B: Backend> Drop for Turn<'_, B> {
    fn drop(&mut self) {
        if !self.has_rested {
            // The turn ends with the waiter's leaving, which follows; or with its coming again, if the try unwound.
            self.manager.owner.bell.waiters.rest(self.id);
        }
    }
}

impl<B: Backend> Future for AllocateAsync<B> {
    type Output = Result<Buffer<B>, Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let answer = this.poll_inner(context);
        if answer.is_ready() {
            this.has_answered = true;
            this.registration = None;
            this.leave();
        }
        answer
    }
}

impl<B: Backend> Drop for AllocateAsync<B> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A waiter whose turn comes again and again without success yields after so many tries.
const TRIES_PER_POLL: usize = 4;
/// How long a blocked thread sleeps before it looks by itself, should the device or the clock have moved unseen,
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// or if there is no reaper.
const LOOK_OURSELVES: Duration = Duration::from_millis(1);
