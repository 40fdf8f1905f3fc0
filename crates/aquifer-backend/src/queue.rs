//! Queues: work that the device does later, in order, and the value that tells how far it is.

use crate::{BlockRange, Error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

/// One end of a queued copy.
#[derive(Debug)]
pub enum CopyEnd<'a, T> {
    /// `offset` bytes into a block.
    Block {
        /// The block.
        block: &'a T,
        /// First byte, counted from the start of the block.
        offset: u64,
    },
    /// Memory of the host, which the backend reads or writes when the copy runs.
    Host(NonNull<u8>),
}

/// What a queue is asked to do; see [`Backend::enqueue`](crate::Backend::enqueue).
///
/// The references are good for the call only: a backend notes addresses or handles.
#[derive(Debug)]
pub enum Command<'a, T> {
    /// Copies bytes.
    Copy {
        /// From here.
        source: CopyEnd<'a, T>,
        /// To here.
        destination: CopyEnd<'a, T>,
        /// So many.
        bytes: u64,
    },
    /// Sets every byte of a range.
    Fill {
        /// The range.
        destination: BlockRange<'a, T>,
        /// The value of each byte.
        value: u8,
    },
}

/// Follows one command: cancels it, and learns how far it came and what went wrong. Shared by who asked and the backend.
#[derive(Debug, Default)]
pub struct Ticket {
    is_cancelled: AtomicBool,
    done_bytes: AtomicU64,
    error: Mutex<Option<Error>>,
}

impl Ticket {
    /// Asks the backend to stop. It may do so between any two bytes, or finish all the same; the queue's values come in
    /// any case.
    pub fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
    }

    /// Whether the backend should stop. To be looked at now and then while a command runs, where that can be.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled.load(Ordering::Acquire)
    }

    /// Notes, for the backend, that so many more bytes have arrived.
    pub fn add_done(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// How many bytes have arrived.
    #[must_use]
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes.load(Ordering::Acquire)
    }

    /// Notes, for the backend, that the command failed. The first error stays.
    pub fn fail(&self, error: Error) {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
    }

    /// Takes the error out.
    #[must_use]
    pub fn take_error(&self) -> Option<Error> {
        self.error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_ticket_tells_both_ways_and_keeps_the_first_error() {
        let ticket = Ticket::default();
        assert!(!ticket.is_cancelled());
        ticket.cancel();
        ticket.add_done(3);
        ticket.add_done(4);
        assert_eq!((ticket.is_cancelled(), ticket.done_bytes()), (true, 7));
        ticket.fail(Error::new(ErrorKind::Driver, "first", ""));
        ticket.fail(Error::new(ErrorKind::Driver, "second", ""));
        assert_eq!(ticket.take_error().map(|error| error.operation()), Some("first"));
        assert!(ticket.take_error().is_none());
    }
}
