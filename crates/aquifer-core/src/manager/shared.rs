//! What all handles and buffers of one manager share, and the fast way to a buffer. The slow one is in
//! [`super::growth`].

use super::block_count::BlockCount;
use super::buffer::Buffer;
use super::config::{Config, Policy, ZeroPolicy};
use super::elastic::is_elastic;
use super::imported_blocks::ImportedBlocks;
use super::kinds::{KindTypes, MemoryKind};
use super::ladder::InFlight;
use super::ledger::Ledger;
use super::observers::Observers;
use super::options::MemoryOptions;
use super::pinned::{self, Pinned};
use super::pressure::PressureState;
use super::purgeable::PurgeableCounters;
use super::queues::Queues;
use super::raw_handle::RawTable;
use super::reaper::Reaper;
use super::reclaim::ReclaimHooks;
use super::sub_budget::{SubBudgets, allocate_limited};
use super::tags::TagNames;
use super::typed_pool::TypedPool;
use super::waiting::ANSWER_WITHIN;
use crate::bell::Bell;
use crate::pool::{CACHED_BYTES_MAX, LaneKey, Place, Pool, Request};
use crate::range::{NO_QUEUE, QueueIndex};
use crate::raw::allocation::{Allocation, Keeper, Keepers, Owner};
use crate::raw::fork::Process;
use crate::raw::operation::Operations;
use crate::statistics::{DriverCalls, Tally};
use crate::sync::{AtomicU64, Mutex, Ordering, Rank};
use crate::trace::lasting_sink;
use crate::transfer::Engine;
use aquifer_backend::{Backend, Capabilities, Error, ErrorKind, MemoryFlags};
use std::sync::{Arc, OnceLock};

#[derive(Debug, Default)]
pub(super) struct CallCounters {
    pub(super) create: AtomicU64,
    pub(super) reserve: AtomicU64,
    pub(super) unreserve: AtomicU64,
    pub(super) map: AtomicU64,
    pub(super) unmap: AtomicU64,
    pub(super) destroy: AtomicU64,
    pub(super) release: AtomicU64,
    pub(super) purge: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) signal: AtomicU64,
}

/// Where an allocation is made: on a queue, or on none.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) key: LaneKey,
    pub(crate) queue: QueueIndex,
}

pub(crate) struct Shared<B: Backend> {
    pub(crate) pools: Box<[TypedPool<B::Block>]>,
    pub(crate) imported: ImportedBlocks<B::Block>,
    /// Where ordinary buffers are made: in the first memory type, the best for them, on no queue.
    pub(crate) ordinary: Home,
    pub(super) kind_types: KindTypes,
    pub(super) pinned: Pinned,
    pub(crate) queues: Queues<B::Queue>,
    pub(crate) operations: Operations<B>,
    pub(crate) transfers: Engine<B>,
    /// Buffers that are out as numbers. Shared, since it must outlast the buffer that was put in last.
    pub(crate) raw_buffers: Arc<RawTable<Buffer<B>>>,
    pub(crate) reclaim: Arc<ReclaimHooks>,
    /// Shared, since a monitor's handle may outlast the manager.
    pub(super) pressure: Arc<PressureState>,
    pub(crate) bell: Arc<Bell>,
    pub(crate) reaper: Reaper,
    /// Whether threads are kept out of their caches, since somebody waits for memory.
    are_caches_held: Mutex<bool>,
    process: Process,
    pub(crate) ledgers: Box<[Ledger]>,
    /// Of all pools, and imported ones.
    pub(super) block_count: BlockCount,
    /// How many mappings behind sparse blocks there are, of all pools.
    pub(super) mapping_count: BlockCount,
    /// Whether memory that is mapped comes in few large pieces while there is enough.
    pub(super) is_coarse: bool,
    pub(crate) tally: Arc<Tally>,
    pub(crate) tags: Arc<TagNames>,
    pub(crate) sub_budgets: Arc<SubBudgets>,
    pub(crate) observers: Observers,
    pub(crate) config: Config,
    request_bytes_max: u64,
    pub(super) calls: CallCounters,
    pub(super) purgeable: PurgeableCounters,
    /// See [`crate::raw::allocation`].
    pub(crate) keepers: Keepers,
    /// How to end the state when its queues are not done, where there may be a thread for it.
    pub(crate) finish_later: OnceLock<fn(Keeper<B>)>,
    /// Last, so that it is dropped after its queues.
    pub(crate) backend: B,
}

