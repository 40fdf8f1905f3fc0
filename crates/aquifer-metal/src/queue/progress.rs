//! How far a queue is: which of its steps have ended, and the value that follows from it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aquifer_backend::{Error, Ticket};
use objc2::runtime::ProtocolObject;
use objc2_metal::MTLSharedEvent;
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

    fn happen(self, result: Result<(), Error>) {
        let Some(ticket) = &self.ticket else { return };
        match result {
            Ok(()) => ticket.add_done(self.bytes),
            Err(error) => ticket.fail(error),
        }
    }
}

#[derive(Debug)]
enum Entry {
    Step { number: u64, effect: Effect, result: Option<Result<(), Error>> },
    /// The value to set when all before it has ended.
    Marker(u64),
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

    /// Whether every step has ended.
    pub(super) fn is_idle(&self) -> bool {
        self.entries.lock().is_empty()
    }

    /// Adds a step, whose number is one more than that of the last.
    pub(super) fn push(&self, number: u64, effect: Effect) {
        self.entries.lock().push_back(Entry::Step { number, effect, result: None });
    }

    /// Adds a marker; on an idle queue it is reached.
    pub(super) fn mark(&self, value: u64) {
        let mut entries = self.entries.lock();
        entries.push_back(Entry::Marker(value));
        self.advance(&mut entries, None);
    }

    /// Notes that a step has ended.
    pub(super) fn end(
        &self,
        number: u64,
        result: Result<(), Error>,
        order: &ProtocolObject<dyn MTLSharedEvent>,
    ) {
        let mut entries = self.entries.lock();
        let ended = entries.iter_mut().find_map(|entry| match entry {
            Entry::Step { number: other, result, .. } if *other == number => Some(result),
            Entry::Step { .. } | Entry::Marker(_) => None,
        });
        if let Some(ended) = ended {
            *ended = Some(result);
        }
        self.advance(&mut entries, Some(order));
    }

    /// Takes what has ended from the front.
    fn advance(
        &self,
        entries: &mut MutexGuard<'_, VecDeque<Entry>>,
        order: Option<&ProtocolObject<dyn MTLSharedEvent>>,
    ) {
        let mut has_moved = false;
        loop {
            match entries.front() {
                None | Some(Entry::Step { result: None, .. }) => break,
                Some(Entry::Step { .. } | Entry::Marker(_)) => {}
            }
            match entries.pop_front() {
                Some(Entry::Step { number, effect, result }) => {
                    effect.happen(result.unwrap_or(Ok(())));
                    // A copy by the processor signals nothing, nor does a command buffer that failed. All before it has
                    // ended, and what is behind it waits for it: so nobody else sets the event now.
                    if let Some(order) = order
                        && order.signaledValue() < number
                    {
                        order.setSignaledValue(number);
                    }
                }
                Some(Entry::Marker(value)) => self.value.store(value, Ordering::Release),
                None => break,
            }
            has_moved = true;
        }
        if has_moved {
            self.has_moved.notify_all();
        }
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
            let left = deadline
                .map_or(LOST_CHECK, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            let _ = self.has_moved.wait_for(&mut entries, left.min(LOST_CHECK));
        }
        self.value() >= value
    }

    /// Waits until a step is the first that has not ended. False if `is_over` says that there is nothing to wait for.
    pub(super) fn wait_for_turn(&self, number: u64, is_over: impl Fn() -> bool) -> bool {
        let is_first = |entries: &VecDeque<Entry>| {
            matches!(entries.front(), Some(Entry::Step { number: first, .. }) if *first == number)
        };
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
        let mut step = None;
        for entry in entries.iter() {
            match entry {
                Entry::Step { number, .. } => step = Some(*number),
                Entry::Marker(marker) if *marker >= value => return step,
                Entry::Marker(_) => {}
            }
        }
        // Reached, or never signalled: nothing to wait for.
        None
    }
}
