//! Plain host memory as an Aquifer backend.
//!
//! [`Host`] is the backend that needs no device: for tests, for machines without one, and for memory that only the
//! processor uses. Its blocks come straight from the operating system and go straight back; everything between is the
//! core's work.
//!
//! # Design notes
//!
//! - **A block is an anonymous private mapping.** It reads as zero and takes physical memory only where it has been
//!   touched. On Linux it is mapped without reserving swap for it, so a large untouched block costs address space and
//!   nothing else. The other side of this: the system may find that memory is short only when a block is touched, and
//!   then it kills a process instead of answering an error. A budget over the manager is what prevents that; see
//!   [`Backend::budget`](aquifer_backend::Backend::budget) for what this backend proposes.
//! - **Huge pages.** A block of 2 MiB or more starts at a multiple of 2 MiB, and on Linux the kernel is advised to back
//!   it with huge pages. Touching one byte may then take 2 MiB of physical memory. Both are wishes: where the system
//!   refuses, the block works all the same.
//! - **Addresses may be over-mapped.** To align a block, more is mapped than asked and the ends are unmapped. An end
//!   that the system does not take back stays part of the block's mapping and goes with it, so nothing is ever lost.
//! - **A block has no `Drop`.** Only [`Backend::destroy_block`](aquifer_backend::Backend::destroy_block), which is
//!   unsafe and can fail, unmaps it. A [`HostBlock`] that is merely dropped stays mapped until the process ends.
//! - **Imported memory** is used where it is. Destroying such a block drops the owner, within the call.
//! - **One heap, one memory type.** Host memory is both visible to the host and local to the device, which is the host.
//!   NUMA nodes are not told apart.
//! - **A queue is a thread** that runs copies, fills, waits for other queues, and the user's own closures (see
//!   [`HostQueue::submit`]) one after the other. It starts with the queue and sleeps while there is nothing to do. A copy
//!   made by a queue is made by its thread: it is no faster, but the caller goes on meanwhile.
//! - **A marker on an idle queue costs a lock and a store.** The value rises within the call, and no thread is woken, so
//!   that freeing memory which idle queues have used is cheap. Asking for the value is a load.
//! - **Host memory is never lost as a device**, and nothing that is put into a queue is refused.
//!
//! Linux and macOS are supported. Elsewhere the crate compiles and [`Host::new`] answers
//! [`ErrorKind::Unsupported`](aquifer_backend::ErrorKind::Unsupported).

#[cfg(any(target_os = "linux", target_os = "macos"))]
mod backend;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod block;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod budget;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod cgroup;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod facts;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod job;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod queue;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod sys;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod stub;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use {backend::Host, block::HostBlock, queue::HostQueue};

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub use stub::{Host, HostBlock, HostQueue};
