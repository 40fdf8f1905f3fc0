//! Transfers that own what they use, as futures.

use super::buffer::{Buffer, checked_range};
use super::operation::OperationError;
use super::queue::CopyDesc;
use super::transfers::{EndOf, Transfers, part};
use super::view::BufferView;
use super::{MemoryManager, PinnedBuffer};
use crate::range_lock::Access;
use crate::raw::allocation::SharedPtr;
use crate::raw::operation::HostMemory;
use crate::raw::shared_allocation::{RangeClaim, SharedAllocation};
use crate::raw::transfer::{self, From as Bytes, Parts, Reach, ReachMut};
use crate::transfer::{EntryDesc, Outcome, describe};
use aquifer_backend::{Backend, Error, ErrorKind, SyncBackend};
use std::any::Any;
use std::fmt;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

mod sealed {
    pub trait Sealed {}
}
use sealed::Sealed;

/// Device memory that a transfer can own: [`Buffer`], [`BufferView`].
pub trait TransferBuffer<B: Backend>: Sealed + Send + Sized + 'static {
    #[doc(hidden)]
    fn into_end(self) -> OwnedEnd<B>;
    #[doc(hidden)]
    fn from_end(end: OwnedEnd<B>) -> Self;
}

/// Memory of the host that a transfer can own: `Vec`, boxed slices, [`PinnedBuffer`]. (Collections in a [`PinnedAllocator`](crate::PinnedAllocator) are lent as slices,
/// to transfers that block.) Its bytes stay where they are when it is moved.
pub trait TransferMemory: Sealed + Send + Sized + 'static {
    #[doc(hidden)]
    fn into_memory(self) -> OwnedMemory;
    #[doc(hidden)]
    fn from_memory(memory: OwnedMemory) -> Self;
}

#[doc(hidden)]
pub struct OwnedEnd<B: Backend>(EndOf<Buffer<B>, BufferView<B>>);

#[doc(hidden)]
pub struct OwnedMemory(Box<dyn HostMemory>);

impl<B: Backend> fmt::Debug for OwnedEnd<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OwnedEnd").field(&self.size_bytes()).finish()
    }
}

impl fmt::Debug for OwnedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnedMemory").finish_non_exhaustive()
    }
}

impl<B: Backend> OwnedEnd<B> {
    fn size_bytes(&self) -> u64 {
        match &self.0 {
            EndOf::Buffer(buffer) => buffer.size_bytes(),
            EndOf::View(view) => view.size_bytes(),
        }
    }
}

impl<B: SyncBackend> Sealed for Buffer<B> {}
impl<B: SyncBackend> Sealed for BufferView<B> {}
impl<B: SyncBackend> Sealed for PinnedBuffer<B> {}
impl<T> Sealed for Vec<T> {}
impl<T> Sealed for Box<[T]> {}

impl<B: SyncBackend> TransferBuffer<B> for Buffer<B> {
    fn into_end(self) -> OwnedEnd<B> {
        OwnedEnd(EndOf::Buffer(self))
    }

    fn from_end(end: OwnedEnd<B>) -> Self {
        match end.0 {
            EndOf::Buffer(buffer) => buffer,
            EndOf::View(_) => unreachable!("it is what was put in"),
        }
    }
}

impl<B: SyncBackend> TransferBuffer<B> for BufferView<B> {
    fn into_end(self) -> OwnedEnd<B> {
        OwnedEnd(EndOf::View(self))
    }

    fn from_end(end: OwnedEnd<B>) -> Self {
        match end.0 {
            EndOf::View(view) => view,
            EndOf::Buffer(_) => unreachable!("it is what was put in"),
        }
    }
}

/// For everything that is [`HostMemory`].
macro_rules! transfer_memory {
    ($([$($generics:tt)*] $memory:ty;)+) => {$(
        impl<$($generics)*> TransferMemory for $memory {
            fn into_memory(self) -> OwnedMemory {
                OwnedMemory(Box::new(self))
            }

            fn from_memory(memory: OwnedMemory) -> Self {
                *memory.0.into_any().downcast().expect("it is what was put in")
            }
        }
    )+};
}

transfer_memory! {
    [T: bytemuck::NoUninit + bytemuck::AnyBitPattern + Send] Vec<T>;
    [T: bytemuck::NoUninit + bytemuck::AnyBitPattern + Send] Box<[T]>;
    [B: SyncBackend] PinnedBuffer<B>;
}

/// One end that is owned.
enum Owned<B: Backend> {
    Memory(OwnedMemory),
    Buffer(Buffer<B>, Range<u64>),
    /// The claim goes before the view. It is there until the transfer is over.
    View(Option<RangeClaim<B>>, BufferView<B>),
    Value(u8),
}

