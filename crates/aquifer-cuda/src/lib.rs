//! CUDA as an Aquifer backend.
//!
//! [`Cuda`] is one NVIDIA device. The driver is loaded when the first is made: a program that is built with this crate starts without it,
//! and gets [`ErrorKind::Unsupported`](aquifer_backend::ErrorKind::Unsupported) with the reason.
//!
//! # Design notes
//!
//! - **Driver API.** All goes to the driver's own interface (`libcuda`), through `cudarc`'s bindings, which find each function when it is
//!   first called. CUDA 12.0 is needed (release 525), for streams that write words in their second form.
//! - **Contexts.** [`Cuda::new`] uses the device's primary context, which the runtime API, PyTorch, CuPy and JAX use too, so addresses mean
//!   the same everywhere. Every call makes it current for its own time only, and with it lifts what the capture of a graph forbids
//!   (`cuThreadExchangeStreamCaptureMode`).
//! - **A block** of the device's memory is `cuMemCreate`, `cuMemAddressReserve`, `cuMemMap` and `cuMemSetAccess` if it is whole physical
//!   pages (2 MiB), else `cuMemAlloc`. The first waits for nobody when it is destroyed; `cuMemFree` waits for all that the device does.
//! - **Sparse blocks** are reserved addresses, **physical blocks** handles, made so that other processes can be given them
//!   (POSIX descriptors) and network cards read and write them (GPUDirect RDMA), where the device has that. A handle is mapped whole, behind as many addresses as one likes. What it costs hardly depends on its size.
//! - **Memory types**: the device's; page-locked memory of the host (`cuMemHostAlloc`); unified memory, which is page-locked memory that the
//!   device reads over the link, unless managed memory is asked for ([`UnifiedMemory`]). All have one address for host and devices. New
//!   device memory is not cleared, as far as is documented.
//! - **A queue** is a stream. Its value is a word of page-locked memory that the stream writes (`cuStreamWriteValue64`, behind a barrier
//!   for all of the system): no event is made, recorded or queried, and asking is a load. The word is this crate's memory, not the driver's,
//!   so it outlives the context.
//! - **A stream waits for another** by that word (`cuStreamWaitValue64`).
//! - **Copies** from and to memory that is not page-locked are steps of the processor's in the stream's turn, through a piece of staging
//!   memory of the queue's. The core sends only small ones this way.
//! - **Graphs.** While a graph is captured on an adopted stream, markers and transfers on it are refused.
//! - **Peers.** A device lets another in when it is first asked to be read ([`Backend::reads_peer`](aquifer_backend::Backend::reads_peer)):
//!   `cuCtxEnablePeerAccess` for the driver's blocks, `cuMemSetAccess` for what is mapped now and later. It costs what it costs once, and
//!   programs that copy nothing between devices pay nothing. Memory that the program brought may be a pool's, which no peer is let into so, and is
//!   copied by `cuMemcpyPeerAsync`, each end through its own context.
//! - **Loss.** Errors that spoil the context (a kernel that trapped, an address that is not there, a context destroyed by somebody else) are
//!   [`ErrorKind::DeviceLost`](aquifer_backend::ErrorKind::DeviceLost), from then on, without asking the driver. A trapped kernel is found
//!   out by whoever waits, or looks at a queue that does not move. Blocks of a lost device are not given back: the process's end does it.
//! - **Budget.** `cuMemGetInfo`: what is free now, and what this backend's blocks have; other processes may take it. How much the process has
//!   is asked of NVML, from the second question on.
//! - **compute-sanitizer.** A program that runs under it has each buffer's bounds told to it ([`CudaOptions::sanitizer`]), so that kernels that
//!   leave their buffer, or use it after it was freed, are reported though the memory around it is the pool's. Memory is then the driver's
//!   (`cuMemAlloc`), caches are passed by, and freeing a buffer waits for the queues that may use it.
//! - **The end of the process.** Nothing here runs when a process ends. In a forked process the driver is not called:
//!   what would is [`ErrorKind::Forked`](aquifer_backend::ErrorKind::Forked).

mod backend;
mod block;
mod context;
mod create;
mod device;
mod driver;
mod facts;
mod host_memory;
mod nvml;
mod options;
mod peer;
mod queue;
mod sanitizer;
mod slice;
mod status;
mod sys;
mod transfer;
mod virtual_memory;
mod words;

pub use backend::Cuda;
pub use block::CudaBlock;
pub use options::{CudaOptions, UnifiedMemory};
pub use queue::{CudaQueue, QueueHold, ValueHold};

/// The bindings whose contexts and streams can be adopted.
pub use cudarc;
