//! Views as values of one type.

use super::{BufferView, ViewRead, ViewWrite};
use aquifer_backend::{Backend, Error, ErrorKind};
use bytemuck::{AnyBitPattern, NoUninit};
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;

/// A [`BufferView`] whose indices and lengths count values of type `T`, not bytes; from [`BufferView::typed`].
///
/// Accesses share the buffer as those of any view do. Clones are cheap.
pub struct TypedView<B: Backend, T> {
    /// Its size is a multiple of the values', its offset one of their alignment.
    view: BufferView<B>,
    values: PhantomData<fn() -> T>,
}

impl<B: Backend, T> Clone for TypedView<B, T> {
    fn clone(&self) -> Self {
        Self { view: self.view.clone(), values: PhantomData }
    }
}

impl<B: Backend, T> fmt::Debug for TypedView<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedView")
            .field("value", &std::any::type_name::<T>())
            .field("view", &self.view)
            .finish()
    }
}

impl<B: Backend, T: NoUninit + AnyBitPattern> TypedView<B, T> {
    const VALUE_BYTES: u64 = size_of::<T>() as u64;

    pub(super) fn new(view: BufferView<B>) -> Result<Self, Error> {
        view.check_values::<T>("typed")?;
        Ok(Self { view, values: PhantomData })
    }

    /// How many values the view has.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.view.size_bytes() / Self::VALUE_BYTES
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The view as bytes.
    #[must_use]
    pub fn untyped(self) -> BufferView<B> {
        self.view
    }

    /// Checks that `range` lies in the view, and answers it in bytes.
    fn checked(&self, operation: &'static str, range: Range<u64>) -> Result<Range<u64>, Error> {
        if range.start <= range.end && range.end <= self.len() {
            return Ok(range.start * Self::VALUE_BYTES..range.end * Self::VALUE_BYTES);
        }
        let message = format!("values {}..{} asked for; there are {}", range.start, range.end, self.len());
        Err(Error::new(ErrorKind::OutOfBounds, operation, message))
    }

    /// The view's byte at which `count` values from `index` on begin, if they are in it.
    fn start_of(&self, operation: &'static str, index: u64, count: usize) -> Result<u64, Error> {
        // Past what a view can have, so refused there.
        let end = index.saturating_add(count as u64);
        Ok(self.checked(operation, index..end)?.start)
    }

    /// A part of this view. `range` counts values from the view's start.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if the range is not in this view.
    pub fn view(&self, range: Range<u64>) -> Result<Self, Error> {
        let range = self.checked("view", range)?;
        Ok(Self { view: self.view.view(range)?, values: PhantomData })
    }

    /// The view's two parts, before the value `index` and from it on.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::OutOfBounds`] if the view is shorter.
    pub fn split_at(&self, index: u64) -> Result<(Self, Self), Error> {
        Ok((self.view(0..index)?, self.view(index..self.len().max(index))?))
    }

    /// Writes values from the value `index` on. Blocks until they are there.
    ///
    /// # Errors
    ///
    /// As [`BufferView::write`].
    pub fn write(&self, index: u64, values: &[T]) -> Result<(), Error> {
        self.view.write(self.start_of("write", index, values.len())?, values)
    }

    /// Reads values from the value `index` on. Blocks until they are there.
    ///
    /// # Errors
    ///
    /// As [`BufferView::read`].
    pub fn read(&self, index: u64, values: &mut [T]) -> Result<(), Error> {
        self.view.read(self.start_of("read", index, values.len())?, values)
    }

    /// The values, without a copy, as [`BufferView::as_slice`].
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the host cannot see the memory; [`ErrorKind::InvalidArgument`] if the buffer itself is
    /// aligned to less than the values.
    pub fn as_slice(&self) -> Result<ViewRead<B, T>, Error> {
        self.view.as_slice()
    }

    /// As [`TypedView::as_slice`], but `None` instead of waiting for others.
    ///
    /// # Errors
    ///
    /// As [`TypedView::as_slice`].
    pub fn try_as_slice(&self) -> Result<Option<ViewRead<B, T>>, Error> {
        self.view.try_as_slice()
    }

    /// The values to be written, without a copy, as [`BufferView::as_mut_slice`].
    ///
    /// # Errors
    ///
    /// As [`TypedView::as_slice`].
    pub fn as_mut_slice(&self) -> Result<ViewWrite<B, T>, Error> {
        self.view.as_mut_slice()
    }

    /// As [`TypedView::as_mut_slice`], but `None` instead of waiting for others.
    ///
    /// # Errors
    ///
    /// As [`TypedView::as_slice`].
    pub fn try_as_mut_slice(&self) -> Result<Option<ViewWrite<B, T>>, Error> {
        self.view.try_as_mut_slice()
    }
}
