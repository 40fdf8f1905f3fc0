//! What tests ask: how much is alive, and what the calling thread has done.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::classes::all_classes;

static POOLLESS_AUTORELEASES: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static COUNTS: Cell<ThreadCounts> = const { Cell::new(ThreadCounts::NONE) };
}

/// What one thread has done since it began. Counts never fall.
///
/// They tell what code costs: take them before and after it, on the thread that runs it, and see the difference with
/// [`since`](Self::since).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ThreadCounts {
    /// Messages sent: each lookup of a method by `objc_msg_lookup` or `objc_msg_lookup_super`. What the runtime calls
    /// by itself (`dealloc`, an overridden `retain`) is not among them, nor are retain and release functions.
    pub messages: u64,
    /// Objects made, by `class_createInstance` or as dispatch objects. Blocks are not among them.
    pub objects_made: u64,
    /// How often a count of an object has risen: by a retain, or by a weak reference that found its object. Blocks,
    /// classes, and objects that never die do not count.
    pub retains: u64,
    /// Objects autoreleased while the thread had no autorelease pool; each leaks.
    pub poolless_autoreleases: u64,
}

impl ThreadCounts {
    const NONE: Self = Self { messages: 0, objects_made: 0, retains: 0, poolless_autoreleases: 0 };

    /// What was done between `earlier` and these counts, both of the same thread.
    ///
    /// # Panics
    ///
    /// In a build with overflow checks, when `earlier` is the later one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            messages: self.messages - earlier.messages,
            objects_made: self.objects_made - earlier.objects_made,
            retains: self.retains - earlier.retains,
            poolless_autoreleases: self.poolless_autoreleases - earlier.poolless_autoreleases,
        }
    }
}

/// The calling thread's counts.
#[must_use]
pub fn thread_counts() -> ThreadCounts {
    COUNTS.get()
}

/// The live instances of each class that has any, by the name of the class. A class is counted by its own instances,
/// without those of its subclasses.
#[must_use]
pub fn live_objects() -> BTreeMap<String, usize> {
    let classes = all_classes();
    let counted = classes.iter().map(|class| (class.name().to_owned(), class.live()));
    counted.filter(|(_, live)| *live != 0).collect()
}

/// The live instances of the class of this name; 0 where there is no such class.
#[must_use]
pub fn live_of(name: &str) -> usize {
    all_classes().iter().filter(|class| class.name() == name).map(|class| class.live()).sum()
}

/// How often an object was autoreleased on a thread without a pool, in the whole process; each leaks, as on Apple's.
#[must_use]
pub fn poolless_autoreleases() -> usize {
    POOLLESS_AUTORELEASES.load(Relaxed)
}

fn count(change: impl FnOnce(&mut ThreadCounts)) {
    let mut counts = COUNTS.get();
    change(&mut counts);
    COUNTS.set(counts);
}

pub(crate) fn count_message() {
    count(|counts| counts.messages += 1);
}

pub(crate) fn count_object() {
    count(|counts| counts.objects_made += 1);
}

pub(crate) fn count_retain() {
    count(|counts| counts.retains += 1);
}

pub(crate) fn count_poolless_autorelease() {
    count(|counts| counts.poolless_autoreleases += 1);
    POOLLESS_AUTORELEASES.fetch_add(1, Relaxed);
}
