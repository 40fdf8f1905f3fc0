//! The manager: the one object users make, and what it hands out.

mod addresses;
mod block_count;
mod buffer;
mod builder;
mod closing;
mod config;
mod elastic;
mod growth;
mod import;
mod importable;
mod imported_blocks;
mod kinds;
mod ladder;
mod ledger;
mod mapping;
mod memory_pool;
mod observers;
mod operation;
mod options;
mod pinned;
mod preallocate;
mod pressure;
mod purgeable;
mod queue;
mod queues;
mod raw_handle;
mod reaper;
mod reclaim;
mod report;
mod shared;
mod shrink;
mod sub_budget;
mod tags;
mod transfer;
mod transfers;
mod typed_pool;
mod unified;
mod view;
mod waiting;

#[cfg(all(test, not(loom)))]
mod tests;

pub use buffer::Buffer;
pub use builder::MemoryManagerBuilder;
pub use config::{Config, ENVIRONMENT_VARIABLES, Policy, Tracking, ZeroPolicy, parse_bytes};
pub use kinds::MemoryKind;
pub use ledger::BUDGET_BYTES_MAX;
pub use memory_pool::MemoryPool;
pub use operation::{Operation, OperationError};
pub use options::MemoryOptions;
pub use pinned::{PinnedAllocator, PinnedBuffer, PinnedConfig, WhenRefused};
pub use pressure::{PressureEvents, PressureListener, PressureMonitor};
pub use queue::{CopyDesc, Queue};
pub use raw_handle::RawBuffer;
pub use reclaim::{ReclaimHook, ReclaimRequest};
pub use report::{LeakReport, LiveAllocation, Report};
pub use sub_budget::SubBudget;
pub use transfer::{Begun, Transfer, TransferBuffer, TransferMemory};
pub use transfers::{TransferDestination, TransferSource, Transfers};
pub use unified::{DeviceAccess, Side, UnifiedBuffer, UnifiedOnDevice, UnifiedRead, UnifiedWrite};
pub use view::{BufferView, TypedView, ViewRead, ViewWrite};
pub use waiting::{ANSWER_WITHIN, AllocateAsync};

pub(crate) use queues::QueueState;
pub(crate) use shared::Shared;

use crate::raw::allocation::Owner;
use crate::statistics::{Statistics, Tag};
use crate::trace::{Recorder, TraceWriter};
#[cfg(doc)]
use aquifer_backend::ErrorKind;
use aquifer_backend::{Backend, DefaultDevice, Error, Properties, SyncBackend};
use std::fmt;
use std::io::Write;
use std::sync::Arc;

/// Pools, budget and statistics of one device.
///
/// A handle: clones are cheap and mean the same manager, and any thread may use it (where the backend's types allow
/// it). Buffers outlive it: when the last handle is dropped, nothing more can be allocated, memory without live
/// allocations goes back to the driver, and the rest follows with the last buffer. Dropping the last handle with
/// buffers live writes a warning with a leak report through `tracing`. What queues still use by then goes when they are
/// done: a thread of the manager's waits for them, or, with [`Config::reaper`] off, whoever drops the last handle or buffer,
/// for up to 10 s (or [`Config::in_flight_wait`], if that is longer), after which the memory is lost.
///
/// Allocating and freeing through the thread caches takes no lock and calls neither the driver nor the clock; the
/// slower ways may block on a lock and, when the pool must grow, on the driver.
pub struct MemoryManager<B: Backend> {
    owner: Arc<Owner<B>>,
}

impl<B: Backend> Clone for MemoryManager<B> {
    fn clone(&self) -> Self {
        Self { owner: Arc::clone(&self.owner) }
    }
}

impl<B: Backend> fmt::Debug for MemoryManager<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryManager")
            .field("backend", &self.properties().backend)
            .field("device", &self.properties().device)
            .field("config", &self.owner.config)
            .finish_non_exhaustive()
    }
}

impl<B: Backend> MemoryManager<B> {
    /// A manager of the backend's default device, with the default configuration and what the environment overrides
    /// ([`Config::with_environment`]).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for a variable that makes no sense; [`ErrorKind::Unsupported`] or
    /// [`ErrorKind::Driver`] if there is no such device or it cannot say how much memory it has.
    pub fn new() -> Result<Self, Error>
    where
        B: DefaultDevice,
    {
        Self::builder().build()
    }

    /// Sets a manager up, one setting at a time.
    pub fn builder() -> MemoryManagerBuilder<B> {
        MemoryManagerBuilder::new()
    }

    /// A manager over `backend` set up as `config` says, whatever the environment.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the backend cannot say how much memory there is and `config` sets no budget;
    /// [`ErrorKind::Configuration`] if it names a file to record to that cannot be written.
    pub fn with_config(backend: B, config: Config) -> Result<Self, Error> {
        Ok(Self { owner: Arc::new(Owner::new(Shared::new(backend, config)?)) })
    }

