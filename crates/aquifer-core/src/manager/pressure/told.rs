//! Who is told of events: the log, streams, listeners.

use super::stream::{EventQueue, PressureEvents};
use crate::hooks::{HookGuard, Hooks};
use crate::pressure::{PressureDetail, PressureEvent};
use crate::sync::{AtomicBool, Ordering};
use aquifer_backend::PressureLevel;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use tracing::{debug, info, warn};

/// Everybody who listens, and what they are still to be told.
pub(super) struct Told {
    listeners: Arc<Hooks<PressureEvent>>,
    streams: Mutex<Vec<Weak<EventQueue>>>,
    pending: Mutex<VecDeque<PressureEvent>>,
    is_telling: AtomicBool,
}

impl Default for Told {
    fn default() -> Self {
        Self {
            listeners: Hooks::new("pressure listener"),
            streams: Mutex::default(),
            pending: Mutex::default(),
            is_telling: AtomicBool::new(false),
        }
    }
}

impl Told {
    pub(super) fn listen(
        &self,
        listener: impl Fn(&PressureEvent) + Send + Sync + 'static,
    ) -> HookGuard<PressureEvent> {
        self.listeners.register(0, listener)
    }

    pub(super) fn stream(&self) -> PressureEvents {
        let queue = Arc::new(EventQueue::default());
        let mut streams = self.streams.lock();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(&queue));
        drop(streams);
        PressureEvents::new(queue)
    }

    /// How often a listener has panicked.
    pub(super) fn panic_count(&self) -> u64 {
        self.listeners.panics()
    }

    /// Tells everybody, one event after the other. If this thread, or another, is telling, that one tells these too.
    pub(super) fn tell(&self, events: Vec<PressureEvent>) {
        for event in &events {
            // A subscriber is the user's code.
            crate::calls::call("a subscriber of the log", || log(event));
            let streams: Vec<_> = self.streams.lock().iter().filter_map(Weak::upgrade).collect();
            crate::calls::wake_all(streams.iter().filter_map(|stream| stream.push(event)));
        }
        self.pending.lock().extend(events);
        while !self.pending.lock().is_empty() && !self.is_telling.swap(true, Ordering::AcqRel) {
            self.tell_pending();
            // Others may have left theirs to this thread just before.
            self.is_telling.store(false, Ordering::Release);
        }
    }

    fn tell_pending(&self) {
        loop {
            let event = self.pending.lock().pop_front();
            let Some(event) = event else { break };
            self.listeners.run_next(None, 0, |_| event);
        }
    }

    /// There will be no more for the streams that there are. Those of a later monitor are others.
    pub(super) fn end(&self) {
        let streams = std::mem::take(&mut *self.streams.lock());
        let streams: Vec<_> = streams.iter().filter_map(Weak::upgrade).collect();
        crate::calls::wake_all(streams.iter().filter_map(|stream| stream.end()));
    }
}

/// Tells the log what has happened.
fn log(event: &PressureEvent) {
    match &event.detail {
        PressureDetail::Rose { to: level, given_back, .. }
        | PressureDetail::Lasted { level, given_back, .. } => {
            let source = &*event.source;
            let (given_back_bytes, released_bytes) = (given_back.bytes(), given_back.released_bytes());
            if *level < PressureLevel::Warning {
                info!(%level, source, given_back_bytes, released_bytes, "memory is getting short");
            } else {
                warn!(%level, source, given_back_bytes, released_bytes, "memory is short");
            }
        }
        PressureDetail::Fell { to, .. } => {
            info!(level = %to, source = &*event.source, "memory is less short");
        }
        PressureDetail::SourceFailed { is_absent: true, message } => {
            debug!(source = &*event.source, message, "a source of pressure is not there");
        }
        PressureDetail::SourceFailed { message, .. } => {
            warn!(source = &*event.source, message, "a source of pressure does not work");
        }
        PressureDetail::SourceWorks => info!(source = &*event.source, "a source of pressure works again"),
    }
}
