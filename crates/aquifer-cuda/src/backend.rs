//! The backend itself.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Command, DefaultDevice, DestroyError, DeviceMemory, Error, ErrorKind,
    HeapBudget, HostMemory, ImportError, Properties, Ticket,
};
use cudarc::driver::sys::{CUcontext, CUstream};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr};

use crate::block::CudaBlock;
use crate::context::Context;
use crate::device::Device;
use crate::driver;
use crate::host_memory;
use crate::nvml::Nvml;
use crate::options::CudaOptions;
use crate::queue::CudaQueue;
use crate::status;
use crate::sys;
use crate::{create, slice, transfer};

/// A CUDA device as a backend. See the [crate's documentation](crate).
///
/// It may be used from any thread; each call makes the device's context current for its own time, and leaves the thread as it was. Clones
/// are cheap and mean the same device.
#[derive(Debug, Clone)]
pub struct Cuda {
    device: Arc<Device>,
}

impl Cuda {
    /// The first device, with its primary context: the one that the CUDA runtime, PyTorch and most libraries use.
    ///
    /// # Errors
    ///
    /// As [`Cuda::with_options`].
    pub fn new() -> Result<Self, Error> {
        Self::with_options(CudaOptions::default())
    }

    /// A device with its primary context, which takes some hundred milliseconds to make if nobody has it yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without a driver, without devices, if the driver is too old, or if the device lacks what is needed;
    /// [`ErrorKind::InvalidArgument`] if there is no device of that number; [`ErrorKind::Forked`] in a process that was forked from one
    /// that had started the driver; [`ErrorKind::Driver`].
    pub fn with_options(options: CudaOptions) -> Result<Self, Error> {
        let operation = "Cuda::with_options";
        driver::load(operation)?;
        let failed = |code| status::error(operation, code);
        let count = sys::device_count().map_err(failed)?;
        if i64::from(options.ordinal) >= i64::from(count) {
            let message = format!(
                "device {} asked for, of {count} that this process sees; see CUDA_VISIBLE_DEVICES",
                options.ordinal
            );
            return Err(Error::new(ErrorKind::InvalidArgument, operation, message));
        }
        let raw = sys::device(options.ordinal as i32).map_err(failed)?;
        let context = Context::primary(raw, operation)?;
        let device = Arc::new(Device::new(raw, context, options, operation)?);
        Ok(Self { device })
    }

    /// A device through a context of the program's, which is kept. The options' ordinal is the context's.
    ///
    /// # Errors
    ///
    /// As [`Cuda::with_options`].
    pub fn with_context(context: &Arc<CudaContext>, options: CudaOptions) -> Result<Self, Error> {
        Self::in_context(Context::of_program(Arc::clone(context)), options, "Cuda::with_context")
    }

    /// As [`Cuda::with_context`], for a context that is not `cudarc`'s.
    ///
    /// # Errors
    ///
    /// As [`Cuda::with_options`]; [`ErrorKind::InvalidArgument`] for null; [`ErrorKind::DeviceLost`] for a context that has been destroyed, where the driver finds out.
    ///
    /// # Safety
    ///
    /// - The context is one of the driver's, and lives for as long as the backend, its blocks and its queues.
    pub unsafe fn with_raw_context(context: CUcontext, options: CudaOptions) -> Result<Self, Error> {
        let operation = "Cuda::with_raw_context";
        if context.is_null() {
            let message = "the context is null; give one that the driver made, or use Cuda::with_options";
            return Err(Error::new(ErrorKind::InvalidArgument, operation, message));
        }
        // SAFETY: the caller vouches for it.
        let context = unsafe { Context::from_raw(context) };
        Self::in_context(context, options, operation)
    }

    fn in_context(context: Context, options: CudaOptions, operation: &'static str) -> Result<Self, Error> {
        driver::load(operation)?;
        let raw = context.enter().and_then(|_current| sys::current_device());
        let raw = raw.map_err(|code| status::error(operation, code))?;
        // The driver's handles are its ordinals (`cuDeviceGet` of the documentation's "Device Management"), for this process.
        let options = options.ordinal(raw as u32);
        Ok(Self { device: Arc::new(Device::new(raw, context, options, operation)?) })
    }

