//! How a transfer is done: its way, and what it needs for that.

use super::ring::{NeedsRing, PARTS_PER_CHUNK, SlotIndex, SlotSize};
use super::{Route, SHORT_BYTES, SHORT_COPY_BYTES, TransferOptions};
use crate::manager::{MemoryManager, QueueState, Shared};
use crate::raw::allocation::Keeper;
use aquifer_backend::Backend;
use std::sync::Arc;

/// How a transfer's bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Processors copy or fill: they see both ends.
    Processor,
    /// A queue copies or fills all the way.
    Direct,
    /// Processors copy to staging chunks, which a queue copies on.
    StageIn,
    /// A queue copies to staging chunks, which processors copy on.
    StageOut,
    /// A queue copies to staging chunks, which another device's queue copies on.
    StagePeer,
}

impl Way {
    pub(crate) fn is_staged(self) -> bool {
        matches!(self, Self::StageIn | Self::StageOut | Self::StagePeer)
    }

    /// How much of a staging chunk each of its pieces takes.
    pub(crate) fn slot_size(self) -> SlotSize {
        if self == Self::StagePeer { SlotSize::Chunk } else { SlotSize::Part }
    }

    /// Whether processors have a part in it.
    pub(crate) fn is_copied(self) -> bool {
        matches!(self, Self::Processor | Self::StageIn | Self::StageOut)
    }
}

/// Which of a way's queues: that before the staging chunk, or that behind it. Where there is but one it is the far one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hop {
    Near,
    Far,
}

/// A part of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) slot: Option<SlotIndex>,
}

/// A queue that a transfer uses, of this manager or another.
pub(crate) struct HopQueue<B: Backend> {
    pub(crate) queue: Arc<QueueState<B::Queue>>,
    /// What keeps the other manager's state.
    pub(crate) foreign: Option<Keeper<B>>,
}

impl<B: Backend> Clone for HopQueue<B> {
    fn clone(&self) -> Self {
        Self { queue: Arc::clone(&self.queue), foreign: self.foreign.as_ref().map(Keeper::another) }
    }
}

impl<B: Backend> HopQueue<B> {
    /// The state of the manager whose queue it is.
    pub(crate) fn shared<'a>(&'a self, own: &'a Shared<B>) -> &'a Shared<B> {
        self.foreign.as_deref().unwrap_or(own)
    }

    /// Asks the driver how far the queue is.
    pub(crate) fn look(&self, own: &Shared<B>) {
        let shared = self.shared(own);
        shared.signal_refused(&self.queue);
        if let Ok(value) = shared.note(shared.backend.completed(&self.queue.raw)) {
            self.queue.timeline.reach(value);
        }
    }
}

/// What is known of a transfer when it begins.
pub(crate) struct EntryDesc<B: Backend> {
    pub(crate) way: Way,
    pub(crate) route: Route,
    pub(crate) near: Option<HopQueue<B>>,
    pub(crate) far: Option<HopQueue<B>>,
    pub(crate) chunk_bytes: u64,
    pub(crate) options: TransferOptions,
    /// What must have passed before it begins.
    pub(crate) after: Vec<(HopQueue<B>, u64)>,
    /// Kept until it is over, if nobody blocks for it.
    pub(crate) manager: Option<MemoryManager<B>>,
    /// If it is staged.
    pub(crate) needs_ring: Option<NeedsRing>,
}

impl<B: Backend> EntryDesc<B> {
    /// Whether so many bytes are no longer than what the caller does at once; if they are staged, one slot holds them.
    pub(crate) fn is_short(&self, bytes: u64) -> bool {
        let most = match self.way {
            Way::Processor => SHORT_COPY_BYTES,
            way if way.is_staged() => SHORT_BYTES.min(self.chunk_bytes / PARTS_PER_CHUNK as u64),
            _ => SHORT_BYTES,
        };
        bytes <= most
    }
}
