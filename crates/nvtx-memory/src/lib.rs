//! Tells NVIDIA's compute-sanitizer which parts of a memory pool are in use, through NVTX's memory extension.
//!
//! A sanitizer sees what the driver allocates. Of an allocator that takes large blocks from the driver and hands out parts of
//! them it sees the blocks, so a kernel that runs over the end of its buffer into the next one, or uses a buffer
//! after it was freed, passes. An allocator that registers each block as a heap and each part it hands out as a region of it has all
//! that reported, to the byte. README.md beside this crate has how to run it.
//!
//! ```
//! // What a driver has given: a device address and a size. No memory is touched here, ever.
//! let (block, bytes) = (0x7f00_0000_0000, 1 << 20);
//!
//! if let Some(domain) = nvtx_memory::Domain::create("my allocator") {
//!     let heap = domain.register_heap(block, bytes, "block 1").expect("the tool takes heaps");
//!     heap.register_region(block + 256, 1000, Some("weights"));
//!     // ... handed out, used, given back, no longer used by any queue ...
//!     heap.unregister_region(block + 256);
//! }
//! ```
//!
//! # Design notes
//!
//! - **NVTX is no library.** It is C headers that find a tool at run time: they load the library that the environment variable
//!   `NVTX_INJECTION64_PATH` names, and hand it tables to put its functions into. compute-sanitizer sets the variable for
//!   what it runs. This crate does the same without the headers: the declarations in `abi.rs` are its own, after the
//!   facts of version 3 of NVTX, and its one dependency is what opens libraries.
//! - **Without a tool nothing happens.** [`Domain::create`] answers `None`, and without a domain there is nothing else to call. The
//!   first call reads the variable; every other one is a load and a branch. No library is loaded unless the variable is set.
//! - **The variable is code.** Who sets it has a library loaded into the process and run, as with every program that
//!   contains NVTX. A program that runs with more rights than who starts it must not create domains.
//! - **CUDA first.** compute-sanitizer allows NVTX only after CUDA is initialised. The first call in this crate, whichever
//!   it is, is when the tool is loaded and initialised, so it has to come after (`cuInit` and a context, or `cudaFree(0)`).
//! - **Where tools are looked for.** By the variable alone. The headers also know a tool that is linked statically (a weak symbol,
//!   which stable Rust has not), one inside an Android package, and, from the third version of their load sequence on, one that the CUDA
//!   driver names if a file under `/run/nvidia/nvtx` asks for it. None of these is how compute-sanitizer comes. An NVTX that other code
//!   in the process contains finds the tool for itself, and neither minds the other.
//! - **Once.** Whether there is a tool is decided by the first call and for the life of the process. The tool's library is never
//!   unloaded.
//! - **Threads.** Everything may be called on any thread. Calls block where the tool does; here, only the first does, in
//!   the tool's initialisation, and those of other threads meanwhile.
//! - **Fork.** A child has a copy of the parent's heaps and of the tool's state, while CUDA does not work in it. It should use
//!   neither, nor drop what it has from its parent: that tells the tool's copy. If another thread was in the first call during the fork, the
//!   child's first call blocks for ever. A child that goes on to another program (`exec`) has none of this to care about.
//! - **Names are the tool's to copy.** They last for the call only; NVTX has strings registered where copying is to be avoided.
//! - **Numbers.** NVTX 3, memory module 1 with compatibility 0x0102, as in CUDA 13.5's headers. compute-sanitizer has known this
//!   extension since CUDA 11.3 (`--nvtx yes`), and listens to it without being asked since 12.0. It supports heaps of sub-allocators at
//!   virtual addresses, regions that are meant by their starts, and names in ASCII bytes, which is what is sent.
//! - **What is left out:** permissions (regions can be read and written without), resizing, memory that is declared
//!   initialised, and everything of NVTX that is not about memory.

mod abi;
mod export;
mod heap;
mod tool;

pub use crate::heap::{Domain, Heap};

/// Whether a tool listens that registers heaps. The first call of this or of [`Domain::create`] looks for it, which takes as long as
/// the tool's initialisation; all others are one load.
pub fn is_tool_present() -> bool {
    tool::Tool::get().is_some()
}