impl<B: Backend> Owned<B> {
    fn buffer(end: OwnedEnd<B>, range: Range<u64>, access: Access) -> Self {
        match end.0 {
            EndOf::Buffer(buffer) => Self::Buffer(buffer, range),
            EndOf::View(view) => Self::View(Some(view.claim_checked(range, access)), view),
        }
    }

    fn poll_granted(&mut self, waker: &Waker) -> bool {
        match self {
            Self::View(Some(claim), _) => claim.poll_granted(waker),
            _ => true,
        }
    }

    fn release(&mut self) {
        if let Self::View(claim, _) = self {
            drop(claim.take());
        }
    }

    fn into_end(self) -> OwnedEnd<B> {
        match self {
            Self::Buffer(buffer, _) => OwnedEnd(EndOf::Buffer(buffer)),
            Self::View(_, view) => OwnedEnd(EndOf::View(view)),
            Self::Memory(_) | Self::Value(_) => unreachable!("this end is device memory"),
        }
    }

    fn into_memory(self) -> OwnedMemory {
        match self {
            Self::Memory(memory) => memory,
            _ => unreachable!("this end is memory of the host"),
        }
    }
}

const CLAIMED: &str = "what a view is claimed for has not begun";

/// What a transfer owns.
struct Ends<B: Backend> {
    source: Owned<B>,
    destination: Owned<B>,
}

impl<B: SyncBackend> Parts<B> for Ends<B> {
    fn poll_granted(&mut self, waker: &Waker) -> bool {
        // Both, so that both wake.
        let is_source_granted = self.source.poll_granted(waker);
        self.destination.poll_granted(waker) && is_source_granted
    }

    fn ends<'a>(&'a mut self, own: &'a SharedPtr<B>) -> (Bytes<'a, B>, ReachMut<'a, B>) {
        let from = match &mut self.source {
            Owned::Memory(memory) => Bytes::Memory(Reach::memory(own, memory.0.bytes_mut())),
            Owned::Buffer(buffer, range) => {
                Bytes::Memory(Reach::allocation(buffer.allocation(), range.clone()))
            }
            Owned::View(claim, _) => Bytes::Memory(Reach::claim(claim.as_ref().expect(CLAIMED))),
            Owned::Value(value) => Bytes::Value(*value),
        };
        let to = match &mut self.destination {
            Owned::Memory(memory) => ReachMut::memory(own, memory.0.bytes_mut()),
            Owned::Buffer(buffer, range) => ReachMut::allocation(buffer.allocation_mut(), range.clone()),
            Owned::View(claim, _) => ReachMut::claim(claim.as_mut().expect(CLAIMED)),
            Owned::Value(_) => unreachable!("a value is no destination"),
        };
        (from, to)
    }

    fn release(&mut self) {
        self.source.release();
        self.destination.release();
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any + Send> {
        self
    }
}

/// A transfer under way; from [`Transfers`].
///
/// It runs whether or not anybody looks, on the manager's copy threads, and keeps the manager until it is over. (With
/// [`copy_threads`](crate::TransferConfig::copy_threads) 0 it goes on when it is waited for, or by [`Transfers::poll`] and
/// [`Transfers::take_copy`]; to poll it is not enough.) As a future, under any executor, it
/// gives back what it used when it is over; [`Transfer::wait`] blocks for that. Dropped before, it is *detached*: it runs to its end, and
/// what it uses is freed then.
#[must_use = "what a transfer uses comes back through it"]
pub struct Transfer<B: Backend, T> {
    manager: MemoryManager<B>,
    id: u64,
    bytes: u64,
    take: fn(Ends<B>) -> T,
    is_taken: bool,
}

impl<B: Backend, T> fmt::Debug for Transfer<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer")
            .field("bytes", &self.bytes)
            .field("done_bytes", &self.done_bytes())
            .finish_non_exhaustive()
    }
}

impl<B: Backend, T> Transfer<B, T> {
    /// Asks it to stop, as a [token](Transfers::cancel_token) does. It may have finished, or finish all the same; if it stops early, the outcome is
    /// [`ErrorKind::Cancelled`] with the bytes that had arrived.
    pub fn cancel(&self) {
        self.manager.owner.transfers.cancel(self.id);
    }

