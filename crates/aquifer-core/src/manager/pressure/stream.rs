//! Events for who waits for them: as an asynchronous stream, or blocking.

use crate::pressure::PressureEvent;
use futures_core::Stream;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How many events wait for who does not take them.
const WAITING_MAX: usize = 256;

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<PressureEvent>,
    missed: u64,
    waker: Option<Waker>,
    is_over: bool,
}

/// What a monitor's side of a stream is.
#[derive(Debug, Default)]
pub(super) struct EventQueue {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
}

impl EventQueue {
    /// Puts an event at the end. Answers who is to be woken, under no lock.
    #[must_use]
    pub(super) fn push(&self, event: &PressureEvent) -> Option<Waker> {
        let mut waiting = self.waiting.lock();
        if waiting.is_over {
            // The monitor was closed while it told this.
            return None;
        }
        if waiting.events.len() == WAITING_MAX {
            waiting.events.pop_front();
            waiting.missed += 1;
        }
        waiting.events.push_back(event.clone());
        self.arrived.notify_all();
        waiting.waker.take()
    }

    #[must_use]
    pub(super) fn end(&self) -> Option<Waker> {
        let mut waiting = self.waiting.lock();
        waiting.is_over = true;
        self.arrived.notify_all();
        waiting.waker.take()
    }
}

/// A monitor's events from when this was made, from [`PressureMonitor::events`](super::PressureMonitor::events): a [`Stream`], for any
/// executor. It ends when the monitor or its manager goes.
///
/// 256 events wait for who does not take them; then the oldest are lost, and counted ([`PressureEvents::missed_count`]).
#[derive(Debug)]
#[must_use = "events that nobody takes are lost"]
pub struct PressureEvents {
    queue: Arc<EventQueue>,
}

impl PressureEvents {
    pub(super) fn new(queue: Arc<EventQueue>) -> Self {
        Self { queue }
    }

    /// How many events were lost, since nobody took them.
    #[must_use]
    pub fn missed_count(&self) -> u64 {
        self.queue.waiting.lock().missed
    }

    /// Whether there will be no more than what waits now.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.queue.waiting.lock().is_over
    }

    /// Takes the next event, blocking for up to `timeout`; `None` if there was none, or will be none.
    pub fn next_within(&mut self, timeout: Duration) -> Option<PressureEvent> {
        // A time too long for the clock is as good as a century.
        let now = Instant::now();
        let deadline = now.checked_add(timeout).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400));
        let mut waiting = self.queue.waiting.lock();
        loop {
            if let Some(event) = waiting.events.pop_front() {
                return Some(event);
            }
            if waiting.is_over || self.queue.arrived.wait_until(&mut waiting, deadline).timed_out() {
                return waiting.events.pop_front();
            }
        }
    }
}

impl Stream for PressureEvents {
    type Item = PressureEvent;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<PressureEvent>> {
        // To clone and drop it is the user's code, so not under the lock.
        let waker = context.waker().clone();
        let mut waiting = self.queue.waiting.lock();
        if let Some(event) = waiting.events.pop_front() {
            drop(waiting);
            return Poll::Ready(Some(event));
        }
        if waiting.is_over {
            drop(waiting);
            return Poll::Ready(None);
        }
        let before = waiting.waker.replace(waker);
        drop((waiting, before));
        Poll::Pending
    }
}
