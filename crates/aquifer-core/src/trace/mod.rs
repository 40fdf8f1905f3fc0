//! Allocation traces: what a program allocated and freed, and when.
//!
//! A [`Trace`] is the list of requests that one program made to its memory manager, in the order it made them. It
//! says nothing about how they were served, so the same trace can be replayed against any manager and any backend,
//! and its figures compared. [`TraceWriter`] writes one, [`Trace::open`] reads one, [`Trace::summary`] describes one,
//! [`replay()`] replays one, and [`replay_on`] does it on queues.
//!
//! The types here belong to the file format. They are not the manager's own, so that the manager can change and old
//! traces stay readable.
//!
//! # The format, version 1
//!
//! A CSV text, plain or compressed with gzip (told by its first bytes, not by the file's name):
//!
//! ```text
//! t_us,op,id,bytes,stream
//! 3,a,1,4096,0
//! 9,a,2,12288,0
//! 15,f,1,4096,0
//! 40,c,1,4096,0
//! ```
//!
//! - `t_us`: microseconds since the trace began. Never goes back.
//! - `op`: `a`, an allocation; `f`, a free was requested; `c`, that free completed. `c` is written only where it came
//!   later than `f`, because work on another stream still used the memory; without it, the free completed at `f`.
//! - `id`: names an allocation. Each is allocated once, freed at most once, and completed at most once after that.
//! - `bytes`: the size asked for, at least 1. On `f` and `c` it repeats the allocation's and is ignored.
//! - `stream`: the stream, or queue, it was for. A name only: equal numbers are the same stream.
//!
//! All four numbers are whole, decimal and without sign. Nothing is quoted; empty lines are skipped; lines may end in
//! `\n` or `\r\n`. Allocations still live at the end are allowed.
//!
//! One line may stand before the header and name the version: `# aquifer-trace 1`. Version 1 does not need it and
//! [`TraceWriter`] does not write it, so that every tool that knows CSV can read the file. Every later version must
//! begin with such a line: an old reader then says that the trace is newer than itself.
//!
//! # What reading promises
//!
//! A [`Trace`] is always valid: the rules above are checked line by line, and the first breach is a [`TraceError`]
//! with the line and what to do. So whoever replays one need not check again.
//!
//! No input makes reading panic or take memory without bound. A line may be [`TRACE_LINE_BYTES_MAX`] long and a trace
//! may have [`TRACE_EVENT_COUNT_MAX`] events; nothing is reserved ahead from what the input claims. An event takes
//! about 100 bytes of memory while the trace is read, 200 where a table has just grown, and 40 afterwards.
//!
//! ```
//! use aquifer_core::trace::{Trace, TraceCompression, TraceWriter};
//!
//! let trace = Trace::read("example", "t_us,op,id,bytes,stream\n3,a,1,4096,0\n9,f,1,4096,0\n".as_bytes())?;
//! assert_eq!(trace.summary().live_bytes_peak, 4096);
//!
//! let mut writer = TraceWriter::new("copy", Vec::new(), TraceCompression::Gzip)?;
//! for event in trace.events() {
//!     writer.write(event)?;
//! }
//! assert_eq!(Trace::read("example", writer.finish()?.as_slice())?, trace);
//! # Ok::<(), aquifer_core::trace::TraceError>(())
//! ```

mod check;
mod error;
mod event;
mod reader;
mod recorder;
mod replay;
mod summary;
mod writer;

pub use error::{NumberProblem, TraceError, TraceErrorKind};
pub use event::{Trace, TraceEvent, TraceOp};
pub use recorder::Recorder;
pub use replay::{ReplayDevice, ReplayError, ReplayOptions, ReplayOutcome, replay, replay_on};
pub use summary::TraceSummary;

pub(crate) use recorder::{EventSink, PlaceKey, lasting_sink};

pub use writer::{TraceCompression, TraceWriter};

/// The version of the format that [`TraceWriter`] writes, and the newest that [`Trace::open`] reads.
pub const TRACE_FORMAT_VERSION: u32 = 1;

/// The longest line that is read, in bytes, without its line ending. The longest valid event takes 85.
pub const TRACE_LINE_BYTES_MAX: usize = 1024;

/// The most events that a trace may have.
pub const TRACE_EVENT_COUNT_MAX: usize = 100_000_000;

/// The columns, as the header names them.
const COLUMNS: [&str; 5] = ["t_us", "op", "id", "bytes", "stream"];

/// What the line that names the version begins with.
const VERSION_PREFIX: &str = "# aquifer-trace ";

#[cfg(all(test, not(loom)))]
mod tests;
