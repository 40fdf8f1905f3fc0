//! How fast transfers are, beside what is as fast as can be: each route, size by size.
//!
//! [`measure`] times [`Transfers`] of a manager, and in turns with them a *reference* that moves as many bytes: where the device
//! is the host, a plain `memcpy` by as many threads (or by one, if that is faster); elsewhere the driver's own call, from and to pinned memory ([`Reference`]).
//! Both are done once before, so that memory is warm, and both do their work in the same memory where that can be.
//!
//! The clock is given, so a simulated device is measured in its own time.
//!
//! ```
//! use aquifer::{HostMemoryManager, bandwidth};
//! use std::time::{Duration, Instant};
//!
//! let manager = HostMemoryManager::new()?;
//! let start = Instant::now();
//! let options = bandwidth::Options::new(move || start.elapsed()).sizes([4 << 10, 1 << 20]).span(Duration::ZERO);
//! let outcome = bandwidth::measure(&manager, &options, |step| eprintln!("{} of {}", step.done, step.count))?;
//! for row in &outcome.rows {
//!     println!("{} of {} bytes: {:.3} of {}", row.route, row.bytes, row.ratio(), row.reference);
//! }
//! # Ok::<(), aquifer::Error>(())
//! ```

mod cases;
mod contests;
mod driver;
mod outcome;
mod room;
#[cfg(test)]
mod tests;
mod threads;
mod timing;

pub use outcome::{LeftOut, Memory, Outcome, Reference, Row};

use crate::{Error, ErrorKind, MemoryManager, Route, SyncBackend, Transfers};
use cases::Case;
use room::Room;
use std::fmt;
use std::time::Duration;
use threads::CopyThreads;
use timing::Contest;

/// The sizes that are measured if no others are asked for, in bytes: powers of four from 4 KiB to 1 GiB.
pub const SIZES: [u64; 10] =
    [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20, 64 << 20, 256 << 20, 1 << 30];

/// How long each size of each route is repeated if nothing else is asked for.
pub const SPAN: Duration = Duration::from_millis(100);

/// No machine has more processors to copy on.
const THREADS_MAX: usize = 1024;

/// Longer references are done by all threads without a try.
const ONE_THREAD_BYTES_MAX: u64 = 64 << 20;

/// Brings a transfer on until the function answers true.
type Drive<'a, B> = dyn Fn(&Transfers<B>, &dyn Fn() -> bool) + 'a;

/// What is measured, and how.
pub struct Options<'a, B: SyncBackend> {
    sizes: Vec<u64>,
    span: Duration,
    clock: Box<dyn Fn() -> Duration + 'a>,
    drive: Option<Box<Drive<'a, B>>>,
    pairs: Vec<(&'a MemoryManager<B>, &'a MemoryManager<B>)>,
}

impl<B: SyncBackend> fmt::Debug for Options<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("sizes", &self.sizes)
            .field("span", &self.span)
            .field("pair_count", &self.pairs.len())
            .finish_non_exhaustive()
    }
}

impl<'a, B: SyncBackend> Options<'a, B> {
    /// All [`SIZES`], each for a [`SPAN`], on one device. `clock` tells the time since some moment, and never goes back.
    pub fn new(clock: impl Fn() -> Duration + 'a) -> Self {
        let clock = Box::new(clock);
        Self { sizes: SIZES.to_vec(), span: SPAN, clock, drive: None, pairs: Vec::new() }
    }

    /// These sizes, in bytes, in rising order and each once.
    #[must_use]
    pub fn sizes(mut self, sizes: impl IntoIterator<Item = u64>) -> Self {
        self.sizes = sizes.into_iter().collect();
        self.sizes.sort_unstable();
        self.sizes.dedup();
        self
    }

    /// Repeats each size of each route for so long, by the clock that was given, but at least 3 times and at most 1000.
    #[must_use]
    pub fn span(mut self, span: Duration) -> Self {
        self.span = span;
        self
    }

    /// Also from the first manager's device to the second's. May be called for several pairs.
    #[must_use]
    pub fn between(mut self, source: &'a MemoryManager<B>, destination: &'a MemoryManager<B>) -> Self {
        self.pairs.push((source, destination));
        self
    }

    /// Transfers from and to plain memory of the host are brought on by `drive` until the function that it is given answers true: for
    /// simulated devices, where copying by processors takes virtual time too.
    #[must_use]
    pub fn driven_by(mut self, drive: impl Fn(&Transfers<B>, &dyn Fn() -> bool) + 'a) -> Self {
        self.drive = Some(Box::new(drive));
        self
    }
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// How many sizes of routes are done.
    pub done: usize,
    /// Of how many.
    pub count: usize,
    /// The next one's route.
    pub route: Route,
    /// Its memory.
    pub memory: Memory,
    /// Its size in bytes.
    pub bytes: u64,
}

