//! What a backend and its queues share: the context, the facts, and whether the device is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aquifer_backend::{Error, ErrorKind, Properties};
use cudarc::driver::sys::{CUdevice, CUstream};
use parking_lot::Mutex;

use crate::context::Context;
use crate::driver;
use crate::facts::Facts;
use crate::nvml::Nvml;
use crate::options::{CudaOptions, UnifiedMemory};
use crate::queue::HostWork;
use crate::sanitizer::Sanitizer;
use crate::status;
use crate::sys::{self, Code};
use crate::virtual_memory::Kind;
use crate::words::Words;

/// Which memory a memory type is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Device,
    Pinned,
    Mapped,
    Managed,
}

#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) context: Arc<Context>,
    pub(crate) options: CudaOptions,
    pub(crate) properties: Properties,
    pub(crate) ordinal: i32,
    /// What physical blocks are made of, and whole blocks of many pages; `None` without virtual memory.
    pub(crate) physical: Option<Kind>,
    /// For queues' values.
    pub(crate) words: Words,
    /// For what holds queues back. They never fall, whoever has them.
    pub(crate) gate_words: Words,
    /// Whom to tell what is in use.
    pub(crate) sanitizer: Option<Sanitizer>,
    pub(crate) host_work: Arc<HostWork>,
    pub(crate) mapped: Mutex<Mapped>,
    /// Of the device's heap, what this backend's blocks have.
    pub(crate) device_bytes: AtomicU64,
    pub(crate) managed_bytes: AtomicU64,
    pub(crate) nvml: OnceLock<Nvml>,
    /// Whether somebody has asked for the budget before.
    pub(crate) is_watched: AtomicBool,
    /// For copies and fills that are waited for: those that no thread is using now.
    idle_streams: Mutex<Vec<IdleStream>>,
    raw: CUdevice,
    /// The answer that told of the loss; 0 while there is none.
    loss: AtomicU32,
}

/// What is mapped behind reserved addresses, and who may use it.
#[derive(Debug, Default)]
pub(crate) struct Mapped {
    /// Bytes, by address.
    pub(crate) extents: BTreeMap<u64, u64>,
    /// Other devices whose queues read it, by ordinal.
    pub(crate) peers: Vec<i32>,
}

/// How many of its own streams a device keeps for the next copy that is waited for: the device itself runs no more at a time by default
/// (`CUDA_DEVICE_MAX_CONNECTIONS`).
const IDLE_STREAMS_MAX: usize = 8;

/// A stream of the device's own, with nothing in it.
#[derive(Debug)]
struct IdleStream(CUstream);

// SAFETY: a stream is a handle, which any thread may use with its context current.
unsafe impl Send for IdleStream {}

impl Drop for Device {
    fn drop(&mut self) {
        for IdleStream(stream) in std::mem::take(self.idle_streams.get_mut()) {
            // In a forked process this does nothing.
            // SAFETY: it was made for this device, and goes with it.
            let _ = self.call("destroy_queue", || unsafe { sys::destroy_stream(stream) });
        }
    }
}

