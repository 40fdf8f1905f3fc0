//! What an allocation looks like to its user.

use super::shared::Shared;
use super::view::BufferView;
use crate::raw::allocation::Allocation;
use crate::statistics::Tag;
use aquifer_backend::{Backend, Error, ErrorKind};
use bytemuck::{AnyBitPattern, NoUninit};
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;

/// Device memory, owned. Freed when dropped, on any thread; it may outlive its manager.
///
/// Borrowing is the access rule: what reads takes `&self`, what writes takes `&mut self`. To share one buffer between
/// several owners, or to hand out parts of it, turn it into a [`BufferView`].
///
/// Host access to a buffer that is at home on a [`Queue`](crate::Queue), or recorded for some, first waits until these queues
/// have done what they were given so far; then it can also fail with [`ErrorKind::DeviceLost`] or [`ErrorKind::Driver`].
///
/// The content is what the last user of the memory left, unless the options or the manager's
/// [`ZeroPolicy`](crate::ZeroPolicy) ask for zeros.
pub struct Buffer<B: Backend> {
    allocation: Allocation<B>,
}

impl<B: Backend> fmt::Debug for Buffer<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = self.allocation.place();
        f.debug_struct("Buffer")
            .field("size_bytes", &self.size_bytes())
            .field("block", &place.block())
            .field("offset", &place.offset)
            .finish()
    }
}

/// Checks that `offset..offset + bytes` lies in `size`.
pub(super) fn checked_range(
    operation: &'static str,
    offset: u64,
    bytes: u64,
    size: u64,
) -> Result<Range<u64>, Error> {
    match offset.checked_add(bytes) {
        Some(end) if end <= size => Ok(offset..end),
        _ => {
            let message = format!("{bytes} bytes at offset {offset} asked for; there are {size}");
            Err(Error::new(ErrorKind::OutOfBounds, operation, message))
        }
    }
}

pub(super) fn backwards(operation: &'static str, range: &Range<u64>) -> Error {
    let message = format!("{}..{} ends before it starts", range.start, range.end);
    Error::new(ErrorKind::OutOfBounds, operation, message)
}

/// Part of the host's view of memory. The range has been checked against the memory's size.
pub(super) fn slice(bytes: &[u8], range: Range<u64>) -> &[u8] {
    &bytes[range.start as usize..range.end as usize]
}

/// As [`slice()`], to be written.
pub(super) fn slice_mut(bytes: &mut [u8], range: Range<u64>) -> &mut [u8] {
    &mut bytes[range.start as usize..range.end as usize]
}

pub(super) fn not_visible(operation: &'static str) -> Error {
    Error::new(
        ErrorKind::Unsupported,
        operation,
        "the host cannot see this memory; copy it to memory that it can",
    )
}

pub(super) fn miscast<T>(operation: &'static str, size: u64, reason: bytemuck::PodCastError) -> Error {
    let message = format!("{size} bytes as values of {} bytes: {reason}", size_of::<T>());
    Error::new(ErrorKind::InvalidArgument, operation, message)
}

impl<B: Backend> Buffer<B> {
    #[inline]
    pub(super) fn new(allocation: Allocation<B>) -> Self {
        Self { allocation }
    }

    pub(super) fn allocation(&self) -> &Allocation<B> {
        &self.allocation
    }

    pub(super) fn allocation_mut(&mut self) -> &mut Allocation<B> {
        &mut self.allocation
    }

    pub(super) fn into_allocation(self) -> Allocation<B> {
        self.allocation
    }

