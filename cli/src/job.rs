//! A trace and the manager that it is replayed through: what `replay` and `fit` have in common.

use aquifer::sim::SimDesc;
use aquifer::trace::{
    ReplayDevice, ReplayError, ReplayOptions, ReplayOutcome, Trace, TraceSummary, replay_on,
};
use aquifer::{
    Backend, BucketLayout, Capabilities, Config, ErrorKind, Host, HostReplay, MemoryManager, Policy,
    SimReplay, SyncBackend, ZeroPolicy,
};
use thiserror::Error;

use crate::args::{BackendName, ManagerArguments};
use crate::cuda;
use crate::metal;
use crate::output::NO_LIMIT;
use crate::simulation::{self, Costs};

/// The environment's settings, and the options' over them.
pub(crate) fn configure(
    arguments: &ManagerArguments,
    budget_bytes: Option<u64>,
) -> Result<Config, aquifer::Error> {
    let mut config = Config::default().with_environment()?;
    // What is replayed has been recorded already.
    config.record_to = None;
    if let Some(name) = &arguments.policy {
        // The parser has let only known names pass.
        config = config.clone().with_policy(name).unwrap_or(config);
    }
    config.budget_bytes = budget_bytes.or(config.budget_bytes);
    let is_host = arguments.backend == BackendName::Host;
    if is_host && config.budget_bytes.is_none() && config.zero_policy == ZeroPolicy::OnRequest {
        // Nothing is touched, so this machine's memory is no limit. Clearing would touch it.
        config.budget_bytes = Some(NO_LIMIT);
    }
    Ok(config)
}

/// `config` with the elastic policy where the device can and nothing says otherwise. A manager's own default also asks what it costs
/// to touch such memory, which a replay does not.
fn elastic_by_default(mut config: Config, backend: &impl Backend) -> Config {
    let properties = backend.properties();
    // A device may be smaller than one of its pages.
    let is_capable = properties.capabilities.contains(Capabilities::SPARSE_BLOCKS)
        && properties.physical_page_bytes <= properties.block_bytes_max;
    if is_capable {
        config.policy = Policy::Elastic;
    }
    config
}

/// What a manager's policy is called, as `--policy` has it; `automatic` before a manager has settled it.
pub(crate) fn policy_name(config: &Config) -> &'static str {
    match config.policy {
        Policy::Automatic => "automatic",
        Policy::Elastic => "elastic",
        _ if is_power_of_two(config) => "power-of-two",
        _ => "blocks",
    }
}

pub(crate) fn is_power_of_two(config: &Config) -> bool {
    config.layout == BucketLayout::power_of_two()
}

/// A trace and how to replay it, any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Job<'a> {
    pub(crate) trace: &'a Trace,
    pub(crate) summary: TraceSummary,
    pub(crate) config: Config,
    pub(crate) options: ReplayOptions,
    pub(crate) backend: BackendName,
    /// Whether an option or the environment says which policy.
    pub(crate) is_policy_chosen: bool,
    /// The device of [`BackendName::Sim`].
    pub(crate) sim: SimDesc,
}

/// What a replay came to.
#[derive(Debug)]
pub(crate) struct Replayed {
    pub(crate) backend: &'static str,
    pub(crate) policy: &'static str,
    /// Memory is reserved in multiples of so many bytes.
    pub(crate) unit_bytes: u64,
    pub(crate) outcome: ReplayOutcome,
    /// Of a simulated device.
    pub(crate) costs: Option<Costs>,
}

/// Why a replay did not come to its end.
#[derive(Debug, Error)]
#[error(transparent)]
pub(crate) enum Failed {
    /// There was no device, or no manager.
    Manager(#[from] aquifer::Error),
    Replay(#[from] ReplayError),
}

/// Whether a replay stopped because it had too little memory.
pub(crate) fn is_too_little(error: &ReplayError) -> bool {
    let ReplayError::Allocation { error, .. } = error else { return false };
    matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::CanNeverFit)
}

impl<'a> Job<'a> {
    pub(crate) fn new(
        trace: &'a Trace,
        config: &Config,
        options: ReplayOptions,
        arguments: &ManagerArguments,
    ) -> Self {
        Self {
            trace,
            summary: trace.summary(),
            config: config.clone(),
            options,
            backend: arguments.backend,
            is_policy_chosen: arguments.policy.is_some() || std::env::var_os("AQUIFER_POLICY").is_some(),
            sim: simulation::desc(arguments.device_memory),
        }
    }

    /// The same in a budget of so many bytes; `None`: in what the backend says.
    pub(crate) fn with_budget(&self, bytes: Option<u64>) -> Self {
        let mut job = self.clone();
        job.config.budget_bytes = bytes;
        job
    }

    /// Replays through a manager made for it.
    pub(crate) fn replay(&self) -> Result<Replayed, Failed> {
        match self.backend {
            BackendName::Host => {
                self.replay_on(Host::new()?, HostReplay.configure(self.config.clone()), &HostReplay)
            }
            BackendName::Cuda => cuda::replay(self),
            BackendName::Metal => metal::replay(self),
            BackendName::Sim => {
                let device = SimReplay::new(self.sim.clone());
                let config = device.configure(self.config.clone());
                let replayed = self.replay_on(device.sim().clone(), config, &device)?;
                let costs = Costs::new(&device, &self.sim, self.summary.duration_us);
                Ok(Replayed { costs: Some(costs), ..replayed })
            }
        }
    }

    pub(crate) fn replay_on<B: SyncBackend>(
        &self,
        backend: B,
        config: Config,
        device: &impl ReplayDevice<B>,
    ) -> Result<Replayed, Failed> {
        let config = if self.is_policy_chosen { config } else { elastic_by_default(config, &backend) };
        let is_automatic = config.policy == Policy::Automatic;
        let manager = MemoryManager::with_config(backend, config)?;
        let outcome = replay_on(&manager, self.trace, &self.options, device)?;
        let properties = manager.properties();
        // Where memory comes in pages, a part of one more makes no difference.
        let unit_bytes =
            properties.block_granularity_bytes.max(outcome.statistics.remapping.physical_page_bytes);
        Ok(Replayed {
            backend: properties.backend,
            policy: if is_automatic && manager.config().policy == Policy::Elastic {
                "automatic"
            } else {
                policy_name(manager.config())
            },
            unit_bytes,
            outcome,
            costs: None,
        })
    }
}
