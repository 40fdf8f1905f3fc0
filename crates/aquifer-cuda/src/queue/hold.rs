//! Holding a queue back.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;

use crate::words::Word;

/// Holds a queue back until it is dropped; see [`CudaQueue::hold`](super::CudaQueue::hold). Any thread may drop it. Forgotten, it
/// holds the queue for good.
#[derive(Debug)]
#[must_use = "dropping it lets the queue go"]
pub struct QueueHold {
    gate: Arc<Gate>,
    number: u64,
}

impl Drop for QueueHold {
    fn drop(&mut self) {
        self.gate.open(self.number);
    }
}

/// A word that a stream waits for, once for each hold: it is the number of the last hold that has gone with all before it.
///
/// A hold may go after its queue, and the stream look at the word later still. So whoever is next given the word counts on from where it was:
/// for the one that looks it is high enough, now and later.
#[derive(Debug)]
pub(super) struct Gate {
    word: Word,
    holds: Mutex<Holds>,
}

#[derive(Debug)]
struct Holds {
    last: u64,
    open: u64,
    /// Those that have gone before others that came before them.
    early: BTreeSet<u64>,
}

impl Gate {
    /// With a word of [`Device::gate_words`](crate::device::Device).
    pub(super) fn new(word: Word) -> Self {
        let value = word.value().load(Ordering::Acquire);
        let holds = Holds { last: value, open: value, early: BTreeSet::new() };
        Self { word, holds: Mutex::new(holds) }
    }

    /// The next hold, and what the stream is to wait for: a word's address and value.
    pub(super) fn close(self: &Arc<Self>) -> (QueueHold, u64, u64) {
        let mut holds = self.holds.lock();
        holds.last += 1;
        let hold = QueueHold { gate: Arc::clone(self), number: holds.last };
        (hold, self.word.address(), holds.last)
    }

    fn open(&self, number: u64) {
        let mut holds = self.holds.lock();
        holds.early.insert(number);
        while holds.early.first() == Some(&(holds.open + 1)) {
            holds.early.pop_first();
            holds.open += 1;
        }
        self.word.value().store(holds.open, Ordering::Release);
    }
}
