//! Whether this process was forked.
//!
//! Asked on every free that waits for queues, so it must not cost a system call (`getpid` for each batch stood out in their profile):
//! the C library tells each child, once.

use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// How often this process's ancestors were forked since the first [`Process`] was made.
static GENERATION: AtomicU32 = AtomicU32::new(0);

/// The process that made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// This one.
    pub(crate) fn current() -> Self {
        static LISTENING: Once = Once::new();
        LISTENING.call_once(listen);
        Self(GENERATION.load(Ordering::Relaxed))
    }

    /// Whether it is this one, and no forked child. (A child made past the C library, by the bare system call, is not told
    /// apart.)
    pub(crate) fn is_current(self) -> bool {
        GENERATION.load(Ordering::Relaxed) == self.0
    }
}

#[cfg(unix)]
fn listen() {
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }
    // SAFETY: the handler only adds to an atomic, which is allowed in a forked child, and it is a function of this program,
    // so it stays where it is. If there is no memory for the list of handlers, forks go unnoticed.
    let _ = unsafe { libc::pthread_atfork(None, None, Some(in_child)) };
}

#[cfg(not(unix))]
fn listen() {}
