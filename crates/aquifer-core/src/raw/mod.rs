//! The one module of the core with unsafe code. Everything it gives out is safe to use.
//!
//! - [`allocation`]: buffers reach their manager without a reference count, and the host reads and writes what they
//!   hold.
//! - [`fork`]: a process learns that it was forked.
//! - [`local`]: a thread reaches its cache without counting borrows.
//! - [`operation`]: a queue uses memory until it is done, whatever becomes of who asked for it.
//! - [`transfer`]: processors and queues copy what others have lent or given them.
//! - [`shared_allocation`]: several use parts of one buffer at the same time, and none the other's.
//! - [`unified`]: host and queues use the same memory in turns.
//! - [`view_guard`]: such a part as values, without a copy.
//! - [`pinned`]: pinned memory is read and written as plain slices, and collections allocate it.
//!
//! The first three are here because a measurement asked for it; each says which.
#![allow(unsafe_code)]

pub(crate) mod allocation;
pub(crate) mod fork;
pub(crate) mod local;
pub(crate) mod operation;
pub(crate) mod pinned;
pub(crate) mod shared_allocation;
pub(crate) mod transfer;
pub(crate) mod unified;
pub(crate) mod view_guard;
