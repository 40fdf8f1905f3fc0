//! Writing down what a running manager does.

use super::{TraceError, TraceEvent, TraceOp, TraceWriter};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tracing::error;

/// What tells live allocations apart: memory type, block and offset.
type PlaceKey = (usize, u32, u64);

/// Where a manager tells its events. Calls come one at a time, in an order in which every free follows its allocation.
pub(crate) trait EventSink: Send + Sync {
    fn allocated(&self, key: PlaceKey, bytes: u64);
    fn freed(&self, key: PlaceKey);
}

/// A recording that lasts as long as its manager: what the environment asks for.
pub(crate) fn lasting_sink(path: &Path) -> Result<Arc<dyn EventSink>, TraceError> {
    Ok(Arc::new(Recording::new(TraceWriter::create(path)?)))
}

/// The events of one recording, on their way to a writer.
struct Recording<W: Write> {
    start: Instant,
    state: Mutex<State<W>>,
}

struct State<W: Write> {
    /// `None` once writing has failed.
    writer: Option<TraceWriter<W>>,
    failure: Option<TraceError>,
    live: HashMap<PlaceKey, (u64, u64)>,
    allocation_count: u64,
    event_count: u64,
}

impl<W: Write> Recording<W> {
    fn new(writer: TraceWriter<W>) -> Self {
        let state = State {
            writer: Some(writer),
            failure: None,
            live: HashMap::new(),
            allocation_count: 0,
            event_count: 0,
        };
        Self { start: Instant::now(), state: Mutex::new(state) }
    }
}

impl<W: Write> Drop for Recording<W> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        let finished = state.writer.take().map(|writer| writer.finish().map(drop));
        if let Some(failure) = state.failure.take().or_else(|| finished?.err()) {
            error!(%failure, "a recording is not complete");
        }
    }
}

impl<W: Write> State<W> {
    fn write(&mut self, event: TraceEvent) {
        let Some(writer) = &mut self.writer else { return };
        match writer.write(&event) {
            Ok(()) => self.event_count += 1,
            Err(failure) => {
                self.failure = Some(failure);
                self.writer = None;
            }
        }
    }
}

impl<W: Write + Send> EventSink for Recording<W> {
    fn allocated(&self, key: PlaceKey, bytes: u64) {
        let mut state = self.state.lock();
        state.allocation_count += 1;
        let id = state.allocation_count;
        state.live.insert(key, (id, bytes));
        // The clock is read under the lock, so that time never goes back from one event to the next.
        let time_us = self.start.elapsed().as_micros() as u64;
        state.write(TraceEvent { time_us, op: TraceOp::Allocate, id, bytes, stream: 0 });
    }

    fn freed(&self, key: PlaceKey) {
        let mut state = self.state.lock();
        // What was allocated before the recording began is not part of it.
        let Some((id, bytes)) = state.live.remove(&key) else { return };
        let time_us = self.start.elapsed().as_micros() as u64;
        state.write(TraceEvent { time_us, op: TraceOp::Free, id, bytes, stream: 0 });
    }
}

/// A recording in progress, from [`MemoryManager::record`](crate::MemoryManager::record).
///
/// While it lasts, every allocation and free of the manager takes a lock and is written down. What was allocated before
/// it began is left out, so that the trace stands on its own. Dropping the recorder ends the recording as
/// [`Recorder::finish`] does, but loses the answer.
pub struct Recorder<W: Write> {
    recording: Arc<Recording<W>>,
    detach: Option<Box<dyn FnOnce() + Send>>,
}

impl<W: Write> std::fmt::Debug for Recorder<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder")
            .field("events", &self.recording.state.lock().event_count)
            .finish_non_exhaustive()
    }
}

impl<W: Write + Send + 'static> Recorder<W> {
    /// A recorder that writes to `writer`, and where to tell it the events; `detach` ends the telling.
    pub(crate) fn new(writer: TraceWriter<W>) -> (Self, Arc<dyn EventSink>) {
        let recording = Arc::new(Recording::new(writer));
        let sink = Arc::clone(&recording) as Arc<dyn EventSink>;
        (Self { recording, detach: None }, sink)
    }

    pub(crate) fn on_end(mut self, detach: impl FnOnce() + Send + 'static) -> Self {
        self.detach = Some(Box::new(detach));
        self
    }

    /// Ends the recording; returns how many events were written, and the writer's output.
    ///
    /// # Errors
    ///
    /// The first [`TraceError`] that writing met; nothing was written after it.
    #[expect(clippy::missing_panics_doc, reason = "the writer is given up only for a failure, which is kept")]
    pub fn finish(mut self) -> Result<(u64, W), TraceError> {
        self.end();
        let mut state = self.recording.state.lock();
        match state.writer.take() {
            Some(writer) => writer.finish().map(|output| (state.event_count, output)),
            None => Err(state.failure.take().expect("a writer is given up only for a failure")),
        }
    }
}

impl<W: Write> Recorder<W> {
    fn end(&mut self) {
        if let Some(detach) = self.detach.take() {
            detach();
        }
    }
}

impl<W: Write> Drop for Recorder<W> {
    fn drop(&mut self) {
        self.end();
    }
}
