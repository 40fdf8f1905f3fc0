//! The system's notices of memory pressure.

use std::ffi::c_void;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dispatch2::{
    _dispatch_source_type_memorypressure, DispatchObject as _, DispatchQueue, DispatchRetained,
    DispatchSource, dispatch_source_memorypressure_flags_t as Flags, dispatch_source_type_t,
};
use objc2::rc::autoreleasepool;
use parking_lot::Mutex;

/// How short of memory the system is: the levels of Apple's `DISPATCH_SOURCE_TYPE_MEMORYPRESSURE`.
///
/// Apple's header (`dispatch/source.h`) asks programs not to walk and drop caches when the level rises, which would touch memory
/// that has been compressed or swapped out, but to use less from then on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SystemPressure {
    /// There is enough again.
    Normal,
    /// The system begins to be short.
    Warning,
    /// It is about to end programs.
    Critical,
}

impl SystemPressure {
    /// The highest level in a notice: several may have been put together.
    fn highest(flags: usize) -> Option<Self> {
        let has = |flag: Flags| flags & flag.0 as usize != 0;
        if has(Flags::DISPATCH_MEMORYPRESSURE_CRITICAL) {
            Some(Self::Critical)
        } else if has(Flags::DISPATCH_MEMORYPRESSURE_WARN) {
            Some(Self::Warning)
        } else if has(Flags::DISPATCH_MEMORYPRESSURE_NORMAL) {
            Some(Self::Normal)
        } else {
            None
        }
    }
}

/// What the source calls, and what it counts.
struct Listener {
    call: Mutex<Box<dyn FnMut(SystemPressure) + Send>>,
    counts: Arc<Counts>,
    source: NonNull<DispatchSource>,
}

#[derive(Debug, Default)]
struct Counts {
    notices: AtomicU64,
    panics: AtomicU64,
}

/// Listens to the system's notices of memory pressure for as long as it lives.
///
/// The closure is called on a thread of the system's, one call at a time, on each change of the level; changes that come while it runs
/// are told as one, the highest. Dropping the source ends it without waiting: a call that has begun may still run, and the closure
/// is dropped after it. A closure that panics is counted, and called again.
pub struct SystemPressureSource {
    source: DispatchRetained<DispatchSource>,
    counts: Arc<Counts>,
}

impl fmt::Debug for SystemPressureSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemPressureSource").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl SystemPressureSource {
    /// Begins to listen.
    pub fn new(listener: impl FnMut(SystemPressure) + Send + 'static) -> Self {
        let levels = Flags::DISPATCH_MEMORYPRESSURE_NORMAL.0
            | Flags::DISPATCH_MEMORYPRESSURE_WARN.0
            | Flags::DISPATCH_MEMORYPRESSURE_CRITICAL.0;
        let queue = DispatchQueue::new("aquifer.memory-pressure", None);
        let kind: dispatch_source_type_t = (&raw const _dispatch_source_type_memorypressure).cast_mut();
        // SAFETY: the type, handle 0 and a mask of its levels are what the header says of such a source; it keeps the queue.
        let source = unsafe { DispatchSource::new(kind, 0, levels as usize, Some(&queue)) };
        let counts = Arc::new(Counts::default());
        let listener = Box::new(Listener {
            call: Mutex::new(Box::new(listener)),
            counts: Arc::clone(&counts),
            source: NonNull::from(&*source),
        });
        // SAFETY: the context is what `notice` and `forget` take it for, and nobody else sets it.
        unsafe { source.set_context(Box::into_raw(listener).cast()) };
        // SAFETY: called once, when nothing uses the source any more; it drops the context.
        unsafe { source.set_finalizer_f(forget) };
        source.set_event_handler_f(notice);
        source.activate();
        Self { source, counts }
    }

    /// How many notices have come.
    #[must_use]
    pub fn notice_count(&self) -> u64 {
        self.counts.notices.load(Ordering::Relaxed)
    }

    /// How often the closure has panicked.
    #[must_use]
    pub fn panic_count(&self) -> u64 {
        self.counts.panics.load(Ordering::Relaxed)
    }
}

impl Drop for SystemPressureSource {
    fn drop(&mut self) {
        self.source.cancel();
    }
}

/// The source's event handler. No panic leaves it.
extern "C" fn notice(context: *mut c_void) {
    // SAFETY: the context is the listener, which lives until the finalizer runs, and that is after the last notice.
    let listener = unsafe { &*context.cast::<Listener>() };
    // SAFETY: the source lives while its handler runs.
    let source = unsafe { listener.source.as_ref() };
    let Some(level) = SystemPressure::highest(source.data()) else { return };
    listener.counts.notices.fetch_add(1, Ordering::Relaxed);
    let call = || autoreleasepool(|_| (listener.call.lock())(level));
    if let Err(panic) = catch_unwind(AssertUnwindSafe(call)) {
        listener.counts.panics.fetch_add(1, Ordering::Relaxed);
        // Its payload may panic when it is dropped.
        std::mem::forget(panic);
    }
}

/// The source's finalizer.
extern "C" fn forget(context: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `SystemPressureSource::new`, and this is called once, after the last notice.
    let listener = unsafe { Box::from_raw(context.cast::<Listener>()) };
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(listener))) {
        std::mem::forget(panic);
    }
}
