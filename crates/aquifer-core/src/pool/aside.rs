//! Blocks that the pool sets aside: reserved, counted as free, and not to be used until they are back. The manager keeps
//! them, under its growth lock.

use super::growth::Fit;
use super::{Lane, Place, Pool, Request};
use crate::range::{IdleBlock, NO_QUEUE};

impl Pool {
    /// Sets idle blocks aside, longest idle first, for as long as `wants_more` says so of the next one.
    pub(crate) fn set_idle_aside(&self, mut wants_more: impl FnMut(&IdleBlock) -> bool) -> Vec<IdleBlock> {
        let mut state = self.state.lock();
        let mut aside = Vec::new();
        while let Some(idle) = state.ranges.longest_idle_with_addresses()
            && wants_more(&idle)
        {
            state.ranges.set_aside(idle.block);
            aside.push(idle);
        }
        aside
    }

    /// Forgets a block that was set aside and is gone.
    pub(crate) fn forget_aside(&self, idle: &IdleBlock) {
        self.state.lock().ranges.forget_aside(idle);
    }

    /// Takes a block back that was set aside in vain.
    pub(crate) fn restore_aside(&self, idle: IdleBlock) {
        self.state.lock().ranges.restore_aside(idle);
    }

    /// Takes a block back that was set aside and serves the request from it, which must fit. In one step, or another thread
    /// might have the block first.
    pub(crate) fn recover(&self, lane: &Lane, idle: IdleBlock, request: Request) -> Place {
        let bytes = request.bytes(&self.layout);
        let mut state = self.state.lock();
        state.ranges.restore_aside(idle);
        // The driver was called for it.
        state.allowance.count_miss();
        state.classes[request.class()].misses += 1;
        let place = state
            .allocate(lane.queue, request, bytes, Fit::Any)
            .expect("the block was chosen since it holds the request");
        drop(state);
        self.count_rise(request, bytes);
        place
    }

    /// Takes a block back that was set aside, and puts one place into `places` before anybody else can have it; the block
    /// holds it. It is not counted as an allocation.
    pub(crate) fn recover_for_places(&self, idle: IdleBlock, request: Request, places: &mut Vec<Place>) {
        let bytes = request.bytes(&self.layout);
        let mut state = self.state.lock();
        state.ranges.restore_aside(idle);
        places.extend(state.find_place(NO_QUEUE, request, bytes, Fit::Any));
    }

    /// The largest block that `bytes` bytes should be served from, while there is a choice.
    pub(crate) fn good_fit_bytes_max(&self, bytes: u64) -> u64 {
        self.state.lock().good_fit_bytes_max(bytes)
    }
}
