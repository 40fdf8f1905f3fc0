//! What all handles and buffers of one manager share, and the way from a request to the driver.

use super::config::{Config, ZeroPolicy};
use super::ledger::Ledger;
use super::observers::Observers;
use super::options::MemoryOptions;
use super::tags::TagNames;
use crate::pool::{CACHED_BYTES_MAX, Closing, GRANULE_BYTES, Growth, Place, Pool, PoolKey, Request};
use crate::range::{BlockIndex, IdleBlock};
use crate::raw::allocation::{Allocation, Keepers, Owner, destroy_block, release_range};
use crate::statistics::{DriverCalls, Tally};
use crate::sync::{AtomicU64, Mutex, Ordering, Rank};
use crate::trace::lasting_sink;
use aquifer_backend::{
    Backend, BlockDesc, Capabilities, DestroyError, Error, ErrorKind, OutOfMemoryReport, Properties, TagUsage,
};
use parking_lot::RwLock;
use std::sync::Arc;
use tracing::{debug, error, warn};

/// How many tags an out-of-memory report names.
const REPORTED_TAGS: usize = 5;

/// Free ranges are given back in whole multiples of this many bytes, so that calls and mappings stay few.
const RELEASE_GRANULE_BYTES: u64 = 64 << 10;

/// One memory type: its pool, its blocks, and the lock under which it grows and shrinks.
#[derive(Debug)]
pub(crate) struct TypedPool<T> {
    pub(crate) pool: Arc<Pool>,
    pub(crate) heap_index: usize,
    blocks: RwLock<Vec<Option<Arc<T>>>>,
    growth: Mutex<()>,
}

/// The sizes that a new block for a request may have, in bytes.
#[derive(Debug, Clone, Copy)]
struct BlockSizes {
    /// The largest that the driver makes.
    most: u64,
    /// That of a slab, if the request is for a slot; else as `least`.
    ordinary: u64,
    /// For this request alone.
    least: u64,
}

/// Room for a request.
enum Room<T> {
    /// Found after all, here.
    Place(Place),
    /// For a new block.
    Block(T),
}

#[derive(Debug, Default)]
struct CallCounters {
    create: AtomicU64,
    destroy: AtomicU64,
    release: AtomicU64,
    failed: AtomicU64,
}

pub(crate) struct Shared<B: Backend> {
    pub(crate) backend: B,
    pub(crate) pools: Box<[TypedPool<B::Block>]>,
    /// The pool of ordinary buffers: that of the first memory type, the best for them.
    ordinary: PoolKey,
    pub(crate) ledgers: Box<[Ledger]>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) tags: TagNames,
    pub(crate) observers: Observers,
    pub(crate) config: Config,
    request_bytes_max: u64,
    calls: CallCounters,
    /// See [`crate::raw::allocation`].
    pub(crate) keepers: Keepers,
}