/// Measures every route of a manager's transfers. Blocks for as long as that takes: with the defaults, some ten seconds.
///
/// Memory is taken for one size of one route at a time, up to three times that size, and given back ([`MemoryManager::trim`]) before
/// the next. Sizes that would take more than a quarter of what the device's budget or the host allows are left out, and so is what is refused
/// for want of memory or because the device has none of its kind; the outcome says which.
///
/// The manager should have nothing else to do meanwhile.
///
/// # Errors
///
/// [`ErrorKind::InvalidArgument`] for a size of 0 bytes; else what the driver says, but for refused memory.
pub fn measure<B: SyncBackend>(
    manager: &MemoryManager<B>,
    options: &Options<'_, B>,
    mut progress: impl FnMut(Step),
) -> Result<Outcome, Error> {
    if options.sizes.contains(&0) {
        let message = "0 bytes cannot be timed; measure sizes of 1 byte or more";
        return Err(Error::new(ErrorKind::InvalidArgument, "measure", message));
    }
    let threads = CopyThreads::start(reference_threads(manager));
    let mut outcome = Outcome { rows: Vec::new(), left_out: Vec::new(), thread_count: threads.count() };
    let room = Room::of(manager, &options.pairs)?;
    let (sizes, too_large): (Vec<_>, Vec<_>) = options.sizes.iter().partition(|&&bytes| room.has(bytes));
    if !too_large.is_empty() {
        let reason = room.in_words();
        outcome.left_out.push(LeftOut { route: None, sizes: too_large, reason });
    }
    let cases = cases::all(manager, &options.pairs);
    let count = cases.len() * sizes.len();
    let pairs = cases.iter().flat_map(|case| sizes.iter().map(move |&bytes| (case, bytes)));
    for (done, (case, bytes)) in pairs.enumerate() {
        let (route, memory) = (case.route(), case.memory());
        progress(Step { done, count, route, memory, bytes });
        match measure_one(case, bytes, &threads, options) {
            Ok(row) => outcome.rows.push(row),
            Err(error) if is_lack(error.kind()) => outcome.leave_out((route, memory), bytes, &error),
            Err(error) => return Err(error),
        }
        case.give_back();
    }
    Ok(outcome)
}

fn measure_one<B: SyncBackend>(
    case: &Case<'_, B>,
    bytes: u64,
    threads: &CopyThreads,
    options: &Options<'_, B>,
) -> Result<Row, Error> {
    let mut contest = case.contest(bytes, threads, options.drive.as_deref())?;
    let is_threads = matches!(case.reference(), Reference::Memcpy | Reference::Memset);
    if is_threads {
        choose_threads(threads, bytes, &mut *contest, &*options.clock)?;
    }
    let timing = timing::compare(&mut *contest, &*options.clock, options.span)?;
    Ok(Row {
        route: case.route(),
        memory: case.memory(),
        bytes,
        seconds: timing.seconds,
        reference: case.reference(),
        reference_threads: is_threads.then(|| threads.used()),
        reference_seconds: timing.reference_seconds,
        repetitions: timing.repetitions,
    })
}

/// Lets as many threads copy for the reference as are fastest: all, or one where to wake the others takes longer than they save.
fn choose_threads(
    threads: &CopyThreads,
    bytes: u64,
    contest: &mut dyn Contest,
    clock: &dyn Fn() -> Duration,
) -> Result<(), Error> {
    threads.set_used(threads.count());
    if bytes > ONE_THREAD_BYTES_MAX || threads.count() == 1 {
        return Ok(());
    }
    let all = timing::reference_time(contest, clock)?;
    threads.set_used(1);
    if timing::reference_time(contest, clock)? > all {
        threads.set_used(threads.count());
    }
    Ok(())
}

/// How many threads copy for the references, if any does.
fn reference_threads<B: SyncBackend>(manager: &MemoryManager<B>) -> usize {
    let count = manager.config().transfers.copy_threads;
    if driver::runs_on_host(manager) { count.clamp(1, THREADS_MAX) } else { 1 }
}

/// Whether an error says that there is not enough memory, or none of a kind.
fn is_lack(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::OutOfMemory | ErrorKind::CanNeverFit | ErrorKind::Unsupported)
}
