//! Transfers as their users ask for them: those that block.

use super::buffer::{Buffer, backwards, checked_range};
use super::operation::OperationError;
use super::reclaim::is_reclaiming;
use super::view::BufferView;
use super::{MemoryManager, MemoryOptions, shared};
use crate::cancel::CancelToken;
use crate::manager::MemoryKind;
use crate::range_lock::Access;
use crate::raw::shared_allocation::{RangeClaim, SharedAllocation};
use crate::raw::transfer::{self, From as Bytes, Reach, ReachMut, Slot};
use crate::transfer::{
    Copiers, EntryDesc, HostCopy, Over, Priority, Progress, TransferOptions, TransferStatistics, describe,
};
use aquifer_backend::{Backend, Error, ErrorKind, SyncBackend};
use bytemuck::{AnyBitPattern, NoUninit};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// Brings bytes from one place to another, as fast as there is a way: between memory of the host and buffers, within a device, from one
/// device to another. From [`MemoryManager::transfers`].
///
/// A handle with settings, cheap to clone: set priority, cancellation and progress once, and use it for many transfers, from any thread.
///
/// # Ways
///
/// Memory of the host that is not pinned is copied through a ring of pinned chunks by several threads, while earlier chunks are on their way.
/// What lies in pinned memory ([`MemoryManager::pinned`]) goes at once, as does what the host sees. Between two devices it goes
/// directly where one reads the other, else through pinned memory.
///
/// Ends are `&Buffer`, `&mut Buffer` (pass `&mut *buffer` to use the same variable again) or `&BufferView`, which is also how a part of a buffer is
/// copied.
///
/// # Order
///
/// A transfer begins when the queues that may use its buffers ([`Buffer::record_use`], their home) have done what they were given
/// before, and the calls named after what they do return when it is over, so that everything after comes after. To make a transfer
/// a part of a queue's work instead, in one command, use [`Queue`](crate::Queue)'s.
pub struct Transfers<B: Backend> {
    manager: MemoryManager<B>,
    options: TransferOptions,
}

impl<B: Backend> Clone for Transfers<B> {
    fn clone(&self) -> Self {
        Self { manager: self.manager.clone(), options: self.options.clone() }
    }
}

impl<B: Backend> fmt::Debug for Transfers<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfers").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Device memory that a transfer reads: a buffer, or a view.
pub struct TransferSource<'a, B: Backend>(EndOf<&'a Buffer<B>, &'a BufferView<B>>);

/// Device memory that a transfer writes: a buffer, borrowed mutably, or a view.
pub struct TransferDestination<'a, B: Backend>(EndOf<&'a mut Buffer<B>, &'a BufferView<B>>);

pub(super) enum EndOf<Buffer, View> {
    Buffer(Buffer),
    View(View),
}

impl<'a, B: Backend> From<&'a Buffer<B>> for TransferSource<'a, B> {
    fn from(buffer: &'a Buffer<B>) -> Self {
        Self(EndOf::Buffer(buffer))
    }
}

impl<'a, B: Backend> From<&'a BufferView<B>> for TransferSource<'a, B> {
    fn from(view: &'a BufferView<B>) -> Self {
        Self(EndOf::View(view))
    }
}

impl<'a, B: Backend> From<&'a mut Buffer<B>> for TransferDestination<'a, B> {
    fn from(buffer: &'a mut Buffer<B>) -> Self {
        Self(EndOf::Buffer(buffer))
    }
}

impl<'a, B: Backend> From<&'a BufferView<B>> for TransferDestination<'a, B> {
    fn from(view: &'a BufferView<B>) -> Self {
        Self(EndOf::View(view))
    }
}

impl<B: Backend> fmt::Debug for TransferSource<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferSource").field("size_bytes", &self.size_bytes()).finish_non_exhaustive()
    }
}

impl<B: Backend> fmt::Debug for TransferDestination<'_, B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferDestination").field("size_bytes", &self.size_bytes()).finish_non_exhaustive()
    }
}

impl<B: Backend> TransferSource<'_, B> {
    fn size_bytes(&self) -> u64 {
        match &self.0 {
            EndOf::Buffer(buffer) => buffer.size_bytes(),
            EndOf::View(view) => view.size_bytes(),
        }
    }
}

