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

mod error;
mod properties;
mod queue;

pub use error::{Error, ErrorKind, OutOfMemoryReport, TagUsage};
pub use properties::{Capabilities, Heap, HeapBudget, MemoryFlags, MemoryType, Properties};
pub use queue::{Command, CopyEnd, Ticket};

use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// What a block to be created must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockDesc {
    /// Size in bytes: a multiple of [`Properties::block_granularity_bytes`], at least one granule.
    pub bytes: u64,
    /// Index into [`Properties::memory_types`].
    pub memory_type_index: usize,
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
///   `desc.bytes` bytes from it are readable, writable and initialised until the block is destroyed (or the range is
///   released), and the pointer
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
    fn create_block(&self, desc: &BlockDesc) -> Result<Self::Block, Error>;

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

    /// Gives the physical memory of a part of a block back for good; its addresses stay the block's until the block is
    /// destroyed. Obliged by [`Capabilities::RELEASE_RANGE`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without the capability; [`ErrorKind::Driver`] if the driver refused, and nothing has
    /// changed.
    ///
    /// # Safety
    ///
    /// - The range lies in its block, and begins and ends at multiples of [`Properties::block_granularity_bytes`].
    /// - Nobody uses it, now or until the block is destroyed.
    unsafe fn release_range(&self, range: BlockRange<'_, Self::Block>) -> Result<(), Error> {
        let message = format!("the {} backend gives back whole blocks only", self.properties().backend);
        let _ = range;
        Err(Error::new(ErrorKind::Unsupported, "release_range", message))
    }

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
    /// - Until the queue's value shows that the command has run, or the device is lost, the blocks are not destroyed,
    ///   host memory stays where it is, and nobody writes what is read or touches what is written, other than commands
    ///   that are ordered after this one.
    unsafe fn enqueue(
        &self,
        queue: &Self::Queue,
        command: Command<'_, Self::Block>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error>;

    /// Puts a marker at the end of a queue: when everything before it has run, the queue's value becomes `value`. The core
    /// calls this for one queue by one thread at a time, with 1, 2, 3 and so on, also after a failure.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver did not take it: the value is then skipped, and covered by the next;
    /// [`ErrorKind::DeviceLost`].
    fn signal(&self, queue: &Self::Queue, value: u64) -> Result<(), Error>;

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
