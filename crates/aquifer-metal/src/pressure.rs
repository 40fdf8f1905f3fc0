//! The system's notices of memory pressure.

use std::ffi::c_void;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aquifer_backend::{
    Error, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
use dispatch2::{
    _dispatch_source_type_memorypressure, DispatchObject as _, DispatchQueue, DispatchRetained,
    DispatchSource, dispatch_source_memorypressure_flags_t as Flags, dispatch_source_type_t,
};
use parking_lot::Mutex;

/// The system's own judgement of how short memory is: normal, warning or critical, by libdispatch's
/// `DISPATCH_SOURCE_TYPE_MEMORYPRESSURE`.
///
/// A level holds until the system tells another. One that was told and taken back before anybody read it is read once. Of what was
/// before the source was started the system tells nothing: it begins at normal.
///
/// Apple's header (`dispatch/source.h`) asks programs not to walk and drop caches when the level rises, which would touch memory
/// that has been compressed or swapped out, but to keep less from then on. A manager's response is of that kind: at a warning idle
/// blocks become purgeable, at the critical level they are released, and neither touches what is in them.
pub struct SystemPressureSource {
    heard: Arc<Heard>,
    listening: Option<Listening>,
}

impl fmt::Debug for SystemPressureSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemPressureSource").field("heard", &self.heard).finish_non_exhaustive()
    }
}

impl Default for SystemPressureSource {
    fn default() -> Self {
        Self::new()
    }
}

impl SystemPressureSource {
    /// One that listens from when it is started until it is dropped. There may be any number of them.
    #[must_use]
    pub fn new() -> Self {
        Self { heard: Arc::default(), listening: None }
    }

    /// How many notices have come.
    #[must_use]
    pub fn notice_count(&self) -> u64 {
        self.heard.notice_count.load(Ordering::Relaxed)
    }
}

impl PressureSource for SystemPressureSource {
    fn name(&self) -> String {
        "the system's notices by libdispatch".into()
    }

    /// Never fails. Called again, it listens anew; the level stays. The notifier is called on a thread of the system's, which no
    /// panic may leave: one ends the process.
    fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        self.listening = Some(Listening::begin(Arc::clone(&self.heard), notifier.clone()));
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Notifies
    }

    /// Never fails.
    fn read(&mut self) -> Result<PressureReading, Error> {
        Ok(PressureReading::Level(self.heard.told.lock().take()))
    }
}

/// What the system has told.
#[derive(Debug, Default)]
struct Heard {
    told: Mutex<Told>,
    notice_count: AtomicU64,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Told {
    /// The level that holds.
    level: PressureLevel,
    /// The highest that was told since the last reading.
    peak: PressureLevel,
}

impl Told {
    /// Takes a notice in. Several may have been put together, and have lost their order.
    fn add(&mut self, flags: usize) {
        let has = |flag: Flags| flags & flag.0 as usize != 0;
        let highest = if has(Flags::DISPATCH_MEMORYPRESSURE_CRITICAL) {
            PressureLevel::Critical
        } else if has(Flags::DISPATCH_MEMORYPRESSURE_WARN) {
            PressureLevel::Warning
        } else {
            PressureLevel::Normal
        };
        self.peak = self.peak.max(highest);
        // A shortage that ended must not last for ever, for the system may never tell of it again; should it have begun after the
        // end of another, it is read at least once.
        let is_over = has(Flags::DISPATCH_MEMORYPRESSURE_NORMAL);
        self.level = if is_over { PressureLevel::Normal } else { highest };
    }

