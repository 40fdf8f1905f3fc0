//! Who wants to know of every allocation and free: the tracker of live allocations, and a recorder.
//!
//! While nobody does, the hot path reads one flag. An allocation is told after its place was handed out and a free
//! before its place goes back, so that of one place the events are in order.

use super::config::Tracking;
use crate::pool::{Place, Request};
use crate::statistics::Tag;
use crate::sync::{AtomicBool, Ordering};
use crate::trace::EventSink;
use parking_lot::Mutex;
use std::backtrace::Backtrace;
use std::collections::HashMap;
use std::panic::Location;
use std::sync::Arc;

/// What tells live allocations apart: memory type, block and offset.
pub(crate) type PlaceKey = (usize, u32, u64);

fn key(place: Place, request: Request) -> PlaceKey {
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

pub(crate) struct Observers {
    is_active: AtomicBool,
    tracking: Tracking,
    tracked: Mutex<HashMap<PlaceKey, TrackedAllocation>>,
    recorder: Mutex<Option<Arc<dyn EventSink>>>,
}

impl Observers {
    pub(crate) fn new(tracking: Tracking) -> Self {
        Self {
            is_active: AtomicBool::new(tracking != Tracking::Off),
            tracking,
            tracked: Mutex::new(HashMap::new()),
            recorder: Mutex::new(None),
        }
    }

    #[inline]
    pub(crate) fn are_active(&self) -> bool {
        self.is_active.load(Ordering::Relaxed)
    }

    /// Makes `sink` the recorder; false if there is one already.
    pub(crate) fn attach(&self, sink: Arc<dyn EventSink>) -> bool {
        let mut recorder = self.recorder.lock();
        if recorder.is_some() {
            return false;
        }
        *recorder = Some(sink);
        self.is_active.store(true, Ordering::Relaxed);
        true
    }

    pub(crate) fn detach(&self) {
        let mut recorder = self.recorder.lock();
        *recorder = None;
        self.is_active.store(self.tracking != Tracking::Off, Ordering::Relaxed);
    }

    #[cold]
    #[track_caller]
    pub(crate) fn allocated(&self, place: Place, request: Request) {
        let key = key(place, request);
        if self.tracking != Tracking::Off {
            let backtrace =
                (self.tracking == Tracking::Backtraces).then(|| Arc::new(Backtrace::force_capture()));
            let tracked = TrackedAllocation {
                bytes: request.requested_bytes,
                tag: request.tag(),
                location: Location::caller(),
                backtrace,
            };
            self.tracked.lock().insert(key, tracked);
        }
        if let Some(recorder) = &*self.recorder.lock() {
            recorder.allocated(key, request.requested_bytes);
        }
    }

    #[cold]
    pub(crate) fn freed(&self, place: Place, request: Request) {
        let key = key(place, request);
        if self.tracking != Tracking::Off {
            self.tracked.lock().remove(&key);
        }
        if let Some(recorder) = &*self.recorder.lock() {
            recorder.freed(key);
        }
    }

    /// The live allocations; `None` if they are not tracked.
    pub(crate) fn live(&self) -> Option<Vec<TrackedAllocation>> {
        (self.tracking != Tracking::Off).then(|| self.tracked.lock().values().cloned().collect())
    }
}
