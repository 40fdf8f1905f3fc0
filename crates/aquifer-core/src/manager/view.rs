//! Parts of a buffer that share it.

mod typed;

pub use typed::TypedView;

use super::buffer::{Buffer, backwards, check_one_manager, checked_range, not_visible};
use crate::range_lock::Access;
use crate::raw::shared_allocation::{CopyClaims, RangeClaim, SharedAllocation};
pub use crate::raw::view_guard::{ViewRead, ViewWrite};
use aquifer_backend::{Backend, Error, ErrorKind};
use bytemuck::{AnyBitPattern, NoUninit};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A part of a buffer, or all of it, that keeps the buffer alive.
///
/// Views of one buffer may overlap and be used from any thread. Each access has its bytes for as long as it lasts: those that have
/// no byte in common go on at the same time, and so do those that only read; any other waits for those that came before it,
/// first come, first served. So an access may block for as long as other views' accesses last, and a view whose bytes a thread
/// itself holds, by [`BufferView::as_mut_slice`] say, is waited for for ever. (Where the host cannot see the memory, bytes count in
/// units of 4: a device may have to write all of one.)
///
/// Every offset counts from the start of the view, and nothing outside the view can be reached through it. Clones are cheap.
pub struct BufferView<B: Backend> {
    parent: Arc<SharedAllocation<B>>,
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
        Self { parent: Arc::new(SharedAllocation::new(buffer.into_allocation())), offset: 0, bytes }
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

    /// The view as values of one type.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if its size is not a multiple of theirs, or its offset in the buffer not one of their
    /// alignment.
    pub fn typed<T: NoUninit + AnyBitPattern>(&self) -> Result<TypedView<B, T>, Error> {
        TypedView::new(self.clone())
    }

    /// The buffer itself, if this is its only view left and nothing else uses it; else the view.
    ///
    /// # Errors
    ///
    /// The view, unchanged, while other views, accesses through them, or what [`BufferView::as_slice`] and
    /// [`BufferView::as_mut_slice`] gave share the buffer.
    pub fn try_into_buffer(self) -> Result<Buffer<B>, Self> {
        let Self { parent, offset, bytes } = self;
        match Arc::try_unwrap(parent) {
            Ok(shared) => Ok(Buffer::new(shared.into_allocation())),
            Err(parent) => Err(Self { parent, offset, bytes }),
        }
    }

    /// Claims the view's bytes, now and without blocking; the claim may have to wait until it is granted. It keeps the buffer
    /// alive, whatever becomes of the view.
    pub(crate) fn claim(&self, access: Access) -> RangeClaim<B> {
        self.parent.claim(self.range(), access)
    }

    /// As [`BufferView::claim`], `bytes` bytes from `offset` of the view on. Refused if they are not in it.
    pub(crate) fn claim_part(
        &self,
        operation: &'static str,
        offset: u64,
        bytes: u64,
        access: Access,
    ) -> Result<RangeClaim<B>, Error> {
        Ok(self.claim_checked(checked_range(operation, offset, bytes, self.bytes)?, access))
    }

    /// As [`BufferView::claim`], a part of the view, which the caller has checked.
    pub(crate) fn claim_checked(&self, range: Range<u64>, access: Access) -> RangeClaim<B> {
        self.parent.claim(self.offset + range.start..self.offset + range.end, access)
    }

    /// The allocation, and the range of it that the view is, for claims.
    pub(crate) fn claimable(&self) -> (&Arc<SharedAllocation<B>>, Range<u64>) {
        (&self.parent, self.range())
    }

    /// As [`BufferView::claimable`], a part of the view, which the caller has checked.
    pub(crate) fn claimable_part(&self, range: Range<u64>) -> (&Arc<SharedAllocation<B>>, Range<u64>) {
        (&self.parent, self.offset + range.start..self.offset + range.end)
    }

    /// Claims what [`BufferView::copy_from`] uses, both ends at the same moment, without blocking. Refused as that is.
    pub(crate) fn claim_copy(&self, source: &Self) -> Result<CopyClaims<B>, Error> {
        if self.bytes != source.bytes {
            let message = format!("{} bytes to be copied to {}; cut one view", source.bytes, self.bytes);
            return Err(Error::new(ErrorKind::InvalidArgument, "copy", message));
        }
        check_one_manager(self.parent.shared(), source.parent.shared())?;
        SharedAllocation::claim_copy((&self.parent, self.range()), (&source.parent, source.range()))
    }

    /// The range of the buffer that the view is.
    fn range(&self) -> Range<u64> {
        self.offset..self.offset + self.bytes
    }