    /// Allocates `bytes` bytes, aligned to 256, untagged, content unspecified.
    ///
    /// Where memory is short it blocks: it calls reclaim callbacks on this thread ([`MemoryManager::on_reclaim`]), then waits up
    /// to [`Config::in_flight_wait`] (10 s by default) for memory that is freed but that queues still use, if that could be
    /// enough. In a [budget group](crate::BudgetGroup) it then waits up to a second for other processes to give memory back.
    /// [`MemoryManager::allocate_async`] waits for what others hold, too.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`] for 0 bytes.
    /// - [`ErrorKind::CanNeverFit`] for more than the device's largest block or the budget.
    /// - [`ErrorKind::OutOfMemory`] if there is no room now, with
    ///   [what was there](Error::out_of_memory).
    /// - [`ErrorKind::Driver`] if the driver failed.
    /// - [`ErrorKind::DeviceLost`] or [`ErrorKind::Forked`], unless memory was at hand.
    #[inline]
    #[track_caller]
    pub fn allocate(&self, bytes: u64) -> Result<Buffer<B>, Error> {
        self.allocate_with(bytes, MemoryOptions::DEFAULT)
    }

    /// Allocates `bytes` bytes with options: kind of memory, tag, alignment, zeroed.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate`]; also [`ErrorKind::InvalidArgument`] for an alignment that is no power of two, and
    /// [`ErrorKind::Unsupported`] for one larger than the device gives, or for a kind of memory that it has not. For pinned memory also
    /// [`ErrorKind::CanNeverFit`] and [`ErrorKind::OutOfMemory`] where [`Config::pinned`] allows no more, and, where the driver locks
    /// no more, what it says. Under a tag of a [`SubBudget`] also [`ErrorKind::LimitReached`] and [`ErrorKind::CanNeverFit`] where a hard
    /// limit has no room, and [`ErrorKind::InvalidArgument`] if it is of another manager's.
    #[inline]
    #[track_caller]
    pub fn allocate_with(&self, bytes: u64, options: MemoryOptions) -> Result<Buffer<B>, Error> {
        shared::allocate(&self.owner, self.owner.ordinary, bytes, options).map(Buffer::new)
    }

    /// The manager's pooled memory as an object of its own: what was counted bucket by bucket, and making memory ready before
    /// it is needed. All of a manager's memory is pooled, so [`MemoryPool::allocate`] is [`MemoryManager::allocate`].
    #[must_use]
    pub fn pool(&self) -> MemoryPool<B> {
        MemoryPool::new(self.clone())
    }

    /// The manager's pinned memory for the host: buffers that are slices, and an allocator for collections.
    #[must_use]
    pub fn pinned(&self) -> PinnedAllocator<B> {
        PinnedAllocator::new(self.clone())
    }

    /// A queue of the device, with a timeline of its own: one that nobody has any more, or a new one. Starts the reaper, if
    /// the configuration allows one and there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the backend has no queues, or no more; [`ErrorKind::Driver`] if the driver or a thread
    /// could not be had; [`ErrorKind::DeviceLost`]; [`ErrorKind::Forked`].
    pub fn queue(&self) -> Result<Queue<B>, Error>
    where
        B: SyncBackend,
    {
        self.prepare_queues()?;
        Ok(Queue::new(self.clone(), self.owner.make_queue()?))
    }

    /// A queue of one of the backend's that the program brings, such as one on a stream that it has already. It is the manager's from
    /// then on, until that goes: adopt each once, and keep the handle. A manager has 65,535 queues at most.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::queue`]; also [`ErrorKind::InvalidArgument`] if the queue has been in use, or is of another device where the
    /// backend can tell.
    pub fn adopt_queue(&self, raw: B::Queue) -> Result<Queue<B>, Error>
    where
        B: SyncBackend,
    {
        self.prepare_queues()?;
        Ok(Queue::new(self.clone(), self.owner.adopt_queue(raw)?))
    }

    /// Starts what queues need, if the configuration allows it.
    fn prepare_queues(&self) -> Result<(), Error>
    where
        B: SyncBackend,
    {
        self.start_reaper()?;
        if self.owner.config.reaper {
            self.owner.finish_later.get_or_init(|| reaper::finish_later);
        }
        Ok(())
    }

    pub(crate) fn shared(&self) -> &Shared<B> {
        &self.owner
    }

    pub(super) fn start_reaper(&self) -> Result<(), Error>
    where
        B: SyncBackend,
    {
        if self.owner.config.reaper { self.owner.reaper.start(|| self.owner.keeper()) } else { Ok(()) }
    }