impl<B: Backend> TransferDestination<'_, B> {
    fn size_bytes(&self) -> u64 {
        match &self.0 {
            EndOf::Buffer(buffer) => buffer.size_bytes(),
            EndOf::View(view) => view.size_bytes(),
        }
    }
}

/// One end of a blocking transfer, claimed if it is a view's.
type Claimed<Buffer, B> = EndOf<(Buffer, Range<u64>), RangeClaim<B>>;

fn claimed_source<'a, B: Backend>(
    end: TransferSource<'a, B>,
    range: Range<u64>,
) -> Claimed<&'a Buffer<B>, B> {
    match end.0 {
        EndOf::Buffer(buffer) => EndOf::Buffer((buffer, range)),
        EndOf::View(view) => EndOf::View(view.claim_checked(range, Access::Read)),
    }
}

fn claimed_destination<'a, B: Backend>(
    end: TransferDestination<'a, B>,
    range: Range<u64>,
) -> Claimed<&'a mut Buffer<B>, B> {
    match end.0 {
        EndOf::Buffer(buffer) => EndOf::Buffer((buffer, range)),
        EndOf::View(view) => EndOf::View(view.claim_checked(range, Access::Write)),
    }
}

/// Blocks until a claim is granted. Where nobody else does, does what transfers that hold it need.
fn wait_for_claim<B: Backend>(shared: &shared::Shared<B>, claim: &mut RangeClaim<B>) -> Result<(), Error> {
    shared.check_process("transfer")?;
    if shared.config.transfers.copy_threads == 0 || shared.transfers.threads.is_one_of_them() {
        shared.transfers.wait_granted(shared, |waker| claim.poll_granted(waker));
        return Ok(());
    }
    claim.wait()
}

fn reach<'a, B: Backend>(
    shared: &shared::Shared<B>,
    end: &'a mut Claimed<&Buffer<B>, B>,
) -> Result<Reach<'a, B>, Error> {
    match end {
        EndOf::Buffer((buffer, range)) => Ok(Reach::allocation(buffer.allocation(), range.clone())),
        EndOf::View(claim) => {
            wait_for_claim(shared, claim)?;
            Ok(Reach::claim(claim))
        }
    }
}

fn reach_mut<'a, B: Backend>(
    shared: &shared::Shared<B>,
    end: &'a mut Claimed<&mut Buffer<B>, B>,
) -> Result<ReachMut<'a, B>, Error> {
    match end {
        EndOf::Buffer((buffer, range)) => Ok(ReachMut::allocation(buffer.allocation_mut(), range.clone())),
        EndOf::View(claim) => {
            wait_for_claim(shared, claim)?;
            Ok(ReachMut::claim(claim))
        }
    }
}

impl<B: SyncBackend> MemoryManager<B> {
    /// Transfers with this manager's buffers, of normal priority.
    #[must_use]
    pub fn transfers(&self) -> Transfers<B> {
        Transfers { manager: self.clone(), options: TransferOptions::default() }
    }
}

/// Settings.
impl<B: SyncBackend> Transfers<B> {
    /// The same, with another priority.
    #[must_use]
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options.priority = priority;
        self
    }

    /// The same, stopped by `token`: between chunks, with [`ErrorKind::Cancelled`] and the bytes that had arrived. At most one chunk more
    /// is copied where the backend can stop its queues' copies, as the host's and the simulated device's can; where it cannot, all that the queue had been given:
    /// up to four chunks, of 16 MiB where nothing is staged, of 128 MiB within a device.
    #[must_use]
    pub fn cancel_token(mut self, token: &CancelToken) -> Self {
        self.options.cancel = Some(token.clone());
        self
    }

    /// The same, telling `callback` how far each transfer is: after chunks, and when all bytes have arrived. It is called on threads that copy
    /// and by those that wait, one call at a time for each transfer, and should be short: its transfer is not over before it returns, so
    /// it must not wait for that one. If it panics, the panic ends there.
    #[must_use]
    pub fn on_progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.options.progress = Some(Arc::new(callback));
        self
    }

    /// What all of the manager's transfers have been counted as so far: [`Statistics::transfers`](crate::Statistics::transfers), without the
    /// rest.
    #[must_use]
    pub fn statistics(&self) -> TransferStatistics {
        self.manager.owner.transfers.statistics(&self.manager.owner)
    }

    pub(super) fn manager(&self) -> &MemoryManager<B> {
        &self.manager
    }

    pub(super) fn options(&self) -> &TransferOptions {
        &self.options
    }
}