impl<B: Backend> Shared<B> {
    pub(crate) fn new(backend: B, config: Config) -> Result<Self, Error> {
        let properties = backend.properties();
        let mut ledgers = Vec::with_capacity(properties.heaps.len());
        for heap_index in 0..properties.heaps.len() {
            let budget_bytes = match config.budget_bytes {
                Some(bytes) => bytes,
                None => backend.budget(heap_index)?.budget_bytes,
            };
            ledgers.push(Ledger::new(budget_bytes));
        }
        let tally = Arc::new(Tally::default());
        let pools: Box<[_]> = properties
            .memory_types
            .iter()
            .map(|memory_type| TypedPool {
                pool: Pool::new(config.layout, config.clock.clone(), Arc::clone(&tally)),
                heap_index: memory_type.heap_index,
                blocks: RwLock::new(Vec::new()),
                growth: Mutex::new(Rank::Growth, ()),
            })
            .collect();
        let observers = Observers::new(config.tracking);
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
            keepers: Keepers::new(pools.len()),
            ordinary: PoolKey { identity: pools[0].pool.identity(), memory_type: 0 },
            backend,
            pools,
            ledgers: ledgers.into(),
            tally,
            tags: TagNames::default(),
            observers,
            config,
            calls: CallCounters::default(),
        })
    }

    /// A checked request for ordinary memory.
    #[inline]
    fn request(&self, bytes: u64, options: MemoryOptions) -> Request {
        Request::new(&self.config.layout, self.ordinary, bytes, options.alignment_bytes(), options.tag)
    }

    /// Checks a request, once, at the edge.
    fn check(&self, bytes: u64, options: &MemoryOptions) -> Result<(), Error> {
        let refuse = |kind, message| Err(Error::new(kind, "allocate", message));
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

    /// Makes room for a request that the pool has none for: the slow end of allocating.
    ///
    /// Answers whether the place is memory fresh from the driver.
    #[cold]
    pub(crate) fn grow(&self, request: Request) -> Result<(Place, bool), Error> {
        let typed = &self.pools[request.memory_type()];
        let ledger = &self.ledgers[typed.heap_index];
        let _growing = typed.growth.lock();
        // Another thread may have made room while this one waited; and what caches keep may do, once it has merged.
        if let Some(place) = typed.pool.allocate(request) {
            return Ok((place, false));
        }
        if typed.pool.flush_for(request)
            && let Some(place) = typed.pool.allocate(request)
        {
            return Ok((place, false));
        }
        self.release_decayed(typed);
        let sizes = self.block_sizes(typed, request);
        if sizes.least > ledger.budget_bytes() {
            let message = format!("{} bytes asked for; raise the budget", request.requested_bytes);
            return Err(self.out_of_memory(ErrorKind::CanNeverFit, message, typed, request));
        }
        let granularity = self.backend.properties().block_granularity_bytes;
        let wanted = match typed.pool.plan_growth(request, granularity) {
            Growth::Placed(place) => return Ok((place, false)),
            Growth::Create { evicted, bytes } => {
                self.destroy(typed, evicted);
                bytes.min(sizes.most).max(sizes.ordinary)
            }
        };
        let Some(room) = self.charge(typed, request, wanted, sizes) else {
            let message = "the budget is spent; free something, trim, or raise the budget".into();
            return Err(self.out_of_memory(ErrorKind::OutOfMemory, message, typed, request));
        };
        let created = match room {
            Room::Place(place) => return Ok((place, false)),
            Room::Block(bytes) => self.create(typed, request, bytes).map(|block| Room::Block((block, bytes))),
        };
        let created = match created {
            Err(refusal) if refusal.kind() == ErrorKind::OutOfMemory => {
                self.create_at_all_costs(typed, request, sizes, refusal)?
            }
            other => other?,
        };
        let (block, bytes) = match created {
            Room::Place(place) => return Ok((place, false)),
            Room::Block((block, bytes)) => (block, bytes),
        };
        ledger.confirm(bytes);
        let index = typed.insert_block(block);
        let place = typed.pool.grow(index, bytes, request);
        let is_fresh = place.block() == index
            && self.backend.properties().capabilities.contains(Capabilities::ZEROED_BLOCKS);
        Ok((place, is_fresh))
    }

    fn block_sizes(&self, typed: &TypedPool<B::Block>, request: Request) -> BlockSizes {
        let Properties { block_granularity_bytes: granularity, block_bytes_max, .. } =
            *self.backend.properties();
        let most = block_bytes_max / granularity * granularity;
        let least = typed.pool.bytes(request).next_multiple_of(granularity);
        let ordinary = typed.pool.range_bytes(request).next_multiple_of(granularity).min(most).max(least);
        BlockSizes { most, ordinary, least }
    }

    /// Charges a block of `wanted` bytes, or as many as there is room for; if there is none, makes room, the cheapest
    /// ways first.
    fn charge(
        &self,
        typed: &TypedPool<B::Block>,
        request: Request,
        wanted: u64,
        sizes: BlockSizes,
    ) -> Option<Room<u64>> {
        let ledger = &self.ledgers[typed.heap_index];
        let charge = |bytes: u64| ledger.charge(bytes).then_some(Room::Block(bytes));
        if let Some(room) = charge(wanted).or_else(|| charge(sizes.ordinary)) {
            return Some(room);
        }
        // Before anything fails, what caches keep must merge, however often that has been done.
        if let Some(place) = typed.pool.flush_and_allocate(request) {
            return Some(Room::Place(place));
        }
        let room = ledger.budget_bytes().saturating_sub(sizes.ordinary);
        let mut reserved = ledger.reserved_bytes();
        let idle = typed.pool.release_idle(|idle, _| {
            let is_needed = reserved > room;
            reserved -= if is_needed { idle.reserved_bytes } else { 0 };
            is_needed
        });
        self.destroy(typed, idle);
        charge(sizes.ordinary).or_else(|| {
            self.release_holes(typed);
            charge(sizes.ordinary).or_else(|| charge(sizes.least))
        })
    }

    /// The driver has less than the budget says: gives back all that can go, and asks for no more than needed.
    fn create_at_all_costs(
        &self,
        typed: &TypedPool<B::Block>,
        request: Request,
        sizes: BlockSizes,
        refusal: Error,
    ) -> Result<Room<(B::Block, u64)>, Error> {
        if let Some(place) = typed.pool.flush_and_allocate(request) {
            return Ok(Room::Place(place));
        }
        let idle = typed.pool.release_idle(|_, _| true);
        self.destroy(typed, idle);
        self.release_holes(typed);
        if self.ledgers[typed.heap_index].charge(sizes.least)
            && let Ok(block) = self.create(typed, request, sizes.least)
        {
            return Ok(Room::Block((block, sizes.least)));
        }
        let message = format!("the driver has no more: {refusal}");
        Err(self.out_of_memory(ErrorKind::OutOfMemory, message, typed, request).with_source(refusal))
    }

    /// Calls the driver for a block that has been charged; refunds it if the driver refuses.
    fn create(&self, typed: &TypedPool<B::Block>, request: Request, bytes: u64) -> Result<B::Block, Error> {
        let desc = BlockDesc { bytes, memory_type_index: request.memory_type() };
        match self.backend.create_block(&desc) {
            Ok(block) => {
                self.calls.create.fetch_add(1, Ordering::Relaxed);
                debug!(bytes = desc.bytes, memory_type = desc.memory_type_index, "created a block");
                Ok(block)
            }
            Err(refusal) => {
                self.calls.failed.fetch_add(1, Ordering::Relaxed);
                self.ledgers[typed.heap_index].refund(desc.bytes);
                warn!(bytes = desc.bytes, error = %refusal, "the driver refused a block");
                Err(refusal)
            }
        }
    }

    /// Destroys blocks that the pool has let go. Those that the driver refuses go back to the pool. Returns the bytes
    /// given back. The caller holds the growth lock.
    fn destroy(&self, typed: &TypedPool<B::Block>, idle_blocks: Vec<IdleBlock>) -> u64 {
        let mut bytes = 0;
        for idle in idle_blocks {
            let block = typed.take_block(idle.block);
            match destroy_block(&self.backend, block) {
                Ok(()) => {
                    self.calls.destroy.fetch_add(1, Ordering::Relaxed);
                    self.ledgers[typed.heap_index].refund(idle.reserved_bytes);
                    bytes += idle.reserved_bytes;
                    debug!(bytes = idle.reserved_bytes, "destroyed a block");
                }
                Err(DestroyError { block, error }) => {
                    self.calls.failed.fetch_add(1, Ordering::Relaxed);
                    warn!(bytes = idle.bytes, %error, "the driver would not take a block back");
                    typed.put_block(idle.block, block);
                    typed.pool.restore(idle);
                }
            }
        }
        bytes
    }

    /// Gives back the free ranges of blocks that are partly used, where the backend can. Returns the bytes given back.
    /// The caller holds the growth lock.
    fn release_holes(&self, typed: &TypedPool<B::Block>) -> u64 {
        let properties = self.backend.properties();
        if !properties.capabilities.contains(Capabilities::RELEASE_RANGE) {
            return 0;
        }
        let mut bytes = 0;
        for range in typed.pool.release_holes(RELEASE_GRANULE_BYTES.max(properties.block_granularity_bytes)) {
            match release_range(&self.backend, &typed.block(range.block), &range) {
                Ok(()) => {
                    self.calls.release.fetch_add(1, Ordering::Relaxed);
                    self.ledgers[typed.heap_index].refund(range.bytes);
                    bytes += range.bytes;
                    debug!(bytes = range.bytes, "released a range");
                }
                Err(error) => {
                    self.calls.failed.fetch_add(1, Ordering::Relaxed);
                    warn!(bytes = range.bytes, %error, "the driver would not take a range back");
                    typed.pool.unrelease(range);
                }
            }
        }
        bytes
    }

    /// Gives back idle blocks until no more than `reserved_bytes` are reserved of each heap, or none is left.
    pub(crate) fn trim_to(&self, reserved_bytes: u64) -> u64 {
        let trim_one = |typed: &TypedPool<B::Block>| {
            let _growing = typed.growth.lock();
            typed.pool.flush();
            let idle = typed.pool.release_idle(|_, reserved| reserved > reserved_bytes);
            let bytes = self.destroy(typed, idle);
            let is_enough = self.ledgers[typed.heap_index].reserved_bytes() <= reserved_bytes;
            bytes + if is_enough { 0 } else { self.release_holes(typed) }
        };
        self.pools.iter().map(trim_one).sum()
    }

    /// Gives back blocks that have been idle for longer than the configuration allows.
    pub(crate) fn release_idle(&self) -> u64 {
        let release_one = |typed: &TypedPool<B::Block>| {
            let _growing = typed.growth.lock();
            typed.pool.flush();
            self.release_decayed(typed)
        };
        self.pools.iter().map(release_one).sum()
    }

    fn release_decayed(&self, typed: &TypedPool<B::Block>) -> u64 {
        let Some(decay) = self.config.idle_decay else { return 0 };
        let Some(latest) = self.config.clock.now_ms().checked_sub(decay.as_millis() as u64) else { return 0 };
        let idle = typed.pool.release_idle(|idle, _| idle.since.time_ms <= latest);
        self.destroy(typed, idle)
    }

    /// Whether an allocation must be cleared before it is handed out.
    fn must_clear(&self, options: &MemoryOptions) -> bool {
        options.is_zeroed || self.config.zero_policy == ZeroPolicy::OnReuse
    }

    pub(crate) fn driver_calls(&self) -> DriverCalls {
        DriverCalls {
            create: self.calls.create.load(Ordering::Relaxed),
            destroy: self.calls.destroy.load(Ordering::Relaxed),
            release: self.calls.release.load(Ordering::Relaxed),
            failed: self.calls.failed.load(Ordering::Relaxed),
        }
    }

    #[cold]
    fn out_of_memory(
        &self,
        kind: ErrorKind,
        message: String,
        typed: &TypedPool<B::Block>,
        request: Request,
    ) -> Error {
        let statistics = self.statistics();
        let mut largest_tags: Vec<TagUsage> = statistics
            .tags
            .iter()
            .filter(|tag| tag.current_bytes > 0)
            .map(|tag| TagUsage { tag: tag.name.clone(), live_bytes: tag.current_bytes })
            .collect();
        largest_tags.sort_by_key(|usage| std::cmp::Reverse(usage.live_bytes));
        largest_tags.truncate(REPORTED_TAGS);
        let mut report = OutOfMemoryReport::default();
        report.requested_bytes = request.requested_bytes;
        report.budget_bytes = self.ledgers[typed.heap_index].budget_bytes();
        report.reserved_bytes = statistics.reserved.current;
        report.live_bytes = statistics.allocated.current;
        report.cached_bytes = statistics.cached_bytes;
        report.free_bytes = statistics.free_bytes;
        report.largest_free_bytes = statistics.largest_free_bytes;
        report.largest_tags = largest_tags;
        Error::new(kind, "allocate", message).with_out_of_memory(report)
    }

    /// Ends allocation and gives back what nobody uses; returns how many pools have nothing live.
    pub(crate) fn close(&self) -> usize {
        let leaks = self.leak_report();
        if leaks.live_count > 0 {
            warn!("the manager is dropped with allocations live, which keep their blocks:\n{leaks}");
        }
        let close_one = |typed: &TypedPool<B::Block>| {
            let closing = typed.pool.close();
            let _growing = typed.growth.lock();
            let idle = typed.pool.release_idle(|_, _| true);
            self.destroy(typed, idle);
            closing
        };
        self.pools.iter().map(close_one).filter(|&closing| closing == Closing::Drained).count()
    }
}

