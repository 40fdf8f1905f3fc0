//! Devices that traces with queues are replayed on.

use crate::trace::ReplayDevice;
use crate::{Buffer, Clock, Config, Error, Queue};
use aquifer_host::Host;
use aquifer_sim::{Access, Books, Costs, Kernel, QueueId, Sim, SimDesc};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Replays on host memory: a queue is held by a closure on its thread, which waits until it is let go. There is no clock; the
/// replay goes as fast as it can.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostReplay;

impl HostReplay {
    /// `config` as such replays want it: the same result each time, and no waiting for what cannot come meanwhile.
    #[must_use]
    pub fn configure(self, config: Config) -> Config {
        without_time(config)
    }
}

/// `config` for a replay on a device without a clock: the same result each time, and no waiting for what cannot come meanwhile.
pub(crate) fn without_time(mut config: Config) -> Config {
    config.reaper = false;
    config.in_flight_wait = Duration::ZERO;
    config
}

/// Keeps a host's queue busy until it is dropped.
#[derive(Debug)]
pub struct HostHold {
    _end: Sender<()>,
}

impl ReplayDevice<Host> for HostReplay {
    type Hold = HostHold;

    fn hold(&self, queue: &Queue<Host>, _buffer: &Buffer<Host>, _until_us: u64) -> Result<HostHold, Error> {
        let (end, is_ended): (Sender<()>, Receiver<()>) = channel();
        queue.raw().submit(move || {
            // Nothing is ever sent: this ends when the other end is dropped.
            let _ = is_ended.recv();
        });
        Ok(HostHold { _end: end })
    }

    fn release(&self, queue: &Queue<Host>, holds: Vec<HostHold>) {
        drop(holds);
        let (passed, is_passed): (Sender<()>, Receiver<()>) = channel();
        queue.raw().submit(move || drop(passed));
        // Queues work in order, so all markers before have been reached.
        let _ = is_passed.recv();
    }
}

/// Replays on a simulated device, in its virtual time: what would it cost on a device of that size and speed? For one replay.
///
/// Between two events of the trace as much virtual time passes as was recorded; driver's calls and waits come on top. Where a
/// free completes later, a kernel uses the buffer for as long as was recorded, also if the program falls behind meanwhile:
/// then the completion comes before its event. Otherwise queues are idle.
///
/// ```
/// use aquifer::sim::SimDesc;
/// use aquifer::trace::{ReplayOptions, Trace, replay_on};
/// use aquifer::{Config, MemoryManager, SimReplay};
///
/// let lines = "t_us,op,id,bytes,stream\n0,a,1,9000000,0\n5,f,1,0,0\n90,c,1,0,0\n200,a,2,9000000,7\n";
/// let trace = Trace::read("example", lines.as_bytes()).unwrap();
/// let device = SimReplay::new(SimDesc::default());
/// let manager = MemoryManager::with_config(device.sim().clone(), device.configure(Config::default()))?;
/// let outcome = replay_on(&manager, &trace, &ReplayOptions::default(), &device).unwrap();
/// println!("{} bytes, {} ns in the driver", outcome.statistics.reserved.peak, device.books().driver_ns);
/// # Ok::<(), aquifer::Error>(())
/// ```
#[derive(Debug)]
pub struct SimReplay {
    sim: Sim,
    costs: Costs,
    progress: Mutex<TraceProgress>,
    books_at_end: Mutex<Option<Books>>,
}

/// How far a replay is.
#[derive(Debug, Default)]
struct TraceProgress {
    /// In the trace's time.
    time_us: u64,
    /// Until when each queue is busy, in virtual time.
    held_until_ns: HashMap<QueueId, u64>,
}

/// The trace brings the clock no further than this, 73 years: it must be able to go on.
const CLOCK_NS_MAX: u64 = 1 << 61;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SimReplay {
    /// A device of its own, whose time begins now.
    ///
    /// # Panics
    ///
    /// As [`Sim::new`].
    #[must_use]
    pub fn new(desc: SimDesc) -> Self {
        let costs = desc.costs;
        Self { sim: Sim::new(desc), costs, progress: Mutex::default(), books_at_end: Mutex::default() }
    }

    /// The device. A manager for the replay is made with a clone.
    #[must_use]
    pub fn sim(&self) -> &Sim {
        &self.sim
    }

    /// `config` as a manager of a simulated device wants it: with its clock, and without a thread of the manager's, so that
    /// results are the same each time.
    #[must_use]
    pub fn configure(&self, mut config: Config) -> Config {
        let sim = self.sim.clone();
        config.clock = Clock::from_fn(move || Duration::from_nanos(sim.now_ns()));
        config.reaper = false;
        // In virtual time, so however long it takes: the wait is part of the answer.
        config.in_flight_wait = Duration::from_secs(365 * 24 * 3600);
        config
    }

    /// What the device had counted after the last event of the latest replay, from when it was made; what it has counted now
    /// if there was none.
    #[must_use]
    pub fn books(&self) -> Books {
        lock(&self.books_at_end).clone().unwrap_or_else(|| self.sim.books())
    }

    /// When it will be `time_us` in the trace, if no call of the driver's comes before.
    fn clock_ns(&self, progress: &TraceProgress, time_us: u64) -> u64 {
        let gap_ns = time_us.saturating_sub(progress.time_us).saturating_mul(1000);
        let now_ns = self.sim.now_ns();
        now_ns.saturating_add(gap_ns).min(CLOCK_NS_MAX).max(now_ns)
    }
}

impl ReplayDevice<Sim> for SimReplay {
    /// Kernels end by themselves.
    type Hold = ();

    fn hold(&self, queue: &Queue<Sim>, buffer: &Buffer<Sim>, until_us: u64) -> Result<(), Error> {
        let mut progress = lock(&self.progress);
        let until_ns = self.clock_ns(&progress, until_us);
        let held_until_ns = progress.held_until_ns.entry(queue.raw().id()).or_default();
        let start_ns = (self.sim.now_ns() + self.costs.launch_ns).max(*held_until_ns);
        *held_until_ns = until_ns.max(start_ns);
        let accesses: Vec<_> = buffer
            .device_address()
            .map(|address| Access::write(address, buffer.size_bytes()))
            .into_iter()
            .collect();
        self.sim.launch(queue.raw(), Kernel::new(accesses).lasting(*held_until_ns - start_ns))?;
        Ok(())
    }

    fn release(&self, queue: &Queue<Sim>, _holds: Vec<()>) {
        let held_until_ns = lock(&self.progress).held_until_ns.get(&queue.raw().id()).copied();
        let now_ns = self.sim.now_ns();
        let left_ns = held_until_ns.unwrap_or_default().saturating_sub(now_ns);
        self.sim.advance(left_ns + self.costs.signal_seen_ns);
    }

    fn has_clock(&self) -> bool {
        true
    }

    fn advance(&self, time_us: u64) {
        let mut progress = lock(&self.progress);
        let ns = self.clock_ns(&progress, time_us) - self.sim.now_ns();
        progress.time_us = progress.time_us.max(time_us);
        self.sim.advance(ns);
    }

    fn end(&self) {
        *lock(&self.books_at_end) = Some(self.sim.books());
    }
}
