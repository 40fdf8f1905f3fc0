//! Pieces of work, and the threads that run them.

use std::ffi::c_void;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;

use parking_lot::{Condvar, Mutex};

use crate::autorelease::with_pool;
use crate::blocks::{Block, HeldBlock};

/// What is run once.
pub(super) type Work = Box<dyn FnOnce() + Send>;

/// A function that libdispatch calls with a context.
pub(super) type Function = extern "C" fn(Context);

/// A client's pointer that is passed on to its functions.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(super) struct Context(pub(super) *mut c_void);

// SAFETY: it is never followed here; who submits work says that its context may go to the queue's thread.
unsafe impl Send for Context {}

/// The threads that run work now, in the whole process.
static THREADS: Mutex<usize> = Mutex::new(0);
static THREAD_ENDED: Condvar = Condvar::new();

/// Blocks until no thread of any queue runs. What such a thread held is released then. Queues of other tests count
/// too, so this may take as long as their work.
pub fn wait_until_idle() {
    let mut threads = THREADS.lock();
    THREAD_ENDED.wait_while(&mut threads, |threads| *threads > 0);
}

pub(super) fn call_function(function: Function, context: Context) -> Work {
    Box::new(move || function(context))
}

pub(super) fn call_block(block: Block) -> Work {
    let block = HeldBlock::new(block);
    Box::new(move || block.call())
}

/// Runs the work in an autorelease pool. A panic in it ends the process.
pub(super) fn run(work: impl FnOnce()) {
    or_abort(|| with_pool(work));
}

fn or_abort(action: impl FnOnce()) {
    if catch_unwind(AssertUnwindSafe(action)).is_err() {
        eprintln!("a panic on a dispatch queue; libdispatch can't unwind");
        std::process::abort();
    }
}

/// Runs `action` on a thread of its own.
///
/// # Panics
///
/// When the system gives no thread.
pub(super) fn start_thread(action: impl FnOnce() + Send + 'static) {
    *THREADS.lock() += 1;
    let thread = thread::Builder::new().name("dispatch queue".to_owned());
    let started = thread.spawn(|| {
        or_abort(action);
        *THREADS.lock() -= 1;
        THREAD_ENDED.notify_all();
    });
    started.expect("a thread for a dispatch queue");
}
