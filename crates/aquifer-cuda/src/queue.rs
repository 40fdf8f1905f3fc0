//! Queues: a CUDA stream each, with a word that the stream itself writes.
//!
//! ```text
//! enqueue ─> cuMemcpyAsync, cuMemsetD8Async, steps of the processor's ─> stream
//! signal(value) ─> cuStreamWriteValue64 ─> the word (page-locked memory of the host)
//! completed ─> a load of the word; the tickets of what is before the marker are told
//! ```

mod copy;
mod hold;
mod host_step;
mod host_work;
mod marks;
mod pause;
mod pending;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use aquifer_backend::{Command, Error, ErrorKind, Ticket};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUstream;
use parking_lot::Mutex;

use crate::block::CudaBlock;
use crate::device::Device;
use crate::status;
use crate::sys;

use copy::End;
use hold::Gate;
pub use hold::QueueHold;
use host_step::{Given, HostSteps};
pub(crate) use host_work::HostWork;
use marks::Marks;
use pause::Pause;
use pending::{Effect, Pending};

/// How many looks at a word that does not move there are for each question to the driver whether the stream is well. Nothing else tells
/// of a kernel that trapped.
const LOOKS_PER_QUESTION: u32 = 64;

/// A queue of a CUDA device.
///
/// Made by [`Backend::create_queue`](aquifer_backend::Backend::create_queue), or of a stream of the program's by
/// [`Cuda::adopt_stream`](crate::Cuda::adopt_stream). Any thread may use it. Work of the program's own is launched on
/// [`CudaQueue::stream`], and is in order with all else in it.
pub struct CudaQueue {
    device: Arc<Device>,
    stream: Stream,
    marks: Marks,
    /// The last value that a marker was put in for.
    signalled: AtomicU64,
    /// Held while something is given to the stream, so that what is pending is in the stream's order.
    giving: Mutex<HostSteps>,
    pending: Pending,
    idle_looks: AtomicU32,
    gate: Mutex<Option<Arc<Gate>>>,
}

/// Whose stream it is.
enum Stream {
    Own(CUstream),
    /// The program's, kept alive.
    Shared(Arc<CudaStream>),
    /// The program's, which vouches that it stays.
    Raw(CUstream),
}

// SAFETY: a stream is a handle, which any thread may use with its context current.
unsafe impl Send for Stream {}
// SAFETY: as above.
unsafe impl Sync for Stream {}

impl fmt::Debug for CudaQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CudaQueue")
            .field("stream", &self.stream())
            .field("signalled", &self.signalled)
            .field("value", &self.marks.value())
            .finish_non_exhaustive()
    }
}

impl Drop for CudaQueue {
    fn drop(&mut self) {
        if !self.device.context.is_of_this_process() {
            return;
        }
        self.giving.get_mut().free(&self.device);
        if let Stream::Own(stream) = self.stream {
            // SAFETY: it was made for this queue, and goes with it.
            let _ = self.device.call("destroy_queue", || unsafe { sys::destroy_stream(stream) });
        }
    }
}

impl CudaQueue {
    pub(crate) fn new(device: &Arc<Device>) -> Result<Self, Error> {
        let operation = "create_queue";
        device.check(operation)?;
        let stream = device.call(operation, sys::create_stream)?;
        Self::on(device, Stream::Own(stream), operation)
    }

    /// On a stream of the program's.
    pub(crate) fn adopt(device: &Arc<Device>, stream: &Arc<CudaStream>) -> Result<Self, Error> {
        // SAFETY: the reference keeps it alive.
        unsafe { check_stream(device, stream.cu_stream()) }?;
        Self::on(device, Stream::Shared(Arc::clone(stream)), ADOPT)
    }

    /// # Safety
    ///
    /// - The stream lives for as long as the queue does.
    pub(crate) unsafe fn adopt_raw(device: &Arc<Device>, stream: CUstream) -> Result<Self, Error> {
        // SAFETY: the caller vouches for it.
        unsafe { check_stream(device, stream) }?;
        Self::on(device, Stream::Raw(stream), ADOPT)
    }

    fn on(device: &Arc<Device>, stream: Stream, operation: &'static str) -> Result<Self, Error> {
        let word = device.words.take(device, operation).inspect_err(|_| {
            if let Stream::Own(stream) = stream {
                // SAFETY: nobody has been given it.
                let _ = device.call(operation, || unsafe { sys::destroy_stream(stream) });
            }
        })?;
        Ok(Self {
            device: Arc::clone(device),
            stream,
            marks: Marks::new(word),
            signalled: AtomicU64::new(0),
            giving: Mutex::default(),
            pending: Pending::default(),
            idle_looks: AtomicU32::new(0),
            gate: Mutex::default(),
        })
    }

    pub(crate) fn is_of(&self, device: &Arc<Device>) -> bool {
        Arc::ptr_eq(&self.device, device)
    }

