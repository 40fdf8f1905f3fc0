//! What all handles and buffers of one manager share, and the way from a request to the driver.

use super::config::{Config, ZeroPolicy};
use super::ledger::Ledger;
use super::observers::Observers;
use super::options::MemoryOptions;
use super::tags::TagNames;
use crate::pool::{CACHED_BYTES_MAX, Closing, GRANULE_BYTES, Growth, Place, Pool, Request};
use crate::range::{BlockIndex, IdleBlock};
use crate::raw::allocation::{Allocation, Owner, destroy_block};
use crate::statistics::{DriverCalls, Tally};
use crate::sync::{AtomicU64, AtomicUsize, Mutex, Ordering, Rank};
use aquifer_backend::{
    Backend, BlockDesc, Capabilities, DestroyError, Error, ErrorKind, OutOfMemoryReport, TagUsage,
};
use parking_lot::RwLock;
use std::sync::Arc;
use tracing::{debug, error, warn};

/// How many tags an out-of-memory report names.
const REPORTED_TAGS: usize = 5;

/// One memory type: its pool, its blocks, and the lock under which it grows and shrinks.
#[derive(Debug)]
pub(crate) struct TypedPool<T> {
    pub(crate) pool: Arc<Pool>,
    pub(crate) heap_index: usize,
    blocks: RwLock<Vec<Option<Arc<T>>>>,
    growth: Mutex<()>,
}

#[derive(Debug, Default)]
struct CallCounters {
    create: AtomicU64,
    destroy: AtomicU64,
    failed: AtomicU64,
}

