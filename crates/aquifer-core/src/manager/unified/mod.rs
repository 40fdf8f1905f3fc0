//! Buffers that the host and the device both use.

mod dirty;
mod guards;
mod side;
mod state;
mod uses;

pub use guards::{UnifiedOnDevice, UnifiedRead, UnifiedWrite};
pub use side::Side;

use super::buffer::{Buffer, backwards, checked_range};
use super::kinds::MemoryKind;
use super::queue::{Queue, foreign};
use super::{MemoryManager, MemoryOptions, shared};
use crate::range_lock::Access;
use crate::raw::allocation::Allocation;
use crate::raw::unified::UnifiedMemory;
use crate::statistics::Tag;
use aquifer_backend::{Backend, Error, ErrorKind};
use parking_lot::Mutex;
use state::State;
use std::fmt;
use std::ops::Range;

/// What the user's programs on the device do with a part of a [`UnifiedBuffer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DeviceAccess {
    /// They only read it.
    Read,
    /// They write all of it, and read nothing there that they have not written: what the host has written there need not be
    /// brought over. Bytes that they leave out hold anything after.
    Write,
    /// They read it, or write some of it, or both.
    ReadWrite,
}

/// Memory that the host and the device both use, in turns. From [`MemoryManager::unified`].
///
/// Where the device has *unified* memory ([`MemoryKind::Unified`](crate::MemoryKind)) it is one allocation, which both use where it is: *zero-copy*.
/// Elsewhere it is an allocation of the device's and a *shadow*, as long, in memory of the host that the device copies from and to; what one
/// side has written is brought over when the other is about to use it, and only that.
///
/// Either way the rules are the same. The host uses it through [`UnifiedBuffer::read`] and [`UnifiedBuffer::write`], which wait for what
/// the device does with those bytes. The device uses it between [`UnifiedBuffer::on_device`] and the drop of what that gives; what was given
/// to the queue meanwhile may run later. While one side has a guard, borrowing keeps the other out, so that neither sees what
/// the other is still writing. Different queues are ordered where they use the same bytes and one of them writes. (All in units of
/// 4 bytes, since a device may have to write all of one.)
///
/// ```no_run
/// use aquifer_core::{Backend, DeviceAccess, Error, MemoryManager, Queue};
///
/// fn double<B: Backend>(
///     manager: &MemoryManager<B>,
///     queue: &Queue<B>,
///     launch: impl Fn(&B::Queue, u64, u64),
/// ) -> Result<Vec<f32>, Error> {
///     let mut buffer = manager.unified(4096)?;
///     buffer.write()?.as_mut_slice::<f32>()?.fill(1.5);
///     let on_device = buffer.on_device(queue, DeviceAccess::ReadWrite)?;
///     let address = on_device.device_address().expect("this device's programs use addresses");
///     launch(queue.raw(), address, on_device.size_bytes());
///     drop(on_device);
///     // Waits for the program, and for nothing that the queue is given after it.
///     Ok(buffer.read()?.as_slice::<f32>()?.to_vec())
/// }
/// ```
///
/// It keeps its memory until all queues that were given work on it have done that, whenever it is dropped. It may be sent to other
/// threads where the backend's types may; threads that read at the same time may wait for each other's bytes to be brought over.
///
/// # Failures
///
/// What could not be brought to the host stays newer on the device, so that nobody takes old bytes for new, and is tried again. If it is
/// found later that a copy to the device has failed, the next call says so, once: what the device has written since from those
/// bytes is worthless. When the device is lost, what only it has is lost too: reading that answers [`ErrorKind::DeviceLost`], also
/// where what it wrote was not yet known to be over; the rest can still be read.
///
/// # Content
///
/// What nobody has written holds anything, and not the same on both sides, unless the options or the manager's
/// [`ZeroPolicy`](crate::ZeroPolicy) ask for zeros.
pub struct UnifiedBuffer<B: Backend> {
    // Dropped before the memory, with which the backend may go: it names queues.
    state: Mutex<State<B>>,
    memory: UnifiedMemory<B>,
}

impl<B: Backend> fmt::Debug for UnifiedBuffer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("UnifiedBuffer");
        debug.field("size_bytes", &self.size_bytes()).field("is_zero_copy", &self.is_zero_copy());
        // Whoever has it may be waiting for the device.
        if let Some(state) = self.state.try_lock() {
            let (on_host, on_device) = state.dirty_counts();
            debug.field("ranges_newer_on_host", &on_host).field("ranges_newer_on_device", &on_device);
        }
        debug.finish_non_exhaustive()
    }
}

