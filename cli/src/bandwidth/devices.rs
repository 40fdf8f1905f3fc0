//! The devices whose transfers are measured, and their clocks.

use std::time::{Duration, Instant};

use aquifer::bandwidth::{self, Options, Outcome, SPAN, Step};
use aquifer::sim::Sim;
use aquifer::{Clock, Config, Host, MemoryManager, SyncBackend, VirtualCopyThreads};

use super::{Job, name};
use crate::error::CliError;
use crate::output::bucket_in_words;
use crate::simulation;

/// Threads that copy for a simulated device, unless others are asked for: as many whatever machine simulates it.
const VIRTUAL_THREADS: usize = 8;
/// What each of them copies in a second: the slow end of what a server's processor does.
const VIRTUAL_THREAD_BYTES_PER_SECOND: u64 = 6_000_000_000;

/// What was measured, and of what.
pub(crate) struct Measured {
    pub(super) backend: &'static str,
    pub(super) device: String,
    pub(super) is_virtual: bool,
    pub(super) copy_threads: usize,
    pub(super) span: Duration,
    pub(super) outcome: Outcome,
}

impl Job<'_> {
    fn show(&self, step: Step) {
        let Step { done, count, route, memory, bytes } = step;
        self.steps.show(done, count, format!("{}, {}", name(route, memory), bucket_in_words(bytes)));
    }
}

/// Two managers of the host's memory: each is to the other what another device is.
pub(super) fn on_host(job: &Job<'_>) -> Result<Measured, CliError> {
    measure(job, Host::new()?, Some(Host::new()?))
}

/// Measures a device in real time, and from another to it, if there is one.
pub(crate) fn measure<B: SyncBackend>(
    job: &Job<'_>,
    device: B,
    other: Option<B>,
) -> Result<Measured, CliError> {
    let mut config = job.config.clone();
    config.transfers.copy_threads = job.threads.unwrap_or(config.transfers.copy_threads);
    let copy_threads = config.transfers.copy_threads;
    let other = other.map(|other| MemoryManager::with_config(other, config.clone())).transpose()?;
    let manager = MemoryManager::with_config(device, config)?;
    let (start, span) = (Instant::now(), job.span.unwrap_or(SPAN));
    let mut options = Options::new(|| start.elapsed()).sizes(job.sizes.iter().copied()).span(span);
    if let Some(other) = &other {
        options = options.between(other, &manager);
    }
    let outcome = bandwidth::measure(&manager, &options, |step| job.show(step))?;
    let properties = manager.properties();
    Ok(Measured {
        backend: properties.backend,
        device: properties.device.clone(),
        is_virtual: false,
        copy_threads,
        span,
        outcome,
    })
}

/// Measures a simulated device that reads its peer, and one way to the peer, which does not read it.
pub(super) fn on_sim(job: &Job<'_>) -> Result<Measured, CliError> {
    let sim = Sim::new(simulation::transfer_desc(true));
    let other = sim.peer(simulation::transfer_desc(false));
    let manager = MemoryManager::with_config(sim.clone(), in_virtual_time(&sim, job.config.clone()))?;
    let peer = MemoryManager::with_config(other, in_virtual_time(&sim, job.config.clone()))?;
    let copy_threads = job.threads.unwrap_or(VIRTUAL_THREADS);
    let threads = VirtualCopyThreads::new(&sim, copy_threads, VIRTUAL_THREAD_BYTES_PER_SECOND);
    // Every repetition takes as long as the others.
    let span = job.span.unwrap_or(Duration::ZERO);
    let options = Options::new(|| Duration::from_nanos(sim.now_ns()))
        .sizes(job.sizes.iter().copied())
        .span(span)
        .between(&peer, &manager)
        .between(&manager, &peer)
        .driven_by(|transfers, is_done| threads.run(transfers, is_done));
    let outcome = bandwidth::measure(&manager, &options, |step| job.show(step))?;
    drop(options);
    let properties = manager.properties();
    Ok(Measured {
        backend: properties.backend,
        device: properties.device.clone(),
        is_virtual: true,
        copy_threads,
        span,
        outcome,
    })
}

/// `config` for a simulated device: with its clock, and without threads of the manager's, which would make every run another.
fn in_virtual_time(sim: &Sim, mut config: Config) -> Config {
    let sim = sim.clone();
    config.clock = Clock::from_fn(move || Duration::from_nanos(sim.now_ns()));
    config.reaper = false;
    config.transfers.copy_threads = 0;
    config
}
