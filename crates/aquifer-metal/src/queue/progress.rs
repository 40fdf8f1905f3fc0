//! How far a queue is: which of its steps have ended, and the value that follows from it.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aquifer_backend::{Error, Ticket};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::Shared;

/// How often those who wait look whether the device is lost: when it is, some command buffers end late or never.
const LOST_CHECK: Duration = Duration::from_millis(100);

/// What happens when a step has ended and all before it have.
#[derive(Debug, Default)]
pub(super) struct Effect {
    ticket: Option<Arc<Ticket>>,
    bytes: u64,
    /// A queue that the step waits for: its event must live until then.
    _kept: Option<Arc<Shared>>,
}

impl Effect {
    /// The ticket learns that `bytes` bytes have arrived, or what went wrong.
    pub(super) fn new(ticket: &Arc<Ticket>, bytes: u64) -> Self {
        Self { ticket: Some(Arc::clone(ticket)), bytes, ..Self::default() }
    }

    pub(super) fn keeping(queue: &Arc<Shared>) -> Self {
        Self { _kept: Some(Arc::clone(queue)), ..Self::default() }
    }

    fn happen(self, error: Option<Error>) {
        let Some(ticket) = &self.ticket else { return };
        match error {
            None => ticket.add_done(self.bytes),
            Some(error) => ticket.fail(error),
        }
    }
}

/// What is to be done when a step and all before it have ended, under no lock. It answers what is to be done after that: a chain
/// through many queues must not take stack for each link.
pub(super) struct Then(Box<dyn FnOnce() -> Vec<Self> + Send>);

impl Then {
    fn do_all(mut then: Vec<Self>) {
        while let Some(Self(next)) = then.pop() {
            then.extend(next());
        }
    }
}

struct Step {
    number: u64,
    effect: Effect,
    /// How many ends are still to come.
    pending: u32,
    /// What went wrong first.
    error: Option<Error>,
    then: Vec<Then>,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Step");
        f.field("number", &self.number).field("pending", &self.pending).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Entry {
    Step(Step),
    /// The value to set when all before it has ended.
    Marker(u64),
}

impl Entry {
    fn has_ended(&mut self) -> bool {
        match self {
            Self::Step(step) => step.pending == 0,
            Self::Marker(_) => true,
        }
    }

    fn step(&mut self) -> Option<&mut Step> {
        match self {
            Self::Step(step) => Some(step),
            Self::Marker(_) => None,
        }
    }
}

/// A queue that stays idle while this lives.
pub(super) struct Idle<'a> {
    _entries: MutexGuard<'a, VecDeque<Entry>>,
}

#[derive(Debug, Default)]
pub(super) struct Progress {
    entries: Mutex<VecDeque<Entry>>,
    /// The value has risen, or the first step is another.
    has_moved: Condvar,
    /// Written under the lock, read without.
    value: AtomicU64,
}

impl Progress {
    /// How far the queue is. Whoever sees a value sees what was done before it.
    pub(super) fn value(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// If every step has ended, keeps new ones and markers from coming until the answer is dropped, for a short time.
    pub(super) fn idle(&self) -> Option<Idle<'_>> {
        let entries = self.entries.lock();
        entries.is_empty().then_some(Idle { _entries: entries })
    }

    /// Adds a step, whose number is one more than that of the last. It ends once.
    pub(super) fn push(&self, number: u64, effect: Effect) {
        self.push_with(number, effect, 1);
    }

    /// Adds a step that has ended when [`Progress::end`] has been called `ends` times, or [`Progress::cancel`] once.
    pub(super) fn push_with(&self, number: u64, effect: Effect, ends: u32) {
        let step = Step { number, effect, pending: ends, error: None, then: Vec::new() };
        self.entries.lock().push_back(Entry::Step(step));
    }

    /// Adds a marker; on an idle queue it is reached.
    pub(super) fn mark(&self, value: u64) {
        let mut entries = self.entries.lock();
        entries.push_back(Entry::Marker(value));
        self.advance(&mut entries, |_| {});
    }

    /// Has `then` called when the step and all before it have ended, by whoever ends it; at once if they have. It answers as
    /// [`Progress::note_end`], which it may call on other queues.
    pub(super) fn when_passed(&self, number: u64, then: impl FnOnce() -> Vec<Then> + Send + 'static) {
        let mut entries = self.entries.lock();
        let mut steps = entries.iter_mut().filter_map(Entry::step);
        match steps.find(|step| step.number == number) {
            Some(step) => step.then.push(Then(Box::new(then))),
            None => {
                drop(entries);
                Then::do_all(then());
            }
        }
    }

