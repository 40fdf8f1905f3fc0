//! What is resident: the state behind residency sets, and a device's books of it.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What a device's residency sets have done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResidencyCounts {
    /// Sets that are live.
    pub sets: u64,
    /// Calls of `commit`.
    pub commits: u64,
    /// Calls of `requestResidency`.
    pub requests: u64,
    /// Calls of `endResidency`.
    pub ends: u64,
    /// Bytes of the allocations committed in sets whose residency is requested, each counted once.
    pub resident_bytes: u64,
    /// How often a pass used a buffer that neither a set of its queue or command buffer nor a requested set had committed.
    pub unresident_uses: u64,
}

/// The committed part of a residency set.
#[derive(Debug, Default)]
pub(crate) struct Committed {
    /// Allocations' ids and sizes in bytes.
    allocations: Mutex<BTreeMap<u64, u64>>,
    is_requested: AtomicBool,
}

impl Committed {
    pub(crate) fn replace(&self, allocations: BTreeMap<u64, u64>) {
        *self.allocations.lock() = allocations;
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.allocations.lock().values().sum()
    }

    pub(crate) fn contains(&self, id: u64) -> bool {
        self.allocations.lock().contains_key(&id)
    }
}

/// A device's books.
#[derive(Debug, Default)]
pub(crate) struct ResidencyBooks {
    sets: Mutex<Vec<Weak<Committed>>>,
    commits: AtomicU64,
    requests: AtomicU64,
    ends: AtomicU64,
    unresident_uses: AtomicU64,
}

impl ResidencyBooks {
    pub(crate) fn new_set(&self) -> Arc<Committed> {
        let set = Arc::new(Committed::default());
        let mut sets = self.sets.lock();
        sets.retain(|set| set.strong_count() > 0);
        sets.push(Arc::downgrade(&set));
        set
    }

    fn live(&self) -> Vec<Arc<Committed>> {
        self.sets.lock().iter().filter_map(Weak::upgrade).collect()
    }

    pub(crate) fn count_commit(&self) {
        self.commits.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn request(&self, set: &Committed) {
        set.is_requested.store(true, Ordering::SeqCst);
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn end(&self, set: &Committed) {
        set.is_requested.store(false, Ordering::SeqCst);
        self.ends.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts a use of an allocation, if nothing makes it resident: not `attached`, the sets of the queue and the command buffer.
    pub(crate) fn count_use(&self, id: u64, attached: &[Arc<Committed>]) {
        let requested = |set: &Arc<Committed>| set.is_requested.load(Ordering::SeqCst) && set.contains(id);
        if !attached.iter().any(|set| set.contains(id)) && !self.live().iter().any(requested) {
            self.unresident_uses.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn counts(&self) -> ResidencyCounts {
        let live = self.live();
        let mut resident = BTreeMap::new();
        for set in live.iter().filter(|set| set.is_requested.load(Ordering::SeqCst)) {
            resident.extend(set.allocations.lock().iter().map(|(id, bytes)| (*id, *bytes)));
        }
        ResidencyCounts {
            sets: live.len() as u64,
            commits: self.commits.load(Ordering::SeqCst),
            requests: self.requests.load(Ordering::SeqCst),
            ends: self.ends.load(Ordering::SeqCst),
            resident_bytes: resident.values().sum(),
            unresident_uses: self.unresident_uses.load(Ordering::SeqCst),
        }
    }
}