impl<B: Backend> Drop for Shared<B> {
    fn drop(&mut self) {
        for typed in &self.pools {
            // A free that was under way when the pool was closed may have moved places to the depot after that.
            typed.pool.flush();
            let idle = typed.pool.release_idle(|_, _| true);
            for block in idle {
                if let Err(refused) = destroy_block(&self.backend, typed.take_block(block.block)) {
                    error!(bytes = block.bytes, error = %refused.error, "a block is lost: the driver would not take it back");
                }
            }
        }
    }
}

impl<T> TypedPool<T> {
    /// The block of a live allocation.
    pub(crate) fn block(&self, index: BlockIndex) -> Arc<T> {
        Arc::clone(
            self.blocks.read()[index as usize].as_ref().expect("the block of a live allocation exists"),
        )
    }

    /// Keeps a new block under a free index. The caller holds the growth lock.
    fn insert_block(&self, block: T) -> BlockIndex {
        let mut blocks = self.blocks.write();
        let place = blocks.iter().position(Option::is_none).unwrap_or_else(|| {
            blocks.push(None);
            blocks.len() - 1
        });
        blocks[place] = Some(Arc::new(block));
        BlockIndex::try_from(place).expect("fewer than 2^32 blocks")
    }

    fn put_block(&self, index: BlockIndex, block: T) {
        self.blocks.write()[index as usize] = Some(Arc::new(block));
    }

