//! Operations: what queues do for the program.

use super::flag::Flag;
use super::program::Action;
use super::scene::{Held, Note, Scene};
use aquifer_core::{Buffer, CopyDesc, Error, ErrorKind, Operation, OperationError};
use aquifer_sim::Sim;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

/// The longest upload and download, in bytes.
const HOST_BYTES_MAX: u64 = 4096;

/// The future of an operation, by what it gives back.
#[derive(Debug)]
pub(super) enum Work {
    Fill(Operation<Sim, Buffer<Sim>>),
    Copy(Operation<Sim, (Buffer<Sim>, Buffer<Sim>)>),
    Host(Operation<Sim, (Buffer<Sim>, Vec<u8>)>),
}

/// How an operation ended: its buffers if they came back, and its error.
type Outcome = (Option<Vec<Buffer<Sim>>>, Option<Error>);

/// An operation that the program looks after.
#[derive(Debug)]
pub(super) struct Pending {
    work: Work,
    pub(super) notes: Vec<Note>,
    pub(super) flag: Arc<Flag>,
    is_cancelled: bool,
}

fn outcome<T>(result: Result<T, OperationError<T>>, buffers: fn(T) -> Vec<Buffer<Sim>>) -> Outcome {
    match result {
        Ok(parts) => (Some(buffers(parts)), None),
        Err(failure) => {
            let error = Error::new(failure.error().kind(), "operation", failure.error().to_string());
            (failure.into_parts().map(buffers), Some(error))
        }
    }
}

fn one(buffer: Buffer<Sim>) -> Vec<Buffer<Sim>> {
    vec![buffer]
}

fn both((from, to): (Buffer<Sim>, Buffer<Sim>)) -> Vec<Buffer<Sim>> {
    vec![from, to]
}

fn device_end((buffer, _): (Buffer<Sim>, Vec<u8>)) -> Vec<Buffer<Sim>> {
    vec![buffer]
}

impl Work {
    fn poll(&mut self, waker: &Waker) -> Option<Outcome> {
        fn poll<T>(
            operation: &mut Operation<Sim, T>,
            waker: &Waker,
            buffers: fn(T) -> Vec<Buffer<Sim>>,
        ) -> Option<Outcome> {
            match Pin::new(operation).poll(&mut Context::from_waker(waker)) {
                Poll::Ready(result) => Some(outcome(result, buffers)),
                Poll::Pending => None,
            }
        }
        match self {
            Self::Fill(operation) => poll(operation, waker, one),
            Self::Copy(operation) => poll(operation, waker, both),
            Self::Host(operation) => poll(operation, waker, device_end),
        }
    }

    fn wait(self) -> Outcome {
        match self {
            Self::Fill(operation) => outcome(operation.wait(), one),
            Self::Copy(operation) => outcome(operation.wait(), both),
            Self::Host(operation) => outcome(operation.wait(), device_end),
        }
    }

    fn cancel(&self) {
        match self {
            Self::Fill(operation) => operation.cancel(),
            Self::Copy(operation) => operation.cancel(),
            Self::Host(operation) => operation.cancel(),
        }
    }
}

