//! What a backend and its queues share: the context, the facts, and whether the device is lost.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use aquifer_backend::{
    Capabilities, Error, ErrorKind, Heap, MappingCosts, MemoryFlags, MemoryType, Properties,
};
use cudarc::driver::sys::{CUdevice, CUdevice_attribute as Attribute, CUstream};
use parking_lot::Mutex;

use crate::context::Context;
use crate::driver;
use crate::host_memory;
use crate::nvml::Nvml;
use crate::options::{CudaOptions, UnifiedMemory};
use crate::queue::HostWork;
use crate::sanitizer::Sanitizer;
use crate::status;
use crate::sys::{self, Code};
use crate::virtual_memory::{self, Kind};
use crate::words::Words;

/// What a block is a multiple of, in bytes: the system's page, as pinned memory has it. The driver cuts device memory itself.
const GRANULARITY_BYTES: u64 = 4 << 10;
/// The driver aligns what it allocates to this many bytes at least (CUDA C++ Programming Guide, "Device Memory Accesses").
const ALIGNMENT_BYTES: u64 = 256;
/// On an H200 with driver 580, by the handle: map 1 us and allow 26 us together, and the least that was measured of the others
/// (`bench/record/h200`). It hardly depends on the size.
const MAPPING_COSTS: MappingCosts =
    MappingCosts { create_ns: 11_000, map_ns: 27_000, unmap_ns: 18_000, destroy_ns: 11_000 };

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
        let sanitizer = if options.sanitizer { Sanitizer::find() } else { None };
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

/// A kind that memory can really be made of, and its granularity: some systems say that it can be shared by descriptor, or be used by other
/// devices, and refuse it.
fn working_kind(kind: Kind) -> Result<Option<(Kind, u64)>, Code> {
    let granularity = kind.granularity()?;
    match kind.create(granularity) {
        Ok(handle) => {
            // SAFETY: it has just been made, and nobody else names it.
            unsafe { virtual_memory::release(handle) }?;
            Ok(Some((kind, granularity)))
        }
        // There is none now; that says nothing about the kind.
        Err(Code::CUDA_ERROR_OUT_OF_MEMORY) => Ok(Some((kind, granularity))),
        Err(_) if kind.is_rdma_capable => working_kind(Kind { is_rdma_capable: false, ..kind }),
        Err(_) if kind.is_shareable => working_kind(Kind { is_shareable: false, ..kind }),
        Err(_) => Ok(None),
    }
}

/// What the driver says of a device.
#[derive(Debug)]
struct Facts {
    name: String,
    device_bytes: u64,
    host_bytes: u64,
    has_words: bool,
    has_register: bool,
    is_managed_concurrent: bool,
    is_managed_wanted: bool,
    /// With what granularity, in bytes.
    physical: Option<(Kind, u64)>,
}

impl Facts {
    fn ask(raw: CUdevice, context: &Context, options: &CudaOptions) -> Result<Self, Code> {
        let has = |attribute| sys::attribute(raw, attribute).map(|value| value != 0);
        let ordinal = options.ordinal as i32;
        let _current = context.enter()?;
        let mut physical = None;
        if options.virtual_memory && has(Attribute::CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED)?
        {
            let is_shareable =
                has(Attribute::CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED)?;
            let is_rdma_capable =
                has(Attribute::CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED)?;
            physical = working_kind(Kind { ordinal, is_shareable, is_rdma_capable })?;
        }
        Ok(Self {
            name: sys::device_name(raw)?,
            device_bytes: sys::total_bytes(raw)?,
            host_bytes: host_memory::total_bytes(),
            has_words: has(Attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS)?,
            has_register: has(Attribute::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED)?,
            is_managed_concurrent: has(Attribute::CU_DEVICE_ATTRIBUTE_CONCURRENT_MANAGED_ACCESS)?,
            is_managed_wanted: matches!(options.unified, UnifiedMemory::Managed { .. }),
            physical,
        })
    }

    fn check(&self, operation: &'static str) -> Result<(), Error> {
        let lack = if !self.has_words {
            "its streams write no 64-bit words"
        } else if !self.has_register {
            "memory of the host cannot be page-locked for it"
        } else if self.is_managed_wanted && !self.is_managed_concurrent {
            "host and device cannot use managed memory at the same time; use UnifiedMemory::Mapped"
        } else {
            return Ok(());
        };
        let message = format!("{} cannot be used: {lack}", self.name);
        Err(Error::new(ErrorKind::Unsupported, operation, message))
    }

    fn properties(&self, is_sanitized: bool) -> Properties {
        let (visible, local) = (MemoryFlags::HOST_VISIBLE, MemoryFlags::DEVICE_LOCAL);
        let pinned = visible | MemoryFlags::PINNED;
        let device = if self.physical.is_some() { local | MemoryFlags::SPARSE } else { local };
        // The driver moves managed memory as it likes; the other is locked.
        let unified = if self.is_managed_wanted { visible | local } else { pinned | local };
        let on_heap = |heap_index, flags| MemoryType { heap_index, flags };
        let page_bytes = self.physical.map_or(0, |(_, bytes)| bytes.max(GRANULARITY_BYTES));
        let sanitized = if is_sanitized { Capabilities::SANITIZED } else { Capabilities::NONE };
        let sparse = if self.physical.is_some() { Capabilities::SPARSE_BLOCKS } else { Capabilities::NONE };
        Properties {
            backend: "cuda",
            device: self.name.clone(),
            heaps: vec![Heap { size_bytes: self.device_bytes }, Heap { size_bytes: self.host_bytes }],
            memory_types: vec![on_heap(0, device), on_heap(1, pinned), on_heap(1, unified)],
            block_granularity_bytes: GRANULARITY_BYTES,
            block_bytes_max: self.device_bytes.max(self.host_bytes) / GRANULARITY_BYTES * GRANULARITY_BYTES,
            // The documentation knows no limits of these two.
            block_count_max: u64::MAX,
            mapping_count_max: if self.physical.is_some() { u64::MAX } else { 0 },
            alignment_bytes_min: ALIGNMENT_BYTES,
            physical_page_bytes: page_bytes,
            mapping_costs: self.physical.map(|_| MAPPING_COSTS),
            import_alignment_bytes: host_memory::page_bytes(),
            capabilities: Capabilities::QUEUES
                | Capabilities::IMPORT
                | Capabilities::IMPORT_DEVICE
                | sparse
                | sanitized,
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