    fn take_block(&self, index: BlockIndex) -> T {
        let block = self.blocks.write()[index as usize].take().expect("an idle block exists");
        Arc::into_inner(block)
            .expect("only calls on live allocations borrow a block, and an idle block has none")
    }
}

/// Allocates: from this thread's cache if that can be, else the slow way.
///
/// Both ways end in two registers. If the slow one returned a whole allocation, the fast one would have to build its
/// own in memory too, and reading that back costs a third of a pair.
#[inline]
#[track_caller]
pub(crate) fn allocate<B: Backend>(
    owner: &Owner<B>,
    bytes: u64,
    options: MemoryOptions,
) -> Result<Allocation<B>, Error> {
    let shared = &**owner;
    if bytes.wrapping_sub(1) < CACHED_BYTES_MAX
        && options.is_plain
        && shared.config.zero_policy == ZeroPolicy::OnRequest
        && !shared.observers.are_active()
    {
        let request = Request::new(&shared.config.layout, shared.ordinary, bytes, GRANULE_BYTES, options.tag);
        if let Some(place) = request.allocate_cached(shared.ordinary.identity) {
            return Ok(owner.adopt(place, request));
        }
    }
    let place = allocate_slow(owner, bytes, options)?;
    Ok(owner.adopt(place, shared.request(bytes, options)))
}

/// Checks, asks the pool, grows it if need be, clears, and tells who watches.
#[cold]
#[inline(never)]
#[track_caller]
fn allocate_slow<B: Backend>(owner: &Owner<B>, bytes: u64, options: MemoryOptions) -> Result<Place, Error> {
    owner.check(bytes, &options)?;
    let request = owner.request(bytes, options);
    let (place, is_fresh) = match owner.pools[request.memory_type()].pool.allocate(request) {
        Some(place) => (place, false),
        None => owner.grow(request)?,
    };
    if owner.must_clear(&options) && !is_fresh {
        let mut allocation = owner.adopt(place, request);
        let bytes = allocation.allocated_bytes();
        allocation.fill(0..bytes, 0)?;
        std::mem::forget(allocation);
    }
    if owner.observers.are_active() {
        owner.observers.allocated(place, request);
    }
    Ok(place)
}