    /// The size that was asked for, in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.allocation.requested_bytes()
    }

    /// What the buffer occupies, rounding included, in bytes.
    #[must_use]
    pub fn allocated_bytes(&self) -> u64 {
        self.allocation.allocated_bytes()
    }

    /// The tag that it is counted under.
    #[must_use]
    pub fn tag(&self) -> Tag {
        self.allocation.tag()
    }

    /// The address of the first byte by which the device's programs reach it; `None` where they do not use addresses. Good
    /// until the buffer is dropped.
    #[must_use]
    pub fn device_address(&self) -> Option<u64> {
        self.allocation.device_address()
    }

    /// The host's address of the first byte; `None` where the host cannot see the memory. Good until the buffer is
    /// dropped. Reading or writing through it is unsafe, and must keep to the rule of borrowing, and to the queues that may
    /// use the buffer.
    #[must_use]
    pub fn host_pointer(&self) -> Option<NonNull<u8>> {
        self.allocation.host_pointer()
    }

    /// Gives `use_block` the driver's block that the buffer lies in, and the buffer's first byte in it: for programs that
    /// give the driver's own object to work of their own, as Metal and Vulkan want it. That work must keep to the buffer's
    /// bounds and to the queues that may use it; other parts of the block are others'.
    pub fn with_block<R>(&self, use_block: impl FnOnce(&B::Block, u64) -> R) -> R {
        self.allocation.with_block(use_block)
    }

    /// Writes values at a byte offset. Blocks until they are there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if they do not fit, and nothing is written; [`ErrorKind::Unsupported`] if the host
    /// cannot see the memory.
    pub fn write<T: NoUninit>(&mut self, offset: u64, values: &[T]) -> Result<(), Error> {
        let values: &[u8] = bytemuck::cast_slice(values);
        let range = checked_range("write", offset, values.len() as u64, self.size_bytes())?;
        let bytes = self.allocation.bytes_mut()?.ok_or_else(|| not_visible("write"))?;
        slice_mut(bytes, range).copy_from_slice(values);
        Ok(())
    }

    /// Reads values from a byte offset. Blocks until they are there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if there are not so many, and nothing is read; [`ErrorKind::Unsupported`] if the host
    /// cannot see the memory.
    pub fn read<T: NoUninit + AnyBitPattern>(&self, offset: u64, values: &mut [T]) -> Result<(), Error> {
        let values: &mut [u8] = bytemuck::cast_slice_mut(values);
        let range = checked_range("read", offset, values.len() as u64, self.size_bytes())?;
        let bytes = self.allocation.bytes()?.ok_or_else(|| not_visible("read"))?;
        values.copy_from_slice(slice(bytes, range));
        Ok(())
    }

    /// Sets every byte to `value`. Blocks until it is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver failed.
    pub fn fill(&mut self, value: u8) -> Result<(), Error> {
        self.allocation.fill(0..self.size_bytes(), value)
    }

    /// Sets every byte of `range` to `value`. Blocks until it is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if the range is not in the buffer, [`ErrorKind::Driver`] if the driver failed.
    pub fn fill_range(&mut self, range: Range<u64>, value: u8) -> Result<(), Error> {
        if range.start > range.end {
            return Err(backwards("fill", &range));
        }
        let range = checked_range("fill", range.start, range.end - range.start, self.size_bytes())?;
        self.allocation.fill(range, value)
    }

    /// Copies `bytes` bytes from `source` at `source_offset` to this buffer at `offset`. Blocks until they have
    /// arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if either range is not in its buffer, [`ErrorKind::InvalidArgument`] if the buffers
    /// are of two managers, [`ErrorKind::Driver`] if the driver failed.
    pub fn copy_from(
        &mut self,
        offset: u64,
        source: &Self,
        source_offset: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        checked_range("copy", source_offset, bytes, source.size_bytes())?;
        checked_range("copy", offset, bytes, self.size_bytes())?;
        check_one_manager(self.allocation.shared(), source.allocation.shared())?;
        self.allocation.copy_from(offset, &source.allocation, source_offset, bytes)
    }

    /// The buffer as values, without a copy.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if its size is not a multiple of theirs; [`ErrorKind::Unsupported`] if the host
    /// cannot see the memory.
    pub fn as_slice<T: AnyBitPattern>(&self) -> Result<&[T], Error> {
        let bytes = self.allocation.bytes()?.ok_or_else(|| not_visible("as_slice"))?;
        bytemuck::try_cast_slice(bytes).map_err(|reason| miscast::<T>("as_slice", self.size_bytes(), reason))
    }

    /// The buffer as values to be written, without a copy.
    ///
    /// # Errors
    ///
    /// As [`Buffer::as_slice`].
    pub fn as_mut_slice<T: NoUninit + AnyBitPattern>(&mut self) -> Result<&mut [T], Error> {
        let size = self.size_bytes();
        let bytes = self.allocation.bytes_mut()?.ok_or_else(|| not_visible("as_mut_slice"))?;
        bytemuck::try_cast_slice_mut(bytes).map_err(|reason| miscast::<T>("as_mut_slice", size, reason))
    }

    /// The buffer as a view of all of it, to be cloned, cut and shared.
    #[must_use]
    pub fn into_view(self) -> BufferView<B> {
        BufferView::new(self)
    }
}

pub(super) fn check_one_manager<B: Backend>(one: &Shared<B>, other: &Shared<B>) -> Result<(), Error> {
    if std::ptr::eq(one, other) {
        return Ok(());
    }
    let message = "the buffers belong to two managers; read one and write the other";
    Err(Error::new(ErrorKind::InvalidArgument, "copy", message))
}
