//! What a program runs in: a device, a manager, and all that the program has of them.

use super::monitor::Watching;
use super::program::{Action, Setup};
use super::request::Request;
use super::shelf::Shelf;
use super::work::Pending;
use crate::assert_balanced;
use aquifer_core::{
    AllocateAsync, BucketLayout, Buffer, CancelToken, Capabilities, Clock, Config, Error, ErrorKind,
    MemoryManager, MemoryOptions, Policy, Queue, Statistics, Tag, ZeroPolicy,
};
use aquifer_sim::{
    Access, ClaimId, Costs, Fault, FaultPlan, KernelTimes, Lateness, QueueId, Recurrence, Sim, SimDesc,
};
use std::sync::Arc;
use std::time::Duration;

/// More calls of the driver than any program needs: a loop without end ends there, since the device is lost.
const CALLS_MAX: u64 = 3_000_000;

/// The device's memory in MiB, more than any budget.
const MEMORY_MIB: u64 = 1024;

/// What the program knows of a buffer.
#[derive(Debug)]
pub(super) struct Note {
    pub(super) claim: ClaimId,
    pub(super) home: Option<QueueId>,
    /// Other queues that have been ordered after the home and recorded.
    pub(super) touched: Vec<QueueId>,
    pub(super) address: u64,
}

/// A live buffer.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) buffer: Buffer<Sim>,
    pub(super) note: Note,
}

impl Held {
    /// Tells the checker of a buffer that has just been handed out.
    pub(super) fn new(sim: &Sim, buffer: Buffer<Sim>, home: Option<QueueId>) -> Self {
        let address = buffer.device_address().expect("the device uses addresses");
        let claim = sim.claim(address, buffer.allocated_bytes());
        Self { buffer, note: Note { claim, home, touched: Vec::new(), address } }
    }

    pub(super) fn free(self, sim: &Sim) {
        sim.give_up(self.note.claim);
        drop(self.buffer);
    }

    /// All of it, written.
    pub(super) fn access(&self) -> Access {
        Access::write(self.note.address, self.buffer.size_bytes())
    }
}

/// See the module.
pub(super) struct Scene {
    pub(super) sim: Sim,
    pub(super) manager: MemoryManager<Sim>,
    pub(super) setup: Setup,
    pub(super) queues: Vec<Queue<Sim>>,
    pub(super) tags: Vec<Tag>,
    pub(super) buffers: Vec<Held>,
    pub(super) operations: Vec<Pending>,
    pub(super) requests: Vec<Request>,
    /// Never polled again.
    pub(super) forgotten: Vec<AllocateAsync<Sim>>,
    pub(super) tokens: Vec<CancelToken>,
    pub(super) shelf: Arc<Shelf>,
    pub(super) watching: Option<Watching>,
    pub(super) hook_count: u64,
    /// Queues that hang until they are resumed.
    pub(super) hung: Vec<QueueId>,
    /// Whether calls may have been told to fail.
    pub(super) has_faults: bool,
    /// Whether another process has held memory.
    pub(super) has_pressure: bool,
    /// Whether the device was told to be lost.
    pub(super) may_be_lost: bool,
    /// Buffers of operations without a future: freed at some time, or not yet.
    pub(super) loose_count: u64,
    pub(super) step: usize,
}

impl std::fmt::Debug for Scene {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scene").field("setup", &self.setup).field("step", &self.step).finish_non_exhaustive()
    }
}

fn device(setup: &Setup) -> Sim {
    let granularity = 1 << setup.granularity_log2;
    let mut capabilities = Capabilities::QUEUES | Capabilities::SIMULATED;
    if setup.releases_ranges {
        capabilities = capabilities | Capabilities::RELEASE_RANGE;
    }
    if setup.has_purgeable {
        capabilities = capabilities | Capabilities::PURGEABLE;
    }
    if setup.zeroes_blocks {
        capabilities = capabilities | Capabilities::ZEROED_BLOCKS;
    }
    if setup.mapping.is_some() {
        capabilities = capabilities | Capabilities::SPARSE_BLOCKS;
    }
    let plain = SimDesc::default();
    let sim = Sim::new(SimDesc {
        memory_bytes: MEMORY_MIB << 20,
        seed: setup.device_seed,
        costs: if setup.has_costs { Costs::H200 } else { Costs { completed_ns: 200, ..Costs::FREE } },
        lateness: if setup.is_late { Lateness::WILD } else { Lateness::NONE },
        kernels: if setup.has_long_kernels {
            KernelTimes::MIXED
        } else {
            KernelTimes { long_per_mille: 0, ..KernelTimes::MIXED }
        },
        block_bytes_max: MEMORY_MIB << 20,
        block_granularity_bytes: granularity,
        alignment_bytes_min: granularity,
        physical_page_bytes: setup.page_bytes(),
        mapping_count_max: setup.mapping.map_or(plain.mapping_count_max, |mapping| mapping.mapping_count_max),
        sparse_bytes_max: setup.mapping.map_or(plain.sparse_bytes_max, |mapping| mapping.address_mib << 20),
        capabilities,
        ..plain
    });
    limit_calls(&sim);
    sim
}

