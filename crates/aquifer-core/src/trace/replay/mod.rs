//! Replaying: a trace's requests, made again to a running manager.
//!
//! A [`Plan`] turns the trace into steps before anything is timed: ids become places in a table, and a free stands
//! where its memory was really given back. One thread then just takes the steps. Several threads hand the table on
//! from one to the next ([`relay`]), so that the steps keep the order of the trace whatever the number of threads.
//!
//! With a [`ReplayDevice`], traces to which queues make a difference are replayed on queues ([`queued`]).

mod completions;
mod device;
mod plan;
mod queued;
mod relay;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aquifer_backend::{Backend, Capabilities, Error, SyncBackend};

use self::device::NoDevice;
pub use self::device::ReplayDevice;
use self::plan::{Plan, Step};
use self::queued::Stage;
use super::{Trace, TraceEvent};
use crate::manager::{MemoryManager, MemoryOptions, Queue};
use crate::statistics::Statistics;

/// The tag that replayed buffers are counted under.
const TAG: &str = "replay";

/// How many steps one thread takes between two reports of its progress.
const PROGRESS_STEPS: usize = 16 << 10;

/// How to replay a trace.
///
/// ```
/// use aquifer_core::trace::ReplayOptions;
/// use std::num::NonZeroUsize;
/// let options = ReplayOptions::default().threads(NonZeroUsize::MIN);
/// ```
#[derive(Debug, Clone)]
pub struct ReplayOptions {
    threads: NonZeroUsize,
    progress: Option<Arc<AtomicU64>>,
}

impl Default for ReplayOptions {
    /// One thread: the caller's.
    fn default() -> Self {
        Self { threads: NonZeroUsize::MIN, progress: None }
    }
}

impl ReplayOptions {
    /// On how many threads. One is the caller's own; more are started for the replay and have ended when it returns.
    ///
    /// The trace's streams are dealt to the threads. If there are fewer streams than threads, runs of 64 operations
    /// are dealt instead, in turn, so that many frees happen on other threads than the allocations. Either way one
    /// operation happens after the other, in the order of the trace: more threads show what changing threads costs,
    /// they make nothing faster.
    #[must_use]
    pub fn threads(self, count: NonZeroUsize) -> Self {
        Self { threads: count, ..self }
    }

    /// Where to write how many events are done, now and then.
    #[must_use]
    pub fn progress(self, done: Arc<AtomicU64>) -> Self {
        Self { progress: Some(done), ..self }
    }

    fn tell_progress(&self, plan: &Plan, steps_done: usize) {
        if let Some(progress) = &self.progress {
            progress.store(plan.events_done(steps_done) as u64, Ordering::Relaxed);
        }
    }
}

/// What a replay came to.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ReplayOutcome {
    /// From the first event to the last. Reading, planning, starting threads and trimming are not part of it.
    pub elapsed: Duration,
    /// How many allocations and frees happened. A free and its completion are one.
    pub operation_count: usize,
    /// How many queues the trace's streams had; 0 if it was replayed without queues.
    pub queue_count: usize,
    /// The most bytes that were freed and not completed at once, rounding included. Counted from the trace; 0 without
    /// queues, where such memory is live.
    pub quarantined_bytes_peak: u64,
    /// How many neighbouring completions were awaited together because too many were outstanding; 1: each for itself.
    pub merged_completion_count: usize,
    /// How often an allocation found no memory before a completion that comes later in the trace, which was then brought
    /// forward. What the manager itself waited for in vain or with success is not counted.
    pub stall_count: usize,
    /// How far these completions were brought forward, in the trace's time.
    pub stalled: Duration,
    /// The most bytes that were allocated at once, rounding included. Counted from the trace, so that it is exact also
    /// where [`ByteCounter::peak`](crate::ByteCounter::peak) is not.
    pub allocated_bytes_peak: u64,
    /// What the manager had counted after the last event, with everything live that the trace leaves live.
    pub statistics: Statistics,
    /// What [`trim`](MemoryManager::trim) gave back after that, in bytes.
    pub trimmed_bytes: u64,
    /// What was reserved after that, in bytes, still with everything live.
    pub reserved_after_trim_bytes: u64,
}

impl ReplayOutcome {
    /// Nanoseconds for an allocation and a free together.
    #[must_use]
    pub fn ns_per_pair(&self) -> f64 {
        // A trace begins with an allocation, so there is at least one operation.
        2.0 * self.elapsed.as_nanos() as f64 / self.operation_count as f64
    }
}

