//! What follows when work in a stream has run.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aquifer_backend::Ticket;
use parking_lot::Mutex;

use crate::words::Word;

/// What follows when a piece of work has run.
#[derive(Debug)]
pub(super) enum Effect {
    /// So many bytes have arrived.
    Tell(Arc<Ticket>, u64),
    /// Another queue's word, which the stream waits for, is needed no more.
    LetGo { _word: Arc<Word> },
}

impl Effect {
    fn end(self) {
        if let Self::Tell(ticket, bytes) = self {
            ticket.add_done(bytes);
        }
    }
}

/// The effects of what is on its way, in the stream's order.
///
/// Apart from what is locked while the stream is given something, since that may take long, and nobody who asks for the value is to wait for
/// it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    list: Mutex<VecDeque<Entry>>,
    /// Up to which value they have come about.
    ended: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    /// The first marker behind it; `None` while none has come. None has come for the last entries only.
    marker: Option<u64>,
    effect: Effect,
}

impl Pending {
    pub(super) fn push(&self, effect: Effect) {
        self.list.lock().push_back(Entry { marker: None, effect });
    }

    /// A marker comes behind all that there is.
    pub(super) fn mark(&self, value: u64) {
        let mut list = self.list.lock();
        let new =
            list.iter_mut().rev().map_while(|entry| entry.marker.is_none().then_some(&mut entry.marker));
        new.for_each(|marker| *marker = Some(value));
    }

    /// The queue has come to a value.
    pub(super) fn end(&self, value: u64) {
        if self.ended.load(Ordering::Acquire) >= value {
            return;
        }
        let mut list = self.list.lock();
        while let Some(entry) = list.pop_front_if(|entry| entry.marker.is_some_and(|marker| marker <= value))
        {
            entry.effect.end();
        }
        self.ended.fetch_max(value, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_come_with_the_first_marker_behind_them() {
        let (pending, tickets) = (Pending::default(), [(); 4].map(|()| Arc::new(Ticket::default())));
        let done = || tickets.each_ref().map(|ticket| ticket.done_bytes());
        let push = |index: usize| pending.push(Effect::Tell(Arc::clone(&tickets[index]), 1));
        push(0);
        push(1);
        pending.mark(1);
        push(2);
        // The driver did not take the second marker, so the third covers what is before.
        pending.mark(2);
        pending.mark(3);
        push(3);
        pending.end(1);
        assert_eq!(done(), [1, 1, 0, 0]);
        pending.end(3);
        assert_eq!(done(), [1, 1, 1, 0], "no marker is behind the last");
        pending.mark(4);
        pending.end(3);
        assert_eq!(done(), [1, 1, 1, 0]);
        pending.end(4);
        assert_eq!(done(), [1; 4]);
    }
}
