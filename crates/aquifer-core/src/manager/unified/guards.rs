//! A unified buffer in the hands of one side.

use super::super::buffer::miscast;
use super::super::queue::Queue;
use super::{DeviceAccess, UnifiedBuffer};
use aquifer_backend::{Backend, Error};
use bytemuck::{AnyBitPattern, NoUninit};
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut, Range};

/// Bytes of a [`UnifiedBuffer`], to be read by the host where they are; from [`UnifiedBuffer::read`].
pub struct UnifiedRead<'a, B: Backend> {
    bytes: &'a [u8],
    range: Range<u64>,
    buffer: PhantomData<&'a UnifiedBuffer<B>>,
}

/// Bytes of a [`UnifiedBuffer`], to be read and written by the host where they are; from [`UnifiedBuffer::write`].
pub struct UnifiedWrite<'a, B: Backend> {
    bytes: &'a mut [u8],
    range: Range<u64>,
    buffer: PhantomData<&'a mut UnifiedBuffer<B>>,
}

impl<'a, B: Backend> UnifiedRead<'a, B> {
    pub(super) fn new(bytes: &'a [u8], range: Range<u64>) -> Self {
        Self { bytes, range, buffer: PhantomData }
    }

    /// Where in the buffer they are.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The bytes as values of another type.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`](aquifer_backend::ErrorKind::InvalidArgument) if their number is not a multiple of the values' size,
    /// or the part does not begin at a multiple of their alignment.
    pub fn as_slice<T: AnyBitPattern>(&self) -> Result<&[T], Error> {
        bytemuck::try_cast_slice(self.bytes).map_err(|reason| miscast::<T>("as_slice", self.size(), reason))
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl<'a, B: Backend> UnifiedWrite<'a, B> {
    pub(super) fn new(bytes: &'a mut [u8], range: Range<u64>) -> Self {
        Self { bytes, range, buffer: PhantomData }
    }

    /// Where in the buffer they are.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The bytes as values of another type.
    ///
    /// # Errors
    ///
    /// As [`UnifiedRead::as_slice`].
    pub fn as_slice<T: AnyBitPattern>(&self) -> Result<&[T], Error> {
        bytemuck::try_cast_slice(self.bytes).map_err(|reason| miscast::<T>("as_slice", self.size(), reason))
    }

    /// The bytes as values of another type, to be written.
    ///
    /// # Errors
    ///
    /// As [`UnifiedRead::as_slice`].
    pub fn as_mut_slice<T: NoUninit + AnyBitPattern>(&mut self) -> Result<&mut [T], Error> {
        let size = self.size();
        bytemuck::try_cast_slice_mut(self.bytes).map_err(|reason| miscast::<T>("as_mut_slice", size, reason))
    }

    fn size(&self) -> u64 {
        self.bytes.len() as u64
    }
}

impl<B: Backend> Deref for UnifiedRead<'_, B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl<B: Backend> Deref for UnifiedWrite<'_, B> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes
    }
}

impl<B: Backend> DerefMut for UnifiedWrite<'_, B> {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes
    }
}

impl<B: Backend> fmt::Debug for UnifiedRead<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnifiedRead").field("range", &self.range).finish()
    }
}

impl<B: Backend> fmt::Debug for UnifiedWrite<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnifiedWrite").field("range", &self.range).finish()
    }
}

/// A part of a [`UnifiedBuffer`], or all of it, for programs on the device; from [`UnifiedBuffer::on_device`].
///
/// What is given to its queue while it lives may use the part. When it is dropped, a marker is put behind that, which the host and other queues wait
/// for. Forgotten, it is as good, but that the marker comes later, behind more.
#[must_use = "programs are given to the queue while it lives"]
pub struct UnifiedOnDevice<'a, B: Backend> {
    buffer: &'a mut UnifiedBuffer<B>,
    queue: &'a Queue<B>,
    range: Range<u64>,
    access: DeviceAccess,
}

impl<'a, B: Backend> UnifiedOnDevice<'a, B> {
    pub(super) fn new(
        buffer: &'a mut UnifiedBuffer<B>,
        queue: &'a Queue<B>,
        range: Range<u64>,
        access: DeviceAccess,
    ) -> Self {
        Self { buffer, queue, range, access }
    }

    /// Where in the buffer the part is.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }

    /// The size of the part in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// What the programs may do with it.
    #[must_use]
    pub fn access(&self) -> DeviceAccess {
        self.access
    }

    /// The queue that they are to be given to.
    #[must_use]
    pub fn queue(&self) -> &Queue<B> {
        self.queue
    }

    /// The address of the part's first byte by which the device's programs reach it; `None` where they do not use addresses.
    #[must_use]
    pub fn device_address(&self) -> Option<u64> {
        Some(self.buffer.device_address()? + self.range.start)
    }

    /// Gives `use_block` the driver's block that the part lies in, and the part's first byte in it; see
    /// [`Buffer::with_block`](crate::Buffer::with_block).
    pub fn with_block<R>(&self, use_block: impl FnOnce(&B::Block, u64) -> R) -> R {
        self.buffer.allocation().with_block(|block, start| use_block(block, start + self.range.start))
    }
}

impl<B: Backend> Drop for UnifiedOnDevice<'_, B> {
    fn drop(&mut self) {
        let UnifiedBuffer { state, memory } = &mut *self.buffer;
        state.get_mut().end_device(memory, self.queue.state());
    }
}

impl<B: Backend> fmt::Debug for UnifiedOnDevice<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnifiedOnDevice")
            .field("range", &self.range)
            .field("access", &self.access)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}