impl<B: Backend> MemoryManager<B> {
    /// Allocates `bytes` bytes that the host and the device both use: zero-copy where the device has unified memory, else with a shadow in
    /// pinned memory, or, where there is none, in other memory that the host sees. See [`UnifiedBuffer`].
    ///
    /// A shadow is the manager's own. It counts as live and towards the budget of its heap, and under the tag, but not
    /// among the pinned allocations that [`Config::pinned`](crate::Config::pinned) limits.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate`]; [`ErrorKind::Unsupported`] where the device has no memory that the host sees.
    #[track_caller]
    pub fn unified(&self, bytes: u64) -> Result<UnifiedBuffer<B>, Error> {
        self.unified_with(bytes, MemoryOptions::DEFAULT)
    }

    /// As [`MemoryManager::unified`], with options: tag, alignment, zeroed. Their kind of memory is not looked at.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::allocate_with`], and as [`MemoryManager::unified`].
    #[track_caller]
    pub fn unified_with(&self, bytes: u64, options: MemoryOptions) -> Result<UnifiedBuffer<B>, Error> {
        let owner = &self.owner;
        // Where it is made says of which kind it is.
        let options = options.kind(MemoryKind::Device);
        let (device, shadow) = if let Ok(home) = owner.home_of(MemoryKind::Unified) {
            (shared::allocate(owner, home, bytes, options)?, None)
        } else {
            let home = owner.home_of_shadows()?;
            let device = shared::allocate(owner, owner.ordinary, bytes, options)?;
            (device, Some(shared::allocate(owner, home, bytes, options)?))
        };
        let memory = UnifiedMemory::new(device, shadow).ok_or_else(|| {
            let message = "the backend calls memory visible to the host that has no host pointer";
            Error::new(ErrorKind::Driver, "unified", message)
        })?;
        Ok(UnifiedBuffer { state: Mutex::new(State::default()), memory })
    }
}

impl<B: Backend> UnifiedBuffer<B> {
    fn allocation(&self) -> &Allocation<B> {
        self.memory.device()
    }

    /// The size that was asked for, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.allocation().requested_bytes()
    }

    /// Whether both sides use the same memory, so that nothing is ever copied.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.memory.is_zero_copy()
    }

    /// The tag that it is counted under, and its shadow, if it has one.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.allocation().tag()
    }

    /// The address of the first byte by which the device's programs reach it; `None` where they do not use addresses. Good
    /// until the buffer is dropped, for programs that are given to a queue under [`UnifiedBuffer::on_device`].
    #[must_use]
    pub fn device_address(&self) -> Option<u64> {
        self.allocation().device_address()
    }

    /// The buffer as an ordinary one of unified memory, if it is zero-copy; else itself. What queues still do with it, the buffer waits for as
    /// ever ([`Buffer::record_use`]).
    ///
    /// # Errors
    ///
    /// The buffer, unchanged, if it has a shadow.
    #[expect(clippy::result_large_err, reason = "what cannot be turned into another comes back as it was")]
    pub fn into_buffer(self) -> Result<Buffer<B>, Self> {
        let Self { state, memory } = self;
        match memory.into_allocation() {
            Ok(allocation) => Ok(Buffer::new(allocation)),
            Err(memory) => Err(Self { state, memory }),
        }
    }

    fn part(&self, operation: &'static str, range: Range<u64>) -> Result<Range<u64>, Error> {
        if range.start > range.end {
            return Err(backwards(operation, &range));
        }
        checked_range(operation, range.start, range.end - range.start, self.size_bytes())
    }

    fn check_manager(&self, operation: &'static str, queue: &Queue<B>) -> Result<(), Error> {
        let is_own = std::ptr::eq(self.memory.shared(), queue.manager().shared());
        if is_own { Ok(()) } else { Err(foreign(operation)) }
    }
}