    /// What is to be read now.
    fn take(&mut self) -> PressureLevel {
        std::mem::take(&mut self.peak).max(self.level)
    }
}

/// A dispatch source that tells of memory pressure, for as long as this lives. Dropping it ends it without waiting: a notice that has
/// begun to be told is told to its end.
struct Listening {
    source: DispatchRetained<DispatchSource>,
}

/// The dispatch source's context.
struct Listener {
    heard: Arc<Heard>,
    notifier: PressureNotifier,
    source: NonNull<DispatchSource>,
}

impl Listening {
    fn begin(heard: Arc<Heard>, notifier: PressureNotifier) -> Self {
        let levels = Flags::DISPATCH_MEMORYPRESSURE_NORMAL.0
            | Flags::DISPATCH_MEMORYPRESSURE_WARN.0
            | Flags::DISPATCH_MEMORYPRESSURE_CRITICAL.0;
        let queue = DispatchQueue::new("aquifer.memory-pressure", None);
        let kind: dispatch_source_type_t = (&raw const _dispatch_source_type_memorypressure).cast_mut();
        // SAFETY: the type, handle 0 and a mask of its levels are what the header says of such a source; it keeps the queue.
        let source = unsafe { DispatchSource::new(kind, 0, levels as usize, Some(&queue)) };
        let listener = Box::new(Listener { heard, notifier, source: NonNull::from(&*source) });
        // SAFETY: the context is what `notice` and `forget` take it for, and nobody else sets it.
        unsafe { source.set_context(Box::into_raw(listener).cast()) };
        // SAFETY: called once, when nothing uses the source any more; it drops the context.
        unsafe { source.set_finalizer_f(forget) };
        source.set_event_handler_f(notice);
        source.activate();
        Self { source }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.source.cancel();
    }
}

/// The source's event handler.
extern "C" fn notice(context: *mut c_void) {
    // SAFETY: the context is the listener, which lives until the finalizer runs, and that is after the last notice.
    let listener = unsafe { &*context.cast::<Listener>() };
    // SAFETY: the source lives while its handler runs.
    let source = unsafe { listener.source.as_ref() };
    listener.heard.told.lock().add(source.data());
    listener.heard.notice_count.fetch_add(1, Ordering::Relaxed);
    listener.notifier.notify();
}

/// The source's finalizer.
extern "C" fn forget(context: *mut c_void) {
    // SAFETY: made by `Box::into_raw` in `Listening::begin`, and this is called once, after the last notice.
    drop(unsafe { Box::from_raw(context.cast::<Listener>()) });
}

#[cfg(test)]
mod tests {
    use super::*;
    use PressureLevel::{Critical, Normal, Warning};

    const NORMAL: usize = 1;
    const WARN: usize = 2;
    const CRITICAL: usize = 4;

    /// What is read once after each of these notices was told alone, and once more.
    fn readings<const COUNT: usize>(notices: [usize; COUNT]) -> [(PressureLevel, PressureLevel); COUNT] {
        let mut told = Told::default();
        notices.map(|flags| {
            told.add(flags);
            (told.take(), told.take())
        })
    }

    #[test]
    fn a_level_holds_until_another_is_told() {
        assert_eq!(Told::default().take(), Normal);
        let expected = [(Warning, Warning), (Critical, Critical), (Warning, Warning), (Normal, Normal)];
        assert_eq!(readings([WARN, CRITICAL, WARN, NORMAL]), expected);
    }

    #[test]
    fn of_notices_put_together_the_highest_is_read_and_no_shortage_lasts_that_may_be_over() {
        let expected = [(Critical, Critical), (Critical, Normal), (Warning, Normal)];
        assert_eq!(readings([WARN | CRITICAL, CRITICAL | NORMAL, WARN | NORMAL]), expected);
    }

    #[test]
    fn what_was_taken_back_before_it_was_read_is_read_once() {
        let mut told = Told::default();
        [WARN, CRITICAL, WARN].into_iter().for_each(|flags| told.add(flags));
        assert_eq!((told.take(), told.take()), (Critical, Warning));
        [CRITICAL, NORMAL].into_iter().for_each(|flags| told.add(flags));
        assert_eq!((told.take(), told.take()), (Critical, Normal));
    }
}
