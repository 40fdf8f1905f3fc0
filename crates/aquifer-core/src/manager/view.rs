//! Parts of a buffer that share it.

use super::buffer::{Buffer, backwards, check_one_manager, checked_range, not_visible, slice, slice_mut};
use crate::raw::allocation::Allocation;
use aquifer_backend::{Backend, Error, ErrorKind};
use bytemuck::{AnyBitPattern, NoUninit};
use parking_lot::RwLock;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A part of a buffer, or all of it, that keeps the buffer alive.
///
/// Views of one buffer may overlap and be used from any thread: each access takes a lock that the buffer's views share,
/// readers together, a writer alone, and so may block for as long as another view's access lasts. Every offset counts
/// from the start of the view, and nothing outside the view can be reached through it. Clones are cheap.
pub struct BufferView<B: Backend> {
    parent: Arc<RwLock<Allocation<B>>>,
    offset: u64,
    bytes: u64,
}

impl<B: Backend> Clone for BufferView<B> {
    fn clone(&self) -> Self {
        Self { parent: Arc::clone(&self.parent), ..*self }
    }
}

impl<B: Backend> fmt::Debug for BufferView<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferView").field("offset", &self.offset).field("size_bytes", &self.bytes).finish()
    }
}

impl<B: Backend> BufferView<B> {
    pub(super) fn new(buffer: Buffer<B>) -> Self {
        let bytes = buffer.size_bytes();
        Self { parent: Arc::new(RwLock::new(buffer.into_allocation())), offset: 0, bytes }
    }

    /// The view's size in bytes.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.bytes
    }

    /// The view's first byte, counted from the start of the buffer.
    #[must_use]
    pub fn offset_in_buffer(&self) -> u64 {
        self.offset
    }

    /// A part of this view. `range` counts from the view's start.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if the range is not in this view.
    pub fn view(&self, range: Range<u64>) -> Result<Self, Error> {
        if range.start > range.end {
            return Err(backwards("view", &range));
        }
        let range = checked_range("view", range.start, range.end - range.start, self.bytes)?;
        Ok(Self {
            parent: Arc::clone(&self.parent),
            offset: self.offset + range.start,
            bytes: range.end - range.start,
        })
    }

    /// The view's two parts, before and from `offset` on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if the view is shorter.
    pub fn split_at(&self, offset: u64) -> Result<(Self, Self), Error> {
        Ok((self.view(0..offset)?, self.view(offset..self.bytes.max(offset))?))
    }

    /// The buffer itself, if this is its only view left; else the view.
    ///
    /// # Errors
    ///
    /// The view, unchanged, while others share the buffer.
    pub fn try_into_buffer(self) -> Result<Buffer<B>, Self> {
        let Self { parent, offset, bytes } = self;
        match Arc::try_unwrap(parent) {
            Ok(allocation) => Ok(Buffer::new(allocation.into_inner())),
            Err(parent) => Err(Self { parent, offset, bytes }),
        }
    }

    /// The range of the buffer that `bytes` bytes at `offset` of the view are.
    fn in_parent(&self, operation: &'static str, offset: u64, bytes: u64) -> Result<Range<u64>, Error> {
        let range = checked_range(operation, offset, bytes, self.bytes)?;
        Ok(self.offset + range.start..self.offset + range.end)
    }

    /// Writes values at a byte offset. Blocks until they are there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if they do not fit into the view, and nothing is written;
    /// [`ErrorKind::Unsupported`] if the host cannot see the memory.
    pub fn write<T: NoUninit>(&self, offset: u64, values: &[T]) -> Result<(), Error> {
        let values: &[u8] = bytemuck::cast_slice(values);
        let range = self.in_parent("write", offset, values.len() as u64)?;
        let mut parent = self.parent.write();
        slice_mut(parent.bytes_mut()?.ok_or_else(|| not_visible("write"))?, range).copy_from_slice(values);
        Ok(())
    }

    /// Reads values from a byte offset. Blocks until they are there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if the view has not so many, and nothing is read; [`ErrorKind::Unsupported`] if the
    /// host cannot see the memory.
    pub fn read<T: NoUninit + AnyBitPattern>(&self, offset: u64, values: &mut [T]) -> Result<(), Error> {
        let values: &mut [u8] = bytemuck::cast_slice_mut(values);
        let range = self.in_parent("read", offset, values.len() as u64)?;
        let parent = self.parent.read();
        values.copy_from_slice(slice(parent.bytes()?.ok_or_else(|| not_visible("read"))?, range));
        Ok(())
    }

    /// Sets every byte of the view to `value`. Blocks until it is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver failed.
    pub fn fill(&self, value: u8) -> Result<(), Error> {
        self.parent.write().fill(self.offset..self.offset + self.bytes, value)
    }

    /// Copies the whole of `source`, which must be as long as this view. Blocks until it has arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the lengths differ, if both are views of one buffer and overlap, or if they
    /// belong to two managers; [`ErrorKind::Driver`] if the driver failed.
    pub fn copy_from(&self, source: &Self) -> Result<(), Error> {
        let refuse = |message: String| Err(Error::new(ErrorKind::InvalidArgument, "copy", message));
        if self.bytes != source.bytes {
            return refuse(format!("{} bytes to be copied to {}; cut one view", source.bytes, self.bytes));
        }
        if Arc::ptr_eq(&self.parent, &source.parent) {
            if self.offset.abs_diff(source.offset) < self.bytes {
                return refuse("the views overlap; read one and write the other".into());
            }
            return self.parent.write().copy_within(source.offset, self.offset, self.bytes);
        }
        // Two threads that copy crosswise must not wait for each other: both take the locks in the order of their
        // addresses.
        let is_first = Arc::as_ptr(&self.parent) < Arc::as_ptr(&source.parent);
        let early = is_first.then(|| self.parent.write());
        let from = source.parent.read();
        let mut to = early.unwrap_or_else(|| self.parent.write());
        check_one_manager(&to, &from)?;
        to.copy_from(self.offset, &from, source.offset, self.bytes)
    }
}