    /// Notes that a step has ended, or one of the things that it consists of. `pass` is called with the number of each step that
    /// has ended now with all before it, in order and under the lock.
    pub(super) fn end(&self, number: u64, result: Result<(), Error>, pass: impl Fn(u64)) {
        Then::do_all(self.note_end(number, result, pass));
    }

    /// As [`Progress::end`], but leaves to the caller what is then to be done, under no lock.
    pub(super) fn note_end(&self, number: u64, result: Result<(), Error>, pass: impl Fn(u64)) -> Vec<Then> {
        let mut entries = self.entries.lock();
        let mut steps = entries.iter_mut().filter_map(Entry::step);
        if let Some(step) = steps.find(|step| step.number == number) {
            step.pending -= 1;
            step.error = step.error.take().or(result.err());
        }
        self.advance(&mut entries, pass)
    }

    /// Ends a step that has come to nothing: its effect does not happen. Else as [`Progress::end`].
    pub(super) fn cancel(&self, number: u64, pass: impl Fn(u64)) {
        let mut entries = self.entries.lock();
        let mut steps = entries.iter_mut().filter_map(Entry::step);
        if let Some(step) = steps.find(|step| step.number == number) {
            step.pending = 0;
            step.effect = Effect::default();
        }
        let then = self.advance(&mut entries, pass);
        drop(entries);
        Then::do_all(then);
    }

    /// Takes what has ended from the front; returns what is then to be done.
    fn advance(&self, entries: &mut MutexGuard<'_, VecDeque<Entry>>, pass: impl Fn(u64)) -> Vec<Then> {
        let (mut has_moved, mut then) = (false, Vec::new());
        while let Some(entry) = entries.pop_front_if(Entry::has_ended) {
            match entry {
                Entry::Step(step) => {
                    step.effect.happen(step.error);
                    pass(step.number);
                    then.extend(step.then);
                }
                Entry::Marker(value) => self.value.store(value, Ordering::Release),
            }
            has_moved = true;
        }
        if has_moved {
            self.has_moved.notify_all();
        }
        then
    }

    /// Waits until the value is reached, `timeout` is over or `is_over` says that there is nothing to wait for. True if it is
    /// reached.
    pub(super) fn wait(&self, value: u64, timeout: Duration, is_over: impl Fn() -> bool) -> bool {
        if self.value() >= value {
            return true;
        }
        // `None`: longer than the clock can say.
        let deadline = Instant::now().checked_add(timeout);
        let mut entries = self.entries.lock();
        while self.value() < value && !is_over() {
            let left =
                deadline.map_or(LOST_CHECK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let _ = self.has_moved.wait_for(&mut entries, left.min(LOST_CHECK));
        }
        self.value() >= value
    }

    /// Waits until a step is the first that has not ended. False if `is_over` says that there is nothing to wait for.
    pub(super) fn wait_for_turn(&self, number: u64, is_over: impl Fn() -> bool) -> bool {
        let is_first = |entries: &VecDeque<Entry>| matches!(entries.front(), Some(Entry::Step(step)) if step.number == number);
        let mut entries = self.entries.lock();
        while !is_first(&entries) && !is_over() {
            let _ = self.has_moved.wait_for(&mut entries, LOST_CHECK);
        }
        is_first(&entries) && !is_over()
    }

    /// Waits until every step has ended, or `is_over` says that there is nothing to wait for.
    pub(super) fn wait_idle(&self, is_over: impl Fn() -> bool) {
        let mut entries = self.entries.lock();
        while !entries.is_empty() && !is_over() {
            let _ = self.has_moved.wait_for(&mut entries, LOST_CHECK);
        }
    }

    /// The number of the last step before the marker with `value`; `None` if it has ended.
    pub(super) fn step_before(&self, value: u64) -> Option<u64> {
        let entries = self.entries.lock();
        if self.value() >= value {
            return None;
        }
        let mut step = None;
        for entry in entries.iter() {
            match entry {
                Entry::Step(Step { number, .. }) => step = Some(*number),
                Entry::Marker(marker) if *marker >= value => return step,
                Entry::Marker(_) => {}
            }
        }
        // Never signalled: nothing to wait for.
        None
    }
}

#[cfg(test)]
mod tests;
