//! Who wants to know that memory was freed: those who wait for it, and the reaper.
//!
//! Outlives the manager's state in the hands of whoever is just freeing, since after a free is counted the state may go.

use crate::sync::LightFence;
use crate::waiters::Waiters;
use parking_lot::{Condvar, Mutex};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

/// What a manager's pools ring.
#[derive(Debug)]
pub(crate) struct Bell {
    pub(crate) waiters: Waiters,
    /// Whether queues have passed memory that those who wait have not been told of.
    has_news: AtomicBool,
    fence: LightFence,
    reaper: ReaperBell,
}

/// How the reaper sleeps: naps, out of which it comes by itself, and deep, when there was nothing to do for long.
///
/// Before it sleeps deep it says so, looks once more whether there is work, and only then sleeps; who brings work does so
/// before asking whether it sleeps. With a full fence between the two steps on either side, one of them sees the other.
#[derive(Debug, Default)]
struct ReaperBell {
    is_deep: AtomicBool,
    is_napping: AtomicBool,
    has_rung: Mutex<bool>,
    ring: Condvar,
}

impl Bell {
    /// `answer_within_ms`: how long the line of waiters waits for one whose turn it is.
    pub(crate) fn new(answer_within_ms: u64) -> Self {
        Self {
            waiters: Waiters::new(answer_within_ms),
            has_news: AtomicBool::new(false),
            fence: LightFence::new(),
            reaper: ReaperBell::default(),
        }
    }

    /// A place has gone back to where others find it. Call it after that.
    #[inline]
    pub(crate) fn freed(&self) {
        // Who joins the line passes the heavy fence before it looks for memory.
        self.fence.pass();
        self.waiters.notify();
    }

    /// Queues have passed memory. May be called under locks: it rings nothing.
    pub(crate) fn note_news(&self) {
        self.has_news.store(true, Ordering::Release);
    }

    /// Tells who waits if queues have passed memory that nobody has been told of.
    pub(crate) fn tell_news(&self) {
        if self.has_news.load(Ordering::Relaxed) && self.has_news.swap(false, Ordering::AcqRel) {
            self.freed();
        }
    }

    /// Memory waits for a queue. The reaper looks at that every few milliseconds, unless it sleeps deep.
    pub(crate) fn note_in_flight(&self) {
        fence(Ordering::SeqCst);
        if self.reaper.is_deep.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    /// Somebody waits: for an operation, or for memory. The reaper looks at once.
    pub(crate) fn wake_reaper(&self) {
        fence(Ordering::SeqCst);
        if self.reaper.is_deep.load(Ordering::Relaxed) || self.reaper.is_napping.load(Ordering::Relaxed) {
            self.ring();
        }
    }

    #[cold]
    fn ring(&self) {
        *self.reaper.has_rung.lock() = true;
        self.reaper.ring.notify_all();
    }

    /// For the reaper: sleeps until it has work. `has_work` is asked once more before.
    pub(crate) fn sleep(&self, has_work: impl FnOnce() -> bool) {
        self.reaper.is_deep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !has_work() {
            let mut has_rung = self.reaper.has_rung.lock();
            while !std::mem::take(&mut *has_rung) {
                self.reaper.ring.wait(&mut has_rung);
            }
        }
        self.reaper.is_deep.store(false, Ordering::Relaxed);
    }

    /// For the reaper: sleeps so long, or until somebody waits. `is_urgent` is asked once more before.
    pub(crate) fn nap(&self, time: Duration, is_urgent: impl FnOnce() -> bool) {
        self.reaper.is_napping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if !is_urgent() {
            let mut has_rung = self.reaper.has_rung.lock();
            if !*has_rung {
                self.reaper.ring.wait_for(&mut has_rung, time);
            }
            *has_rung = false;
        }
        self.reaper.is_napping.store(false, Ordering::Relaxed);
    }
}