    /// How many bytes it moves in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes have arrived; all of them once it has succeeded.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.manager.owner.transfers.done_bytes(self.id).unwrap_or(self.bytes)
    }

    /// Whether it is over: then [`Transfer::wait`] does not block.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let owner = &self.manager.owner;
        owner.transfers.poll(owner);
        owner.transfers.is_over(self.id)
    }

    /// Blocks until it is over, working at it meanwhile, and gives back what it used.
    ///
    /// # Errors
    ///
    /// An [`OperationError`] with what it used: [`ErrorKind::Cancelled`] if it was stopped early; [`ErrorKind::Driver`];
    /// [`ErrorKind::DeviceLost`]. With nothing but the error: [`ErrorKind::InvalidArgument`] if a poll has given the outcome before;
    /// [`ErrorKind::Forked`].
    pub fn wait(mut self) -> Result<T, OperationError<T>> {
        if self.is_taken {
            let message = "its outcome was given by a poll before; poll a transfer or wait for it, not both";
            let error = Error::new(ErrorKind::InvalidArgument, "Transfer::wait", message);
            return Err(OperationError::new(error, self.bytes, None));
        }
        self.check_process()?;
        let owner = &self.manager.owner;
        let over = owner.transfers.wait(owner, self.id);
        self.finish(over)
    }

    /// In a forked process nobody knows how it ends, and what it uses stays as it is.
    fn check_process(&mut self) -> Result<(), OperationError<T>> {
        self.manager.owner.check_process("transfer").map_err(|error| {
            self.is_taken = true;
            OperationError::new(error, 0, None)
        })
    }

    fn finish(&mut self, (over, parts): Outcome<B>) -> Result<T, OperationError<T>> {
        self.is_taken = true;
        let ends = parts.map(|parts| *parts.into_any().downcast().expect("they are what was put in"));
        let parts = ends.map(self.take);
        match (over.result, parts) {
            (Ok(()), Some(parts)) => Ok(parts),
            (Err(error), parts) => Err(OperationError::new(error, over.done_bytes, parts)),
            (Ok(()), None) => unreachable!("a transfer that is a future owns its ends"),
        }
    }
}

impl<B: Backend, T> Future for Transfer<B, T> {
    type Output = Result<T, OperationError<T>>;

    /// Polled again after it has given its outcome, it is pending for ever.
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.is_taken {
            return Poll::Pending;
        }
        if let Err(error) = self.check_process() {
            return Poll::Ready(Err(error));
        }
        let owner = &self.manager.owner;
        owner.transfers.poll(owner);
        match owner.transfers.poll_ended(self.id, context.waker()) {
            Some(over) => Poll::Ready(self.finish(over)),
            None => Poll::Pending,
        }
    }
}

impl<B: Backend, T> Drop for Transfer<B, T> {
    fn drop(&mut self) {
        if !self.is_taken && !self.manager.owner.is_forked() {
            self.manager.owner.transfers.detach(self.id);
        }
    }
}

/// What a transfer answers that was begun, or was not: what it used comes back either way.
pub type Begun<B, T> = Result<Transfer<B, T>, OperationError<T>>;