impl Device {
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] if the device lacks what is needed; [`ErrorKind::Driver`].
    pub(crate) fn new(
        raw: CUdevice,
        context: Context,
        mut options: CudaOptions,
        operation: &'static str,
    ) -> Result<Self, Error> {
        let sanitizer = if options.sanitizer {
            let _current = context.enter().map_err(|code| status::error(operation, code))?;
            Sanitizer::find()
        } else {
            None
        };
        options.virtual_memory &= sanitizer.is_none();
        let facts = Facts::ask(raw, &context, &options).map_err(|code| status::error(operation, code))?;
        facts.check(operation)?;
        Ok(Self {
            context: Arc::new(context),
            properties: facts.properties(sanitizer.is_some()),
            ordinal: options.ordinal as i32,
            physical: facts.physical.map(|(kind, _)| kind),
            options,
            words: Words::default(),
            gate_words: Words::default(),
            sanitizer,
            host_work: Arc::default(),
            mapped: Mutex::default(),
            device_bytes: AtomicU64::new(0),
            managed_bytes: AtomicU64::new(0),
            nvml: OnceLock::new(),
            is_watched: AtomicBool::new(false),
            idle_streams: Mutex::default(),
            raw,
            loss: AtomicU32::new(0),
        })
    }

    pub(crate) fn raw(&self) -> CUdevice {
        self.raw
    }

    /// Calls the driver in the device's context, and notes what it says of the device. In a forked process it is not called.
    pub(crate) fn call<T>(
        &self,
        operation: &'static str,
        call: impl FnOnce() -> Result<T, Code>,
    ) -> Result<T, Error> {
        if !self.context.is_of_this_process() {
            return Err(driver::forked(operation));
        }
        let answer = self.context.enter().and_then(|_current| call());
        answer.map_err(|code| self.note(operation, code))
    }

    /// What an answer of the driver's means; if it is the device's loss, that is kept.
    pub(crate) fn note(&self, operation: &'static str, code: Code) -> Error {
        if status::is_loss(code) {
            // Before anybody learns of it, who then gives memory back.
            self.host_work.end();
            self.loss.store(code as u32, Ordering::Release);
        }
        status::error(operation, code)
    }

    /// Tells the sanitizer something, if there is one: in the device's context, of which it takes heaps to be.
    pub(crate) fn tell_sanitizer(&self, tell: impl FnOnce(&Sanitizer)) {
        if let Some(sanitizer) = &self.sanitizer
            && let Ok(_current) = self.context.enter()
        {
            tell(sanitizer);
        }
    }

    /// [`ErrorKind::DeviceLost`] once it is known that the device is lost.
    pub(crate) fn check(&self, operation: &'static str) -> Result<(), Error> {
        match self.loss.load(Ordering::Acquire) {
            0 => Ok(()),
            code => Err(Error::new(
                ErrorKind::DeviceLost,
                operation,
                format!("the CUDA driver has given the device's context up (answer {code})"),
            )),
        }
    }

    /// Runs something on a stream of the device's own, and waits for it. Each thread that does so at a time has another stream.
    pub(crate) fn run(
        &self,
        operation: &'static str,
        give: impl FnOnce(CUstream) -> Result<(), Code>,
    ) -> Result<(), Error> {
        self.check(operation)?;
        self.call(operation, || {
            let idle = self.idle_streams.lock().pop();
            let stream = idle.map_or_else(sys::create_stream, |IdleStream(stream)| Ok(stream))?;
            let answer = give(stream).and_then(|()| {
                // SAFETY: the stream is kept below, or destroyed afterwards.
                unsafe { sys::synchronize(stream) }
            });
            self.put_back(stream);
            answer
        })
    }

    fn put_back(&self, stream: CUstream) {
        let mut idle = self.idle_streams.lock();
        if idle.len() < IDLE_STREAMS_MAX {
            idle.push(IdleStream(stream));
            return;
        }
        drop(idle);
        // SAFETY: it was made for one thread, which has done with it.
        let _ = unsafe { sys::destroy_stream(stream) };
    }

    pub(crate) fn place(&self, memory_type_index: usize) -> Place {
        match (memory_type_index, self.options.unified) {
            (0, _) => Place::Device,
            (1, _) => Place::Pinned,
            (_, UnifiedMemory::Mapped) => Place::Mapped,
            (_, UnifiedMemory::Managed { .. }) => Place::Managed,
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    fn device() -> Device {
        software_cuda::install();
        driver::load("test").unwrap();
        let raw = sys::device(0).unwrap();
        Device::new(raw, Context::primary(raw, "test").unwrap(), CudaOptions::default(), "test").unwrap()
    }

    #[test]
    fn copies_that_are_waited_for_do_not_wait_for_each_other() {
        const MINUTE: Duration = Duration::from_secs(60);
        let device = device();
        let (sender, receiver) = mpsc::channel();
        // None ends before all have begun.
        let meet = std::sync::Barrier::new(IDLE_STREAMS_MAX + 2);
        std::thread::scope(|scope| {
            for _ in 0..IDLE_STREAMS_MAX + 2 {
                let (device, meet, sender) = (&device, &meet, sender.clone());
                scope.spawn(move || {
                    device
                        .run("copy", |stream| {
                            sender.send(stream.addr()).expect("the test waits");
                            meet.wait();
                            Ok(())
                        })
                        .unwrap();
                });
            }
            let mut streams: Vec<_> = (0..IDLE_STREAMS_MAX + 2)
                .map(|_| receiver.recv_timeout(MINUTE).unwrap_or_else(|_| std::process::abort()))
                .collect();
            streams.sort_unstable();
            streams.dedup();
            assert_eq!(streams.len(), IDLE_STREAMS_MAX + 2);
        });
        let kept = device.idle_streams.lock().len();
        assert_eq!(kept, IDLE_STREAMS_MAX);
        device.run("copy", |_| Ok(())).unwrap();
        assert_eq!(device.idle_streams.lock().len(), kept);
    }
}