/// Transfers that block until they are over.
///
/// # Errors
///
/// What all of them may answer, with the bytes that had arrived ([`OperationError::done_bytes`]):
///
/// - [`ErrorKind::OutOfBounds`] if a part does not lie in its buffer or view; [`ErrorKind::InvalidArgument`] if lengths differ, ends overlap,
///   or no buffer is of this manager. Then nothing was begun.
/// - [`ErrorKind::OutOfMemory`] and what else [`MemoryManager::allocate`] says, if there is no pinned memory at all to stage through.
/// - [`ErrorKind::Unsupported`] if there is no way, or the backend has no queues.
/// - [`ErrorKind::Cancelled`], [`ErrorKind::DeviceLost`], [`ErrorKind::Driver`]: the destination's other bytes are then as they were, or
///   unspecified. Nothing is under way any more.
/// - [`ErrorKind::Forked`].
impl<B: SyncBackend> Transfers<B> {
    /// Copies values to a buffer or view, from a byte offset on.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn upload<'a, T: NoUninit>(
        &self,
        values: &[T],
        destination: impl Into<TransferDestination<'a, B>>,
        offset: u64,
    ) -> Result<(), OperationError<()>>
    where
        B: 'a,
    {
        let (values, destination) = (bytemuck::cast_slice::<T, u8>(values), destination.into());
        let bytes = values.len() as u64;
        let range = refuse(checked_range("upload", offset, bytes, destination.size_bytes()))?;
        let owner = &self.manager.owner;
        let mut destination = claimed_destination(destination, range);
        let source = Reach::memory(owner.shared_ptr(), values);
        self.run(Bytes::Memory(source), refuse(reach_mut(owner, &mut destination))?)
    }

    /// Copies a part of a buffer or view, from a byte offset on, to fill `values`.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn download<'a, T: NoUninit + AnyBitPattern>(
        &self,
        source: impl Into<TransferSource<'a, B>>,
        offset: u64,
        values: &mut [T],
    ) -> Result<(), OperationError<()>>
    where
        B: 'a,
    {
        let (values, source) = (bytemuck::cast_slice_mut::<T, u8>(values), source.into());
        let range = refuse(checked_range("download", offset, values.len() as u64, source.size_bytes()))?;
        let owner = &self.manager.owner;
        let mut source = claimed_source(source, range);
        let destination = ReachMut::memory(owner.shared_ptr(), values);
        self.run(Bytes::Memory(refuse(reach(owner, &mut source))?), destination)
    }

    /// Copies all of `source` to `destination`, which must be as long: within a device, or from one device to another, one of which is this
    /// manager's.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn copy<'a, 'b>(
        &self,
        source: impl Into<TransferSource<'a, B>>,
        destination: impl Into<TransferDestination<'b, B>>,
    ) -> Result<(), OperationError<()>>
    where
        B: 'a + 'b,
    {
        let (owner, source, destination) = (&self.manager.owner, source.into(), destination.into());
        let bytes = source.size_bytes();
        refuse(check_lengths(bytes, destination.size_bytes()))?;
        if let (EndOf::View(from), EndOf::View(to)) = (&source.0, &destination.0) {
            // Both at once, so that two copies crosswise do not wait for each other.
            let claims = refuse(SharedAllocation::claim_copy(to.claimable(), from.claimable()))?;
            let (mut from, mut to) = (EndOf::View(claims.source), EndOf::View(claims.destination));
            return self
                .run(Bytes::Memory(refuse(reach(owner, &mut from))?), refuse(reach_mut(owner, &mut to))?);
        }
        let mut source = claimed_source(source, 0..bytes);
        let mut destination = claimed_destination(destination, 0..bytes);
        self.run(
            Bytes::Memory(refuse(reach(owner, &mut source))?),
            refuse(reach_mut(owner, &mut destination))?,
        )
    }

    /// Sets every byte of a part of a buffer or view to `value`.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn fill<'a>(
        &self,
        destination: impl Into<TransferDestination<'a, B>>,
        range: Range<u64>,
        value: u8,
    ) -> Result<(), OperationError<()>>
    where
        B: 'a,
    {
        let destination = destination.into();
        let range = refuse(part("fill", range, destination.size_bytes()))?;
        let (owner, mut destination) = (&self.manager.owner, claimed_destination(destination, range));
        self.run(Bytes::Value(value), refuse(reach_mut(owner, &mut destination))?)
    }

    fn run<'a>(&self, mut from: Bytes<'a, B>, mut to: ReachMut<'a, B>) -> Result<(), OperationError<()>> {
        let owner = &self.manager.owner;
        let begin = || {
            owner.check_process("transfer")?;
            if let Bytes::Memory(source) = &from {
                source.wait_for_queues()?;
            }
            to.0.wait_for_queues()
        };
        refuse(begin())?;
        if to.0.bytes == 0 {
            return Ok(());
        }
        let mut desc = refuse(describe(owner.shared_ptr(), &mut from, &mut to, &self.options))?;
        let is_short = desc.is_short(to.0.bytes);
        refuse(self.prepare(&mut desc, to.0.bytes, !is_short))?;
        let Over { result, done_bytes } = transfer::run(owner, from, to, desc);
        result.map_err(|error| OperationError::new(error, done_bytes, Some(())))
    }

    /// Gets ready what a transfer needs: threads, and chunks to stage through.
    pub(super) fn prepare(
        &self,
        desc: &mut EntryDesc<B>,
        bytes: u64,
        needs_threads: bool,
    ) -> Result<(), Error> {
        let owner = &self.manager.owner;
        let config = &owner.config.transfers;
        if needs_threads && config.copy_threads > 0 {
            owner.transfers.threads.start(config.copy_threads, || owner.keeper())?;
        }
        if desc.way.is_staged() {
            // A callback that gives memory back may be at it because this very thread makes a chunk.
            let may_wait = !is_reclaiming();
            let make = || self.make_slot();
            let needs_ring = owner.transfers.make_chunks(owner, desc, (bytes, may_wait), make)?;
            desc.needs_ring = Some(needs_ring);
        }
        Ok(())
    }

    fn make_slot(&self) -> Result<Slot<B>, Error> {
        let owner = &self.manager.owner;
        let home = owner.home_of(MemoryKind::Pinned)?;
        let bytes = owner.config.transfers.chunk_bytes();
        // Without a tag if there are too many.
        let tag = owner.tags.intern("staging").unwrap_or_default();
        // It is the manager's own, whatever sub-budget has that name; and a transfer that was begun is not to wait for the gate.
        let options = MemoryOptions::DEFAULT.tag(tag).unlimited().priority(Priority::High);
        let allocation = shared::allocate_without_waiting(owner, home, bytes, options)?;
        let message = "the host does not see this device's pinned memory";
        Slot::new(allocation).ok_or_else(|| Error::new(ErrorKind::Unsupported, "transfer", message))
    }
}