impl<B: Backend> Shared<B> {
    pub(crate) fn new(backend: B, mut config: Config) -> Result<Self, Error> {
        config.pressure.check()?;
        let properties = backend.properties();
        let mut ledgers = Vec::with_capacity(properties.heaps.len());
        for heap_index in 0..properties.heaps.len() {
            let budget_bytes = match config.budget_bytes {
                Some(bytes) => bytes,
                None => backend.budget(heap_index)?.budget_bytes,
            };
            // Groups are for what most programs use.
            let group = config.budget_group.clone().filter(|_| heap_index == 0);
            ledgers.push(Ledger::new(budget_bytes, group));
        }
        let tally = Arc::new(Tally::default());
        let tags = Arc::new(TagNames::default());
        let bell = Arc::new(Bell::new(ANSWER_WITHIN.as_millis() as u64));
        let is_elastic = is_elastic(config.policy, properties)?;
        let is_coarse = config.policy == Policy::Automatic;
        config.policy = if is_elastic { Policy::Elastic } else { Policy::Blocks };
        let pools: Box<[_]> = properties
            .memory_types
            .iter()
            .map(|memory_type| {
                let is_elastic = is_elastic && memory_type.flags.contains(MemoryFlags::SPARSE);
                let (clock, tally, bell) = (config.clock.clone(), Arc::clone(&tally), Arc::clone(&bell));
                let budget_bytes = ledgers[memory_type.heap_index].budget_bytes();
                let pool = Pool::new(config.layout, is_elastic, budget_bytes, clock, tally, bell);
                TypedPool::new(pool, memory_type.heap_index, is_elastic)
            })
            .collect();
        let is_sanitized = backend.properties().capabilities.contains(Capabilities::SANITIZED);
        let observers = Observers::new(config.tracking, is_sanitized);
        if let Some(path) = &config.record_to {
            let sink = lasting_sink(path).map_err(|error| {
                Error::new(ErrorKind::Configuration, "record_to", error.to_string()).with_source(error)
            })?;
            observers.attach(sink);
        }
        Ok(Self {
            // A size in bytes must fit the host's addresses, and stay there when it is rounded to a block.
            request_bytes_max: properties.block_bytes_max.min(isize::MAX as u64 / 2)
                & !(properties.block_granularity_bytes - 1),
            block_count: BlockCount::new(properties.block_count_max),
            mapping_count: BlockCount::new(properties.mapping_count_max),
            is_coarse,
            finish_later: OnceLock::new(),
            keepers: Keepers::new(pools.len()),
            ordinary: Home { key: LaneKey::new(pools[0].pool.lane(NO_QUEUE).identity(), 0), queue: NO_QUEUE },
            imported: ImportedBlocks::default(),
            kind_types: KindTypes::new(&backend.properties().memory_types),
            pinned: Pinned::new(config.pinned),
            queues: Queues::default(),
            operations: Operations::default(),
            transfers: Engine::default(),
            raw_buffers: RawTable::new(),
            reclaim: ReclaimHooks::new(),
            pressure: Arc::new(PressureState::new(backend.properties().heaps.len())),
            bell,
            reaper: Reaper::default(),
            are_caches_held: Mutex::new(Rank::Hold, false),
            process: Process::current(),
            backend,
            pools,
            ledgers: ledgers.into(),
            tally,
            sub_budgets: SubBudgets::new(Arc::clone(&tags)),
            tags,
            observers,
            config,
            calls: CallCounters::default(),
            purgeable: PurgeableCounters::default(),
        })
    }

    /// A checked request.
    #[inline]
    pub(super) fn request(&self, home: Home, bytes: u64, options: MemoryOptions) -> Request {
        let request =
            Request::new(&self.config.layout, home.key, bytes, options.alignment_bytes(), options.tag);
        if options.memory_kind() == MemoryKind::Pinned { request.pinned() } else { request }
    }

    /// Whether this process was forked from the one that made the manager.
    pub(crate) fn is_forked(&self) -> bool {
        !self.process.is_current()
    }

    /// Refuses a call that would reach the driver in a forked process, where neither the driver nor any thread of the parent's
    /// is there.
    pub(crate) fn check_process(&self, operation: &'static str) -> Result<(), Error> {
        if !self.is_forked() {
            return Ok(());
        }
        let message = "this process was forked from the one that made the manager; make a manager of its own";
        Err(Error::new(ErrorKind::Forked, operation, message))
    }

    /// Keeps threads out of their caches while somebody waits for memory, so that every free is noticed, and lets them in
    /// again after. To be called after whatever may have changed who waits.
    pub(crate) fn hold_caches_for_waiters(&self) {
        let mut are_held = self.are_caches_held.lock();
        let is_wanted = !self.bell.waiters.is_empty();
        if *are_held != is_wanted {
            *are_held = is_wanted;
            self.pools.iter().for_each(|typed| typed.pool.hold_caches(is_wanted));
        }
    }

