//! Transfers: bringing bytes from one place to another, by the best way there is.
//!
//! ```text
//! Transfers (manager/transfers.rs) ──> Plan (raw/transfer.rs) ──> Engine
//!                                                                  │ entry.rs   one transfer: its chunks
//!                        callers that block, copy threads,         │ engine.rs  all of them: who is next
//!                        futures, simulations: poll, take_copy ──> │ ring.rs    pinned chunks for staging
//! ```
//!
//! The engine has no thread of its own mind: whoever has time calls [`Engine::poll`], which notes what queues have passed and
//! gives them what is next, and [`Engine::take_copy`], which hands out one piece of copying for a processor. Callers that block
//! do both for their own transfer, copy threads for all. So the same code runs on one thread in virtual time.

mod bell;
mod counters;
mod desc;
mod engine;
mod entry;
mod ring;
mod threads;
mod ways;

pub use counters::{RouteStatistics, TransferStatistics};
pub(crate) use desc::{Chunk, EntryDesc, Hop, HopQueue, Way};
pub(crate) use engine::{Copiers, Engine, Outcome};
pub(crate) use entry::Over;
pub(crate) use ring::SlotIndex;
pub use threads::HostCopy;
pub(crate) use ways::describe;

use crate::cancel::CancelToken;
use std::fmt;
use std::sync::Arc;

/// What is no longer than this the caller copies at once: to share it costs more than it saves.
pub(crate) const SHORT_BYTES: u64 = 256 << 10;
/// The same where processors copy all the way: some 16 us from cache to cache, where two threads took 25.
pub(crate) const SHORT_COPY_BYTES: u64 = 1 << 20;

/// From where to where a transfer goes, as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// From memory of the host to the device's.
    HostToDevice,
    /// From the device's memory to the host's.
    DeviceToHost,
    /// Within one device.
    DeviceToDevice,
    /// From one device to another, without memory of the host between.
    PeerDirect,
    /// From one device to another, through pinned memory.
    PeerStaged,
    /// One value to every byte of a buffer.
    Fill,
}

impl Route {
    /// All routes.
    pub const ALL: [Self; 6] = [
        Self::HostToDevice,
        Self::DeviceToHost,
        Self::DeviceToDevice,
        Self::PeerDirect,
        Self::PeerStaged,
        Self::Fill,
    ];

    /// The route in words: `host to device`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostToDevice => "host to device",
            Self::DeviceToHost => "device to host",
            Self::DeviceToDevice => "device to device",
            Self::PeerDirect => "peer direct",
            Self::PeerStaged => "peer staged",
            Self::Fill => "fill",
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whose chunks go first while several transfers are under way. Those of one priority share alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[non_exhaustive]
pub enum Priority {
    /// Only while no other wants to.
    Low,
    /// As most do.
    #[default]
    Normal,
    /// Before all others.
    High,
}

/// How far a transfer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// How many bytes have arrived.
    pub done_bytes: u64,
    /// Of how many.
    pub bytes: u64,
}

/// How transfers are done: a part of [`Config`](crate::Config).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct TransferConfig {
    /// How many threads copy between memory of the host, besides those that wait for transfers of their own; started with the
    /// first transfer that is a future, or that is long. By default the number of processors, at most 8: one thread copies 6 to 20 GB/s, and a
    /// link takes up to 55. 0: none; see [`Transfers::take_copy`](crate::Transfers::take_copy).
    pub copy_threads: usize,
    /// The size of a staging chunk, which is also what is copied at a time at most, in bytes: 4 MiB by default; at least
    /// [`CHUNK_BYTES_MIN`](Self::CHUNK_BYTES_MIN), which less is taken for. A thread copies a quarter of it at a time, less at the
    /// beginning and the end of a transfer. A cancelled transfer copies at most so much more.
    pub chunk_bytes: u64,
    /// The most pinned memory for staging, in bytes: 64 MiB by default. At least one chunk. It is taken when it is first needed, and
    /// given back by [`trim`](crate::MemoryManager::trim).
    pub staging_bytes: u64,
}

impl TransferConfig {
    /// The smallest chunk, in bytes.
    pub const CHUNK_BYTES_MIN: u64 = 64 << 10;

    pub(crate) fn chunk_bytes(&self) -> u64 {
        self.chunk_bytes.max(Self::CHUNK_BYTES_MIN)
    }
}

impl Default for TransferConfig {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { copy_threads: processors.min(8), chunk_bytes: 4 << 20, staging_bytes: 64 << 20 }
    }
}

/// What a transfer is told beyond its ends. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct TransferOptions {
    pub(crate) priority: Priority,
    pub(crate) cancel: Option<CancelToken>,
    pub(crate) progress: Option<Arc<dyn Fn(Progress) + Send + Sync>>,
}

impl TransferOptions {
    /// Whether nobody looks on or may cancel.
    pub(crate) fn are_plain(&self) -> bool {
        self.cancel.is_none() && self.progress.is_none()
    }
}

impl fmt::Debug for TransferOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransferOptions")
            .field("priority", &self.priority)
            .field("cancel", &self.cancel)
            .field("has_progress", &self.progress.is_some())
            .finish()
    }
}