    /// The stream, for work of the program's own: kernels, copies, captures. It must not be destroyed.
    ///
    /// What is launched on it may use buffers that are at home on this queue or recorded for it (`Buffer::record_use`) before they are
    /// freed. While a graph is captured on it, markers and transfers are refused: memory that is freed meanwhile waits until the
    /// capture is over.
    #[must_use]
    pub fn stream(&self) -> CUstream {
        match &self.stream {
            Stream::Own(stream) | Stream::Raw(stream) => *stream,
            Stream::Shared(stream) => stream.cu_stream(),
        }
    }

    /// Keeps what is put into the queue from now on from running, until the hold is dropped. Does not block.
    ///
    /// Calls of the driver's that wait for the device, such as `cudaFree`, wait for the hold too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the driver did not take it; [`ErrorKind::DeviceLost`]; [`ErrorKind::Forked`].
    pub fn hold(&self) -> Result<QueueHold, Error> {
        let gate = {
            let mut gate = self.gate.lock();
            match &*gate {
                Some(gate) => Arc::clone(gate),
                None => {
                    let word = self.device.gate_words.take_as_it_is(&self.device, "hold")?;
                    Arc::clone(gate.insert(Arc::new(Gate::new(word))))
                }
            }
        };
        let _giving = self.giving.lock();
        let (hold, word, value) = gate.close();
        // SAFETY: the stream lives as long as the queue, and the word as long as the gate, which the queue keeps.
        self.give("hold", |stream| unsafe { sys::await_word(stream, word, value) })?;
        Ok(hold)
    }

    /// Blocks until everything that is in the queue has run, or the device is lost.
    ///
    /// It returns at once in a forked process, and while a graph is being captured on the stream (of the legacy default stream: on any that
    /// it orders with): to ask for the stream's end then would end the capture.
    pub fn wait_idle(&self) {
        // SAFETY: the stream lives as long as the queue.
        let _ = self.unless_captured("wait", |stream| unsafe { sys::synchronize(stream) });
    }

