//! Pinned memory as plain slices.

use super::super::buffer::{Buffer, miscast};
use super::super::operation::OperationError;
use crate::raw::allocation::Allocation;
use crate::raw::operation::HostMemory;
use crate::raw::pinned::{HostAllocation, NotHosts};
#[cfg(doc)]
use crate::{Queue, WhenRefused};
use aquifer_backend::{Backend, Error, ErrorKind, SyncBackend};
use bytemuck::{AnyBitPattern, NoUninit};
use std::any::Any;
use std::fmt;
use std::ops::{Deref, DerefMut};

/// Pinned memory that is the host's alone, owned: a slice of bytes that no queue uses, so that reading and writing it neither
/// waits nor fails. Freed when dropped, on any thread; it may outlive its manager.
///
/// From [`PinnedAllocator::allocate`](super::PinnedAllocator::allocate). To give it to a queue, turn it into a [`Buffer`]
/// ([`PinnedBuffer::into_buffer`]), and back by `PinnedBuffer::try_from`. This manager's transfers from and
/// to its slices go without a copy in between, if it [is locked](PinnedBuffer::is_locked).
///
/// The content of a new one is what the last user of the memory left, unless it was asked for zeroed.
pub struct PinnedBuffer<B: Backend> {
    allocation: HostAllocation<B>,
}

impl<B: Backend> fmt::Debug for PinnedBuffer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedBuffer")
            .field("start", &self.allocation.start())
            .field("size_bytes", &self.size_bytes())
            .field("is_locked", &self.is_locked())
            .finish()
    }
}

impl<B: Backend> PinnedBuffer<B> {
    pub(super) fn new(allocation: HostAllocation<B>) -> Self {
        Self { allocation }
    }

    /// The size that was asked for, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.allocation.len() as u64
    }

    /// Whether the system keeps the memory where it is; else it is unlocked memory that stands in for it
    /// ([`WhenRefused::UseUnlocked`]).
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.allocation.is_locked()
    }

    /// The memory as values, without a copy.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if its size is not a multiple of theirs.
    pub fn as_slice<T: AnyBitPattern>(&self) -> Result<&[T], Error> {
        let size = self.size_bytes();
        bytemuck::try_cast_slice(self).map_err(|reason| miscast::<T>("as_slice", size, reason))
    }

    /// The memory as values to be written, without a copy.
    ///
    /// # Errors
    ///
    /// As [`PinnedBuffer::as_slice`].
    pub fn as_mut_slice<T: NoUninit + AnyBitPattern>(&mut self) -> Result<&mut [T], Error> {
        let size = self.size_bytes();
        bytemuck::try_cast_slice_mut(self).map_err(|reason| miscast::<T>("as_mut_slice", size, reason))
    }

    /// The same memory as a buffer, for queues and views. It counts as pinned as before.
    #[must_use]
    pub fn into_buffer(self) -> Buffer<B> {
        Buffer::new(self.allocation.into_allocation())
    }
}

impl<B: Backend> Deref for PinnedBuffer<B> {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        self.allocation.bytes()
    }
}

impl<B: Backend> DerefMut for PinnedBuffer<B> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        self.allocation.bytes_mut()
    }
}

impl<B: Backend> AsRef<[u8]> for PinnedBuffer<B> {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl<B: Backend> AsMut<[u8]> for PinnedBuffer<B> {
    fn as_mut(&mut self) -> &mut [u8] {
        self
    }
}

/// A buffer of pinned memory ([`MemoryOptions::PINNED`](crate::MemoryOptions::PINNED)) that is at home on no queue and recorded for
/// none.
impl<B: Backend> TryFrom<Buffer<B>> for PinnedBuffer<B> {
    type Error = OperationError<Buffer<B>>;

    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the buffer is not pinned, or queues may use it ([`Queue::allocate`],
    /// [`Buffer::record_use`]); [`ErrorKind::Unsupported`] if the host cannot see it. The buffer comes back with the error.
    fn try_from(buffer: Buffer<B>) -> Result<Self, OperationError<Buffer<B>>> {
        let refuse = |kind, message: &str, allocation| {
            let error = Error::new(kind, "PinnedBuffer::try_from", message);
            Err(OperationError::new(error, 0, Some(Buffer::new(allocation))))
        };
        let allocation = buffer.into_allocation();
        if !allocation.is_pinned() {
            let message = "the buffer's memory is not pinned; allocate it with MemoryOptions::PINNED";
            return refuse(ErrorKind::InvalidArgument, message, allocation);
        }
        HostAllocation::new(allocation).map(Self::new).or_else(|(reason, allocation)| {
            let (kind, message) = in_words(reason);
            refuse(kind, message, allocation)
        })
    }
}

/// Why an allocation is none of the host's alone, for its user.
fn in_words(reason: NotHosts) -> (ErrorKind, &'static str) {
    match reason {
        NotHosts::Invisible => {
            (ErrorKind::Unsupported, "the host cannot see this device's pinned memory; use queues to fill it")
        }
        NotHosts::HasQueues => (
            ErrorKind::InvalidArgument,
            "queues may use the buffer, as its home or by record_use; read and write it as a buffer, which waits for them",
        ),
    }
}

/// Makes a new pinned allocation the host's.
pub(super) fn for_host<B: Backend>(allocation: Allocation<B>) -> Result<HostAllocation<B>, Error> {
    HostAllocation::new(allocation).map_err(|(reason, _)| {
        let (kind, message) = in_words(reason);
        Error::new(kind, "allocate", message)
    })
}

impl<B: SyncBackend> HostMemory for PinnedBuffer<B> {
    fn bytes_mut(&mut self) -> &mut [u8] {
        self
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}
