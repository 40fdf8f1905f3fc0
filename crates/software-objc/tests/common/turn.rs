//! What the tests of queues and of sources share.

use std::ffi::c_void;
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dispatch2::{DispatchObject, DispatchQueue, DispatchQueueAttr, DispatchRetained};
use software_objc::dispatch::{live_queues, live_sources, wait_until_idle};
use software_objc::live_blocks;

/// One test's turn. At its end nothing of the test is left.
pub(crate) struct Turn {
    _turn: MutexGuard<'static, ()>,
    /// What was alive at its start: another test's misuse may have left something.
    pub(crate) alive: [usize; 3],
}

pub(crate) fn alive() -> [usize; 3] {
    wait_until_idle();
    [live_queues(), live_sources(), live_blocks()]
}

pub(crate) fn turn() -> Turn {
    static TURN: Mutex<()> = Mutex::new(());
    let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    Turn { _turn: turn, alive: alive() }
}

impl Turn {
    pub(crate) fn end(self) {
        assert_eq!(alive(), self.alive);
    }
}

pub(crate) fn serial() -> DispatchRetained<DispatchQueue> {
    DispatchQueue::new("test.serial", DispatchQueueAttr::SERIAL)
}

pub(crate) fn all<T>(receiver: &Receiver<T>) -> Vec<T> {
    receiver.try_iter().collect()
}

/// Calls that dispatch2 makes through functions which can't unwind.
pub(crate) trait Raw {
    fn resume_unbalanced(&self);
    fn release_last(self);
}

unsafe extern "C-unwind" {
    #[link_name = "dispatch_resume"]
    fn resume(object: *const c_void);
    #[link_name = "dispatch_release"]
    pub(crate) fn release(object: *const c_void);
}

impl<T: DispatchObject> Raw for DispatchRetained<T> {
    fn resume_unbalanced(&self) {
        // SAFETY: the object is alive; this is the mistake that is to be found.
        unsafe { resume(DispatchRetained::as_ptr(self).as_ptr().cast()) };
    }

    fn release_last(self) {
        // SAFETY: this gives the reference up.
        unsafe { release(DispatchRetained::into_raw(self).as_ptr().cast()) };
    }
}