/// The host's side. All of it blocks: until the device has done what is in the way on those bytes (not all that its queues have been given), and, with a shadow,
/// until what the device has newer there is brought over.
impl<B: Backend> UnifiedBuffer<B> {
    /// All bytes, to be read by the host.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeviceLost`] if the device has newer bytes and is lost; [`ErrorKind::Driver`] if they could not be waited for or
    /// brought over, or an earlier copy to the device has failed (see the type's text); [`ErrorKind::Forked`].
    pub fn read(&self) -> Result<UnifiedRead<'_, B>, Error> {
        self.read_range(0..self.size_bytes())
    }

    /// As [`UnifiedBuffer::read`], a part: nothing else is waited for or brought over.
    ///
    /// # Errors
    ///
    /// As [`UnifiedBuffer::read`]; [`ErrorKind::OutOfBounds`] if the range is not in the buffer.
    pub fn read_range(&self, range: Range<u64>) -> Result<UnifiedRead<'_, B>, Error> {
        let range = self.part("read", range)?;
        self.state.lock().begin_host(&self.memory, "read", &range, Access::Read)?;
        Ok(UnifiedRead::new(self.memory.bytes(range.clone()), range))
    }

    /// All bytes, to be read and written by the host. All of them count as written, whatever is: write parts with
    /// [`UnifiedBuffer::write_range`].
    ///
    /// # Errors
    ///
    /// As [`UnifiedBuffer::read`].
    pub fn write(&mut self) -> Result<UnifiedWrite<'_, B>, Error> {
        self.write_range(0..self.size_bytes())
    }

    /// As [`UnifiedBuffer::write`], a part.
    ///
    /// # Errors
    ///
    /// As [`UnifiedBuffer::read_range`].
    pub fn write_range(&mut self, range: Range<u64>) -> Result<UnifiedWrite<'_, B>, Error> {
        let range = self.part("write", range)?;
        // They count as written from now on, so that it does not matter whether the guard is dropped or forgotten: until its borrow ends
        // nobody else looks.
        self.state.get_mut().begin_host(&self.memory, "write", &range, Access::Write)?;
        Ok(UnifiedWrite::new(self.memory.bytes_mut(range.clone()), range))
    }

    /// Blocks until no queue uses the buffer any more and both sides have the same bytes.
    ///
    /// # Errors
    ///
    /// As [`UnifiedBuffer::read`]; [`ErrorKind::DeviceLost`] whenever the device is lost.
    pub fn synchronize(&self) -> Result<(), Error> {
        self.state.lock().synchronize(&self.memory)
    }
}

/// The device's side. Its calls do not block, but for the first of a thousand uses when so many are in flight.
impl<B: Backend> UnifiedBuffer<B> {
    /// All of the buffer, for programs that the user gives to `queue` while the answer lives: they see what host and device
    /// have written before, in the order of the calls.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the queue is of another manager; [`ErrorKind::Driver`] if the driver refused, or an earlier copy to
    /// the device has failed (see the type's text); [`ErrorKind::DeviceLost`]; [`ErrorKind::Forked`].
    pub fn on_device<'a>(
        &'a mut self,
        queue: &'a Queue<B>,
        access: DeviceAccess,
    ) -> Result<UnifiedOnDevice<'a, B>, Error> {
        self.on_device_range(queue, 0..self.size_bytes(), access)
    }

    /// As [`UnifiedBuffer::on_device`], a part, to which the programs must keep.
    ///
    /// # Errors
    ///
    /// As [`UnifiedBuffer::on_device`]; [`ErrorKind::OutOfBounds`] if the range is not in the buffer.
    pub fn on_device_range<'a>(
        &'a mut self,
        queue: &'a Queue<B>,
        range: Range<u64>,
        access: DeviceAccess,
    ) -> Result<UnifiedOnDevice<'a, B>, Error> {
        let range = self.part("on_device", range)?;
        self.check_manager("on_device", queue)?;
        let (reads, writes) = match access {
            DeviceAccess::Read => (true, false),
            DeviceAccess::Write => (false, true),
            DeviceAccess::ReadWrite => (true, true),
        };
        self.state.get_mut().begin_device(&self.memory, queue.state(), &range, (reads, writes))?;
        Ok(UnifiedOnDevice::new(self, queue, range, access))
    }

    /// Begins to bring to a side what the other has newer, on `queue`, so that it need not be waited for when it is needed. A hint:
    /// everything is as right without it. A zero-copy buffer does nothing.
    ///
    /// # Errors
    ///
    /// As [`UnifiedBuffer::on_device`].
    pub fn prefetch(&self, to: Side, queue: &Queue<B>) -> Result<(), Error> {
        self.check_manager("prefetch", queue)?;
        self.state.lock().prefetch(&self.memory, queue.state(), to)
    }
}