    /// Lets waiters that do not answer step aside, and wakes those whose time is over.
    pub(crate) fn tick_waiters(&self) {
        self.bell.waiters.tick(self.config.clock.now_ms());
        self.hold_caches_for_waiters();
    }

    /// Keeps a request back while memory is short, if its priority is to be. Who waits in line passes the gate before it joins.
    #[cold]
    pub(super) fn pass_gate(&self, options: MemoryOptions, in_flight: InFlight) -> Result<(), Error> {
        let patience = match in_flight {
            InFlight::Wait => self.config.in_flight_wait,
            InFlight::Fail => return Ok(()),
        };
        // In a forked process nobody opens it.
        self.check_process("allocate")?;
        self.pressure.gate.pass(options.request_priority(), patience)
    }

    /// Brings what threads have freed while queues used it to where it gets its markers.
    pub(crate) fn flush_quarantine(&self) {
        if self.is_forked() {
            // A thread that was inside its cache when this process was forked never comes out.
            return;
        }
        self.pools.iter().for_each(|typed| typed.pool.flush_quarantine());
    }

    /// Checks a request, once, at the edge.
    pub(super) fn check(
        &self,
        operation: &'static str,
        bytes: u64,
        options: &MemoryOptions,
    ) -> Result<(), Error> {
        let refuse = |kind, message| Err(Error::new(kind, operation, message));
        if bytes == 0 {
            return refuse(ErrorKind::InvalidArgument, "0 bytes asked for; ask for 1 or more".into());
        }
        let most = self.request_bytes_max;
        if self.config.layout.round_up(bytes).is_none_or(|rounded| rounded > most) {
            return refuse(
                ErrorKind::CanNeverFit,
                format!("{bytes} bytes asked for; the largest block has {most}"),
            );
        }
        let (alignment, most) = (options.alignment_bytes(), self.backend.properties().alignment_bytes_min);
        if !alignment.is_power_of_two() {
            let message =
                format!("alignment of {alignment} bytes asked for; use a power of two up to {most}");
            return refuse(ErrorKind::InvalidArgument, message);
        }
        if alignment > most {
            let message =
                format!("alignment of {alignment} bytes asked for; this device aligns blocks to {most}");
            return refuse(ErrorKind::Unsupported, message);
        }
        Ok(())
    }

    /// Whether an allocation must be cleared before it is handed out.
    fn must_clear(&self, options: &MemoryOptions) -> bool {
        options.is_zeroed() || self.config.zero_policy == ZeroPolicy::OnReuse
    }

    pub(crate) fn driver_calls(&self) -> DriverCalls {
        DriverCalls {
            create: self.calls.create.load(Ordering::Relaxed),
            reserve: self.calls.reserve.load(Ordering::Relaxed),
            unreserve: self.calls.unreserve.load(Ordering::Relaxed),
            map: self.calls.map.load(Ordering::Relaxed),
            unmap: self.calls.unmap.load(Ordering::Relaxed),
            destroy: self.calls.destroy.load(Ordering::Relaxed),
            release: self.calls.release.load(Ordering::Relaxed),
            purge: self.calls.purge.load(Ordering::Relaxed),
            failed: self.calls.failed.load(Ordering::Relaxed),
            signal: self.calls.signal.load(Ordering::Relaxed),
        }
    }
}

/// Allocates: from this thread's cache if that can be, else the slow way.
///
/// Both ways end in words. If the slow one returned a whole allocation, the fast one would have to build its own in memory too, and
/// reading that back costs a third of a pair.
///
/// Always inlined, or a program that allocates in two places gets the buffer through memory: a hot pair took 19 ns instead
/// of 9.
#[inline(always)]
#[track_caller]
pub(crate) fn allocate<B: Backend>(
    owner: &Owner<B>,
    home: Home,
    bytes: u64,
    options: MemoryOptions,
) -> Result<Allocation<B>, Error> {
    if let Some((place, request)) = allocate_cached(owner, home, bytes, options) {
        return Ok(owner.adopt(home.queue, place, request));
    }
    let (place, request) = allocate_of_any_kind(owner, home, bytes, options, InFlight::Wait)?;
    Ok(owner.adopt(home.queue, place, request))
}

/// From this thread's cache, if options and observers allow it and there is something.
#[inline(always)]
fn allocate_cached<B: Backend>(
    shared: &Shared<B>,
    home: Home,
    bytes: u64,
    options: MemoryOptions,
) -> Option<(Place, Request)> {
    if bytes.wrapping_sub(1) < CACHED_BYTES_MAX
        && options.is_plain
        && shared.config.zero_policy == ZeroPolicy::OnRequest
        && !shared.observers.are_active()
    {
        let request = Request::plain(&shared.config.layout, home.key, bytes, options.tag);
        return Some((request.allocate_cached(home.key.identity())?, request));
    }
    None
}

