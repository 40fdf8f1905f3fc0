//! Queues as their users hold them.

use super::buffer::{Buffer, checked_range};
use super::operation::{Operation, OperationError};
use super::queues::QueueState;
use super::{MemoryManager, MemoryOptions, shared};
use crate::raw::operation::{HostMemory, OperationState, Parts, Refused, Work};
use aquifer_backend::{Backend, Error, ErrorKind};
use bytemuck::{AnyBitPattern, NoUninit};
use std::fmt;
use std::sync::Arc;

/// A queue of the device: what is given to it is done later, one after the other. From
/// [`MemoryManager::queue`].
///
/// A handle: clones are cheap and mean the same queue, and any thread may use it. It keeps its manager. When the last
/// handle is dropped, what is under way goes on, buffers stay as good as they were, and the driver's queue is kept for the
/// next caller of [`MemoryManager::queue`]. Nothing waits for what is under way when a process ends: call
/// [`Queue::synchronize`] first.
///
/// # Memory and queues
///
/// A buffer from [`Queue::allocate`] is *at home* on the queue. When it is dropped, its memory can be used again on the
/// same queue at once, while the device may still be busy with what the old buffer was used for: whatever uses the new one
/// comes later in the same queue. Elsewhere the memory is used again only after the queue has done what it had been given.
///
/// So the first use of such a buffer by the user's own programs must be on its home queue, or be ordered after it. Other
/// queues that the user's programs use a buffer on must be recorded with [`Buffer::record_use`], for buffers without a home
/// too. What Aquifer does by itself needs neither: operations order themselves, and host access waits.
pub struct Queue<B: Backend> {
    handle: Arc<Handle<B>>,
}

struct Handle<B: Backend> {
    // Dropped before the manager, with which the backend may go.
    state: Arc<QueueState<B::Queue>>,
    manager: MemoryManager<B>,
}

impl<B: Backend> Drop for Handle<B> {
    fn drop(&mut self) {
        self.manager.owner.queues.give_back(&self.state);
    }
}

impl<B: Backend> Clone for Queue<B> {
    fn clone(&self) -> Self {
        Self { handle: Arc::clone(&self.handle) }
    }
}

impl<B: Backend> fmt::Debug for Queue<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("index", &self.handle.state.index)
            .field("completed", &self.handle.state.timeline.completed())
            .finish_non_exhaustive()
    }
}

/// Which part of one buffer goes where in another. All in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyDesc {
    /// First byte, counted from the start of the source.
    pub source_offset: u64,
    /// First byte, counted from the start of the destination.
    pub destination_offset: u64,
    /// Length.
    pub bytes: u64,
}

impl<B: Backend> Queue<B> {
    pub(super) fn new(manager: MemoryManager<B>, state: Arc<QueueState<B::Queue>>) -> Self {
        Self { handle: Arc::new(Handle { manager, state }) }
    }

    pub(super) fn state(&self) -> &Arc<QueueState<B::Queue>> {
        &self.handle.state
    }

    /// The manager that the queue belongs to.
    #[must_use]
    pub fn manager(&self) -> &MemoryManager<B> {
        &self.handle.manager
    }

    /// The backend's queue, for programs that give it work of their own: a CUDA stream, a worker thread of the host.
    #[must_use]
    pub fn raw(&self) -> &B::Queue {
        &self.handle.state.raw
    }

