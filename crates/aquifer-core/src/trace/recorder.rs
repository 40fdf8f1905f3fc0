//! Writing down what a running manager does.

use super::writer::write_error;
use super::{TraceError, TraceErrorKind, TraceEvent, TraceOp, TraceWriter};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use tracing::{error, info};

/// What tells live allocations apart: memory type, block and offset.
pub(crate) type PlaceKey = (usize, u32, u64);

/// Where a manager tells its events. Calls come one at a time, in an order in which every free follows its allocation.
pub(crate) trait EventSink: Send + Sync {
    /// `stream` is the number of its home queue, 0 if it has none.
    fn allocated(&self, key: PlaceKey, bytes: u64, stream: u16);
    fn freed(&self, key: PlaceKey);
}

/// A recording that lasts as long as its manager: what the configuration or the environment asks for.
///
/// Overwrites nothing: if the file exists, the process's number and a count go before its extensions. What exists and is
/// no file, a device or a pipe, is written to.
pub(crate) fn lasting_sink(path: &Path) -> Result<Arc<dyn EventSink>, TraceError> {
    let mut chosen = path.to_path_buf();
    for count in 0_u32.. {
        match TraceWriter::create_new(&chosen) {
            Err(error) if *error.kind() == TraceErrorKind::Unwritable(ErrorKind::AlreadyExists) => {
                if !chosen.is_file() {
                    return Ok(Arc::new(Recording::new(TraceWriter::create(&chosen)?)));
                }
                chosen = numbered(path, count);
            }
            writer => {
                let writer = writer?;
                info!(path = %chosen.display(), "recording");
                return Ok(Arc::new(Recording::new(writer)));
            }
        }
    }
    unreachable!("there are fewer than 2^32 files")
}

/// `run.csv.gz` as `run.1234-0.csv.gz`, for process 1234.
fn numbered(path: &Path, count: u32) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let (stem, extensions) = name.split_at(name.find('.').unwrap_or(name.len()));
    path.with_file_name(format!("{stem}.{}-{count}{extensions}", std::process::id()))
}

/// The events of one recording, on their way to a writer.
struct Recording<W: Write> {
    start: Instant,
    state: Mutex<State<W>>,
}

struct State<W: Write> {
    name: String,
    /// `None` once writing has failed, or panicked.
    writer: Option<TraceWriter<W>>,
    failure: Option<TraceError>,
    /// Their numbers, bytes and streams.
    live: HashMap<PlaceKey, (u64, u64, u64)>,
    allocation_count: u64,
    event_count: u64,
}

impl<W: Write> Recording<W> {
    fn new(writer: TraceWriter<W>) -> Self {
        let state = State {
            name: writer.name().to_owned(),
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
        // Taken out meanwhile: a writer that panics is not asked again.
        let Some(mut writer) = self.writer.take() else { return };
        match writer.write(&event) {
            Ok(()) => {
                self.event_count += 1;
                self.writer = Some(writer);
            }
            Err(failure) => self.failure = Some(failure),
        }
    }
}

impl<W: Write + Send> EventSink for Recording<W> {
    fn allocated(&self, key: PlaceKey, bytes: u64, stream: u16) {
        let mut state = self.state.lock();
        state.allocation_count += 1;
        let id = state.allocation_count;
        let stream = u64::from(stream);
        state.live.insert(key, (id, bytes, stream));
        // The clock is read under the lock, so that time never goes back from one event to the next.
        let time_us = self.start.elapsed().as_micros() as u64;
        state.write(TraceEvent { time_us, op: TraceOp::Allocate, id, bytes, stream });
    }

    fn freed(&self, key: PlaceKey) {
        let mut state = self.state.lock();
        // What was allocated before the recording began is not part of it.
        let Some((id, bytes, stream)) = state.live.remove(&key) else { return };
        let time_us = self.start.elapsed().as_micros() as u64;
        state.write(TraceEvent { time_us, op: TraceOp::Free, id, bytes, stream });
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
    pub fn finish(mut self) -> Result<(u64, W), TraceError> {
        self.end();
        let mut state = self.recording.state.lock();
        match state.writer.take() {
            Some(writer) => writer.finish().map(|output| (state.event_count, output)),
            None => {
                let failure = state.failure.take();
                let panicked = || write_error(&state.name, io::Error::other("the writer panicked"));
                Err(failure.unwrap_or_else(panicked))
            }
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
