//! Pinned memory through which transfers are staged: chunks, of which a transfer takes one, or a part of one.

use crate::raw::transfer::Slot;
use aquifer_backend::Backend;
use std::sync::Arc;

/// In so many parts a chunk is handed out to those who want less. What a processor copies at a time is such a part: a thread takes
/// many times as long for it as a link.
pub(crate) const PARTS_PER_CHUNK: usize = 4;
const ALL_PARTS: u8 = (1 << PARTS_PER_CHUNK) - 1;

/// Which chunk, and which of its parts: a bit for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotIndex {
    chunk: usize,
    parts: u8,
}

/// How much a transfer wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SlotSize {
    Part,
    Chunk,
}

struct Chunk<B: Backend> {
    slot: Arc<Slot<B>>,
    /// A bit for each part.
    used: u8,
}

/// The chunks of a manager. It grows up to a bound, and shrinks when it is told to.
pub(crate) struct Ring<B: Backend> {
    chunks: Vec<Option<Chunk<B>>>,
    /// Those that exist, and those that are being made.
    count: usize,
    being_made: usize,
    /// One reference more than there are [`NeedsRing`].
    needs: Arc<()>,
}

/// Whoever has one needs to stage: until it is dropped there is at least one chunk, once there is any.
#[derive(Debug, Clone)]
pub(crate) struct NeedsRing {
    _count: Arc<()>,
}

/// What can be had now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Free {
    chunks: usize,
    /// Those of whole chunks too.
    parts: usize,
}

impl Free {
    /// What is left when so much is taken; `None` if it cannot be.
    pub(crate) fn without(self, size: SlotSize) -> Option<Self> {
        let Self { chunks, parts } = self;
        match size {
            SlotSize::Chunk => Some(Self { chunks: chunks.checked_sub(1)?, parts: parts - PARTS_PER_CHUNK }),
            // A part of a chunk that is in use already, if there is one.
            SlotSize::Part if parts > chunks * PARTS_PER_CHUNK => Some(Self { chunks, parts: parts - 1 }),
            SlotSize::Part => Some(Self { chunks: chunks.checked_sub(1)?, parts: parts - 1 }),
        }
    }
}

impl SlotSize {
    /// In parts.
    pub(crate) fn parts(self) -> usize {
        match self {
            Self::Part => 1,
            Self::Chunk => PARTS_PER_CHUNK,
        }
    }
}

impl<B: Backend> Default for Ring<B> {
    fn default() -> Self {
        Self { chunks: Vec::new(), count: 0, being_made: 0, needs: Arc::default() }
    }
}

impl<B: Backend> Ring<B> {
    /// Chunks that exist or are being made.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Chunks that exist.
    pub(crate) fn existing(&self) -> usize {
        self.count - self.being_made
    }

    /// To be held by who makes chunks in order to use them, until it does so no more.
    pub(crate) fn needed(&self) -> NeedsRing {
        NeedsRing { _count: Arc::clone(&self.needs) }
    }

    /// Notes that one more is being made, unless there are `most`.
    pub(crate) fn begin_chunk(&mut self, most: usize) -> bool {
        let may = self.count < most;
        self.count += usize::from(may);
        self.being_made += usize::from(may);
        may
    }

    /// Adds the chunk that was being made, if it could be.
    pub(crate) fn end_chunk(&mut self, slot: Option<Slot<B>>) {
        self.being_made -= 1;
        let Some(slot) = slot else {
            self.count -= 1;
            return;
        };
        let chunk = Some(Chunk { slot: Arc::new(slot), used: 0 });
        match self.chunks.iter_mut().find(|place| place.is_none()) {
            Some(place) => *place = chunk,
            None => self.chunks.push(chunk),
        }
    }

    /// The chunk from which so much would be taken: one that is in use already, if that will do.
    fn best(&self, size: SlotSize) -> Option<usize> {
        let fits = |used: u8| if size == SlotSize::Part { used != ALL_PARTS } else { used == 0 };
        let used = |(index, chunk): (usize, &Option<Chunk<B>>)| Some((chunk.as_ref()?.used, index));
        let fitting = self.chunks.iter().enumerate().filter_map(used).filter(|(used, _)| fits(*used));
        fitting.max_by_key(|(used, _)| used.count_ones()).map(|(_, index)| index)
    }

    /// What can be had now.
    pub(crate) fn free(&self) -> Free {
        let mut free = Free { chunks: 0, parts: 0 };
        for chunk in self.chunks.iter().flatten() {
            free.chunks += usize::from(chunk.used == 0);
            free.parts += PARTS_PER_CHUNK - chunk.used.count_ones() as usize;
        }
        free
    }

    pub(crate) fn take(&mut self, size: SlotSize) -> Option<SlotIndex> {
        let index = self.best(size)?;
        let chunk = self.chunks[index].as_mut()?;
        let parts = match size {
            SlotSize::Part => 1 << chunk.used.trailing_ones(),
            SlotSize::Chunk => ALL_PARTS,
        };
        chunk.used |= parts;
        Some(SlotIndex { chunk: index, parts })
    }

    /// The chunk, and where in it the slot begins, in parts.
    pub(crate) fn slot(&self, index: SlotIndex) -> (Arc<Slot<B>>, u64) {
        let chunk = self.chunks[index.chunk].as_ref().expect("a chunk in use exists");
        (Arc::clone(&chunk.slot), u64::from(index.parts.trailing_zeros()))
    }

    pub(crate) fn give_back(&mut self, index: SlotIndex) {
        let chunk = self.chunks[index.chunk].as_mut().expect("a chunk in use exists");
        debug_assert_eq!(chunk.used & index.parts, index.parts);
        chunk.used &= !index.parts;
    }

    /// Takes out all that nobody uses, to be dropped under no lock; but not the last one while anybody needs one.
    pub(crate) fn take_free(&mut self) -> Vec<Arc<Slot<B>>> {
        let are_needed = Arc::strong_count(&self.needs) > 1;
        let is_free = |place: &&mut Option<Chunk<B>>| place.as_ref().is_some_and(|chunk| chunk.used == 0);
        let kept = usize::from(are_needed && self.free().chunks == self.existing());
        let free: Vec<_> = self
            .chunks
            .iter_mut()
            .filter(is_free)
            .skip(kept)
            .filter_map(|place| Some(place.take()?.slot))
            .collect();
        self.count -= free.len();
        free
    }
}