    /// Allocates `bytes` bytes at home on this queue; see the type's text. As fast as
    /// [`MemoryManager::allocate`].
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate`].
    #[inline]
    #[track_caller]
    pub fn allocate(&self, bytes: u64) -> Result<Buffer<B>, Error> {
        self.allocate_with(bytes, MemoryOptions::DEFAULT)
    }

    /// Allocates `bytes` bytes at home on this queue, with options. Memory that must be zeroed is cleared by the queue,
    /// without waiting for it.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate_with`].
    #[inline]
    #[track_caller]
    pub fn allocate_with(&self, bytes: u64, options: MemoryOptions) -> Result<Buffer<B>, Error> {
        let state = &self.handle.state;
        let home = shared::Home { key: state.lanes[0], queue: state.index };
        shared::allocate(&self.handle.manager.owner, home, bytes, options).map(Buffer::new)
    }

    /// Puts a marker into the queue; [`Queue::wait`] for its value waits for everything that was given to the queue before.
    /// Does not wait.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver did not take it; [`ErrorKind::DeviceLost`].
    pub fn signal(&self) -> Result<u64, Error> {
        let owner = &self.handle.manager.owner;
        owner.signal(&self.handle.state)
    }

    /// The highest value that the queue has reached. Cheap.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeviceLost`]; [`ErrorKind::Forked`].
    pub fn completed(&self) -> Result<u64, Error> {
        let owner = &self.handle.manager.owner;
        owner.check_process("Queue::completed")?;
        owner.note(owner.backend.completed(&self.handle.state.raw))
    }

    /// Blocks until the queue has reached `value`, from [`Queue::signal`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::TimedOut`] if that has not come after `timeout`; [`ErrorKind::InvalidArgument`] for a value that no
    /// marker has; [`ErrorKind::DeviceLost`].
    pub fn wait(&self, value: u64, timeout: std::time::Duration) -> Result<(), Error> {
        let state = &self.handle.state;
        let claimed = state.timeline.claimed();
        if value > claimed {
            let message = format!("value {value} asked for; the last marker has {claimed}");
            return Err(Error::new(ErrorKind::InvalidArgument, "Queue::wait", message));
        }
        if self.handle.manager.owner.wait_a_while(state, value, timeout)? {
            return Ok(());
        }
        let message = format!("the queue has not reached {value} after {timeout:?}");
        Err(Error::new(ErrorKind::TimedOut, "Queue::wait", message))
    }

    /// Blocks until everything that was given to the queue so far is done.
    ///
    /// # Errors
    ///
    /// As [`Queue::signal`] and [`Queue::wait`].
    pub fn synchronize(&self, timeout: std::time::Duration) -> Result<(), Error> {
        let value = self.signal()?;
        self.wait(value, timeout)
    }

    /// Keeps what is given to this queue from now on from running before `other` has done what it was given so far. Does not
    /// block.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the queues are of two managers; as [`Queue::signal`].
    pub fn wait_on(&self, other: &Self) -> Result<(), Error> {
        let owner = &self.handle.manager.owner;
        if !std::ptr::eq(&***owner, &**other.handle.manager.owner) {
            return Err(foreign("Queue::wait_on"));
        }
        if self.handle.state.index == other.handle.state.index {
            return Ok(());
        }
        let value = other.signal()?;
        owner.note(owner.backend.wait_on_queue(&self.handle.state.raw, &other.handle.state.raw, value))
    }

    /// Begins to set every byte of a buffer to `value`. The buffer comes back when that is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the buffer is of another manager; [`ErrorKind::Driver`];
    /// [`ErrorKind::DeviceLost`]. The buffer comes back with the error.
    pub fn fill(
        &self,
        buffer: Buffer<B>,
        value: u8,
    ) -> Result<Operation<B, Buffer<B>>, OperationError<Buffer<B>>> {
        let bytes = buffer.size_bytes();
        let work = Work::Fill { range: 0..bytes, value };
        self.begin("fill", parts(None, Some(buffer), None), bytes, Ok(work), take_destination)
    }

    /// Begins to copy a part of one buffer to another. Both come back when that is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if a part is not in its buffer; else as [`Queue::fill`]. The buffers come back with the
    /// error.
    #[expect(clippy::type_complexity, reason = "the answer is the two buffers, whatever happened")]
    pub fn copy(
        &self,
        source: Buffer<B>,
        destination: Buffer<B>,
        desc: CopyDesc,
    ) -> Result<Operation<B, (Buffer<B>, Buffer<B>)>, OperationError<(Buffer<B>, Buffer<B>)>> {
        let CopyDesc { source_offset, destination_offset, bytes } = desc;
        let work = checked_range("copy", source_offset, bytes, source.size_bytes()).and_then(|range| {
            checked_range("copy", destination_offset, bytes, destination.size_bytes())?;
            Ok(Work::Copy { source: range, offset: destination_offset })
        });
        self.begin("copy", parts(Some(source), Some(destination), None), bytes, work, take_both)
    }

    /// Begins to copy values of the host to a buffer, from a byte offset on. Both come back when that is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if they do not fit; else as [`Queue::fill`]. Both come back with the error.
    #[expect(clippy::type_complexity, reason = "the answer is both ends, whatever happened")]
    pub fn upload<T: NoUninit + AnyBitPattern + Send>(
        &self,
        values: Vec<T>,
        destination: Buffer<B>,
        offset: u64,
    ) -> Result<Operation<B, (Buffer<B>, Vec<T>)>, OperationError<(Buffer<B>, Vec<T>)>> {
        let bytes = size_of_val(values.as_slice()) as u64;
        let work = checked_range("upload", offset, bytes, destination.size_bytes());
        let work = work.map(|_| Work::Upload { offset });
        let parts = parts(None, Some(destination), Some(Box::new(values)));
        self.begin("upload", parts, bytes, work, take_uploaded)
    }

    /// Begins to copy `count` values from a buffer, from a byte offset on, to the host. The buffer and the values come
    /// when that is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if there are not so many; else as [`Queue::fill`]. The buffer comes back with the error.
    #[expect(clippy::type_complexity, reason = "the answer is both ends, whatever happened")]
    pub fn download<T: NoUninit + AnyBitPattern + Send>(
        &self,
        source: Buffer<B>,
        offset: u64,
        count: usize,
    ) -> Result<Operation<B, (Buffer<B>, Vec<T>)>, OperationError<(Buffer<B>, Vec<T>)>> {
        let bytes = (count as u64).saturating_mul(size_of::<T>() as u64);
        let work = checked_range("download", offset, bytes, source.size_bytes());
        let values: Vec<T> = if work.is_ok() { vec![T::zeroed(); count] } else { Vec::new() };
        let work = work.map(|source| Work::Download { source });
        let parts = parts(Some(source), None, Some(Box::new(values)));
        self.begin("download", parts, bytes, work, take_downloaded)
    }

    fn begin<T>(
        &self,
        operation: &'static str,
        parts: Parts<B>,
        bytes: u64,
        work: Result<Work, Error>,
        take: fn(Parts<B>) -> T,
    ) -> Result<Operation<B, T>, OperationError<T>> {
        let owner = &self.handle.manager.owner;
        let refuse = |error, parts| Err(OperationError::new(error, 0, Some(take(parts))));
        let work = match work {
            Ok(work) => work,
            Err(error) => return refuse(error, parts),
        };
        if !parts.allocations().all(|part| std::ptr::eq(part.shared(), &***owner)) {
            return refuse(foreign(operation), parts);
        }
        match OperationState::begin(owner, &self.handle.state, parts, work) {
            Ok(state) => Ok(Operation::new(self.handle.manager.clone(), state, bytes, take)),
            Err(Refused { error, parts }) => refuse(error, parts),
        }
    }
}