/// Ends what would run for ever.
fn limit_calls(sim: &Sim) {
    sim.plan_fault(FaultPlan {
        call: None,
        number: CALLS_MAX,
        recurrence: Recurrence::FromThenOn,
        fault: Fault::LoseDevice,
    });
}

impl Scene {
    pub(super) fn new(setup: &Setup) -> Self {
        let sim = device(setup);
        let mut config = Config::default();
        config.layout = BucketLayout::with_sub_classes(setup.sub_classes).expect("a count that there is");
        config.budget_bytes = Some(setup.budget_mib << 20);
        config.zero_policy = if setup.clears_always { ZeroPolicy::OnReuse } else { ZeroPolicy::OnRequest };
        config.idle_decay = setup.idle_decay_ms.map(Duration::from_millis);
        config.purgeable_after = setup.purgeable_after_ms.map(Duration::from_millis);
        config.in_flight_wait = Duration::from_millis(setup.in_flight_wait_ms);
        config.reaper = false;
        config.pressure.thread = false;
        let clock = sim.clone();
        config.clock = Clock::from_fn(move || Duration::from_nanos(clock.now_ns()));
        let manager = MemoryManager::with_config(sim.clone(), config).expect("the budget is given");
        let tags = ["weights", "activations", "scratch"].map(|name| manager.tag(name).expect("few tags"));
        let shelf = Shelf::new(sim.clone(), manager.clone());
        let watching = setup.has_monitor.then(|| Watching::new(&manager));
        Self {
            sim,
            manager,
            setup: setup.clone(),
            queues: Vec::new(),
            tags: [Tag::UNTAGGED].into_iter().chain(tags).collect(),
            buffers: Vec::new(),
            operations: Vec::new(),
            requests: Vec::new(),
            forgotten: Vec::new(),
            tokens: (0..4).map(|_| CancelToken::new()).collect(),
            shelf,
            watching,
            hook_count: 0,
            hung: Vec::new(),
            has_faults: false,
            has_pressure: false,
            may_be_lost: false,
            loose_count: 0,
            step: 0,
        }
    }

    pub(super) fn budget_bytes(&self) -> u64 {
        self.setup.budget_mib << 20
    }

    /// Whether an allocation waits for queues until they have done all there is.
    pub(super) fn waits_long(&self) -> bool {
        self.setup.in_flight_wait_ms >= 10_000
    }

    /// Forgets all faults that were planned.
    pub(super) fn clear_faults(&self) {
        self.sim.clear_faults();
        limit_calls(&self.sim);
    }

    /// Whether to wait for a queue might take for ever.
    pub(super) fn is_blocked(&self) -> bool {
        !self.hung.is_empty() && !self.sim.is_lost()
    }

    /// The place of something in a list, if the list has anything.
    pub(super) fn place(number: impl Into<usize>, count: usize) -> Option<usize> {
        number.into().checked_rem(count)
    }

    pub(super) fn buffer(&self, number: u16) -> Option<usize> {
        Self::place(number, self.buffers.len())
    }

    pub(super) fn queue(&self, number: u8) -> Option<Queue<Sim>> {
        Self::place(number, self.queues.len()).map(|place| self.queues[place].clone())
    }

    /// A queue to be at home on; none for the last number, or if there are no queues.
    pub(super) fn home(&self, number: u8) -> Option<Queue<Sim>> {
        if number == u8::MAX { None } else { self.queue(number) }
    }

    /// Fails unless something that a call answered can be explained by what has been done to the device.
    pub(super) fn check_error(&self, what: &str, error: &Error) {
        let is_explained = match error.kind() {
            ErrorKind::DeviceLost => self.sim.is_lost() && self.may_be_lost,
            ErrorKind::Driver => self.has_faults,
            _ => false,
        };
        assert!(is_explained, "unexplained {:?}: {what}: {error}", error.kind());
    }

    pub(super) fn check_violations(&self) {
        if let Some(first) = self.sim.violations().first() {
            panic!("violation {:?}: {first}", first.kind);
        }
    }

    /// Does one step.
    pub(super) fn apply(&mut self, action: Action) {
        match action {
            Action::Allocate { .. }
            | Action::Free { .. }
            | Action::FreeMany { .. }
            | Action::Preallocate { .. }
            | Action::HostFill { .. }
            | Action::HostCopy { .. }
            | Action::Trim
            | Action::TrimTo { .. }
            | Action::ReleaseIdle
            | Action::MarkIdlePurgeable => self.use_memory(action),
            Action::HomeKernel { .. }
            | Action::Kernel { .. }
            | Action::Record { .. }
            | Action::Synchronize { .. }
            | Action::Signal { .. }
            | Action::WaitOn { .. }
            | Action::NewQueue
            | Action::DropQueue { .. } => self.use_queues(action),
            Action::Fill { .. }
            | Action::Copy { .. }
            | Action::Upload { .. }
            | Action::Download { .. }
            | Action::WaitOperation { .. }
            | Action::PollOperation { .. }
            | Action::Detach { .. }
            | Action::CancelOperation { .. } => self.use_operations(action),
            Action::AllocateAsync { .. }
            | Action::PollRequest { .. }
            | Action::DropRequest { .. }
            | Action::ForgetRequest { .. }
            | Action::CancelToken { .. } => self.use_requests(action),
            Action::PollWoken => self.poll_woken(),
            Action::Settle => self.manager.settle(),
            Action::Hook { .. } | Action::DropHook { .. } | Action::Shelve { .. } => self.use_shelf(action),
            Action::Tell { level } => self.watching.iter().for_each(|watching| watching.tell(level)),
            Action::Look => self.watching.iter().for_each(Watching::look),
            Action::Check => {
                self.check();
            }
            _ => self.make_trouble(action),
        }
        self.step += 1;
        self.check_violations();
    }

