//! The blocks that are made of users' memory. They are of no pool, so no request can find them.
//!
//! ```text
//! live ──free──> leaving, if queues may still use it ──queues pass──> destroyed
//!          └──────────────────────────────────────────────────────────────┘
//!                                  refused by the driver: kept, to be tried again
//! ```
//!
//! Under the lock blocks only change their list. They are destroyed outside of it, since that drops the user's owners.

use crate::range::{BlockIndex, QueueIndex};
use crate::statistics::ByteCounter;
use parking_lot::RwLock;
use std::sync::Arc;

/// How far queues must come before a block that they may use can go.
pub(super) type Values = Vec<(QueueIndex, u64)>;

#[derive(Debug)]
pub(crate) struct ImportedBlocks<T>(RwLock<State<T>>);

#[derive(Debug)]
struct State<T> {
    /// Those of live buffers, by the block index of their places.
    live: Vec<Option<Arc<T>>>,
    /// The indices that are free again.
    unused: Vec<BlockIndex>,
    /// Freed, and perhaps in use by queues.
    leaving: Vec<(T, Values)>,
    /// Freed, but the driver would not take them back.
    refused: Vec<T>,
    /// All that have not been destroyed.
    count: u64,
    live_count: u64,
    /// Of the live ones.
    bytes: ByteCounter,
}

impl<T> Default for ImportedBlocks<T> {
    fn default() -> Self {
        Self(RwLock::new(State {
            live: Vec::new(),
            unused: Vec::new(),
            leaving: Vec::new(),
            refused: Vec::new(),
            count: 0,
            live_count: 0,
            bytes: ByteCounter::default(),
        }))
    }
}

impl<T> ImportedBlocks<T> {
    /// Keeps a new block, live.
    pub(super) fn insert(&self, block: T, bytes: u64) -> BlockIndex {
        let state = &mut *self.0.write();
        state.count += 1;
        state.live_count += 1;
        state.bytes.current += bytes;
        state.bytes.total += bytes;
        state.bytes.peak = state.bytes.peak.max(state.bytes.current);
        let index = state.unused.pop().unwrap_or_else(|| {
            state.live.push(None);
            BlockIndex::try_from(state.live.len() - 1).expect("fewer than 2^32 blocks")
        });
        state.live[index as usize] = Some(Arc::new(block));
        index
    }

    /// The block of a live buffer.
    pub(crate) fn block(&self, index: BlockIndex) -> Arc<T> {
        let state = self.0.read();
        Arc::clone(state.live[index as usize].as_ref().expect("the block of a live buffer exists"))
    }

    /// Takes the block of a buffer out that is being freed.
    pub(super) fn remove(&self, index: BlockIndex, bytes: u64) -> T {
        let state = &mut *self.0.write();
        state.live_count -= 1;
        state.bytes.current -= bytes;
        let block = state.live[index as usize].take().expect("the block of a live buffer exists");
        state.unused.push(index);
        Arc::into_inner(block).expect("only calls on live buffers borrow a block")
    }

    /// Keeps a block that was taken out until queues have reached their values.
    pub(super) fn leave(&self, block: T, values: Values) {
        self.0.write().leaving.push((block, values));
    }

    /// Takes those out that no queue uses any more; `completed` tells how far a queue is.
    pub(super) fn take_passed(&self, completed: impl Fn(QueueIndex) -> u64) -> Vec<T> {
        if self.0.read().leaving.is_empty() {
            return Vec::new();
        }
        let state = &mut *self.0.write();
        let has_passed = |(_, values): &mut (T, Values)| {
            // What has been passed is not waited for again, or who waits for the next would not wait at all.
            values.retain(|&(queue, value)| completed(queue) < value);
            values.is_empty()
        };
        state.leaving.extract_if(.., has_passed).map(|(block, _)| block).collect()
    }

    /// Keeps a block that the driver would not take back.
    pub(super) fn keep_refused(&self, block: T) {
        self.0.write().refused.push(block);
    }

    /// Takes those out that the driver would not take back before.
    pub(super) fn take_refused(&self) -> Vec<T> {
        if self.0.read().refused.is_empty() {
            return Vec::new();
        }
        std::mem::take(&mut self.0.write().refused)
    }

    /// Notes that a block that was taken out is gone.
    pub(super) fn note_destroyed(&self) {
        self.0.write().count -= 1;
    }

    /// Whether any waits for a queue.
    pub(super) fn has_in_flight(&self) -> bool {
        !self.0.read().leaving.is_empty()
    }

    /// A queue and a value that the first of those waits for.
    pub(super) fn next_in_flight(&self) -> Option<(QueueIndex, u64)> {
        self.0.read().leaving.first().and_then(|(_, values)| values.first().copied())
    }

    /// How many there are that have not been destroyed.
    pub(super) fn count(&self) -> u64 {
        self.0.read().count
    }

    /// How many are live.
    pub(super) fn live_count(&self) -> u64 {
        self.0.read().live_count
    }

    /// The bytes of the live ones.
    pub(super) fn bytes(&self) -> ByteCounter {
        self.0.read().bytes
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_block_goes_when_its_last_queue_has_passed_or_the_driver_agrees() {
        let blocks = ImportedBlocks::default();
        let indices = ["a", "b", "c"].map(|block| blocks.insert(block, 10));
        assert_eq!(*blocks.block(indices[1]), "b");
        assert_eq!(blocks.remove(indices[1], 10), "b");
        assert_eq!(blocks.insert("d", 5), indices[1], "indices come again");
        blocks.leave("b", vec![(1, 5), (2, 9)]);
        blocks.leave("e", vec![(2, 8)]);
        assert_eq!(blocks.next_in_flight(), Some((1, 5)));
        let pass = |reached: [u64; 2]| blocks.take_passed(|queue| reached[usize::from(queue) - 1]);
        assert!(pass([5, 7]).is_empty());
        assert_eq!(pass([5, 8]), ["e"]);
        assert_eq!(blocks.next_in_flight(), Some((2, 9)), "the first queue has passed");
        assert!(blocks.has_in_flight());
        assert_eq!(pass([5, 9]), ["b"]);
        blocks.keep_refused("b");
        assert!(!blocks.has_in_flight(), "it waits for no queue");
        assert_eq!((blocks.take_refused(), blocks.take_refused()), (vec!["b"], vec![]));
        assert_eq!((blocks.count(), blocks.live_count()), (4, 3), "none has been destroyed");
        blocks.note_destroyed();
        assert_eq!(blocks.count(), 3);
        assert_eq!(blocks.bytes(), ByteCounter { current: 25, peak: 30, total: 35 });
    }
}