    /// How many devices this process sees.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] without a driver or if it is too old; [`ErrorKind::Forked`]; [`ErrorKind::Driver`].
    pub fn device_count() -> Result<u32, Error> {
        let operation = "Cuda::device_count";
        driver::load(operation)?;
        let count = sys::device_count().map_err(|code| status::error(operation, code))?;
        Ok(u32::try_from(count).unwrap_or(0))
    }

    /// The device's number.
    #[must_use]
    pub fn ordinal(&self) -> u32 {
        self.device.options.ordinal
    }

    /// What it was made with.
    #[must_use]
    pub fn options(&self) -> &CudaOptions {
        &self.device.options
    }

    /// The context that everything happens in.
    #[must_use]
    pub fn context(&self) -> CUcontext {
        self.device.context.raw()
    }

    /// A queue on a stream of the program's, for `MemoryManager::adopt_queue`. The stream is kept.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a stream of another context; [`ErrorKind::Driver`]; [`ErrorKind::DeviceLost`].
    pub fn adopt_stream(&self, stream: &Arc<CudaStream>) -> Result<CudaQueue, Error> {
        CudaQueue::adopt(&self.device, stream)
    }

    /// As [`Cuda::adopt_stream`], for a stream that is not `cudarc`'s. Null is the legacy default stream.
    ///
    /// # Errors
    ///
    /// As [`Cuda::adopt_stream`]; [`ErrorKind::InvalidArgument`] for the default stream of each thread (`CU_STREAM_PER_THREAD`), which
    /// is not one stream.
    ///
    /// # Safety
    ///
    /// - The stream is one of the driver's, and lives for as long as the queue. A queue that was given to a manager is the manager's: it goes
    ///   with the manager's state, which lives until the last handle, queue, buffer and pinned buffer of it has been dropped. So destroy the
    ///   stream after all of them; where that cannot be known, use [`Cuda::adopt_stream`], or a stream that is never destroyed.
    pub unsafe fn adopt_raw_stream(&self, stream: CUstream) -> Result<CudaQueue, Error> {
        // SAFETY: the caller vouches for it.
        unsafe { CudaQueue::adopt_raw(&self.device, stream) }
    }

    /// A slice of `cudarc`'s as memory for `MemoryManager::import_device`, without a copy; it is freed with the buffer. Blocks until
    /// what its stream has been given has run. When the buffer is freed, whichever thread does that has the slice's context for as long as that
    /// takes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] or [`ErrorKind::DeviceLost`], as the stream's work ends. The slice is dropped then.
    pub fn memory_of<T: DeviceRepr + Send + Sync + 'static>(
        slice: CudaSlice<T>,
    ) -> Result<DeviceMemory, Error> {
        slice::memory_of(slice)
    }

    /// That a queue is this backend's: what is enqueued elsewhere would run in another context.
    ///
    /// The core asks for a queue's value before it takes it in (`MemoryManager::adopt_queue`), and gives a backend no queues but those that it
    /// took in or had made. So it is enough to look here.
    fn check_queue(&self, queue: &CudaQueue, operation: &'static str) -> Result<(), Error> {
        if queue.is_of(&self.device) {
            return Ok(());
        }
        let message = format!("a queue of another backend was given to that of device {}", self.ordinal());
        Err(Error::new(ErrorKind::InvalidArgument, operation, message))
    }

    /// What the device's heap still has, what this process may have of it, and what it has.
    fn device_budget(&self) -> Result<HeapBudget, Error> {
        let device = &self.device;
        let (free_bytes, _) = device.call("budget", sys::memory_info)?;
        let own_bytes = device.device_bytes.load(Ordering::Relaxed);
        Ok(HeapBudget {
            budget_bytes: free_bytes + own_bytes,
            available_bytes: free_bytes,
            process_bytes: self.process_bytes(),
        })
    }

    /// By NVML, which is asked from the second time on: to load it takes longer than many programs have to start, and the first time is
    /// when a manager is made.
    fn process_bytes(&self) -> Option<u64> {
        let device = &self.device;
        if !device.is_watched.swap(true, Ordering::Relaxed) {
            return None;
        }
        let bus_id = sys::pci_bus_id(device.raw()).ok()?;
        device.nvml.get_or_init(Nvml::load).process_bytes(&bus_id)
    }
}

impl DefaultDevice for Cuda {
    fn default_device() -> Result<Self, Error> {
        Self::new()
    }
}

