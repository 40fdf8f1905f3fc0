//! Queues: a CUDA stream each, with a word that the stream itself writes.
//!
//! ```text
//! enqueue ─> cuMemcpyAsync, cuMemsetD8Async, steps of the processor's ─> stream
//! signal(value) ─> cuStreamWriteValue64 ─> the word (page-locked memory of the host)
//! completed ─> a load of the word; the tickets of what is before the marker are told
//! ```

mod adopt;
mod copy;
mod hold;
mod host_step;
mod host_work;
mod markers;
mod marks;
mod pause;
mod pending;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64};

use aquifer_backend::{Command, Error, ErrorKind, Ticket};
use cudarc::driver::CudaStream;
use cudarc::driver::sys::CUstream;
use parking_lot::Mutex;

use crate::block::CudaBlock;
use crate::device::Device;
use crate::status;
use crate::sys;

use adopt::{ADOPT, check_stream};
use copy::End;
use hold::Gate;
pub use hold::QueueHold;
use host_step::{Given, HostSteps};
pub(crate) use host_work::HostWork;
use marks::Marks;
pub use marks::ValueHold;
use pending::{Effect, Pending};

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
    /// freed. Memory of a buffer that was at home on this queue may be this queue's next buffer's at once: the stream runs what is put
    /// into it in order, so that comes later.
    ///
    /// While a graph is captured on it, markers and transfers are refused: memory that is freed meanwhile for other queues waits until
    /// the capture is over. A graph runs later than it is captured, and maybe often: **buffers that it uses must live until the last
    /// launch of it has run**, however they are used while it is captured. Begin a capture while no other thread gives the queue transfers,
    /// or has it wait or held: what comes between becomes part of the graph. (Markers that the manager puts in are looked after.)
    #[must_use]
    pub fn stream(&self) -> CUstream {
        match &self.stream {
            Stream::Own(stream) | Stream::Raw(stream) => *stream,
            Stream::Shared(stream) => stream.cu_stream(),
        }
    }

    /// Keeps what is put into the queue from now on from running, until the hold is dropped. Does not block.
    ///
    /// Calls of the driver's that wait for the device, such as `cudaFree`, wait for the hold too. And so may other streams: a device runs
    /// as many at a time as the environment variable `CUDA_DEVICE_MAX_CONNECTIONS` said when the driver was started (8 if it said nothing),
    /// and one that is held is one of them. With eight held, a ninth does not run before one of them is let go. Where only the queue's value
    /// matters, use [`CudaQueue::hold_value`].
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
}

fn captured(operation: &'static str) -> Error {
    let message = "a graph is being captured on the stream, or on one that the default stream orders with; end the capture first";
    Error::new(ErrorKind::Driver, operation, message)
}

fn address_of(block: &CudaBlock) -> u64 {
    block.address().expect("the core names no address of memory that has none")
}