pub(super) fn foreign(operation: &'static str) -> Error {
    let message = "the queue belongs to another manager; use one that this manager made";
    Error::new(ErrorKind::InvalidArgument, operation, message)
}

impl<B: Backend> MemoryManager<B> {
    /// Allocates `bytes` bytes at home on a queue of this manager: [`Queue::allocate`], for programs that hold managers and
    /// queues apart.
    ///
    /// # Errors
    ///
    /// As [`Queue::allocate`]; also [`ErrorKind::InvalidArgument`] if the queue belongs to another manager.
    #[inline]
    #[track_caller]
    pub fn allocate_on(&self, queue: &Queue<B>, bytes: u64) -> Result<Buffer<B>, Error> {
        if std::ptr::eq(&**self.owner, &**queue.handle.manager.owner) {
            return queue.allocate(bytes);
        }
        Err(foreign("allocate_on"))
    }
}

impl<B: Backend> Buffer<B> {
    /// Notes that work on `queue` may use the buffer, from now until it is dropped. What `queue` has been given by the time
    /// the buffer is dropped keeps its memory from being used again; nothing need be called when the work is over. This is a
    /// note in the buffer, and so is its drop in the thread, but that every 64th of such drops puts a marker into each of
    /// their queues.
    ///
    /// For work that the user gives to the queue by other means than Aquifer's operations, which look after themselves.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the queue belongs to another manager.
    pub fn record_use(&self, queue: &Queue<B>) -> Result<(), Error> {
        let owner = &queue.handle.manager.owner;
        if !std::ptr::eq(self.allocation().shared(), &***owner) {
            return Err(foreign("record_use"));
        }
        self.allocation().record_use(queue.handle.state.index);
        Ok(())
    }
}

fn parts<B: Backend>(
    source: Option<Buffer<B>>,
    destination: Option<Buffer<B>>,
    host: Option<Box<dyn HostMemory>>,
) -> Parts<B> {
    Parts {
        source: source.map(Buffer::into_allocation),
        destination: destination.map(Buffer::into_allocation),
        host,
    }
}

fn take_destination<B: Backend>(parts: Parts<B>) -> Buffer<B> {
    Buffer::new(parts.destination.expect("a fill has a destination"))
}

fn take_both<B: Backend>(parts: Parts<B>) -> (Buffer<B>, Buffer<B>) {
    let source = parts.source.expect("a copy has a source");
    (Buffer::new(source), Buffer::new(parts.destination.expect("a copy has a destination")))
}

fn take_values<T: 'static>(host: Option<Box<dyn HostMemory>>) -> Vec<T> {
    let host = host.expect("an upload or download has host memory").into_any();
    *host.downcast().expect("it is what was put in")
}

fn take_uploaded<B: Backend, T: 'static>(parts: Parts<B>) -> (Buffer<B>, Vec<T>) {
    (Buffer::new(parts.destination.expect("an upload has a destination")), take_values(parts.host))
}

fn take_downloaded<B: Backend, T: 'static>(parts: Parts<B>) -> (Buffer<B>, Vec<T>) {
    (Buffer::new(parts.source.expect("a download has a source")), take_values(parts.host))
}
