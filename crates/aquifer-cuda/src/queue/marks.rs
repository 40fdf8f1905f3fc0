//! Where a queue's markers are written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
}

impl Marks {
    pub(super) fn new(word: Word) -> Self {
        Self { word: RwLock::new(Some(Arc::new(word))), known: AtomicU64::new(0) }
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

    /// Gives the word up. `known` is a value that the queue had before the marker in question.
    pub(super) fn give_up(&self, known: u64) {
        self.known.fetch_max(known, Ordering::AcqRel);
        std::mem::forget(self.word.write().take());
    }
}
