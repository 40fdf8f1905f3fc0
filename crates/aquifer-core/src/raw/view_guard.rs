//! The values of a part of a buffer, without a copy, for as long as they are held.

use super::shared_allocation::RangeClaim;
use aquifer_backend::{Backend, Error, ErrorKind};
use bytemuck::{AnyBitPattern, NoUninit};
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// The values of a [`BufferView`](crate::BufferView), to be read where they are; from
/// [`BufferView::as_slice`](crate::BufferView::as_slice).
///
/// While it lives nobody writes these bytes through a view of the buffer: whoever tries waits. It keeps the buffer alive. It may be
/// sent to other threads and dropped there.
pub struct ViewRead<B: Backend, T> {
    /// Of what is claimed, and no longer good than it is.
    values: NonNull<[T]>,
    claim: RangeClaim<B>,
}

/// The values of a [`BufferView`](crate::BufferView), to be read and written where they are; from
/// [`BufferView::as_mut_slice`](crate::BufferView::as_mut_slice).
///
/// While it lives nobody else reads or writes these bytes through a view of the buffer: whoever tries waits. It keeps the buffer
/// alive. It may be sent to other threads and dropped there.
pub struct ViewWrite<B: Backend, T> {
    /// Of what is claimed, and no longer good than it is.
    values: NonNull<[T]>,
    claim: RangeClaim<B>,
}

// SAFETY: it gives `&[T]` to the thread that has it, for which that must be `Send`, and so `T: Sync`; its values are plain bytes of
// the claimed range, which only this claim guards, wherever it is.
unsafe impl<B: Backend, T: Send + Sync> Send for ViewRead<B, T> where RangeClaim<B>: Send {}
// SAFETY: as above; shared it gives no more than `&[T]`.
unsafe impl<B: Backend, T: Send + Sync> Sync for ViewRead<B, T> where RangeClaim<B>: Sync {}
// SAFETY: as for `ViewRead`; the claim is to write, so nobody else has the values.
unsafe impl<B: Backend, T: Send + Sync> Send for ViewWrite<B, T> where RangeClaim<B>: Send {}
// SAFETY: as above; shared it gives no more than `&[T]`.
unsafe impl<B: Backend, T: Send + Sync> Sync for ViewWrite<B, T> where RangeClaim<B>: Sync {}

fn miscast<T>(operation: &'static str, reason: bytemuck::PodCastError) -> Error {
    let message = format!("values of {} bytes, aligned to {}: {reason}", size_of::<T>(), align_of::<T>());
    Error::new(ErrorKind::InvalidArgument, operation, message)
}

impl<B: Backend, T: AnyBitPattern> ViewRead<B, T> {
    /// Holds a granted claim. Blocks until no queue uses the memory; `None` where the host cannot see it.
    ///
    /// # Panics
    ///
    /// If the claim is not granted.
    pub(crate) fn new(operation: &'static str, claim: RangeClaim<B>) -> Result<Option<Self>, Error> {
        let Some(bytes) = claim.bytes()? else { return Ok(None) };
        let values = bytemuck::try_cast_slice(bytes).map_err(|reason| miscast::<T>(operation, reason))?;
        Ok(Some(Self { values: NonNull::from(values), claim }))
    }
}

impl<B: Backend, T: NoUninit + AnyBitPattern> ViewWrite<B, T> {
    /// Holds a granted claim to write. Blocks until no queue uses the memory; `None` where the host cannot see it.
    ///
    /// # Panics
    ///
    /// If the claim is not granted, or only to be read.
    pub(crate) fn new(operation: &'static str, mut claim: RangeClaim<B>) -> Result<Option<Self>, Error> {
        let Some(bytes) = claim.bytes_mut()? else { return Ok(None) };
        let values = bytemuck::try_cast_slice_mut(bytes).map_err(|reason| miscast::<T>(operation, reason))?;
        Ok(Some(Self { values: NonNull::from(values), claim }))
    }
}

impl<B: Backend, T> Deref for ViewRead<B, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: the values are what `RangeClaim::bytes` gave, as good while the granted claim lives as they were then: the claim
        // is of this guard alone, which does nothing else with it, and no queue is given work on the claimed bytes.
        unsafe { self.values.as_ref() }
    }
}

impl<B: Backend, T> Deref for ViewWrite<B, T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        // SAFETY: as for `ViewRead`, of `RangeClaim::bytes_mut`; whoever writes them borrows the guard mutably.
        unsafe { self.values.as_ref() }
    }
}

impl<B: Backend, T> DerefMut for ViewWrite<B, T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the guard is borrowed mutably, and its claim keeps all others away.
        unsafe { self.values.as_mut() }
    }
}

fn debug<B: Backend>(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    claim: &RangeClaim<B>,
    length: usize,
) -> fmt::Result {
    f.debug_struct(name).field("range_in_buffer", &claim.range()).field("length", &length).finish()
}

impl<B: Backend, T> fmt::Debug for ViewRead<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "ViewRead", &self.claim, self.values.len())
    }
}

impl<B: Backend, T> fmt::Debug for ViewWrite<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        debug(f, "ViewWrite", &self.claim, self.values.len())
    }
}