/// Transfers that own what they use and go on by themselves.
///
/// They start the copy threads. None of them blocks for what is copied, but they may for the driver: the first ones ask it for queues, and those that are staged
/// for more memory to stage through while there is less than they could use.
///
/// # Errors
///
/// As those that block, with what the transfer would have used, or had used.
impl<B: SyncBackend> Transfers<B> {
    /// Begins to copy memory of the host to a buffer or view, from a byte offset on.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn upload_async<D: TransferBuffer<B>, M: TransferMemory>(
        &self,
        memory: M,
        destination: D,
        offset: u64,
    ) -> Begun<B, (D, M)> {
        let (mut memory, destination) = (memory.into_memory(), destination.into_end());
        let bytes = memory.0.bytes_mut().len() as u64;
        let range = checked_range("upload", offset, bytes, destination.size_bytes());
        let (range, refusal) = or_nothing(range);
        let destination = Owned::buffer(destination, range, Access::Write);
        self.begin(Ends { source: Owned::Memory(memory), destination }, bytes, refusal, |ends| {
            (D::from_end(ends.destination.into_end()), M::from_memory(ends.source.into_memory()))
        })
    }

    /// Begins to copy a part of a buffer or view, from a byte offset on, to all of `memory`.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn download_async<S: TransferBuffer<B>, M: TransferMemory>(
        &self,
        source: S,
        offset: u64,
        memory: M,
    ) -> Begun<B, (S, M)> {
        let (mut memory, source) = (memory.into_memory(), source.into_end());
        let bytes = memory.0.bytes_mut().len() as u64;
        let (range, refusal) = or_nothing(checked_range("download", offset, bytes, source.size_bytes()));
        let source = Owned::buffer(source, range, Access::Read);
        self.begin(Ends { source, destination: Owned::Memory(memory) }, bytes, refusal, |ends| {
            (S::from_end(ends.source.into_end()), M::from_memory(ends.destination.into_memory()))
        })
    }

    /// Begins to copy a part of one buffer or view to a part of another, of the same device or, one of them, of another. Two views claim their
    /// parts at the same moment.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn copy_async<S: TransferBuffer<B>, D: TransferBuffer<B>>(
        &self,
        source: S,
        destination: D,
        desc: CopyDesc,
    ) -> Begun<B, (S, D)> {
        let (source, destination) = (source.into_end(), destination.into_end());
        let CopyDesc { source_offset, destination_offset, bytes } = desc;
        let ranges = checked_range("copy", source_offset, bytes, source.size_bytes()).and_then(|from| {
            Ok((from, checked_range("copy", destination_offset, bytes, destination.size_bytes())?))
        });
        let ((from, to), refusal) = match ranges {
            Ok(ranges) => (ranges, None),
            Err(error) => ((0..0, 0..0), Some(error)),
        };
        let (ends, refusal) = match (source.0, destination.0) {
            (EndOf::View(source), EndOf::View(destination)) => {
                let ((to_all, to), (from_all, from)) =
                    (destination.claimable_part(to), source.claimable_part(from));
                // Refused if they overlap; then nothing is claimed.
                let claimed = SharedAllocation::claim_copy((to_all, to), (from_all, from));
                let (claims, overlap) = match claimed {
                    Ok(claims) => ((claims.source, claims.destination), None),
                    Err(error) => {
                        let none = |view: &BufferView<B>, access| view.claim_checked(0..0, access);
                        ((none(&source, Access::Read), none(&destination, Access::Write)), Some(error))
                    }
                };
                let ends = Ends {
                    source: Owned::View(Some(claims.0), source),
                    destination: Owned::View(Some(claims.1), destination),
                };
                (ends, refusal.or(overlap))
            }
            (source, destination) => {
                let source = Owned::buffer(OwnedEnd(source), from, Access::Read);
                let destination = Owned::buffer(OwnedEnd(destination), to, Access::Write);
                (Ends { source, destination }, refusal)
            }
        };
        self.begin(ends, bytes, refusal, |ends| {
            (S::from_end(ends.source.into_end()), D::from_end(ends.destination.into_end()))
        })
    }

    /// Begins to set every byte of a part of a buffer or view to `value`.
    ///
    /// # Errors
    ///
    /// See above.
    pub fn fill_async<D: TransferBuffer<B>>(
        &self,
        destination: D,
        range: Range<u64>,
        value: u8,
    ) -> Begun<B, D> {
        let destination = destination.into_end();
        let (range, refusal) = or_nothing(part("fill", range, destination.size_bytes()));
        let bytes = range.end - range.start;
        let destination = Owned::buffer(destination, range, Access::Write);
        self.begin(Ends { source: Owned::Value(value), destination }, bytes, refusal, |ends| {
            D::from_end(ends.destination.into_end())
        })
    }

    fn begin<T>(
        &self,
        ends: Ends<B>,
        bytes: u64,
        refusal: Option<Error>,
        take: fn(Ends<B>) -> T,
    ) -> Begun<B, T> {
        let manager = self.manager();
        let owner = &manager.owner;
        let refuse = |error, ends| Err(OperationError::new(error, 0, Some(take(ends))));
        if let Some(error) = refusal {
            return refuse(error, ends);
        }
        match transfer::begin(owner.shared_ptr(), Box::new(ends), |from, to| self.describe(from, to)) {
            Ok(id) => Ok(Transfer { manager: manager.clone(), id, bytes, take, is_taken: false }),
            Err((error, parts)) => {
                refuse(error, *parts.into_any().downcast().expect("they are what was put in"))
            }
        }
    }

    /// How a transfer that owns its ends is done: after what may use them now, and while the manager lives.
    fn describe<'a>(&self, from: &mut Bytes<'a, B>, to: &mut ReachMut<'a, B>) -> Result<EntryDesc<B>, Error> {
        let owner = &self.manager().owner;
        owner.check_process("transfer")?;
        let mut after = to.0.marks(owner.shared_ptr())?;
        if let Bytes::Memory(source) = from {
            after.append(&mut source.marks(owner.shared_ptr())?);
        }
        let bytes = to.0.bytes;
        let mut desc = describe(owner.shared_ptr(), from, to, self.options())?;
        self.prepare(&mut desc, bytes, true)?;
        Ok(EntryDesc { after, manager: Some(self.manager().clone()), ..desc })
    }
}

/// A range, or none and why.
fn or_nothing(range: Result<Range<u64>, Error>) -> (Range<u64>, Option<Error>) {
    match range {
        Ok(range) => (range, None),
        Err(error) => (0..0, Some(error)),
    }
}