/// What [`allocate`] does, for an allocation that has been charged to its sub-budget.
#[track_caller]
pub(super) fn allocate_unlimited<B: Backend>(
    owner: &Owner<B>,
    home: Home,
    bytes: u64,
    options: MemoryOptions,
    in_flight: InFlight,
) -> Result<(Place, Request), Error> {
    match allocate_cached(owner, home, bytes, options) {
        Some(found) => Ok(found),
        None => allocate_past_gate(owner, home, bytes, options, in_flight),
    }
}

/// As [`allocate`], the slow way: what was found, and the request as it was made, which a kind of memory changes. All of that is
/// out of line: with the choice of a kind inlined, a pair took 2 ns more that never came here.
#[cold]
#[inline(never)]
#[track_caller]
fn allocate_of_any_kind<B: Backend>(
    owner: &Owner<B>,
    home: Home,
    bytes: u64,
    options: MemoryOptions,
    in_flight: InFlight,
) -> Result<(Place, Request), Error> {
    if owner.observers.are_gated() {
        owner.pass_gate(options, in_flight)?;
    }
    if options.tag.is_limited() {
        return allocate_limited(owner, home, bytes, options, in_flight);
    }
    allocate_past_gate(owner, home, bytes, options, in_flight)
}

/// What is left of [`allocate_of_any_kind`] for a request that is not kept back and has no limits, or has been charged.
#[track_caller]
fn allocate_past_gate<B: Backend>(
    owner: &Owner<B>,
    mut home: Home,
    bytes: u64,
    options: MemoryOptions,
    in_flight: InFlight,
) -> Result<(Place, Request), Error> {
    let place = match options.memory_kind() {
        MemoryKind::Device => allocate_slow(owner, home, bytes, options, in_flight)?,
        _ => allocate_of_kind_slow(owner, &mut home, bytes, options, in_flight)?,
    };
    Ok((place, owner.request(home, bytes, options)))
}

/// As [`allocate`], but fails rather than wait for memory that queues still use.
#[track_caller]
pub(crate) fn allocate_without_waiting<B: Backend>(
    owner: &Owner<B>,
    home: Home,
    bytes: u64,
    options: MemoryOptions,
) -> Result<Allocation<B>, Error> {
    let (place, request) = allocate_of_any_kind(owner, home, bytes, options, InFlight::Fail)?;
    Ok(owner.adopt(home.queue, place, request))
}

/// Checks, asks the pool, climbs the ladder if need be, clears, and tells who watches.
#[cold]
#[inline(never)]
#[track_caller]
fn allocate_slow<B: Backend>(
    owner: &Owner<B>,
    home: Home,
    bytes: u64,
    options: MemoryOptions,
    in_flight: InFlight,
) -> Result<Place, Error> {
    owner.check("allocate", bytes, &options)?;
    let request = owner.request(home, bytes, options);
    let (place, is_fresh) = owner.find(home, request, in_flight)?;
    finish(owner, home, (place, request), options, is_fresh)
}

/// As [`allocate_slow`], for memory of a kind: finds out where that is made, from the queue that `home` names. On return `home` is
/// where it was made.
#[cold]
#[inline(never)]
#[track_caller]
fn allocate_of_kind_slow<B: Backend>(
    owner: &Owner<B>,
    home: &mut Home,
    bytes: u64,
    options: MemoryOptions,
    in_flight: InFlight,
) -> Result<Place, Error> {
    owner.check("allocate", bytes, &options)?;
    let kind = options.memory_kind();
    *home = owner.home_on(kind, home.queue)?;
    if kind == MemoryKind::Pinned {
        return pinned::allocate(owner, home, bytes, options, in_flight, 0);
    }
    let request = owner.request(*home, bytes, options);
    let (place, is_fresh) = owner.find(*home, request, in_flight)?;
    finish(owner, *home, (place, request), options, is_fresh)
}

/// Clears what has been found, if need be, and tells who watches.
#[track_caller]
pub(super) fn finish<B: Backend>(
    owner: &Owner<B>,
    home: Home,
    (place, request): (Place, Request),
    options: MemoryOptions,
    is_fresh: bool,
) -> Result<Place, Error> {
    // From here on the place is freed if anything fails, or panics.
    let mut allocation = owner.adopt(home.queue, place, request);
    if owner.observers.are_sanitized() {
        allocation.note_allocated();
    }
    if owner.must_clear(&options) && !is_fresh {
        allocation.clear()?;
    }
    if owner.observers.are_active() {
        owner.observers.allocated(place, request, home.queue);
    }
    std::mem::forget(allocation);
    Ok(place)
}
