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
    fence: LightFence,
    reaper: ReaperBell,
}

/// How the reaper sleeps.
///
/// It says that it will, looks once more whether there is work, and only then sleeps; who brings work does so before asking
/// whether it sleeps. With a full fence between the two steps on either side, one of them sees the other.
#[derive(Debug, Default)]
struct ReaperBell {
    is_asleep: AtomicBool,
    has_rung: Mutex<bool>,
    ring: Condvar,
}

impl Bell {
    /// `answer_within_ms`: how long the line of waiters waits for one whose turn it is.
    pub(crate) fn new(answer_within_ms: u64) -> Self {
        Self {
            waiters: Waiters::new(answer_within_ms),
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

    /// Something waits for a queue, or somebody for memory: the reaper has work.
    pub(crate) fn wake_reaper(&self) {
        fence(Ordering::SeqCst);
        if self.reaper.is_asleep.swap(false, Ordering::AcqRel) {
            *self.reaper.has_rung.lock() = true;
            self.reaper.ring.notify_all();
        }
    }

    /// For the reaper: sleeps until it has work. `has_work` is asked once more before.
    pub(crate) fn sleep(&self, has_work: impl FnOnce() -> bool) {
        self.reaper.is_asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        if has_work() {
            self.reaper.is_asleep.store(false, Ordering::Release);
            return;
        }
        let mut has_rung = self.reaper.has_rung.lock();
        while !std::mem::take(&mut *has_rung) {
            self.reaper.ring.wait(&mut has_rung);
        }
    }

    /// For the reaper, when there is nothing that it could wait for: sleeps so long, or until it is woken.
    pub(crate) fn nap(&self, time: Duration) {
        self.reaper.is_asleep.store(true, Ordering::Release);
        let mut has_rung = self.reaper.has_rung.lock();
        if !std::mem::take(&mut *has_rung) {
            self.reaper.ring.wait_for(&mut has_rung, time);
        }
        *has_rung = false;
        self.reaper.is_asleep.store(false, Ordering::Release);
    }
}
