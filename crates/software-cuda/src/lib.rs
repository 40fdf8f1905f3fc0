//! A CUDA driver in software: a library that exports functions of CUDA's driver API by their names, with their meaning, over host
//! memory, so that a program written for `libcuda.so` runs where there is no GPU. For tests; there are no kernels and no modules.
//!
//! ```
//! # #[cfg(target_os = "linux")] {
//! use std::ffi::c_int;
//!
//! software_cuda::install();
//! // From here on any code that opens the driver gets this one, as bindings do behind a program's back.
//! let cuda = unsafe { libloading::Library::new("libcuda.so.1") }.unwrap();
//! let initialise = unsafe { cuda.get::<unsafe extern "C" fn(u32) -> c_int>(b"cuInit\0") }.unwrap();
//! assert_eq!(unsafe { initialise(0) }, 0);
//! assert_eq!(software_cuda::calls("cuInit"), 1);
//! assert_eq!(software_cuda::live().blocks, 0);
//! # }
//! ```
//!
//! # What it proves, and what not
//!
//! A program that runs on it speaks the driver's interface rightly: order of calls, ownership, sizes, codes, waiting. It proves
//! nothing of NVIDIA's driver or devices, and its times mean nothing. What was guessed is listed in `GUESSES.md`; most of
//! `tests/driver` can ask a machine's own driver the same (`support.rs` says how).
//!
//! # Design
//!
//! - **Two sides in one package.** The `cdylib` is the driver, the `rlib` loads it ([`install`]) and speaks to it. The system knows it by
//!   the soname `libcuda.so`, and by a link beside the library as `libcuda.so.1`, whatever the machine has installed. It is never unloaded.
//! - **One driver for the process**, as CUDA has it. Tests that run side by side take a device each ([`Settings::device_count`],
//!   [`live_on`], [`lose_device`]); counts and failures of calls may be of one thread.
//! - **Addresses and memory are apart.** What a device address names is looked up in a table (`space.rs`); at the address itself
//!   nothing may be touched, so a host that follows a device pointer ends with a fault. Pinned, registered and managed memory is at its address.
//! - **Fresh memory is 0xCD**, 256 KiB at either end of it; the middle of what is larger is zero. Small blocks start 512 bytes beyond a page, no better.
//! - **A stream is a thread.** Work is looked up when its turn comes: what it then may not use loses the context, with
//!   `CUDA_ERROR_ILLEGAL_ADDRESS` for every later call and a line on the standard error. So does `cuMemUnmap` of memory that work is using.
//!   [`Settings::delay_seed`] lets work run late, [`Settings::connections`] few streams at a time.
//! - **Handles are keys**, never addresses and never used twice. One that is stale or of another kind is an error.
//! - **Failures** are asked for by function and call ([`fail`]), a lost device by [`lose_device`], a full one by [`set_foreign_bytes`].
//!
//! # Stricter than the driver
//!
//! - Streams and events belong to the thread's current context, also for copies. Copies do not go beyond one block.
//! - Host functions that call CUDA are answered `CUDA_ERROR_NOT_PERMITTED`.
//! - `cuMemFree` wants the allocation's start and waits for the device's work, so a stream that waits for ever blocks it.
//!
//! # Less than the driver
//!
//! - No capture, no sharing between processes, no null stream of each thread, no legacy contexts' flags, no priorities.
//! - `cuMemGetInfo` counts the sizes that were asked for, by 512 bytes; nothing for contexts, small blocks' pages and managed memory.
//! - Of pools each device has its own, which keeps nothing (`cuMemAllocAsync`); nobody can be let in.
//! - Calls about mapped memory need no context, so they go on after a device is lost.
//!
//! On other systems than Linux the crate is empty.
#![cfg(target_os = "linux")]

mod abi;
mod context;
mod control;
mod copies;
mod devices;
mod driver;
mod events;
mod faults;
mod loader;
mod memory;
mod pages;
mod peers;
mod pointers;
mod settings;
mod space;
mod stream;
mod streams;
mod virtual_memory;
mod work;

pub use loader::{
    calls, calls_of_this_thread, configure, fail, fail_on_this_thread, forget_failures, install, live,
    live_on, lose_device, set_foreign_bytes,
};
pub use settings::{Live, Settings};
