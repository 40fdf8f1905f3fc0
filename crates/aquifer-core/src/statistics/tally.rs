//! The byte counts of one manager: in all, and by tag.

use super::Tag;
use super::gauge::{LocalGauge, SharedGauge};
use crate::sync::{Mutex, MutexGuard, Rank, table_size};

/// How many tags a manager can have, "untagged" included.
pub(crate) const TAGS_MAX: usize = table_size(Tag::LIMITED as u64, 2) as usize;

/// The shared part, one per manager.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) requested: SharedGauge,
    pub(crate) allocated: SharedGauge,
    pub(crate) tags: Box<[SharedGauge]>,
    telling: Mutex<()>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            requested: SharedGauge::default(),
            allocated: SharedGauge::default(),
            tags: (0..TAGS_MAX).map(|_| SharedGauge::default()).collect(),
            telling: Mutex::new(Rank::Tally, ()),
        }
    }
}

impl Tally {
    /// Keeps ending threads from telling what they have not told yet while someone reads, who would otherwise miss it
    /// here and there. A thread that was joined in a scope may still be ending.
    pub(crate) fn hold_still(&self) -> MutexGuard<'_, ()> {
        self.telling.lock()
    }

    /// Adds an allocation at once, for slow paths.
    pub(crate) fn rise(&self, requested_bytes: u64, allocated_bytes: u64, tag: Tag) {
        self.requested.add(requested_bytes as i64);
        self.allocated.add(allocated_bytes as i64);
        self.tags[tag.index()].add(requested_bytes as i64);
    }

    /// Takes an allocation away at once, for slow paths.
    pub(crate) fn fall(&self, requested_bytes: u64, allocated_bytes: u64, tag: Tag) {
        self.requested.add(-(requested_bytes as i64));
        self.allocated.add(-(allocated_bytes as i64));
        self.tags[tag.index()].add(-(requested_bytes as i64));
    }
}

/// One thread's part.
#[derive(Debug)]
pub(crate) struct LocalTally {
    pub(crate) requested: LocalGauge,
    pub(crate) allocated: LocalGauge,
    pub(crate) tags: Box<[LocalGauge; TAGS_MAX]>,
}

impl Default for LocalTally {
    fn default() -> Self {
        Self {
            requested: LocalGauge::default(),
            allocated: LocalGauge::default(),
            tags: Box::new(std::array::from_fn(|_| LocalGauge::default())),
        }
    }
}

impl LocalTally {
    #[inline]
    fn of(&self, tag: Tag) -> &LocalGauge {
        // No tag has a larger index; the remainder spares the check.
        &self.tags[tag.index() % TAGS_MAX]
    }

    /// Adds an allocation to this thread's part; publishes to `shared` if that has become due.
    #[inline]
    pub(crate) fn rise(&self, requested_bytes: u64, allocated_bytes: u64, tag: Tag, shared: &Tally) {
        let of_tag = self.of(tag).rise(requested_bytes);
        if of_tag | self.requested.rise(requested_bytes) | self.allocated.rise(allocated_bytes) {
            self.publish_one(tag, shared);
        }
    }

    /// Takes an allocation away from this thread's part; publishes to `shared` if that has become due.
    #[inline]
    pub(crate) fn fall(&self, requested_bytes: u64, allocated_bytes: u64, tag: Tag, shared: &Tally) {
        let of_tag = self.of(tag).fall(requested_bytes);
        if of_tag | self.requested.fall(requested_bytes) | self.allocated.fall(allocated_bytes) {
            self.publish_one(tag, shared);
        }
    }

    /// Publishes what one tag's allocations count in.
    #[cold]
    #[inline(never)]
    pub(crate) fn publish_one(&self, tag: Tag, shared: &Tally) {
        self.requested.publish(&shared.requested);
        self.allocated.publish(&shared.allocated);
        self.tags[tag.index()].publish(&shared.tags[tag.index()]);
    }

    /// Publishes everything, when the thread ends.
    pub(crate) fn publish_all(&self, shared: &Tally) {
        let _telling = shared.telling.lock();
        self.requested.publish(&shared.requested);
        self.allocated.publish(&shared.allocated);
        for (local, shared) in self.tags.iter().zip(&shared.tags) {
            local.publish(shared);
        }
    }
}
