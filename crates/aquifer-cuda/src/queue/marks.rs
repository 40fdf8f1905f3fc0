//! Where a queue's markers are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aquifer_backend::Error;
use parking_lot::RwLock;

use crate::device::Device;
use crate::words::Word;

/// The word that a queue's markers are written to, and what was known before it was.
///
/// A word is given up when a graph may have captured a marker of it: each launch of the graph, on whichever stream, would write the marker's
/// value again. Nobody reads it then, and nobody is given it any more.
#[derive(Debug)]
pub(super) struct Marks {
    /// `None`: the last one was given up, so what was signalled is to be signalled again.
    word: RwLock<Option<Arc<Word>>>,
    /// The value when the word before was given up.
    known: AtomicU64,
    /// Whether something was signalled for which the stream has no marker.
    is_behind: AtomicBool,
    holds: Arc<AtomicU32>,
}

/// Keeps a queue's value where it is until it is dropped; see [`CudaQueue::hold_value`](super::CudaQueue::hold_value). Any thread may drop
/// it.
#[derive(Debug)]
#[must_use = "dropping it lets the value go"]
pub struct ValueHold {
    holds: Arc<AtomicU32>,
}

impl Drop for ValueHold {
    fn drop(&mut self) {
        self.holds.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Marks {
    pub(super) fn new(word: Word) -> Self {
        Self {
            word: RwLock::new(Some(Arc::new(word))),
            known: AtomicU64::new(0),
            is_behind: AtomicBool::new(false),
            holds: Arc::default(),
        }
    }

    /// The queue's value, as far as it is known.
    pub(super) fn value(&self) -> u64 {
        let known = self.known.load(Ordering::Acquire);
        let word = self.word.read();
        word.as_ref().map_or(known, |word| word.value().load(Ordering::Acquire).max(known))
    }

    /// The word of the last markers, if it has not been given up.
    pub(super) fn word(&self) -> Option<Arc<Word>> {
        self.word.read().clone()
    }

    /// A word for the next marker. One thread calls this at a time.
    ///
    /// # Errors
    ///
    /// As [`Words::take`](crate::words::Words::take).
    pub(super) fn word_or_new(&self, device: &Device, operation: &'static str) -> Result<Arc<Word>, Error> {
        if let Some(word) = self.word() {
            return Ok(word);
        }
        let word = Arc::new(device.words.take(device, operation)?);
        *self.word.write() = Some(Arc::clone(&word));
        Ok(word)
    }

    pub(super) fn hold(&self) -> ValueHold {
        self.holds.fetch_add(1, Ordering::AcqRel);
        ValueHold { holds: Arc::clone(&self.holds) }
    }

    pub(super) fn is_held(&self) -> bool {
        self.holds.load(Ordering::Acquire) > 0
    }

    /// Whether a marker is due for what has been signalled.
    pub(super) fn is_marker_due(&self) -> bool {
        self.is_behind.load(Ordering::Acquire) && !self.is_held()
    }

    pub(super) fn set_behind(&self, is_behind: bool) {
        self.is_behind.store(is_behind, Ordering::Release);
    }

    /// Gives the word up. `known` is a value that the queue had before the marker in question.
    pub(super) fn give_up(&self, known: u64) {
        self.known.fetch_max(known, Ordering::AcqRel);
        std::mem::forget(self.word.write().take());
        self.set_behind(true);
    }
}