// SAFETY: blocks are the driver's or mapped here, whole, and overlap with none; what the host sees is page-locked or managed memory,
// readable and writable until the block is destroyed, initialised by the driver or by `create`; the properties are set once; nothing
// unwinds but on a broken promise of the core's; queues are streams, whose order and memory barriers the driver documents.
unsafe impl Backend for Cuda {
    type Block = CudaBlock;
    type Queue = CudaQueue;

    fn properties(&self) -> &Properties {
        &self.device.properties
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        if heap_index == 0 {
            return self.device_budget();
        }
        Ok(HeapBudget {
            budget_bytes: self.properties().heaps[heap_index].size_bytes,
            available_bytes: host_memory::available_bytes(),
            process_bytes: None,
        })
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<CudaBlock, Error> {
        create::block(&self.device, desc)
    }

    unsafe fn destroy_block(&self, block: CudaBlock) -> Result<(), DestroyError<CudaBlock>> {
        // SAFETY: the core vouches that nobody uses it.
        unsafe { create::destroy(&self.device, block) }
    }

    fn import_block(&self, memory: HostMemory, _memory_type_index: usize) -> Result<CudaBlock, ImportError> {
        create::import(&self.device, memory)
    }

    fn note_allocated(&self, range: BlockRange<'_, CudaBlock>) {
        if let Some(address) = range.block.watched_address() {
            self.device.tell_sanitizer(|sanitizer| sanitizer.add_region(address + range.offset, range.bytes));
        }
    }

    fn note_freed(&self, range: BlockRange<'_, CudaBlock>) {
        if let Some(address) = range.block.watched_address() {
            self.device.tell_sanitizer(|sanitizer| sanitizer.remove_region(address + range.offset));
        }
    }

    fn import_device_block(
        &self,
        memory: DeviceMemory,
        _memory_type_index: usize,
    ) -> Result<CudaBlock, ImportError<DeviceMemory>> {
        create::import_device(&self.device, memory)
    }

    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<CudaBlock, Error> {
        create::sparse(&self.device, desc)
    }

    fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<CudaBlock, Error> {
        create::physical(&self.device, desc)
    }

    unsafe fn map(&self, sparse: BlockRange<'_, CudaBlock>, physical: &CudaBlock) -> Result<(), Error> {
        // SAFETY: the core vouches for it.
        unsafe { create::map(&self.device, sparse, physical) }
    }

    unsafe fn unmap(&self, sparse: BlockRange<'_, CudaBlock>) -> Result<(), Error> {
        // SAFETY: the core vouches for it.
        unsafe { create::unmap(&self.device, sparse) }
    }

    fn host_pointer(&self, block: &CudaBlock) -> Option<NonNull<u8>> {
        block.host()
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, CudaBlock>,
        destination: BlockRange<'_, CudaBlock>,
    ) -> Result<(), Error> {
        // SAFETY: the core vouches for both ranges until the call returns.
        unsafe { transfer::copy(&self.device, source, destination) }
    }

    unsafe fn fill(&self, destination: BlockRange<'_, CudaBlock>, value: u8) -> Result<(), Error> {
        // SAFETY: the core vouches for the range until the call returns.
        unsafe { transfer::fill(&self.device, destination, value) }
    }

    fn device_address(&self, block: &CudaBlock) -> Option<u64> {
        block.address()
    }

    fn create_queue(&self) -> Result<CudaQueue, Error> {
        CudaQueue::new(&self.device)
    }

    unsafe fn enqueue(
        &self,
        queue: &CudaQueue,
        command: Command<'_, CudaBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        // SAFETY: the core vouches for it.
        unsafe { queue.enqueue(command, ticket) }
    }

    fn reads_peer(&self, peer: &Self, memory_type_index: usize) -> bool {
        self.device.reads_peer(&peer.device, memory_type_index)
    }

    unsafe fn signal(&self, queue: &CudaQueue, value: u64) -> Result<(), Error> {
        queue.signal(value)
    }

    fn completed(&self, queue: &CudaQueue) -> Result<u64, Error> {
        self.check_queue(queue, "completed")?;
        queue.completed()
    }

    fn wait(&self, queue: &CudaQueue, value: u64, timeout: Duration) -> Result<bool, Error> {
        queue.wait(value, timeout)
    }

    fn wait_on_queue(&self, queue: &CudaQueue, other: &CudaQueue, value: u64) -> Result<(), Error> {
        queue.wait_on(other, value)
    }
}
