//! The byte counts of one manager: in all, and by tag.

use super::Tag;
use super::gauge::{LocalGauge, SharedGauge};

/// How many tags a manager can have, "untagged" included.
pub(crate) const TAGS_MAX: usize = 1024;

/// The shared part, one per manager.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) requested: SharedGauge,
    pub(crate) allocated: SharedGauge,
    pub(crate) tags: Box<[SharedGauge]>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            requested: SharedGauge::default(),
            allocated: SharedGauge::default(),
            tags: (0..TAGS_MAX).map(|_| SharedGauge::default()).collect(),
        }
    }
}

impl Tally {
    /// Adds at once, for slow paths.
    pub(crate) fn add(&self, requested_bytes: i64, allocated_bytes: i64, tag: Tag) {
        self.requested.add(requested_bytes);
        self.allocated.add(allocated_bytes);
        self.tags[tag.index()].add(requested_bytes);
    }
}

/// One thread's part.
#[derive(Debug)]
pub(crate) struct LocalTally {
    pub(crate) requested: LocalGauge,
    pub(crate) allocated: LocalGauge,
    pub(crate) tags: Box<[LocalGauge]>,
}

impl Default for LocalTally {
    fn default() -> Self {
        Self {
            requested: LocalGauge::default(),
            allocated: LocalGauge::default(),
            tags: (0..TAGS_MAX).map(|_| LocalGauge::default()).collect(),
        }
    }
}

impl LocalTally {
    /// Adds to this thread's part; publishes to `shared` if that has become due.
    #[inline]
    pub(crate) fn add(&self, requested_bytes: i64, allocated_bytes: i64, tag: Tag, shared: &Tally) {
        let tag_gauge = &self.tags[tag.index()];
        let is_due = self.requested.add(requested_bytes)
            | self.allocated.add(allocated_bytes)
            | tag_gauge.add(requested_bytes);
        if is_due {
            self.publish_one(tag, shared);
        }
    }

    #[cold]
    fn publish_one(&self, tag: Tag, shared: &Tally) {
        self.requested.publish(&shared.requested);
        self.allocated.publish(&shared.allocated);
        self.tags[tag.index()].publish(&shared.tags[tag.index()]);
    }

    /// Publishes everything, when the thread ends.
    pub(crate) fn publish_all(&self, shared: &Tally) {
        self.requested.publish(&shared.requested);
        self.allocated.publish(&shared.allocated);
        for (local, shared) in self.tags.iter().zip(&shared.tags) {
            local.publish(shared);
        }
    }
}