/// Why a replay stopped.
///
/// `Display` says where; what the manager or the system had to say is the [`source`](std::error::Error::source).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// An allocation failed. The manager's error has the out-of-memory report, if that is why.
    #[error("{}", Place { trace, event_index: *event_index, event_count: *event_count, event })]
    Allocation {
        /// The trace's name.
        trace: String,
        /// The place in [`Trace::events`] of the allocation that failed.
        event_index: usize,
        /// How many events the trace has.
        event_count: usize,
        /// The allocation that failed, with the trace's time.
        event: TraceEvent,
        /// What the manager said.
        #[source]
        error: Error,
    },
    /// A queue for one of the trace's streams could not be had, or not be kept busy.
    #[error("the trace's queues cannot be had")]
    Queues(#[source] Error),
    /// The manager did not take the tag `replay`.
    #[error("the buffers cannot be tagged")]
    Tag(#[source] Error),
    /// A thread could not be started.
    #[error("{threads} threads cannot be started; use fewer")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        #[source]
        error: io::Error,
    },
}

/// Prints where in a trace an allocation failed.
struct Place<'a> {
    trace: &'a str,
    event_index: usize,
    event_count: usize,
    event: &'a TraceEvent,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TraceEvent { time_us, id, bytes, .. } = self.event;
        write!(
            f,
            "{}: allocation {id} of {bytes} bytes failed, event {} of {}, {:.6} s into the trace",
            self.trace,
            self.event_index + 1,
            self.event_count,
            *time_us as f64 / 1e6
        )
    }
}

/// Makes the requests of `trace` to `manager`, as fast as they are served, on no queue.
///
/// Memory is freed at the trace's `f`, or at its `c` where there is one. It is neither written nor read, unless the
/// manager clears it. The buffers have the tag `replay`. They are all dropped when this returns.
///
/// Use a manager made for it: the outcome's [`Statistics`] are of the manager's whole life. Blocks until the replay is
/// over. Takes 20 bytes of host memory for each event, twice as many while it plans, and a buffer for each allocation
/// that is live at once.
///
/// # Errors
///
/// [`ReplayError::Allocation`] for the first allocation that failed; nothing after it was done.
/// [`ReplayError::Threads`] if the system has no more threads and [`ReplayError::Tag`] if the manager has no more tags;
/// nothing was done then.
pub fn replay<B>(
    manager: &MemoryManager<B>,
    trace: &Trace,
    options: &ReplayOptions,
) -> Result<ReplayOutcome, ReplayError>
where
    B: SyncBackend,
{
    replay_with(manager, trace, options, None::<&NoDevice>)
}

/// As [`replay()`], with the trace's streams as queues of the manager, and its time as the device's, if it has a clock.
///
/// Each stream is a [`Queue`], and what is allocated for it is at home there. Memory is freed at the trace's `f`. Where a `c`
/// follows, some other queue used it until then: one that the device holds for as long, so that the core must keep the memory
/// back. At most 32 queues are held; where more completions are outstanding at once, neighbouring ones are awaited
/// together, so that memory comes free late but never early ([`ReplayOutcome::merged_completion_count`]). Streams after the
/// 256th share queues. If an allocation finds no memory while completions are outstanding, they are brought forward, one after
/// the other ([`ReplayOutcome::stall_count`]).
///
/// Traces of one stream without `c`, and backends without queues, are replayed as [`replay()`] does it.
///
/// The manager's [`settle`](MemoryManager::settle) is called at completions and for each millisecond of the trace, so it needs
/// no [`reaper`](crate::Config::reaper); results are the same each time only without one. On a device without a clock set
/// [`in_flight_wait`](crate::Config::in_flight_wait) to zero: no completion comes while an allocation waits.
///
/// # Errors
///
/// As [`replay()`]; also [`ReplayError::Queues`].
pub fn replay_on<B, D>(
    manager: &MemoryManager<B>,
    trace: &Trace,
    options: &ReplayOptions,
    device: &D,
) -> Result<ReplayOutcome, ReplayError>
where
    B: SyncBackend,
    D: ReplayDevice<B>,
{
    replay_with(manager, trace, options, Some(device))
}