    /// Looks how far the queues are, frees what they have passed, ends operations, and wakes who waits for memory. The
    /// reaper does this by itself; to be called only where [`Config::reaper`] is off. Does not wait for any queue.
    pub fn settle(&self) {
        self.owner.flush_quarantine();
        self.owner.settle();
        // Memory may also have come from where nobody tells.
        self.owner.bell.freed();
        self.owner.tick_waiters();
    }

    /// Calls `callback` whenever an allocation finds no memory, before it fails, so that the program can free something: a
    /// cache of its own, weights that can be loaded again. The lowest priority is asked first, and each priority only if
    /// the ones before did not free enough. Until the hook is dropped. Each callback is called once for an attempt to allocate, so
    /// it should free all of [`ReclaimRequest::needed_bytes`] if it can; an allocation that waits attempts again whenever
    /// something was freed.
    ///
    /// The callback runs on the thread that allocates, under no lock of the manager. It may do anything: allocate (then no
    /// callbacks are called), free, register and drop hooks, panic (which is caught and counted). It should not keep a
    /// handle of this manager, which would then never be dropped.
    pub fn on_reclaim(
        &self,
        priority: i32,
        callback: impl Fn(&ReclaimRequest) + Send + Sync + 'static,
    ) -> ReclaimHook {
        self.owner.reclaim.register(priority, callback)
    }

    /// The tag of a name; the same name is always the same tag. Costs a lock and a look-up: keep the tag. A path that
    /// a [`SubBudget`] or one of its tags has is that tag; any other name is a tag without limits, slashes or not.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for the 1024th name and those after it.
    pub fn tag(&self, name: &str) -> Result<Tag, Error> {
        self.owner.tags.intern(name)
    }

    /// Empties all caches, gives up what was [preallocated](MemoryPool::preallocate), and gives every block that then holds
    /// nothing back to the driver, purgeable ones first, and of the others the free ranges, where the backend can
    /// ([`RELEASE_RANGE`](aquifer_backend::Capabilities::RELEASE_RANGE)). Returns the bytes given back. Blocks on the driver.
    pub fn trim(&self) -> u64 {
        self.trim_to(0)
    }

    /// As [`MemoryManager::trim`], but stops giving back blocks when no more than `reserved_bytes` are reserved; those that
    /// have held nothing for longest go first. Only if they are not enough, all free parts of the others go too.
    pub fn trim_to(&self, reserved_bytes: u64) -> u64 {
        self.owner.trim_to(reserved_bytes)
    }

    /// Gives back the blocks that have held nothing for longer than [`Config::idle_decay`], and makes those purgeable that have
    /// for longer than [`Config::purgeable_after`]; nothing if both are `None`, as they are by default. Returns the bytes given
    /// back. Call it from an idle loop; the pool also does it when it grows. Blocks on the driver.
    pub fn release_idle(&self) -> u64 {
        self.owner.release_idle()
    }

    /// Empties all caches and makes every block purgeable that then holds nothing, where the backend can
    /// ([`PURGEABLE`](aquifer_backend::Capabilities::PURGEABLE)): the system may take their memory for others, without asking.
    /// They stay reserved, count as free ([`Statistics::purgeable_bytes`]), and are used again before a new block is made.
    /// Returns the bytes that have become purgeable. For a program that goes into the background: cheaper than
    /// [`MemoryManager::trim`] to come back from. Blocks on the driver.
    pub fn mark_idle_purgeable(&self) -> u64 {
        self.owner.mark_idle_purgeable()
    }

    /// What has been counted so far. Takes a few locks and reads every thread's counters; callable at any time.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.owner.statistics()
    }

    /// The statistics and the device in words, for people.
    #[must_use]
    pub fn report(&self) -> Report {
        Report::new(self.properties(), self.statistics())
    }

    /// What is live, by tag, and by place of allocation if [`Config::tracking`] is on.
    #[must_use]
    pub fn live_allocations(&self) -> LeakReport {
        self.owner.leak_report()
    }

    /// Writes down every allocation and free from now on, until the [`Recorder`] is finished or dropped. The recorder
    /// holds a handle of this manager. A buffer's stream is the number of its home queue; when queues have passed what was freed is
    /// not recorded (there are no `c` events). Several may record at the same time. What the writer itself allocates or frees
    /// through a manager is not recorded.
    pub fn record<W>(&self, writer: TraceWriter<W>) -> Recorder<W>
    where
        W: Write + Send + 'static,
        B: SyncBackend,
    {
        let (recorder, sink) = Recorder::new(writer);
        self.owner.observers.attach(Arc::clone(&sink));
        let manager = self.clone();
        recorder.on_end(move || manager.owner.observers.detach(&sink))
    }

    /// The backend, for what is the device's and not the manager's matter. Blocks and queues that are made through it are none of
    /// the manager's.
    #[must_use]
    pub fn backend(&self) -> &B {
        &self.owner.backend
    }

    /// The device's fixed facts.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        self.owner.backend.properties()
    }

    /// The configuration that the manager was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.owner.config
    }
}
