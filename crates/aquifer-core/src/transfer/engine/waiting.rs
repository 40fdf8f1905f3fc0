//! Those who wait for transfers, and work at them meanwhile.

use super::super::entry::Entry;
use super::{Copiers, Engine, Outcome};
use crate::manager::Shared;
use aquifer_backend::Backend;
use std::task::Waker;
use std::time::Duration;

/// How long one waits for a queue, or for the bell, before one looks at all again.
const WAIT_STEP: Duration = Duration::from_millis(100);
/// The same for copy threads: how late they may notice what nobody rings for.
const TICK: Duration = Duration::from_millis(1);

impl<B: Backend> Engine<B> {
    /// Blocks until a transfer is over, working at it meanwhile.
    pub(crate) fn wait(&self, shared: &Shared<B>, id: u64) -> Outcome<B> {
        // Where nobody else copies, others may hold all slots until somebody does: as there are no threads, or this is one of them, in
        // a callback.
        let is_copier = self.threads.is_one_of_them();
        let threads = if is_copier { 0 } else { shared.config.transfers.copy_threads };
        let copies = |only| match threads {
            0 => self.take_copy(Copiers::Unknown, only),
            most => only.and_then(|_| self.take_copy(Copiers::AtMost(most), only)),
        };
        loop {
            let seen = self.bell.count();
            self.poll(shared);
            if let Some(over) = self.take_ended(id) {
                return over;
            }
            if let Some(step) = copies(Some(id)).or_else(|| copies(None)) {
                step.run(shared);
                continue;
            }
            self.wait_a_while(shared, Some(id), seen, Some(WAIT_STEP));
        }
    }

    /// Blocks until something is granted that transfers may hold. Polled with a waker that rings the bell.
    pub(crate) fn wait_granted(&self, shared: &Shared<B>, mut poll_granted: impl FnMut(&Waker) -> bool) {
        loop {
            let seen = self.bell.count();
            self.poll(shared);
            if poll_granted(&self.waker) {
                return;
            }
            match self.take_copy(Copiers::Unknown, None) {
                Some(step) => step.run(shared),
                None => self.wait_a_while(shared, None, seen, Some(TICK)),
            }
        }
    }

    /// Waits for what may bring a transfer on, or any.
    fn wait_a_while(&self, shared: &Shared<B>, id: Option<u64>, seen: u64, timeout: Option<Duration>) {
        let mut state = self.state.lock();
        let awaited = |entry: &Entry<B>| entry.awaited().map(|(queue, value)| (queue.clone(), value));
        let own = id.and_then(|id| state.entry(id));
        let is_called_for = own.as_ref().is_some_and(|entry| entry.is_called_for);
        let own = own.and_then(|entry| awaited(entry));
        let awaited = own.or_else(|| state.entries.iter().find_map(awaited)).filter(|_| !is_called_for);
        drop(state);
        match awaited {
            Some((queue, value)) => {
                let of = queue.shared(shared);
                if of.is_lost() || of.wait_a_while(&queue.queue, value, timeout.unwrap_or(TICK)).is_err() {
                    // The driver cannot wait; or it is over, which the next look tells.
                    self.bell.wait(seen, Some(TICK));
                }
            }
            None => self.bell.wait(seen, timeout),
        }
    }

    /// For a copy thread: sleeps until there may be something to do.
    pub(in crate::transfer) fn rest(&self, shared: &Shared<B>, seen: u64) {
        let state = self.state.lock();
        let is_idle = state.entries.is_empty();
        drop(state);
        if is_idle {
            return self.bell.wait(seen, None);
        }
        // One thread waits for the queue, the others for the bell.
        match self.threads.begin_waiting() {
            Some(_waiting) => self.wait_a_while(shared, None, seen, Some(TICK)),
            None => self.bell.wait(seen, Some(WAIT_STEP)),
        }
    }
}
