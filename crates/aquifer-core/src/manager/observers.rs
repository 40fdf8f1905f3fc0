//! Who wants to know of every allocation and free: the tracker of live allocations, recorders, and a tool that checks what the device does.
//!
//! While nobody does, the hot path reads one word of flags, which also says whether requests are kept back for want of memory. An allocation is told after its place was handed out and a free
//! before its place goes back, so that of one place the events are in order.
//!
//! Recorders write to the user's writers. No lock of the manager is held meanwhile, and what a writer itself allocates or
//! frees through a manager is not recorded.

use super::config::Tracking;
use crate::pool::{Place, Request};
use crate::range::QueueIndex;
use crate::statistics::Tag;
use crate::sync::{AtomicU8, Ordering};
use crate::trace::{EventSink, PlaceKey};
use parking_lot::Mutex;
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;

/// Stands for the memory type where memory was imported, since such blocks are numbered by themselves.
const IMPORTED: usize = usize::MAX;

fn key(place: Place, request: Request) -> PlaceKey {
    if request.is_imported() {
        return (IMPORTED, place.block(), 0);
    }
    (request.memory_type(), place.block(), place.offset)
}

/// A live allocation, as the tracker remembers it.
#[derive(Debug, Clone)]
pub(crate) struct TrackedAllocation {
    pub(crate) bytes: u64,
    pub(crate) tag: Tag,
    pub(crate) location: &'static Location<'static>,
    pub(crate) backtrace: Option<Arc<Backtrace>>,
}

thread_local! {
    static IS_TELLING: Cell<bool> = const { Cell::new(false) };
}

/// Ends a telling, also when the user's writer panics.
struct Telling;

impl Drop for Telling {
    fn drop(&mut self) {
        IS_TELLING.set(false);
    }
}

/// Somebody is told of allocations and frees.
const TOLD: u8 = 1;
/// Some new requests are kept back.
const GATED: u8 = 2;

pub(crate) struct Observers {
    /// [`TOLD`] and [`GATED`]: one word for all that keeps allocations from the hot path.
    watched: AtomicU8,
    tracking: Tracking,
    /// A tool that checks the device's accesses is told too.
    is_sanitized: bool,
    tracked: Mutex<HashMap<PlaceKey, TrackedAllocation>>,
    recorders: Mutex<Arc<[Arc<dyn EventSink>]>>,
}

impl Observers {
    pub(crate) fn new(tracking: Tracking, is_sanitized: bool) -> Self {
        let is_told = tracking != Tracking::Off || is_sanitized;
        Self {
            watched: AtomicU8::new(if is_told { TOLD } else { 0 }),
            tracking,
            is_sanitized,
            tracked: Mutex::new(HashMap::new()),
            recorders: Mutex::new(Arc::new([])),
        }
    }

    #[inline]
    pub(crate) fn are_active(&self) -> bool {
        self.watched.load(Ordering::Relaxed) != 0
    }

    /// Whether the backend is to be told of allocations and frees.
    pub(crate) fn are_sanitized(&self) -> bool {
        self.is_sanitized
    }

    /// Whether allocations must pass the gate.
    pub(crate) fn are_gated(&self) -> bool {
        self.watched.load(Ordering::Acquire) & GATED != 0
    }

    /// Sends allocations past the gate, or no longer.
    pub(crate) fn set_gated(&self, is_gated: bool) {
        self.set(GATED, is_gated);
    }

    fn set(&self, flag: u8, is_set: bool) {
        if is_set {
            self.watched.fetch_or(flag, Ordering::Release);
        } else {
            self.watched.fetch_and(!flag, Ordering::Release);
        }
    }

    pub(crate) fn attach(&self, sink: Arc<dyn EventSink>) {
        let mut recorders = self.recorders.lock();
        *recorders = recorders.iter().cloned().chain([sink]).collect();
        self.set(TOLD, true);
    }

    /// Ends the telling of a sink. An event that is just being told may still arrive.
    pub(crate) fn detach(&self, sink: &Arc<dyn EventSink>) {
        let mut recorders = self.recorders.lock();
        // Dropped after the lock: it may hold the last share of the sink, and with it the user's writer.
        let before = Arc::clone(&recorders);
        *recorders = before.iter().filter(|other| !Arc::ptr_eq(other, sink)).cloned().collect();
        self.set(TOLD, self.tracking != Tracking::Off || self.is_sanitized || !recorders.is_empty());
        drop(recorders);
    }

    /// Tells all recorders, unless this thread is telling one already.
    fn tell(&self, event: impl Fn(&dyn EventSink)) {
        let recorders = Arc::clone(&self.recorders.lock());
        if recorders.is_empty() || IS_TELLING.try_with(|is_telling| is_telling.replace(true)).unwrap_or(true)
        {
            return;
        }
        let _telling = Telling;
        recorders.iter().for_each(|recorder| event(&**recorder));
    }

    #[cold]
    #[track_caller]
    pub(crate) fn allocated(&self, place: Place, request: Request, queue: QueueIndex) {
        self.track(place, request);
        let key = key(place, request);
        self.tell(|recorder| recorder.allocated(key, request.requested_bytes, queue));
    }

    /// Recorders are not told: a replay could not bring the memory.
    #[cold]
    #[track_caller]
    pub(crate) fn imported(&self, place: Place, request: Request) {
        self.track(place, request);
    }

    #[track_caller]
    fn track(&self, place: Place, request: Request) {
        if self.tracking != Tracking::Off {
            let backtrace =
                (self.tracking == Tracking::Backtraces).then(|| Arc::new(Backtrace::force_capture()));
            let tracked = TrackedAllocation {
                bytes: request.requested_bytes,
                tag: request.tag(),
                location: Location::caller(),
                backtrace,
            };
            self.tracked.lock().insert(key(place, request), tracked);
        }
    }

    #[cold]
    pub(crate) fn freed(&self, place: Place, request: Request) {
        let key = key(place, request);
        if self.tracking != Tracking::Off {
            self.tracked.lock().remove(&key);
        }
        if !request.is_imported() {
            self.tell(|recorder| recorder.freed(key));
        }
    }

    /// The live allocations; `None` if they are not tracked.
    pub(crate) fn live(&self) -> Option<Vec<TrackedAllocation>> {
        (self.tracking != Tracking::Off).then(|| self.tracked.lock().values().cloned().collect())
    }
}
