//! Memory that the system may take while it is volatile.

use crate::pages::Pages;
use objc2_metal::MTLPurgeableState;
use parking_lot::Mutex;

/// What purged memory is filled with.
const PURGED: u8 = 0xdb;

/// Pages and their purgeable state.
#[derive(Debug)]
pub(crate) struct Purgeable {
    pages: Pages,
    state: Mutex<MTLPurgeableState>,
}

impl Purgeable {
    pub(crate) fn new(pages: Pages) -> Self {
        Self { pages, state: Mutex::new(MTLPurgeableState::NonVolatile) }
    }

    pub(crate) fn pages(&self) -> &Pages {
        &self.pages
    }

    /// `setPurgeableState:`: answers the state before, "empty" if the contents are lost.
    pub(crate) fn set(&self, new: MTLPurgeableState) -> MTLPurgeableState {
        let mut state = self.state.lock();
        let old = *state;
        if new != MTLPurgeableState::KeepCurrent {
            if new == MTLPurgeableState::Empty {
                self.pages.spoil(PURGED);
            }
            *state = new;
        }
        old
    }

    /// Whether work may use the memory: not while it is volatile or empty.
    pub(crate) fn is_usable(&self) -> bool {
        *self.state.lock() == MTLPurgeableState::NonVolatile
    }

    pub(crate) fn purge_if_volatile(&self) {
        let mut state = self.state.lock();
        if *state == MTLPurgeableState::Volatile {
            self.pages.spoil(PURGED);
            *state = MTLPurgeableState::Empty;
        }
    }
}
