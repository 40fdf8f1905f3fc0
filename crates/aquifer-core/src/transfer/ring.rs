//! Pinned chunks through which transfers are staged.

use crate::raw::transfer::Slot;
use aquifer_backend::Backend;
use std::sync::Arc;

/// Which slot.
pub(crate) type SlotIndex = usize;

/// The slots of a manager. It grows up to a bound, and shrinks when it is told to.
pub(crate) struct Ring<B: Backend> {
    slots: Vec<Option<Arc<Slot<B>>>>,
    free: Vec<SlotIndex>,
    /// Those that exist, and those that are being made.
    count: usize,
}

impl<B: Backend> Default for Ring<B> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), count: 0 }
    }
}

impl<B: Backend> Ring<B> {
    /// Slots that exist or are being made.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Whether one can be had now.
    pub(crate) fn has_free(&self) -> bool {
        !self.free.is_empty()
    }

    /// Notes that one more is being made, unless there are `most`.
    pub(crate) fn begin_slot(&mut self, most: usize) -> bool {
        let may = self.count < most;
        self.count += usize::from(may);
        may
    }

    /// Adds the slot that was being made, if it could be.
    pub(crate) fn end_slot(&mut self, slot: Option<Slot<B>>) {
        let Some(slot) = slot else {
            self.count -= 1;
            return;
        };
        let index = self.slots.iter().position(Option::is_none).unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[index] = Some(Arc::new(slot));
        self.free.push(index);
    }

    pub(crate) fn take(&mut self) -> Option<SlotIndex> {
        self.free.pop()
    }

    pub(crate) fn slot(&self, index: SlotIndex) -> Arc<Slot<B>> {
        Arc::clone(self.slots[index].as_ref().expect("a slot in use exists"))
    }

    pub(crate) fn give_back(&mut self, index: SlotIndex) {
        self.free.push(index);
    }

    /// Takes out all that nobody uses, to be dropped under no lock.
    pub(crate) fn take_free(&mut self) -> Vec<Arc<Slot<B>>> {
        let slots: Vec<_> = self.free.drain(..).filter_map(|index| self.slots[index].take()).collect();
        self.count -= slots.len();
        slots
    }
}
