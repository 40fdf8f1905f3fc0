//! Operations under way, as futures.

use super::MemoryManager;
use crate::raw::operation::{OperationState, Parts};
use aquifer_backend::{Backend, Error, ErrorKind};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// A copy, fill, upload or download that a queue does; from [`Queue`](crate::Queue).
///
/// It runs whether or not anybody looks. As a future, under any executor, it gives back what it used when it is over;
/// [`Operation::wait`] blocks for that. Dropped before, it is *detached*: it runs to its end, and what it uses is freed then.
/// To forget it is safe too, but leaks a handle of the manager.
#[must_use = "what an operation uses comes back through it"]
pub struct Operation<B: Backend, T> {
    // Dropped before the manager, with which the backend may go.
    state: Arc<OperationState<B>>,
    manager: MemoryManager<B>,
    bytes: u64,
    take: fn(Parts<B>) -> T,
}

impl<B: Backend, T> fmt::Debug for Operation<B, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("bytes", &self.bytes)
            .field("done_bytes", &self.done_bytes())
            .finish_non_exhaustive()
    }
}

/// Why an operation was not begun, or did not reach its end, and what it would have given back.
pub struct OperationError<T> {
    error: Error,
    done_bytes: u64,
    parts: Option<T>,
}

impl<T> OperationError<T> {
    pub(super) fn new(error: Error, done_bytes: u64, parts: Option<T>) -> Self {
        Self { error, done_bytes, parts }
    }

    /// What went wrong: [`ErrorKind::Cancelled`], [`ErrorKind::DeviceLost`], [`ErrorKind::Driver`] and what the call that
    /// began it says.
    #[must_use]
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// How many bytes had arrived. Which, is not said; the destination's other bytes are as they were, or unspecified after
    /// a failure of the driver's.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// The error, and what the operation used, if it can be given back ([`OperationError::into_parts`]).
    #[must_use]
    pub fn into_error_and_parts(self) -> (Error, Option<T>) {
        (self.error, self.parts)
    }

    /// The error alone; what the operation used is dropped.
    #[must_use]
    pub fn into_error(self) -> Error {
        self.error
    }

    /// What the operation used; `None` only if it cannot be known whether the device still does, or if it has been given
    /// before.
    #[must_use]
    pub fn into_parts(self) -> Option<T> {
        self.parts
    }
}

impl<T> fmt::Display for OperationError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<T> fmt::Debug for OperationError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OperationError")
            .field("error", &self.error)
            .field("done_bytes", &self.done_bytes)
            .finish_non_exhaustive()
    }
}

impl<T> std::error::Error for OperationError<T> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl<T> From<OperationError<T>> for Error {
    fn from(error: OperationError<T>) -> Self {
        error.error
    }
}

impl<B: Backend, T> Operation<B, T> {
    pub(super) fn new(
        manager: MemoryManager<B>,
        state: Arc<OperationState<B>>,
        bytes: u64,
        take: fn(Parts<B>) -> T,
    ) -> Self {
        Self { manager, state, bytes, take }
    }

    /// Asks the device to stop. It may have finished, or finish all the same; if it stops early, the outcome is
    /// [`ErrorKind::Cancelled`] with the bytes that had arrived.
    pub fn cancel(&self) {
        self.state.ticket.cancel();
    }

    /// How many bytes it moves in all.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many bytes have arrived, as far as the backend tells before the end.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.state.ticket.done_bytes()
    }

    /// The value of its queue at which it is over.
    #[must_use]
    pub fn value(&self) -> u64 {
        self.state.value
    }

    /// Whether it is over: then [`Operation::wait`] does not block.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.look();
        self.state.is_over()
    }

    fn look(&self) {
        if self.state.is_over() {
            return;
        }
        let owner = &self.manager.owner;
        owner.look();
        // Whoever has seen the queue pass it: this look, or another thread's.
        if self.state.is_reached() {
            owner.complete_operations();
        }
    }

    /// Blocks until it is over, and gives back what it used.
    ///
    /// # Errors
    ///
    /// An [`OperationError`] with what it used: [`ErrorKind::Cancelled`] if it was stopped early; [`ErrorKind::Driver`] if
    /// the driver failed; [`ErrorKind::DeviceLost`] if the device was lost before it was known to be over. With nothing but
    /// the error: [`ErrorKind::InvalidArgument`] if a poll has given the outcome before; [`ErrorKind::Forked`].
    pub fn wait(self) -> Result<T, OperationError<T>> {
        let owner = &self.manager.owner;
        loop {
            if let Some(outcome) = self.take(None) {
                return outcome;
            }
            if self.state.is_taken() {
                let message =
                    "its outcome was given by a poll before; poll an operation or wait for it, not both";
                let error = Error::new(ErrorKind::InvalidArgument, "Operation::wait", message);
                return Err(OperationError::new(error, self.done_bytes(), None));
            }
            let waited = owner.wait_for(&self.state.queue, self.state.value);
            owner.complete_operations();
            if let Err(error) = waited
                && !owner.is_lost()
            {
                return Err(OperationError::new(error, self.done_bytes(), None));
            }
        }
    }

    fn take(&self, waker: Option<&Waker>) -> Option<Result<T, OperationError<T>>> {
        let (outcome, parts) = self.state.take(waker)?;
        let (parts, done_bytes) = ((self.take)(parts), self.done_bytes());
        let is_short = self.state.ticket.is_cancelled() && done_bytes < self.bytes;
        let outcome = outcome.and_then(|()| if is_short { Err(self.cancelled(done_bytes)) } else { Ok(()) });
        Some(match outcome {
            Ok(()) => Ok(parts),
            Err(error) => Err(OperationError::new(error, done_bytes, Some(parts))),
        })
    }

    fn cancelled(&self, done_bytes: u64) -> Error {
        let message = format!("{done_bytes} of {} bytes had arrived", self.bytes);
        Error::new(ErrorKind::Cancelled, "operation", message)
    }
}

impl<B: Backend, T> Future for Operation<B, T> {
    type Output = Result<T, OperationError<T>>;

    /// Polled again after it has given its outcome, it is pending for ever.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        self.look();
        match self.take(Some(context.waker())) {
            Some(outcome) => Poll::Ready(outcome),
            None => Poll::Pending,
        }
    }
}

impl<B: Backend, T> Drop for Operation<B, T> {
    fn drop(&mut self) {
        self.state.detach();
    }
}