fn replay_with<B, D>(
    manager: &MemoryManager<B>,
    trace: &Trace,
    options: &ReplayOptions,
    device: Option<&D>,
) -> Result<ReplayOutcome, ReplayError>
where
    B: SyncBackend,
    D: ReplayDevice<B>,
{
    let tag = manager.tag(TAG).map_err(ReplayError::Tag)?;
    let layout = &manager.config().layout;
    let is_on_queues = device.is_some()
        && manager.properties().capabilities.contains(Capabilities::QUEUES)
        && plan::has_queues(trace);
    let plan = if is_on_queues { Plan::on_queues(trace, layout) } else { Plan::new(trace, layout) };
    let make_queues = |count| (0..count).map(|_| manager.queue()).collect::<Result<Vec<_>, _>>();
    // The first queues are those that the manager tells apart.
    let helpers = make_queues(plan.completions.helper_count).map_err(ReplayError::Queues)?;
    let queues = make_queues(plan.stream_queue_count).map_err(ReplayError::Queues)?;
    let player = Player {
        manager,
        options,
        device,
        events: trace.events(),
        plan,
        tagged: MemoryOptions::DEFAULT.tag(tag),
        queues,
    };
    let mut stage = Stage::new(player.plan.slot_count, helpers);
    // More threads than steps would have nothing to do.
    let played = match options.threads.get().min(player.plan.steps.len()) {
        1 => player.play_here(&mut stage),
        threads => relay::play(&player, trace, threads, &mut stage)
            .map_err(|error| ReplayError::Threads { threads, error })?,
    };
    if let Some(device) = device {
        device.end();
    }
    let statistics = manager.statistics();
    player.finish(&mut stage);
    let elapsed = played.map_err(|stop| player.error(trace, stop))?;
    let trimmed_bytes = player.trim(&stage);
    let reserved_after_trim_bytes = manager.statistics().reserved.current;
    Ok(ReplayOutcome {
        elapsed,
        operation_count: player.plan.operation_count,
        queue_count: player.queues.len(),
        quarantined_bytes_peak: player.plan.quarantined_bytes_peak,
        merged_completion_count: player.plan.completions.merged_count.max(1),
        stall_count: stage.stall_count,
        stalled: Duration::from_micros(stage.stalled_us),
        allocated_bytes_peak: player.plan.allocated_bytes_peak,
        statistics,
        trimmed_bytes,
        reserved_after_trim_bytes,
    })
}

/// A step that failed.
#[derive(Debug)]
struct Stop {
    step_index: usize,
    error: Error,
}

/// What every thread of a replay needs.
struct Player<'a, B: Backend, D> {
    manager: &'a MemoryManager<B>,
    options: &'a ReplayOptions,
    device: Option<&'a D>,
    events: &'a [TraceEvent],
    plan: Plan,
    tagged: MemoryOptions,
    /// Those of the streams. None in a plan without queues.
    queues: Vec<Queue<B>>,
}

impl<B: Backend, D: ReplayDevice<B>> Player<'_, B, D> {
    /// Takes all steps on this thread.
    fn play_here(&self, stage: &mut Stage<B, D::Hold>) -> Result<Duration, Stop> {
        let step_count = self.plan.steps.len();
        let start = Instant::now();
        let mut step_index = 0;
        while step_index < step_count {
            let end = (step_index + PROGRESS_STEPS).min(step_count);
            self.take_steps(step_index, end, stage)?;
            self.options.tell_progress(&self.plan, end);
            step_index = end;
        }
        Ok(start.elapsed())
    }

    /// Takes the steps from `start` to before `end`: the part that is timed.
    fn take_steps(&self, start: usize, end: usize, stage: &mut Stage<B, D::Hold>) -> Result<(), Stop> {
        if !self.queues.is_empty() || self.device.is_some_and(ReplayDevice::has_clock) {
            return self.take_queued_steps(start, end, stage);
        }
        let buffers = &mut stage.buffers;
        for (index, step) in self.plan.steps[start..end].iter().enumerate() {
            match *step {
                Step::Allocate { slot, bytes, .. } => match self.manager.allocate_with(bytes, self.tagged) {
                    Ok(buffer) => buffers[slot as usize] = Some(buffer),
                    Err(error) => return Err(Stop { step_index: start + index, error }),
                },
                Step::Free { slot } => buffers[slot as usize] = None,
                Step::FreeLater { .. } | Step::Release { .. } => unreachable!("a plan without queues"),
            }
        }
        Ok(())
    }

    fn error(&self, trace: &Trace, stop: Stop) -> ReplayError {
        if !matches!(self.plan.steps[stop.step_index], Step::Allocate { .. }) {
            return ReplayError::Queues(stop.error);
        }
        let event_index = self.plan.event_indices[stop.step_index] as usize;
        ReplayError::Allocation {
            trace: trace.name().to_owned(),
            event_index,
            event_count: self.events.len(),
            event: self.events[event_index],
            error: stop.error,
        }
    }
}