    fn use_shelf(&mut self, action: Action) {
        match action {
            Action::Hook { priority, kind } => {
                let number = self.hook_count;
                self.hook_count += 1;
                self.shelf.register(&self.manager, priority.into(), kind, number);
            }
            Action::DropHook { hook } => self.shelf.unregister(hook),
            Action::Shelve { buffer } => {
                if let Some(place) = self.buffer(buffer) {
                    self.shelf.put(self.buffers.swap_remove(place));
                }
            }
            _ => unreachable!("not about the shelf: {action:?}"),
        }
    }

    /// Polls whatever has been woken since its last poll.
    pub(super) fn poll_woken(&mut self) {
        let mut place = 0;
        while place < self.operations.len() {
            let is_gone = self.operations[place].flag.is_up() && self.poll_operation(place);
            place += usize::from(!is_gone);
        }
        place = 0;
        while place < self.requests.len() {
            let is_gone = self.requests[place].flag.is_up() && self.poll_request(place);
            place += usize::from(!is_gone);
        }
    }

    /// How many buffers the program has.
    fn held_count(&self) -> u64 {
        let in_operations: usize = self.operations.iter().map(|pending| pending.notes.len()).sum();
        (self.buffers.len() + self.shelf.len() + in_operations) as u64
    }

    /// Whether parts of mapped memory may be given back, which come again where they are touched.
    pub(super) fn may_return_parts(&self) -> bool {
        self.manager.config().policy == Policy::Elastic
            && self.manager.properties().capabilities.contains(Capabilities::RELEASE_RANGE)
    }

    /// Compares what the manager has counted with what the program and the device know.
    pub(super) fn check(&mut self) -> Statistics {
        let statistics = self.manager.statistics();
        assert_balanced(&statistics);
        let books = self.sim.books();
        let given_bytes = books.live_bytes + books.purged_bytes;
        if self.may_return_parts() {
            // Parts that are taken back are there when they are touched.
            assert!(statistics.reserved.current >= given_bytes, "reserved, and what the device has given");
        } else {
            assert_eq!(statistics.reserved.current, given_bytes, "reserved, and what the device has given");
        }
        assert_eq!(statistics.purgeable_bytes, books.purgeable_bytes, "purgeable");
        let sparse_count = statistics.driver_calls.reserve - statistics.driver_calls.unreserve;
        assert_eq!(statistics.block_count + sparse_count, books.live_blocks, "blocks");
        let mapping_count = statistics.driver_calls.map - statistics.driver_calls.unmap;
        assert!(mapping_count >= books.live_mappings, "some go with their addresses");
        assert_eq!(statistics.budget_bytes, self.budget_bytes());
        self.check_pressure(&statistics.pressure);
        let (held, live) = (self.held_count(), statistics.live_count());
        let at_most = held + self.loose_count;
        assert!((held..=at_most).contains(&live), "{live} live, but there are {held} to {at_most}");
        if held == live {
            self.loose_count = 0;
        }
        statistics
    }

    /// Options of an allocation.
    pub(super) fn options(&self, alignment_log2: u8, tag: u8, is_zeroed: bool) -> MemoryOptions {
        let alignment_log2 = alignment_log2.min(self.setup.granularity_log2);
        let tag = self.tags[usize::from(tag) % self.tags.len()];
        // To be cleared, memory waits for its queue.
        let is_zeroed = is_zeroed && !self.is_blocked();
        MemoryOptions::DEFAULT.alignment(1 << alignment_log2).tag(tag).zeroed(is_zeroed)
    }

    /// Takes a new buffer in, after a look at it.
    pub(super) fn hold(&mut self, buffer: Buffer<Sim>, home: Option<QueueId>, bytes: u64, alignment: u64) {
        assert_eq!(buffer.size_bytes(), bytes);
        assert!(buffer.allocated_bytes() >= bytes, "{buffer:?} for {bytes} bytes");
        let held = Held::new(&self.sim, buffer, home);
        assert_eq!(held.note.address % alignment, 0, "{:?} is not aligned to {alignment}", held.buffer);
        if home.is_none() {
            // It must be free for whoever.
            self.sim.host_access(held.access());
        }
        self.buffers.push(held);
    }
}
