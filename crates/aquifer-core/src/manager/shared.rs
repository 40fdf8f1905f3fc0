//! What all handles and buffers of one manager share, and the fast way to a buffer. The slow one is in
//! [`super::growth`].

use super::config::{Config, ZeroPolicy};
use super::ledger::Ledger;
use super::observers::Observers;
use super::options::MemoryOptions;
use super::tags::TagNames;
use super::typed_pool::TypedPool;
use crate::pool::{CACHED_BYTES_MAX, Closing, Place, Pool, PoolKey, Request};
use crate::raw::allocation::{Allocation, Keepers, Owner, destroy_block};
use crate::statistics::{DriverCalls, Tally};
use crate::sync::{AtomicU64, Ordering};
use crate::trace::lasting_sink;
use aquifer_backend::{Backend, Error, ErrorKind};
use std::sync::Arc;
use tracing::{error, warn};

#[derive(Debug, Default)]
pub(super) struct CallCounters {
    pub(super) create: AtomicU64,
    pub(super) destroy: AtomicU64,
    pub(super) release: AtomicU64,
    pub(super) failed: AtomicU64,
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
    pub(super) calls: CallCounters,
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
            .map(|memory_type| {
                let pool = Pool::new(config.layout, config.clock.clone(), Arc::clone(&tally));
                TypedPool::new(pool, memory_type.heap_index)
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
            ordinary: PoolKey::new(pools[0].pool.identity(), 0),
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

    /// Ends allocation and gives back what nobody uses; returns how many pools have nothing live.
    pub(crate) fn close(&self) -> usize {
        let leaks = self.leak_report();
        if leaks.live_count > 0 {
            warn!("the manager is dropped with allocations live, which keep their blocks:\n{leaks}");
        }
        let close_one = |typed: &TypedPool<B::Block>| {
            let closing = typed.pool.close();
            let growing = &mut typed.lock_growth();
            let idle = growing.pool.release_idle(|_, _| true);
            self.destroy(growing, idle);
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
        let request = Request::plain(&shared.config.layout, shared.ordinary, bytes, options.tag);
        if let Some(place) = request.allocate_cached(shared.ordinary.identity()) {
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
    // From here on the place is freed if anything fails, or panics.
    let mut allocation = owner.adopt(place, request);
    if owner.must_clear(&options) && !is_fresh {
        let bytes = allocation.allocated_bytes();
        allocation.fill(0..bytes, 0)?;
    }
    if owner.observers.are_active() {
        owner.observers.allocated(place, request);
    }
    std::mem::forget(allocation);
    Ok(place)
}
