//! Aquifer, the whole manager: budget, statistics and tags on, a buffer that frees itself. On host memory, on no queue or at home
//! on one; for traces also on a simulated device.

use aquifer::sim::{Sim, SimDesc};
use aquifer::{Buffer, Config, Host, Limits, MemoryManager, MemoryOptions, Queue, SimReplay, SyncBackend};

use super::{Driver, Peer, Replayer};

/// More than any live set; blocks cost address space only, since no peer's memory is touched.
const BUDGET_BYTES: u64 = 1 << 44;

pub(crate) struct Aquifer<B: SyncBackend = Host> {
    manager: MemoryManager<B>,
    options: MemoryOptions,
    /// How long the driver's calls took so far, if that is simulated.
    driver_ns: fn(&B) -> Option<u64>,
}

// Derived, it would ask for backends that can be cloned.
impl<B: SyncBackend> Clone for Aquifer<B> {
    fn clone(&self) -> Self {
        Self { manager: self.manager.clone(), ..*self }
    }
}

impl<B: SyncBackend> Aquifer<B> {
    fn with_backend(backend: B, mut config: Config, budget_bytes: u64) -> Self {
        config.budget_bytes = Some(budget_bytes);
        let manager = MemoryManager::with_config(backend, config).expect("the configuration is good");
        let tag = manager.tag("bench").expect("a first tag can be had");
        Self { manager, options: MemoryOptions::DEFAULT.tag(tag), driver_ns: |_| None }
    }
}

impl Aquifer<Sim> {
    /// On a GPU with the policy of a name, or with the default one: blocks and pages of 2 MiB, and the driver's calls of an H200,
    /// which take no real time but that of simulating them.
    pub(crate) fn on_sim(policy: Option<&str>, budget_bytes: u64) -> Self {
        let config = Config::default();
        let config = match policy {
            Some(name) => config.with_policy(name).expect("there is such a policy"),
            None => config,
        };
        // The budget is the limit, not the device.
        let desc =
            SimDesc { memory_bytes: BUDGET_BYTES, block_bytes_max: BUDGET_BYTES, ..SimDesc::default() };
        let device = SimReplay::new(desc);
        let peer = Self::with_backend(device.sim().clone(), device.configure(config), budget_bytes);
        Self { driver_ns: |sim| Some(sim.books().driver_ns), ..peer }
    }
}

impl Aquifer {
    /// With the default policy, and nothing to limit it.
    pub(crate) fn new() -> Self {
        Self::on_host(BUDGET_BYTES)
    }

    pub(crate) fn on_host(budget_bytes: u64) -> Self {
        let host = Host::new().expect("host memory can be had");
        Self::with_backend(host, Config::default(), budget_bytes)
    }

    /// Where every buffer counts against a sub-budget and those above it, so many levels in all.
    pub(crate) fn in_sub_budget(levels: u32) -> Self {
        let Self { manager, options, driver_ns } = Self::new();
        let limits = Limits::NONE.hard_bytes(1 << 40).hard_count(1 << 21).soft_bytes(1 << 39);
        let mut innermost =
            manager.sub_budget("bench-limited", limits).expect("a first sub-budget can be had");
        for _ in 1..levels {
            innermost = innermost.sub_budget("below", limits).expect("few levels can be had");
        }
        Self { manager, options: options.tag(innermost.own_tag()), driver_ns }
    }
}

impl Peer for Aquifer {
    type Handle = Buffer<Host>;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Buffer<Host>> {
        self.manager.allocate_with(bytes, self.options).ok()
    }

    #[inline]
    fn free(&mut self, buffer: Buffer<Host>) {
        drop(buffer);
    }

    #[inline]
    fn free_in_place(&mut self, buffer: &mut Option<Buffer<Host>>) {
        *buffer = None;
    }
}

/// The same, at home on a queue.
#[derive(Clone)]
pub(crate) struct AquiferOnQueue {
    queue: Queue<Host>,
    options: MemoryOptions,
}

impl AquiferOnQueue {
    pub(crate) fn new() -> Self {
        let Aquifer { manager, options, .. } = Aquifer::new();
        Self { queue: manager.queue().expect("a first queue can be had"), options }
    }
}

impl Peer for AquiferOnQueue {
    type Handle = Buffer<Host>;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Buffer<Host>> {
        self.queue.allocate_with(bytes, self.options).ok()
    }

    #[inline]
    fn free(&mut self, buffer: Buffer<Host>) {
        drop(buffer);
    }

    #[inline]
    fn free_in_place(&mut self, buffer: &mut Option<Buffer<Host>>) {
        *buffer = None;
    }
}

impl<B: SyncBackend> Replayer for Aquifer<B> {
    type Handle = Buffer<B>;

    fn allocate(&mut self, bytes: u64, _: u64) -> Option<Buffer<B>> {
        self.manager.allocate_with(bytes, self.options).ok()
    }

    fn free(&mut self, buffer: Buffer<B>) {
        drop(buffer);
    }

    fn reserved_bytes_peak(&self) -> Option<u64> {
        Some(self.manager.statistics().reserved.peak)
    }

    fn driver(&self) -> Option<Driver> {
        let calls = self.manager.statistics().driver_calls.count();
        Some(Driver { calls, ns: (self.driver_ns)(self.manager.backend()) })
    }
}
