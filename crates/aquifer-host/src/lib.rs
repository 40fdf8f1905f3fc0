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
//! - **One heap, two memory types.** The first is both visible to the host and local to the device, which is the host. The
//!   second is *pinned*: the same mappings, locked in physical memory (`mlock`) as a whole before the block is handed out.
//!   Everything that this text says of touching is about the first: a pinned block takes all its memory at once, and
//!   [`COMMIT_ON_TOUCH`](aquifer_backend::Capabilities::COMMIT_ON_TOUCH) does not hold for it. No more than the block is
//!   locked: what surrounds it in its mapping is not.
//! - **A lock keeps memory from being swapped and nothing more.** The kernel may still move a page to another place in
//!   physical memory. No device works on it here, so nobody minds; a backend whose device does must have its driver pin it.
//! - **What may be locked is limited** (`RLIMIT_MEMLOCK`, often to 8 MiB). A refusal is an error that names the limit and what
//!   to try. Nothing is ever handed out unlocked instead. Destroying a pinned block, or releasing a part of it, gives back
//!   what it took of the limit. A part that is released splits the block's mapping in the kernel, so pinned blocks that are
//!   trimmed count more than once against `vm.max_map_count`; ordinary ones do not.
//! - **Room is asked for before locking.** Locking touches all of a block at once, and where there is no memory for that the
//!   kernel does not answer an error but kills a process. So what the machine (or the node) has available is read first. Limits of
//!   control groups are left to the manager's budget, as they are for ordinary blocks.
//! - **Pinned memory is imported by nobody.** Locks of one address do not add up: to end the block's would end its owner's.
//! - **NUMA.** With [`HostOptions::pinned_near`] pinned blocks have their memory on one node, the nearest with memory to a node, a
//!   processor or a PCI device (Linux only). They are bound to it (`MPOL_BIND`, not the wish `MPOL_PREFERRED`): the kernel drops
//!   that node's caches of files before it gives up, and a block that cannot be there is an error, not slow memory that nobody
//!   knows of. Without the option, and for ordinary blocks always, nodes are not told apart. [`numa`] has what the system says
//!   about nodes, and asks the kernel where a page is.
//! - **Mapped memory (Linux).** Ordinary memory can be had without addresses, and addresses without it: a sparse block is reserved
//!   addresses, a physical block a part of a file that exists in memory only (`memfd_create`; one descriptor for each [`Host`], opened
//!   with its first physical block). Mapping is shared, so the same memory may lie behind several addresses. It takes memory where it
//!   is touched, gives it back by the OS page, and whatever lies one behind the other both in the file and in addresses is one mapping
//!   for the kernel. Part of a physical block that is released gives its memory back behind all its addresses.
//! - **Where memory cannot be mapped** nothing of it is promised ([`SPARSE_BLOCKS`](aquifer_backend::Capabilities::SPARSE_BLOCKS)):
//!   elsewhere than on 64-bit Linux; where the process may not have a file in memory, or its limits of addresses (`ulimit -v`) or of file
//!   sizes (`ulimit -f`) are below four times the machine's memory; and where the kernel counts strictly
//!   (`vm.overcommit_memory = 2`), since it would end the process by a signal when memory is touched instead of answering an error.
//!   That is found out once, by [`Host::new`]. Limits that are set later are errors.
//! - **Mapped memory wants huge pages**, which the kernel gives to files in memory only where
//!   `/sys/kernel/mm/transparent_hugepage/shmem_enabled` says so (`advise` will do; the default is `never`). With them it is as
//!   fast as a block. Without, the first touch takes some twelve times as long, and so what mapping costs
//!   ([`mapping_costs`](aquifer_backend::Properties::mapping_costs)) is told only where they are: elsewhere it is for programs that ask for it.
//!   A huge page needs a physical block of 2 MiB or more that is mapped at a multiple of 2 MiB.
//! - **A forked process has no mapped memory** (`MADV_DONTFORK`), while of blocks it has a copy. It would share it, and write what the parent
//!   reads, also through what a manager's caches in the child would still hand out. A child that touches a buffer there, whether it has
//!   it from its parent or got it after the fork, ends by a signal (`SIGSEGV`); it may drop both.
//! - **A queue is a thread** that runs copies, fills, waits for other queues, and the user's own closures (see
//!   [`HostQueue::submit`]) one after the other. It starts with the queue and sleeps while there is nothing to do. A copy
//!   made by a queue is made by its thread: it is no faster, but the caller goes on meanwhile.
//! - **A marker on an idle queue costs a lock and a store.** The value rises within the call, and no thread is woken, so
//!   that freeing memory which idle queues have used is cheap. Asking for the value is a load.
//! - **Pressure.** Where other processes take the memory, or a control group's limit is near, only the system knows: [`pressure`]
//!   has sources for a monitor that ask it.
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
mod mapping;
pub mod numa;
mod options;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod pinned;
pub mod pressure;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod queue;
#[cfg(target_os = "linux")]
mod remap;
#[cfg(target_os = "macos")]
#[path = "no_remap.rs"]
mod remap;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod sys;

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
mod stub;

#[cfg(test)]
mod tree;

pub use options::{HostOptions, Near};

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use {backend::Host, block::HostBlock, queue::HostQueue};

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
pub use stub::{Host, HostBlock, HostQueue};
