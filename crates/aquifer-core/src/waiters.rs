//! The line of allocations that wait for memory: first come, first served.
//!
//! Bookkeeping only; it knows no memory. Whoever is at the head of the line may try to allocate; the others sleep.
//!
//! ```text
//!   join                  poll_turn: its turn                    leave
//! ---------> Called  --------------------------->  Awake  ------------------>
//!             |  ^ ^                                 |
//!             |  | +------- rest: answer false ------+
//!             |  |                                   |
//!             |  +-- woken ----  Asleep  <-----------+ rest: answer true
//!             |                    ^
//!             +--------------------+ poll_turn: not its turn
//! ```
//!
//! # No wake-up is lost
//!
//! - Who frees does it in this order: free, pass a [`LightFence`](crate::sync::LightFence), [`Waiters::notify`]. Who
//!   joins, or comes back into the line, passes the heavy fence before it tries. So either the try finds what was
//!   freed, or who freed it sees that somebody waits.
//! - Each notice is counted. One that comes during a try wakes nobody, but keeps the trier from resting.
//! - The head was given the notice, so the head that goes passes it on: to leave or to step aside counts as a notice to
//!   the next.
//!
//! # Who does not answer
//!
//! A future may be forgotten, or just not be polled. The head that was woken and stays silent for long steps aside: it
//! keeps its place, but does not keep others from theirs. It is woken no more, since it has a wake-up to answer; when it
//! does, it is where it was in the line. Nobody but callers knows the time, so silence counts from the first call that
//! sees it and brings a time: [`Waiters::tick`], or another waiter's [`Waiters::poll_turn_or_come_back`].
//!
//! Who is awake does not step aside, since it runs the manager's own code, which ends by resting or leaving.

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

use crate::calls::wake_all;
use crate::sync::{AtomicBool, AtomicUsize, Mutex, Ordering, Rank, heavy_fence};
use std::collections::{BTreeMap, BTreeSet};
use std::task::Waker;

/// A place in the line. Later ones are larger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    /// It has a wake-up to answer.
    Called,
    /// It tries.
    Awake,
    /// It has a waker, and no wake-up to answer.
    Asleep,
}

#[derive(Debug)]
struct Waiter {
    mood: Mood,
    /// Of its last poll, until it is woken.
    waker: Option<Waker>,
    /// How many notices there were when its last try began.
    notices_seen: u64,
    /// When it was first seen to be silent at the head of the line.
    silent_since_ms: Option<u64>,
    deadline_ms: Option<u64>,
}

impl Waiter {
    /// Takes the waker of one that sleeps; who is called already, or awake, needs none.
    fn call(&mut self) -> Option<Waker> {
        if self.mood != Mood::Asleep {
            return None;
        }
        self.mood = Mood::Called;
        self.waker.take()
    }
}

#[derive(Debug, Default)]
struct State {
    joined_count: u64,
    waiters: BTreeMap<WaiterId, Waiter>,
    /// Those who have not stepped aside.
    line: BTreeSet<WaiterId>,
    /// Of those who have not been woken for it since their last poll.
    deadlines: BTreeSet<(u64, WaiterId)>,
    notices: u64,
}

impl State {
    fn is_head(&self, id: WaiterId) -> bool {
        self.line.first() == Some(&id)
    }

    fn waiter(&mut self, id: WaiterId) -> &mut Waiter {
        self.waiters.get_mut(&id).expect("only who has not left asks")
    }

    /// Tells the head that there may be memory.
    fn notice(&mut self) -> Option<Waker> {
        self.notices += 1;
        let head = *self.line.first()?;
        self.waiter(head).call()
    }

    /// Lets the head step aside if it has been silent for too long, and then the next.
    fn pass_silent(&mut self, now_ms: u64, aside_ms: u64) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(&id) = self.line.first() {
            let head = self.waiter(id);
            if head.mood != Mood::Called {
                break;
            }
            let since = *head.silent_since_ms.get_or_insert(now_ms);
            if now_ms.saturating_sub(since) < aside_ms {
                break;
            }
            self.line.remove(&id);
            woken.extend(self.notice());
        }
        woken
    }

    /// Calls all whose deadline has passed, wherever they are. Who is awake is called too: it may have looked at the
    /// clock before.
    fn call_due(&mut self, now_ms: u64) -> Vec<Waker> {
        let mut woken = Vec::new();
        while let Some(&(deadline_ms, id)) = self.deadlines.first()
            && deadline_ms <= now_ms
        {
            self.deadlines.pop_first();
            let waiter = self.waiter(id);
            woken.extend(waiter.call().or_else(|| waiter.waker.take()));
        }
        woken
    }
}

#[derive(Debug)]
pub(crate) struct Waiters {
    aside_ms: u64,
    /// How many are in line, those aside excepted.
    count: AtomicUsize,
    /// Whether the system refused a fence once, so that a notice may have been lost.
    is_unfenced: AtomicBool,
    state: Mutex<State>,
}

impl Waiters {
    /// A line whose head steps aside when it has been silent for `aside_ms` milliseconds.
    pub(crate) fn new(aside_ms: u64) -> Self {
        Self {
            aside_ms,
            count: AtomicUsize::new(0),
            is_unfenced: AtomicBool::new(false),
            state: Mutex::new(Rank::Waiters, State::default()),
        }
    }