impl Scene {
    pub(super) fn use_operations(&mut self, action: Action) {
        let place = |number: u8, scene: &Self| Self::place(number, scene.operations.len());
        match action {
            Action::Fill { queue, buffer } => self.begin(queue, buffer, None, |queue, mut parts| {
                let result = queue.fill(parts.remove(0), 3);
                result.map(Work::Fill).map_err(|failure| failed(failure, one))
            }),
            Action::Copy { queue, from, to } => self.begin(queue, from, Some(to), |queue, mut parts| {
                let (to, from) = (parts.remove(1), parts.remove(0));
                let bytes = from.size_bytes().min(to.size_bytes());
                let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes };
                queue.copy(from, to, desc).map(Work::Copy).map_err(|failure| failed(failure, both))
            }),
            Action::Upload { queue, buffer, bytes } => self.begin(queue, buffer, None, |queue, mut parts| {
                let buffer = parts.remove(0);
                let bytes = u64::from(bytes).min(HOST_BYTES_MAX).min(buffer.size_bytes());
                let result = queue.upload(vec![1_u8; bytes as usize], buffer, 0);
                result.map(Work::Host).map_err(|failure| failed(failure, device_end))
            }),
            Action::Download { queue, buffer, bytes } => {
                self.begin(queue, buffer, None, |queue, mut parts| {
                    let buffer = parts.remove(0);
                    let bytes = u64::from(bytes).min(HOST_BYTES_MAX).min(buffer.size_bytes());
                    let result = queue.download::<u8>(buffer, 0, bytes as usize);
                    result.map(Work::Host).map_err(|failure| failed(failure, device_end))
                })
            }
            Action::WaitOperation { operation } => {
                if let Some(place) = place(operation, self).filter(|_| !self.is_blocked()) {
                    let Pending { work, notes, is_cancelled, .. } = self.operations.swap_remove(place);
                    let outcome = work.wait();
                    self.take_back(notes, is_cancelled, outcome);
                }
            }
            Action::PollOperation { operation } => {
                if let Some(place) = place(operation, self) {
                    self.poll_operation(place);
                }
            }
            Action::Detach { operation } => {
                if let Some(place) = place(operation, self) {
                    let pending = self.operations.swap_remove(place);
                    self.detach(pending);
                }
            }
            Action::CancelOperation { operation } => {
                if let Some(place) = place(operation, self) {
                    self.operations[place].work.cancel();
                    self.operations[place].is_cancelled = true;
                }
            }
            _ => unreachable!("not about operations: {action:?}"),
        }
    }

    fn begin(
        &mut self,
        queue: u8,
        first: u16,
        second: Option<u16>,
        start: impl FnOnce(&aquifer_core::Queue<Sim>, Vec<Buffer<Sim>>) -> Result<Work, (Vec<Buffer<Sim>>, Error)>,
    ) {
        let (Some(queue), Some(first)) = (self.queue(queue), self.buffer(first)) else { return };
        let mut held = Vec::with_capacity(2);
        if let Some(second) = second {
            let Some(second) = self.buffer(second).filter(|&second| second != first) else { return };
            let (low, high) = (first.min(second), first.max(second));
            let high_one = self.buffers.swap_remove(high);
            let low_one = self.buffers.swap_remove(low);
            held.extend([low_one, high_one]);
        } else {
            held.push(self.buffers.swap_remove(first));
        }
        let (parts, notes): (Vec<_>, Vec<_>) = held.into_iter().map(|held| (held.buffer, held.note)).unzip();
        match start(&queue, parts) {
            Ok(work) => {
                self.operations.push(Pending { work, notes, flag: Flag::up(), is_cancelled: false });
            }
            Err((buffers, error)) => {
                self.check_error("begin", &error);
                self.put_back(buffers, notes);
            }
        }
    }

    fn put_back(&mut self, buffers: Vec<Buffer<Sim>>, notes: Vec<Note>) {
        assert_eq!(buffers.len(), notes.len());
        self.buffers.extend(buffers.into_iter().zip(notes).map(|(buffer, note)| Held { buffer, note }));
    }

    /// What an operation used comes back, and nothing may use it any more.
    fn take_back(&mut self, notes: Vec<Note>, is_cancelled: bool, (buffers, error): Outcome) {
        match &error {
            Some(error) if error.kind() == ErrorKind::Cancelled => assert!(is_cancelled, "{error}"),
            Some(error) => self.check_error("operation", error),
            None => {}
        }
        let Some(buffers) = buffers else {
            panic!("an operation kept its buffers: {error:?}");
        };
        let first = self.buffers.len();
        self.put_back(buffers, notes);
        for held in &self.buffers[first..] {
            assert_eq!(held.buffer.device_address(), Some(held.note.address));
            self.sim.host_access(held.access());
        }
    }

    /// Polls an operation; true if it is over, and gone.
    pub(super) fn poll_operation(&mut self, place: usize) -> bool {
        let pending = &mut self.operations[place];
        pending.flag.lower();
        let Some(outcome) = pending.work.poll(&Waker::from(Arc::clone(&pending.flag))) else { return false };
        let Pending { notes, is_cancelled, .. } = self.operations.swap_remove(place);
        self.take_back(notes, is_cancelled, outcome);
        true
    }

    pub(super) fn detach(&mut self, pending: Pending) {
        for note in &pending.notes {
            self.sim.give_up(note.claim);
        }
        self.loose_count += pending.notes.len() as u64;
        drop(pending);
    }
}

/// What an operation would have used that was not begun, and why.
fn failed<T>(failure: OperationError<T>, buffers: fn(T) -> Vec<Buffer<Sim>>) -> (Vec<Buffer<Sim>>, Error) {
    let (parts, error) = outcome(Err(failure), buffers);
    (parts.expect("what was not begun comes back"), error.expect("it has failed"))
}
