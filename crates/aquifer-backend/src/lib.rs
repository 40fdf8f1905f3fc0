//! The contract between Aquifer's core and a memory driver.
//!
//! A *backend* talks to one device's driver and decides nothing: it creates and destroys blocks, copies, fills, and
//! says what the device is. Everything that is policy (pooling, caching, budgets, retrying, statistics) lives above
//! this crate, in `aquifer-core`, once for all devices. `PORTING.md` in the repository tells how to write a backend
//! and how CUDA, Metal, Vulkan and a simulated device sit on this trait.
//!
//! # Glossary
//!
//! One word, one meaning, everywhere in Aquifer:
//!
//! - **heap**: physical memory of a device or of the host, with a size and a budget (Vulkan's word).
//! - **memory type**: a way to allocate from a heap, with its [`MemoryFlags`] (visible to the host, local to the
//!   device, ...).
//! - **block**: one allocation made by the driver. Only the core asks for blocks.
//! - **range**: a part of a block, `offset..offset + bytes`. Free ranges that touch are merged.
//! - **slab**: a range cut into slots of one size class.
//! - **allocation**: what a user holds; a slot, a range, or a whole block. In the API: a buffer.
//! - **pool**: all blocks of one memory type with everything that hands out parts of them.
//! - **size class**: the sizes that are served alike; a **bucket** is all classes between two powers of two.
//! - **thread cache**, **depot**: free ranges kept ready, per thread and shared.
//! - **preallocated**: made ready for allocations of one size before they come; counted as cached.
//! - **dedicated**: a block made for one allocation.
//! - **budget**: the most bytes that may be reserved from a heap.
//! - **requested**, **allocated**, **reserved**: bytes the user asked for; the same after rounding; bytes in blocks.
//!   Always `requested <= allocated <= reserved`.
//! - **live**, **cached**, **free**: the three parts of reserved bytes: held by users; kept ready in caches; the rest.
//! - **trim**: to give blocks that hold no allocation back to the driver, and free ranges of others where it can.
//! - **queue**: work that the device does later, one after the other: a CUDA stream, a Metal command queue, a worker
//!   thread of the host. **marker**: what is put into a queue to raise its **value** when all before it is done.
//! - **quarantined**: freed, but not reusable before some queue has passed a marker.
//! - **physical page**: the unit in which memory backs addresses. Never just "page".
//! - **sparse** block: addresses that have no memory of their own.
//! - **physical** block: memory without addresses; all of it together is **mapped** behind a part of a sparse block, or several.
//! - **purgeable**: kept, but the system may take the memory without asking; what is lost is known only on asking for it back.
//! - **imported**: a block made of memory that the user brought.
//! - **pinned**: memory of the host that is page-locked, which the device reads and writes by itself.
//! - **unified**: memory that host and device both use where it is, with no copy.
//! - **transfer**: bytes that the manager brings from one place to another, in **chunks**, by whichever **route** there is.
//! - **staged**: copied in chunks through pinned memory, since the device cannot reach the other end by itself.
//! - **peer**: another device of the same backend.
//! - **pressure**: how short memory is, in five levels; a **source** tells it.
//! - **sub-budget**: a limit for a part of what a manager allocates.
//! - **budget group**: processes that share one budget; a **lease** is what one of them may have of it now.

mod error;
mod imported;
mod pressure;
mod properties;
mod queue;

pub use error::{Error, ErrorKind, OutOfMemoryReport, TagUsage};
pub use imported::{DeviceMemory, HostMemory, ImportError};
pub use pressure::{
    Descriptor, PressureLevel, PressureNotifier, PressureReading, PressureSource, PressureWake,
};
pub use properties::{Capabilities, Heap, HeapBudget, MappingCosts, MemoryFlags, MemoryType, Properties};
pub use queue::{Command, CopyEnd, Ticket};

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// What a block to be created must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDesc<'a> {
    /// Size in bytes: a multiple of [`Properties::block_granularity_bytes`], at least one granule.
    pub bytes: u64,
    /// Index into [`Properties::memory_types`].
    pub memory_type_index: usize,
    /// The tag's name of the one allocation that the block is made for, empty if it has none; `None` for a block that will be
    /// cut. Later it may serve others all the same. For drivers that treat such blocks otherwise, and for labels.
    pub dedicated_to: Option<&'a str>,
}