    /// Whether nobody is in line, but for those who stepped aside: they need no notice. One relaxed load; who asks
    /// after freeing must pass a fence before.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Whether somebody must tick: for who is in line, or for a deadline. Who stepped aside needs neither until it polls
    /// again, which a forgotten future never does.
    pub(crate) fn need_ticks(&self) -> bool {
        let state = self.state.lock();
        !state.line.is_empty() || !state.deadlines.is_empty()
    }

    /// Joins the line at its end. It is expected to poll soon, as if woken, and must leave in the end. Past the deadline, in
    /// milliseconds of the manager's clock, it is woken whether or not it is its turn; to leave is up to the waiter.
    pub(crate) fn join(&self, deadline_ms: Option<u64>) -> WaiterId {
        let mut state = self.state.lock();
        let id = WaiterId(state.joined_count);
        state.joined_count += 1;
        let waiter = Waiter {
            mood: Mood::Called,
            waker: None,
            notices_seen: state.notices,
            silent_since_ms: None,
            deadline_ms,
        };
        state.waiters.insert(id, waiter);
        state.line.insert(id);
        state.deadlines.extend(deadline_ms.map(|deadline_ms| (deadline_ms, id)));
        self.count(&state);
        drop(state);
        self.fence();
        id
    }

    /// Whether it may try now: nobody before it is in line, those who stepped aside excepted. If not, `waker` is woken
    /// when its turn comes. Whoever is told that it may must [`rest`](Self::rest) or [`leave`](Self::leave), also if the
    /// try unwinds.
    ///
    /// `came_back` is called if it had stepped aside and comes back into the line.
    pub(crate) fn poll_turn_or_come_back(
        &self,
        id: WaiterId,
        now_ms: u64,
        waker: &Waker,
        came_back: impl FnOnce(),
    ) -> bool {
        // To clone, wake or drop a waker is the user's code, so none of it is done under the lock.
        let waker = waker.clone();
        let mut state = self.state.lock();
        let waiter = state.waiter(id);
        waiter.mood = Mood::Awake;
        waiter.silent_since_ms = None;
        let replaced = waiter.waker.replace(waker);
        let deadline_ms = waiter.deadline_ms;
        state.deadlines.extend(deadline_ms.map(|deadline_ms| (deadline_ms, id)));
        let was_aside = state.line.insert(id);
        let woken = state.pass_silent(now_ms, self.aside_ms);
        let (is_turn, notices) = (state.is_head(id), state.notices);
        let waiter = state.waiter(id);
        waiter.notices_seen = notices;
        if !is_turn {
            waiter.mood = Mood::Asleep;
        }
        self.count(&state);
        drop(state);
        if was_aside {
            self.fence();
            came_back();
        }
        drop(replaced);
        wake_all(woken);
        is_turn
    }

    #[cfg(test)]
    pub(crate) fn poll_turn(&self, id: WaiterId, now_ms: u64, waker: &Waker) -> bool {
        self.poll_turn_or_come_back(id, now_ms, waker, || ())
    }

    /// The try failed: sleeps until there is a notice. False if one came during the try: it must poll again soon, as if
    /// woken.
    pub(crate) fn rest(&self, id: WaiterId) -> bool {
        let mut state = self.state.lock();
        let (is_head, notices) = (state.is_head(id), state.notices);
        let waiter = state.waiter(id);
        let may_rest = !is_head || waiter.notices_seen == notices;
        // Without a waker it was woken during the try, for its deadline.
        waiter.mood = if may_rest && waiter.waker.is_some() { Mood::Asleep } else { Mood::Called };
        may_rest
    }

    /// Leaves the line, served or not, and passes the turn on. To leave twice changes nothing.
    pub(crate) fn leave(&self, id: WaiterId) {
        let mut state = self.state.lock();
        let Some(waiter) = state.waiters.remove(&id) else { return };
        if let Some(deadline_ms) = waiter.deadline_ms {
            state.deadlines.remove(&(deadline_ms, id));
        }
        let was_head = state.is_head(id);
        state.line.remove(&id);
        let next = if was_head { state.notice() } else { None };
        self.count(&state);
        drop(state);
        drop(waiter);
        wake_all(next);
    }

    /// Memory was freed, or may have been: wakes the head, unless it is awake or has a wake-up to answer. Who frees must
    /// pass a fence between.
    #[inline]
    pub(crate) fn notify(&self) {
        if !self.is_empty() {
            self.notify_head();
        }
    }

    #[cold]
    fn notify_head(&self) {
        let woken = self.state.lock().notice();
        wake_all(woken);
    }

    /// Lets a head step aside that has been silent for too long, and wakes the next; wakes all whose deadline has
    /// passed, once for each of their polls.
    pub(crate) fn tick(&self, now_ms: u64) {
        let mut state = self.state.lock();
        let mut woken = state.pass_silent(now_ms, self.aside_ms);
        woken.extend(state.call_due(now_ms));
        if self.is_unfenced.load(Ordering::Relaxed) {
            woken.extend(state.notice());
        }
        self.count(&state);
        drop(state);
        wake_all(woken);
    }

    /// Publishes how many are in line. Called under the lock.
    fn count(&self, state: &State) {
        self.count.store(state.line.len(), Ordering::Relaxed);
    }

    /// Orders the count before the try that follows. If the system refuses, ticks stand in for notices.
    fn fence(&self) {
        if !heavy_fence() {
            self.is_unfenced.store(true, Ordering::Relaxed);
        }
    }
}