/// For who copies on threads of their own, and for simulation: with
/// [`copy_threads`](crate::TransferConfig::copy_threads) 0 nobody else does, but callers that block, for their own transfers.
impl<B: SyncBackend> Transfers<B> {
    /// Notes how far the queues are, and gives them what is next. Does not wait, and calls wakers and progress callbacks.
    pub fn poll(&self) {
        self.manager.owner.transfers.poll(&self.manager.owner);
    }

    /// One piece of copying between memory of the host, of whichever transfer is next; `None` if there is none now. To be run, on any thread.
    #[must_use]
    pub fn take_copy(&self) -> Option<HostCopy<B>> {
        let owner = &self.manager.owner;
        let step = if owner.is_forked() { None } else { owner.transfers.take_copy(Copiers::Unknown, None) }?;
        Some(HostCopy::new(step, self.manager.clone()))
    }
}

/// A part of something that is `size` bytes long.
pub(super) fn part(operation: &'static str, range: Range<u64>, size: u64) -> Result<Range<u64>, Error> {
    if range.start > range.end {
        return Err(backwards(operation, &range));
    }
    checked_range(operation, range.start, range.end - range.start, size)
}

pub(super) fn check_lengths(source: u64, destination: u64) -> Result<(), Error> {
    if source == destination {
        return Ok(());
    }
    let message = format!("{source} bytes to be copied to {destination}; make a view of a part");
    Err(Error::new(ErrorKind::InvalidArgument, "copy", message))
}

fn refuse<T>(answer: Result<T, Error>) -> Result<T, OperationError<()>> {
    answer.map_err(|error| OperationError::new(error, 0, Some(())))
}
