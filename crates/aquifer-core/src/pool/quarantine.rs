//! Places that were freed while queues other than their own could still use them.
//!
//! A free only notes which queues (a thread cache collects up to [`BATCH_ENTRIES`] such notes by itself). Then one marker
//! is put into each queue that any of the batch's places waits for, and the batch is *sealed* with the markers' values.
//! Each place leaves when the queues that it waits for have reached them, also if others of its batch must wait longer.

use super::request::{Place, Request};
use super::uses::Uses;
use crate::range::QueueIndex;
use std::collections::VecDeque;

/// After so many frees there is a marker at the latest.
pub(crate) const BATCH_ENTRIES: usize = crate::sync::table_size(64, 2) as usize;

/// A place that waits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) place: Place,
    pub(crate) request: Request,
    pub(crate) uses: Uses,
}

/// Names a batch while its markers are put into the queues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BatchId(u64);

#[derive(Debug)]
struct Sealed {
    id: BatchId,
    entries: Vec<Entry>,
    /// `None` until the markers are in the queues.
    values: Option<Vec<(QueueIndex, u64)>>,
}

/// A pool's quarantine.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    /// Without markers yet.
    open: Vec<Entry>,
    sealed: VecDeque<Sealed>,
    sealed_count: u64,
}

impl Quarantine {
    pub(crate) fn is_empty(&self) -> bool {
        self.open.is_empty() && self.sealed.is_empty()
    }

    /// Whether the open batch should be sealed before it takes more.
    pub(crate) fn is_full(&self) -> bool {
        self.open.len() >= BATCH_ENTRIES
    }

    pub(crate) fn push(&mut self, entry: Entry) {
        self.open.push(entry);
    }

    /// Begins to seal the open batch; answers the queues that it needs markers in. `None` if there is nothing.
    pub(crate) fn begin_seal_open(&mut self) -> Option<(BatchId, Uses)> {
        let entries = std::mem::take(&mut self.open);
        self.begin_seal(entries)
    }

    /// Begins to seal a batch.
    pub(crate) fn begin_seal(&mut self, entries: Vec<Entry>) -> Option<(BatchId, Uses)> {
        let uses = entries.iter().map(|entry| entry.uses).reduce(Uses::union)?;
        let id = BatchId(self.sealed_count);
        self.sealed_count += 1;
        self.sealed.push_back(Sealed { id, entries, values: None });
        Some((id, uses))
    }

    /// Keeps a batch until each queue has reached its value. The markers were put into the queues after sealing began.
    pub(crate) fn finish_seal(&mut self, id: BatchId, values: Vec<(QueueIndex, u64)>) {
        if let Some(batch) = self.sealed.iter_mut().rfind(|batch| batch.id == id) {
            batch.values = Some(values);
        }
    }

    /// Takes out what no queue uses any more; `completed` tells how far a queue is.
    pub(crate) fn collect(&mut self, completed: impl Fn(QueueIndex) -> u64) -> Vec<Entry> {
        if self.sealed.is_empty() {
            return Vec::new();
        }
        let mut free = Vec::new();
        self.sealed.retain_mut(|batch| {
            let Some(values) = &mut batch.values else { return true };
            let before = values.len();
            values.retain(|&(queue, value)| completed(queue) < value);
            if values.is_empty() && free.is_empty() {
                free = std::mem::take(&mut batch.entries);
            } else if values.is_empty() {
                free.append(&mut batch.entries);
            } else if values.len() < before {
                let waits = |entry: &Entry| values.iter().any(|&(queue, _)| entry.uses.include(queue));
                let (waiting, ready) = batch.entries.iter().partition::<Vec<Entry>, _>(|entry| waits(entry));
                free.extend(ready);
                batch.entries = waiting;
            }
            !batch.entries.is_empty()
        });
        free
    }

    /// A queue and a value that the oldest batch waits for.
    pub(crate) fn oldest(&self) -> Option<(QueueIndex, u64)> {
        self.sealed.iter().find_map(|batch| batch.values.as_ref()?.first().copied())
    }

    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.open.iter().chain(self.sealed.iter().flat_map(|batch| &batch.entries))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::pool::{BucketLayout, LaneKey};
    use crate::raw::local::LaneIdentity;
    use crate::statistics::Tag;

    fn entry(offset: u64, queues: &[QueueIndex]) -> Entry {
        let layout = BucketLayout::default();
        let key = LaneKey::new(LaneIdentity::from_bits(7), 0);
        let uses = queues.iter().fold(Uses::at_home(0), |uses, &queue| uses.with(queue));
        Entry {
            place: Place::new(0, 0, offset),
            request: Request::new(&layout, key, 1, 1, Tag::UNTAGGED),
            uses,
        }
    }

    #[test]
    fn each_place_leaves_when_its_own_queues_have_passed() {
        let mut quarantine = Quarantine::default();
        for (offset, queues) in [(1, &[1][..]), (2, &[2]), (3, &[1, 2])] {
            quarantine.push(entry(offset, queues));
        }
        let (id, uses) = quarantine.begin_seal_open().expect("there are three");
        assert!(uses.include(1) && uses.include(2) && !uses.include(3));
        assert!(quarantine.collect(|_| u64::MAX).is_empty(), "the markers are not in the queues yet");
        quarantine.finish_seal(id, vec![(1, 5), (2, 9)]);
        let mut collect = |reached: [u64; 2]| -> Vec<u64> {
            let free = quarantine.collect(|queue| reached[usize::from(queue) - 1]);
            free.iter().map(|entry| entry.place.offset).collect()
        };
        assert!(collect([4, 8]).is_empty());
        assert_eq!(collect([4, 9]), [2]);
        assert_eq!(collect([5, 9]), [1, 3]);
        assert!(quarantine.is_empty());
    }
}