    /// Gives the stream something, unless it is being captured: then it would become part of a graph, and run when that is launched, or
    /// never, or often.
    fn give<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(CUstream) -> Result<T, sys::Code>,
    ) -> Result<T, Error> {
        self.device.check(operation)?;
        self.unless_captured(operation, call)?.ok_or_else(|| captured(operation))
    }

    /// `None` while the stream is being captured, or the driver answers nothing because another is. The call may find that out, too.
    fn unless_captured<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce(CUstream) -> Result<T, sys::Code>,
    ) -> Result<Option<T>, Error> {
        let stream = self.stream();
        // Its own is captured only by a program that means to; the question is asked there too.
        self.device.call(operation, || {
            // SAFETY: the stream lives as long as the queue.
            let is_capturing = unsafe { sys::is_capturing(stream) };
            let answer = match is_capturing {
                Ok(false) => call(stream).map(Some),
                Ok(true) => Ok(None),
                Err(code) => Err(code),
            };
            answer.or_else(|code| if status::is_of_capture(code) { Ok(None) } else { Err(code) })
        })
    }

    /// # Safety
    ///
    /// - As for [`Backend::enqueue`](aquifer_backend::Backend::enqueue).
    pub(crate) unsafe fn enqueue(
        &self,
        command: Command<'_, CudaBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        self.device.check("enqueue")?;
        if ticket.is_cancelled() {
            return Ok(());
        }
        let mut host_steps = self.giving.lock();
        let bytes = match command {
            Command::Fill { destination, value } => {
                let to = address_of(destination.block) + destination.offset;
                if destination.bytes > 0 {
                    self.give("enqueue", |stream| {
                        // SAFETY: the caller vouches for the range until the queue's value shows that it has run.
                        unsafe { sys::fill(stream, to, value, destination.bytes) }
                    })?;
                }
                destination.bytes
            }
            Command::Copy { source, destination, bytes } => {
                if bytes > 0 {
                    let ends = (End::of(source), End::of(destination));
                    // SAFETY: as above, for both ends.
                    match unsafe { self.enqueue_copy(&mut host_steps, ends, bytes) }? {
                        Given::Whole => bytes,
                        // What is in the stream uses both ends, so the core is to keep them.
                        Given::Part(code) => {
                            ticket.fail(status::error("enqueue", code));
                            0
                        }
                    }
                } else {
                    0
                }
            }
        };
        self.pending.push(Effect::Tell(Arc::clone(ticket), bytes));
        Ok(())
    }

    pub(crate) fn signal(&self, value: u64) -> Result<(), Error> {
        let _giving = self.giving.lock();
        // Before the stream can write it. If the driver refuses the marker, the next one covers it.
        self.pending.mark(value);
        self.put_marker("signal", value)?;
        self.signalled.store(value, Ordering::Release);
        Ok(())
    }

    /// Has the stream write a value, unless it is being captured. `giving` is held.
    ///
    /// Another thread may begin a capture between the question and the marker, and then the graph has the marker, to write the value again
    /// whenever it runs. So the question is asked once more; where the answer leaves that possible, the word is given up.
    fn put_marker(&self, operation: &'static str, value: u64) -> Result<(), Error> {
        let known = self.marks.value();
        let word = self.marks.word_or_new(&self.device, operation)?;
        let may_be_captured = self.give(operation, |stream| {
            // SAFETY: the stream lives as long as the queue, which the core keeps until its work has run; so does the word, or for good.
            unsafe { sys::write_word(stream, word.address(), value) }?;
            // SAFETY: as above.
            match unsafe { sys::is_capturing(stream) } {
                Err(code) if status::is_of_capture(code) => Ok(true),
                answer => answer,
            }
        })?;
        if may_be_captured {
            self.marks.give_up(known);
            return Err(captured(operation));
        }
        Ok(())
    }

    /// After a word was given up: has the stream write what was signalled to another one, so that who waits for it is told. Refused while
    /// the stream is captured.
    fn catch_up(&self, operation: &'static str) -> Result<(), Error> {
        if self.marks.word().is_some() {
            return Ok(());
        }
        let _giving = self.giving.lock();
        self.put_marker(operation, self.signalled.load(Ordering::Acquire))
    }

    pub(crate) fn completed(&self) -> Result<u64, Error> {
        self.device.check("completed")?;
        let value = self.value();
        if value < self.signalled.load(Ordering::Acquire)
            && self.idle_looks.fetch_add(1, Ordering::Relaxed) % LOOKS_PER_QUESTION == LOOKS_PER_QUESTION - 1
        {
            self.ask("completed")?;
        }
        Ok(value)
    }

    /// The word; ends what has run.
    fn value(&self) -> u64 {
        let value = self.marks.value();
        self.pending.end(value);
        value
    }

    /// Asks the driver whether the stream is well; not while it is captured, which the question would spoil.
    fn ask(&self, operation: &'static str) -> Result<(), Error> {
        // What it says of the device comes below.
        let _ = self.catch_up(operation);
        // SAFETY: the stream lives as long as the queue.
        self.unless_captured(operation, |stream| unsafe { sys::is_idle(stream) })?;
        Ok(())
    }

    pub(crate) fn wait(&self, value: u64, timeout: Duration) -> Result<bool, Error> {
        let mut pause = Pause::new();
        loop {
            self.device.check("wait")?;
            if self.value() >= value {
                return Ok(true);
            }
            let waited = pause.waited();
            let left = timeout.saturating_sub(waited);
            if left.is_zero() {
                self.ask("wait")?;
                return Ok(self.value() >= value);
            }
            if pause.is_question_due(waited) {
                self.ask("wait")?;
            }
            pause.pass(waited, left);
        }
    }

    pub(crate) fn wait_on(&self, other: &Self, value: u64) -> Result<(), Error> {
        self.device.check("wait_on_queue")?;
        if !other.is_of(&self.device) {
            // If that device were lost, nobody would write its word, and this one's stream would wait for good.
            let message = format!(
                "a queue of device {} was to wait for one of device {}, or of another backend of the same; wait on the host",
                self.device.ordinal, other.device.ordinal
            );
            return Err(Error::new(ErrorKind::InvalidArgument, "wait_on_queue", message));
        }
        // Never signalled: nothing to wait for. Of this queue itself all is in order.
        if other.stream() == self.stream() || other.signalled.load(Ordering::Acquire) < value {
            return Ok(());
        }
        other.catch_up("wait_on_queue")?;
        let Some(word) = other.marks.word() else {
            // Given up again this moment.
            return Err(captured("wait_on_queue"));
        };
        let _giving = self.giving.lock();
        let address = word.address();
        // SAFETY: the stream lives as long as the queue; the word is kept until the stream has passed it, and does not fall.
        self.give("wait_on_queue", |stream| unsafe { sys::await_word(stream, address, value) })?;
        self.pending.push(Effect::LetGo { _word: word });
        Ok(())
    }
}

fn captured(operation: &'static str) -> Error {
    let message = "a graph is being captured on the stream, or on one that the default stream orders with; end the capture first";
    Error::new(ErrorKind::Driver, operation, message)
}

const ADOPT: &str = "adopt_stream";
/// The driver's handle for the default stream of the thread that calls.
const CU_STREAM_PER_THREAD: usize = 2;

/// Whether a stream is of the device's context.
///
/// # Safety
///
/// - The stream is alive.
unsafe fn check_stream(device: &Device, stream: CUstream) -> Result<(), Error> {
    device.check(ADOPT)?;
    if stream.addr() == CU_STREAM_PER_THREAD {
        let message = "the default stream of each thread is as many streams as there are threads, and a queue is one; \
                       give a stream of your own";
        return Err(Error::new(ErrorKind::InvalidArgument, ADOPT, message));
    }
    // SAFETY: the caller vouches for it.
    let context = device.call(ADOPT, || unsafe { sys::context_of(stream) })?;
    if context == device.context.raw() {
        return Ok(());
    }
    let message = format!(
        "the stream is of another context, or another device, than device {} is used through; make it there",
        device.ordinal
    );
    Err(Error::new(ErrorKind::InvalidArgument, ADOPT, message))
}

fn address_of(block: &CudaBlock) -> u64 {
    block.address().expect("the core names no address of memory that has none")
}