impl BlockDesc<'_> {
    /// A block that will be cut.
    #[must_use]
    pub const fn new(bytes: u64, memory_type_index: usize) -> Self {
        Self { bytes, memory_type_index, dedicated_to: None }
    }
}

/// A part of a block, as [`Backend::copy`] and [`Backend::fill`] take it.
#[derive(Debug)]
pub struct BlockRange<'a, T> {
    /// The block.
    pub block: &'a T,
    /// First byte, counted from the start of the block.
    pub offset: u64,
    /// Length in bytes.
    pub bytes: u64,
}

impl<T> Clone for BlockRange<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for BlockRange<'_, T> {}

/// A block that the driver would not take back, together with the reason.
///
/// The block is still whole and usable: the core returns it to its pool, so that nothing is lost.
pub struct DestroyError<T> {
    /// The block, as it was before the call.
    pub block: T,
    /// Why the driver refused.
    pub error: Error,
}

impl<T> fmt::Debug for DestroyError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DestroyError").field("error", &self.error).finish_non_exhaustive()
    }
}

/// What a method answers that its capability bit does not oblige.
fn unsupported(properties: &Properties, operation: &'static str, lack: &str) -> Error {
    let message = format!("the {} backend {lack} on {}", properties.backend, properties.device);
    Error::new(ErrorKind::Unsupported, operation, message)
}