pub(crate) struct Shared<B: Backend> {
    pub(crate) backend: B,
    pub(crate) pools: Box<[TypedPool<B::Block>]>,
    pub(crate) ledgers: Box<[Ledger]>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) tags: TagNames,
    pub(crate) observers: Observers,
    pub(crate) config: Config,
    request_bytes_max: u64,
    calls: CallCounters,
    /// See [`crate::raw::allocation`].
    pub(crate) keepers: AtomicUsize,
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
        Ok(Self {
            // A size in bytes must fit the host's addresses, and stay there when it is rounded to a block.
            request_bytes_max: properties.block_bytes_max.min(isize::MAX as u64 / 2)
                & !(properties.block_granularity_bytes - 1),
            keepers: AtomicUsize::new(1 + pools.len()),
            backend,
            pools,
            ledgers: ledgers.into(),
            tally,
            tags: TagNames::default(),
            observers: Observers::new(config.tracking),
            config,
            calls: CallCounters::default(),
        })
    }

    /// Checks a request, once, at the edge.
    fn check(&self, bytes: u64, options: &MemoryOptions) -> Result<(), Error> {
        let refuse = |kind, message| Err(Error::new(kind, "allocate", message));
        if bytes == 0 {
            return refuse(ErrorKind::InvalidArgument, "0 bytes asked for; ask for 1 or more".into());
        }
        let most = self.request_bytes_max;
        if self.pools[MEMORY_TYPE].pool.layout().round_up(bytes).is_none_or(|rounded| rounded > most) {
            return refuse(
                ErrorKind::CanNeverFit,
                format!("{bytes} bytes asked for; the largest block has {most}"),
            );
        }
        let (alignment, most) = (options.alignment, self.backend.properties().alignment_bytes_min);
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
        if typed.pool.flush_sometimes()
            && let Some(place) = typed.pool.allocate(request)
        {
            return Ok((place, false));
        }
        self.release_decayed(typed);
        let granularity = self.backend.properties().block_granularity_bytes;
        let block_bytes_max = self.backend.properties().block_bytes_max / granularity * granularity;
        // A slab, if the request is for a slot; at worst a block for this request alone.
        let bytes_least = typed.pool.bytes(request).next_multiple_of(granularity);
        let bytes_min = typed
            .pool
            .range_bytes(request)
            .next_multiple_of(granularity)
            .min(block_bytes_max)
            .max(bytes_least);
        if bytes_least > ledger.budget_bytes() {
            let message = format!("{} bytes asked for; raise the budget", request.requested_bytes);
            return Err(self.out_of_memory(ErrorKind::CanNeverFit, message, typed, request));
        }
        let (evicted, bytes) = match typed.pool.plan_growth(request, granularity) {
            Growth::Placed(place) => return Ok((place, false)),
            Growth::Create { evicted, bytes } => (evicted, bytes),
        };
        self.destroy(typed, evicted);
        let bytes = bytes.min(block_bytes_max).max(bytes_min);
        let mut charged = self.charge(typed, bytes, bytes_min);
        if charged.is_none() {
            // Before anything fails, what caches keep must merge, however often that has been done.
            if let Some(place) = typed.pool.flush_and_allocate(request) {
                return Ok((place, false));
            }
            charged = self.charge(typed, bytes_min, bytes_least);
        }
        let Some(bytes) = charged else {
            let message = "the budget is spent; free something, trim, or raise the budget".into();
            return Err(self.out_of_memory(ErrorKind::OutOfMemory, message, typed, request));
        };
        let memory_type_index = request.memory_type();
        let (block, bytes) = match self.create(typed, BlockDesc { bytes, memory_type_index }) {
            Ok(block) => (block, bytes),
            Err(refusal) if refusal.kind() == ErrorKind::OutOfMemory => {
                // The driver has less than the budget says. Give back all that can go and ask for no more than needed.
                if let Some(place) = typed.pool.flush_and_allocate(request) {
                    return Ok((place, false));
                }
                let idle = typed.pool.release_idle(|_, _| true);
                self.destroy(typed, idle);
                let again = ledger
                    .charge(bytes_least)
                    .then(|| self.create(typed, BlockDesc { bytes: bytes_least, memory_type_index }));
                match again {
                    Some(Ok(block)) => (block, bytes_least),
                    _ => {
                        let message = format!("the driver has no more: {refusal}");
                        let error = self.out_of_memory(ErrorKind::OutOfMemory, message, typed, request);
                        return Err(error.with_source(refusal));
                    }
                }
            }
            Err(failure) => return Err(failure),
        };
        ledger.confirm(bytes);
        let index = typed.insert_block(block);
        let place = typed.pool.grow(index, bytes, request);
        let is_fresh = place.block() == index
            && self.backend.properties().capabilities.contains(Capabilities::ZEROED_BLOCKS);
        Ok((place, is_fresh))
    }

    /// Charges `bytes`, or `bytes_min` if that is all there is room for, giving back idle blocks for the latter.
    fn charge(&self, typed: &TypedPool<B::Block>, bytes: u64, bytes_min: u64) -> Option<u64> {
        let ledger = &self.ledgers[typed.heap_index];
        if ledger.charge(bytes) {
            return Some(bytes);
        }
        if !ledger.charge(bytes_min) {
            let room = ledger.budget_bytes().checked_sub(bytes_min)?;
            let mut reserved = ledger.reserved_bytes();
            let idle = typed.pool.release_idle(|idle, _| {
                let is_needed = reserved > room;
                reserved -= if is_needed { idle.bytes } else { 0 };
                is_needed
            });
            self.destroy(typed, idle);
            if !ledger.charge(bytes_min) {
                return None;
            }
        }
        Some(bytes_min)
    }

    /// Calls the driver for a block that has been charged; refunds it if the driver refuses.
    fn create(&self, typed: &TypedPool<B::Block>, desc: BlockDesc) -> Result<B::Block, Error> {
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
                    self.ledgers[typed.heap_index].refund(idle.bytes);
                    bytes += idle.bytes;
                    debug!(bytes = idle.bytes, "destroyed a block");
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

    /// Gives back idle blocks until no more than `reserved_bytes` are reserved of each heap, or none is left.
    pub(crate) fn trim_to(&self, reserved_bytes: u64) -> u64 {
        let trim_one = |typed: &TypedPool<B::Block>| {
            let _growing = typed.growth.lock();
            typed.pool.flush();
            let idle = typed.pool.release_idle(|_, reserved| reserved > reserved_bytes);
            self.destroy(typed, idle)
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
    #[inline]
    pub(crate) fn must_clear(&self, options: &MemoryOptions) -> bool {
        options.is_zeroed || self.config.zero_policy == ZeroPolicy::OnReuse
    }

    pub(crate) fn driver_calls(&self) -> DriverCalls {
        DriverCalls {
            create: self.calls.create.load(Ordering::Relaxed),
            destroy: self.calls.destroy.load(Ordering::Relaxed),
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

/// Ordinary buffers use the first memory type, the best for them.
const MEMORY_TYPE: usize = 0;

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
    let layout = owner.pools[MEMORY_TYPE].pool.layout();
    let request = || Request::new(layout, MEMORY_TYPE as u8, bytes, options.alignment, options.tag);
    let is_plain = bytes.wrapping_sub(1) < CACHED_BYTES_MAX
        && options.alignment <= GRANULE_BYTES
        && options.alignment.is_power_of_two()
        && !owner.must_clear(&options)
        && !owner.observers.are_active();
    if is_plain {
        let request = request();
        if let Some(place) = owner.pools[MEMORY_TYPE].pool.allocate_cached(request) {
            return Ok(owner.adopt(place, request));
        }
    }
    let place = allocate_slow(owner, bytes, options)?;
    Ok(owner.adopt(place, request()))
}

/// Checks, asks the pool, grows it if need be, clears, and tells who watches.
#[cold]
#[inline(never)]
#[track_caller]
fn allocate_slow<B: Backend>(owner: &Owner<B>, bytes: u64, options: MemoryOptions) -> Result<Place, Error> {
    owner.check(bytes, &options)?;
    let pool = &owner.pools[MEMORY_TYPE].pool;
    let request = Request::new(pool.layout(), MEMORY_TYPE as u8, bytes, options.alignment, options.tag);
    let (place, is_fresh) = match pool.allocate(request) {
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