    /// Writes values at a byte offset. Blocks until they are there.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if they do not fit into the view, and nothing is written;
    /// [`ErrorKind::Unsupported`] if the host cannot see the memory.
    pub fn write<T: NoUninit>(&self, offset: u64, values: &[T]) -> Result<(), Error> {
        let values: &[u8] = bytemuck::cast_slice(values);
        let mut claim = self.claim_part("write", offset, values.len() as u64, Access::Write)?;
        claim.wait()?;
        claim.bytes_mut()?.ok_or_else(|| not_visible("write"))?.copy_from_slice(values);
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
        let mut claim = self.claim_part("read", offset, values.len() as u64, Access::Read)?;
        claim.wait()?;
        values.copy_from_slice(claim.bytes()?.ok_or_else(|| not_visible("read"))?);
        Ok(())
    }

    /// Sets every byte of the view to `value`. Blocks until it is done.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver failed.
    pub fn fill(&self, value: u8) -> Result<(), Error> {
        let mut claim = self.claim(Access::Write);
        claim.wait()?;
        claim.fill(value)
    }

    /// Copies the whole of `source`, which must be as long as this view. Blocks until it has arrived.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the lengths differ, if both are views of one buffer and overlap, or if they
    /// belong to two managers; [`ErrorKind::Driver`] if the driver failed.
    pub fn copy_from(&self, source: &Self) -> Result<(), Error> {
        let CopyClaims { mut destination, mut source } = self.claim_copy(source)?;
        destination.wait()?;
        source.wait()?;
        destination.copy_from(&source)
    }

    /// The view as values, without a copy. Blocks while others write bytes of it; while the answer lives, others can read the
    /// bytes but wait to write them.
    ///
    /// A thread that holds this and writes the same bytes through a view waits for itself, for ever; so do two threads that each
    /// hold what the other wants.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the view's size is not a multiple of the values', or its offset in the buffer not one of
    /// their alignment; [`ErrorKind::Unsupported`] if the host cannot see the memory.
    pub fn as_slice<T: AnyBitPattern>(&self) -> Result<ViewRead<B, T>, Error> {
        self.check_values::<T>("as_slice")?;
        let mut claim = self.claim(Access::Read);
        claim.wait()?;
        ViewRead::new("as_slice", claim)?.ok_or_else(|| not_visible("as_slice"))
    }

    /// As [`BufferView::as_slice`], but `None` instead of waiting for others who write bytes of it, or came before to do so.
    ///
    /// # Errors
    ///
    /// As [`BufferView::as_slice`].
    pub fn try_as_slice<T: AnyBitPattern>(&self) -> Result<Option<ViewRead<B, T>>, Error> {
        self.check_values::<T>("try_as_slice")?;
        let Some(claim) = self.parent.try_claim(self.range(), Access::Read) else { return Ok(None) };
        ViewRead::new("try_as_slice", claim)?.ok_or_else(|| not_visible("try_as_slice")).map(Some)
    }

    /// The view as values to be written, without a copy. Blocks while others use bytes of it; while the answer lives, others wait
    /// to use them.
    ///
    /// A thread that holds this and uses the same bytes through a view waits for itself, for ever; so do two threads that each
    /// hold what the other wants.
    ///
    /// # Errors
    ///
    /// As [`BufferView::as_slice`].
    pub fn as_mut_slice<T: NoUninit + AnyBitPattern>(&self) -> Result<ViewWrite<B, T>, Error> {
        self.check_values::<T>("as_mut_slice")?;
        let mut claim = self.claim(Access::Write);
        claim.wait()?;
        ViewWrite::new("as_mut_slice", claim)?.ok_or_else(|| not_visible("as_mut_slice"))
    }

    /// As [`BufferView::as_mut_slice`], but `None` instead of waiting for others who use bytes of it, or came before to do so.
    ///
    /// # Errors
    ///
    /// As [`BufferView::as_slice`].
    pub fn try_as_mut_slice<T: NoUninit + AnyBitPattern>(&self) -> Result<Option<ViewWrite<B, T>>, Error> {
        self.check_values::<T>("try_as_mut_slice")?;
        let Some(claim) = self.parent.try_claim(self.range(), Access::Write) else { return Ok(None) };
        ViewWrite::new("try_as_mut_slice", claim)?.ok_or_else(|| not_visible("try_as_mut_slice")).map(Some)
    }

    /// Refuses what cannot be values of `T`, saying which of size and alignment is wrong.
    fn check_values<T>(&self, operation: &'static str) -> Result<(), Error> {
        let (size, alignment) = (size_of::<T>() as u64, align_of::<T>() as u64);
        let message = if size == 0 {
            "values without size; bytes have no such".into()
        } else if !self.bytes.is_multiple_of(size) {
            format!(
                "a view of {} bytes as values of {size} bytes; cut it to a multiple of that size",
                self.bytes
            )
        } else if !self.offset.is_multiple_of(alignment) {
            format!(
                "a view from byte {} of its buffer as values aligned to {alignment}; cut it at a multiple of that alignment",
                self.offset
            )
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::InvalidArgument, operation, message))
    }
}