/// A driver for one device.
///
/// Methods may be called from any thread at any time if the type is [`Sync`]; the core never calls one while it
/// holds a lock that the cache hit path takes. None of them may call back into the core. A backend does not
/// validate: sizes, alignments and bounds have been checked once, above.
///
/// A backend whose types are neither [`Send`] nor [`Sync`] is fine: the manager and its buffers are then bound to one
/// thread.
///
/// # Safety
///
/// The core builds safe references on what an implementation answers. It must hold that
///
/// - a created block is `desc.bytes` long and overlaps no other block that has not been destroyed;
/// - [`Backend::host_pointer`] of a block answers the same each time it is asked; where it is `Some`, all
///   `desc.bytes` bytes from it (of a sparse block, those behind which memory is mapped) are readable, writable and initialised
///   until the block is destroyed (or the range is released or unmapped), and the pointer
///   is a multiple of [`Properties::alignment_bytes_min`];
/// - [`Backend::properties`] never changes, and no method unwinds;
/// - a queue runs what it is given in order, one after the other, and its value reaches `v` only when everything that was
///   enqueued before the call of [`Backend::signal`] with `v` began has run, so that neither the device nor a thread of the
///   backend touches its memory any more. Of two calls by different threads, the one that takes its place in the queue
///   first happens before the other (as with a lock round the queue's end).
///
/// # A lost device
///
/// A method that finds the device lost answers [`ErrorKind::DeviceLost`], and so do all later calls for queues. By then
/// the device touches no memory any more: the core takes all work as ended, though nothing is known of its results.
/// Destroying blocks goes on being possible, or is refused, as the driver likes.
pub unsafe trait Backend: 'static {
    /// One driver allocation. It moves in and out by value, so that none can be destroyed twice.
    type Block: 'static;

    /// A queue. The core keeps it until all its work has run or the device is lost, and then drops it, which gives the
    /// driver's object back. The backend outlives its queues.
    type Queue: 'static;

    /// The device's fixed facts.
    fn properties(&self) -> &Properties;

    /// What the driver or the operating system says of a heap now, in bytes. A hint: the core keeps its own ledger.
    ///
    /// May make a system call; the core calls it only on slow paths.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver cannot say.
    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error>;

    /// Creates a block. May block for as long as the driver does.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfMemory`] if the driver has not enough (the core will then free what it can and ask again),
    /// [`ErrorKind::Driver`] for anything else.
    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<Self::Block, Error>;

    /// Gives a block back. May block for as long as the driver does.
    ///
    /// # Errors
    ///
    /// The block itself and the driver's reason, if the driver refused and the block is still whole.
    ///
    /// # Safety
    ///
    /// - No range of the block is in use, by the device or through a reference made from its host pointer.
    unsafe fn destroy_block(&self, block: Self::Block) -> Result<(), DestroyError<Self::Block>>;

    /// Gives the physical memory of a part of a block back; its addresses stay the block's until the block is destroyed, and
    /// nobody uses them. Obliged by [`Capabilities::RELEASE_RANGE`].
    ///
    /// Of a sparse block, the memory that is mapped behind the range is given back, behind whatever other addresses it lies; it
    /// comes again, zeroed, where it is touched.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without the capability; [`ErrorKind::Driver`] if the driver refused, and nothing has
    /// changed.
    ///
    /// # Safety
    ///
    /// - The range lies in its block, begins and ends at multiples of [`Properties::block_granularity_bytes`], and of a sparse block
    ///   it lies behind one mapping.
    /// - Nobody uses it, now or until the block is destroyed; of a sparse block, now.
    unsafe fn release_range(&self, range: BlockRange<'_, Self::Block>) -> Result<(), Error> {
        let _ = range;
        Err(unsupported(self.properties(), "release_range", "gives back whole blocks only"))
    }

    /// Allows the driver and the system to take the physical memory of a block, at any time and without asking. The block
    /// stays, and must not be used, by anybody, until [`Backend::make_nonpurgeable`] has answered. Obliged by
    /// [`Capabilities::PURGEABLE`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without the capability; [`ErrorKind::Driver`] if the driver refused, and nothing has
    /// changed.
    ///
    /// # Safety
    ///
    /// - No range of the block is in use, by the device or through a reference made from its host pointer.
    unsafe fn make_purgeable(&self, block: &Self::Block) -> Result<(), Error> {
        let _ = block;
        Err(unsupported(self.properties(), "make_purgeable", "has no purgeable memory"))
    }

    /// Ends what [`Backend::make_purgeable`] began: the block has memory again. False if what it held is lost, so that it
    /// now holds anything.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without the capability; [`ErrorKind::OutOfMemory`] or [`ErrorKind::Driver`] if it stays as it
    /// is: it can be asked for again, or destroyed.
    fn make_nonpurgeable(&self, block: &Self::Block) -> Result<bool, Error> {
        let _ = block;
        Err(unsupported(self.properties(), "make_nonpurgeable", "has no purgeable memory"))
    }

    /// Makes a block of memory of the host, without a copy: the device works in that very memory. Destroying the block drops
    /// the owner, on whichever thread, at the latest when the driver has let go. Obliged by [`Capabilities::IMPORT`].
    ///
    /// The memory's start and size are multiples of [`Properties::import_alignment_bytes`], the size at least that.
    ///
    /// # Errors
    ///
    /// The memory itself and the reason: [`ErrorKind::Unsupported`] without the capability, or if blocks of this memory type cannot
    /// be imported; [`ErrorKind::Driver`] if the driver refused.
    fn import_block(&self, memory: HostMemory, memory_type_index: usize) -> Result<Self::Block, ImportError> {
        let _ = memory_type_index;
        Err(ImportError {
            memory,
            error: unsupported(self.properties(), "import_block", "imports no memory"),
        })
    }

    /// From now on `range` is an allocation: what the user asked for, without what it was rounded up by. Obliged by
    /// [`Capabilities::SANITIZED`], without which it is not called.
    fn note_allocated(&self, range: BlockRange<'_, Self::Block>) {
        let _ = range;
    }

    /// The allocation that [`Backend::note_allocated`] was called with is freed, and no queue uses it. One is left out if a queue did not
    /// come to its end in time; the next one there takes its place.
    fn note_freed(&self, range: BlockRange<'_, Self::Block>) {
        let _ = range;
    }

    /// Makes a block of memory of the device that something else allocated. Destroying the block drops the owner, on whichever
    /// thread. Obliged by [`Capabilities::IMPORT_DEVICE`].
    ///
    /// # Errors
    ///
    /// The memory itself and the reason: [`ErrorKind::Unsupported`] without the capability; [`ErrorKind::InvalidArgument`] if the
    /// driver knows the address as something else than the device's memory, or not at all.
    fn import_device_block(
        &self,
        memory: DeviceMemory,
        memory_type_index: usize,
    ) -> Result<Self::Block, ImportError<DeviceMemory>> {
        let _ = memory_type_index;
        Err(ImportError {
            memory,
            error: unsupported(self.properties(), "import_device_block", "imports no memory of the device"),
        })
    }

    /// Reserves addresses of the device's like those of a block, with no memory behind them: a *sparse* block. Of the
    /// description, `bytes` is a multiple of [`Properties::physical_page_bytes`] too, and the memory type has
    /// [`MemoryFlags::SPARSE`]. It is given back by [`Backend::destroy_block`], mapped or not. Obliged by
    /// [`Capabilities::SPARSE_BLOCKS`].
    ///
    /// # Errors
    ///
    /// As [`Backend::create_block`]; [`ErrorKind::Unsupported`] without the capability, and for memory types without the flag.
    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<Self::Block, Error> {
        let _ = desc;
        Err(unsupported(self.properties(), "create_sparse_block", "has no sparse blocks"))
    }

    /// Creates memory to be mapped behind sparse blocks: a *physical* block. It has no addresses of its own that anybody uses, is
    /// as new as an ordinary block, and is given back by [`Backend::destroy_block`]. It cannot be divided. Of the description, `bytes`
    /// is a multiple of [`Properties::physical_page_bytes`] too, and the memory type has [`MemoryFlags::SPARSE`]. Obliged by
    /// [`Capabilities::SPARSE_BLOCKS`].
    ///
    /// # Errors
    ///
    /// As [`Backend::create_sparse_block`].
    fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<Self::Block, Error> {
        let _ = desc;
        Err(unsupported(self.properties(), "create_physical_block", "has no sparse blocks"))
    }

    /// Puts a physical block behind a part of a sparse one, of the same length. Returns when the device sees it, and does not wait for
    /// work that is under way. One physical block may lie behind several parts, also while queues use it there: of one queue's work what
    /// uses it at one address comes before what comes later and uses it at another. Obliged by [`Capabilities::SPARSE_BLOCKS`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without the capability; [`ErrorKind::OutOfMemory`] if there are too many mappings;
    /// [`ErrorKind::Driver`] if the driver refused. In either case nothing has changed. [`ErrorKind::DeviceLost`].
    ///
    /// # Safety
    ///
    /// - The range lies in its block, is as long as the physical block, and begins at a multiple of
    ///   [`Properties::physical_page_bytes`].
    /// - `sparse.block` is a sparse block, and no memory lies behind the range; `physical` is a physical block of the same memory
    ///   type.
    /// - `physical` is not destroyed before the range is unmapped or its block destroyed.
    unsafe fn map(&self, sparse: BlockRange<'_, Self::Block>, physical: &Self::Block) -> Result<(), Error> {
        let _ = (sparse, physical);
        Err(unsupported(self.properties(), "map", "has no sparse blocks"))
    }

    /// Takes the physical block away from behind a part of a sparse one, whose content is unspecified until it is mapped again.
    /// Does not wait for work that is under way. Obliged by [`Capabilities::SPARSE_BLOCKS`].
    ///
    /// # Errors
    ///
    /// As [`Backend::map`].
    ///
    /// # Safety
    ///
    /// - The range is one that a physical block was mapped behind, all of it.
    /// - Nobody uses it, now or by work that is queued.
    unsafe fn unmap(&self, sparse: BlockRange<'_, Self::Block>) -> Result<(), Error> {
        let _ = sparse;
        Err(unsupported(self.properties(), "unmap", "has no sparse blocks"))
    }

    /// Does what the backend has put off when blocks were destroyed, such as telling the driver of many at once. The core
    /// calls it after each batch.
    fn flush_destroyed(&self) {}

    /// The address at which the host can read and write the block; `None` where its memory type is not
    /// [`MemoryFlags::HOST_VISIBLE`].
    fn host_pointer(&self, block: &Self::Block) -> Option<NonNull<u8>>;

    /// Copies `source.bytes` bytes. Returns when the bytes have arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver failed; the destination's content is then unspecified.
    ///
    /// # Safety
    ///
    /// - Both ranges lie in their blocks, are equally long, and do not overlap.
    /// - Nobody writes the source or touches the destination until the call returns.
    unsafe fn copy(
        &self,
        source: BlockRange<'_, Self::Block>,
        destination: BlockRange<'_, Self::Block>,
    ) -> Result<(), Error>;

    /// Sets every byte of a range to `value`. Returns when it is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver failed; the range's content is then unspecified.
    ///
    /// # Safety
    ///
    /// - The range lies in its block.
    /// - Nobody touches it until the call returns.
    unsafe fn fill(&self, destination: BlockRange<'_, Self::Block>, value: u8) -> Result<(), Error>;

    /// The address by which the device's programs reach the block; `None` where they do not use addresses. The same each
    /// time, a multiple of [`Properties::alignment_bytes_min`], and unlike that of every other block.
    fn device_address(&self, block: &Self::Block) -> Option<u64>;

    /// Creates a queue, whose value is 0.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the backend has no queues; [`ErrorKind::Driver`] if the driver has no more;
    /// [`ErrorKind::DeviceLost`].
    fn create_queue(&self) -> Result<Self::Queue, Error>;

    /// Puts a command at the end of a queue. Does not wait for it to run. `ticket` follows it: the backend adds what has
    /// arrived, stops early if it is cancelled and that can be, and notes what fails.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver did not take it, and then nothing is queued; [`ErrorKind::DeviceLost`].
    ///
    /// # Safety
    ///
    /// - Ranges lie in their blocks, host memory is as long as the copy, and a copy's two ends do not overlap.
    /// - Blocks are this device's, but for a copy's source where [`Backend::reads_peer`] answers true.
    /// - Until the queue's value shows that the command has run, or the device is lost, the blocks are not destroyed,
    ///   host memory stays where it is, and nobody writes what is read or touches what is written, other than commands
    ///   that are ordered after this one.
    unsafe fn enqueue(
        &self,
        queue: &Self::Queue,
        command: Command<'_, Self::Block>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error>;

    /// Whether this device's queues read blocks of that memory type of `peer`, another device of the backend, without the
    /// host between: then such a block may be the source of a [`Command::Copy`] that is enqueued here. May ask the driver.
    fn reads_peer(&self, peer: &Self, memory_type_index: usize) -> bool {
        let _ = (peer, memory_type_index);
        false
    }

    /// Puts a marker at the end of a queue: when everything before it has run, the queue's value becomes `value`. The core
    /// calls this for one queue by one thread at a time, with 1, 2, 3 and so on, also after a failure.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver did not take it: the value is then skipped, and covered by the next;
    /// [`ErrorKind::DeviceLost`].
    ///
    /// # Safety
    ///
    /// - Whoever takes the queue's value for true has made this call: the core's queues are signalled by the core alone.
    unsafe fn signal(&self, queue: &Self::Queue, value: u64) -> Result<(), Error>;

    /// A queue's value now. It never falls. Should be a plain load: the core asks often.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeviceLost`].
    fn completed(&self, queue: &Self::Queue) -> Result<u64, Error>;

    /// Blocks until a queue's value is at least `value`, or until `timeout` is over; true if the value is reached.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeviceLost`], at the latest when the timeout is over; [`ErrorKind::Driver`] if it cannot be waited for, such
    /// as by the queue's own work.
    fn wait(&self, queue: &Self::Queue, value: u64, timeout: Duration) -> Result<bool, Error>;

    /// Keeps what is enqueued to `queue` from now on from running before the value of `other` is at least `value`. Does
    /// not block. The marker for `value` has been put into `other` before, so that no two queues wait for each other.
    ///
    /// # Errors
    ///
    /// As [`Backend::signal`]; then nothing waits.
    fn wait_on_queue(&self, queue: &Self::Queue, other: &Self::Queue, value: u64) -> Result<(), Error>;
}

/// A backend whose types may be shared between threads, as most can. Implemented for every one that is.
///
/// What needs a thread of the manager's own (queues, allocations that wait) asks for it.
pub trait SyncBackend: Backend<Block: Send + Sync, Queue: Send + Sync> + Send + Sync {}

impl<B: Backend<Block: Send + Sync, Queue: Send + Sync> + Send + Sync> SyncBackend for B {}

/// A backend that can choose its device by itself.
pub trait DefaultDevice: Backend + Sized {
    /// The device that most programs mean.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if there is none; [`ErrorKind::Driver`] if the driver failed.
    fn default_device() -> Result<Self, Error>;
}
