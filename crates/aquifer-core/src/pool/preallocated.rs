//! Places that a user had made ready for allocations of one size before those come.
//!
//! They lie past caches, slabs and ranges: an allocation gets one only where it would otherwise make the pool grow, so
//! whatever other allocations, frees and growth do meanwhile, as many allocations of their size as there are places need no
//! driver call, on any thread and any queue. One that is taken is an ordinary place from then on. They are given up when
//! memory is short, and by trimming.
//!
//! All of them are bound to no queue, and counted as cached.

use super::growth::Fit;
use super::layout::{BUCKET_BYTES_MAX, BucketLayout, ClassIndex};
use super::{Place, Pool, Request};
use crate::range::{BlockIndex, Bound, GRANULE_BYTES, IdleBlock, NO_QUEUE};
use std::collections::BTreeMap;

/// How many places are found or freed under one locking of the pool: some tens of microseconds.
const PLACES_AT_ONCE: usize = 256;

/// The places, by the bytes that each has.
#[derive(Debug, Default)]
pub(super) struct Preallocated {
    places: BTreeMap<u64, Vec<Place>>,
}

impl Preallocated {
    fn add(&mut self, bytes: u64, mut places: Vec<Place>) {
        let kept = self.places.entry(bytes).or_default();
        if kept.is_empty() {
            *kept = places;
        } else {
            kept.append(&mut places);
        }
    }

    fn take(&mut self, bytes: u64) -> Option<Place> {
        let places = self.places.get_mut(&bytes)?;
        let place = places.pop();
        if places.is_empty() {
            self.places.remove(&bytes);
        }
        place
    }

    /// Takes up to `most` places of one size, and the bytes that each has.
    fn take_some(&mut self, most: usize) -> Option<(u64, Vec<Place>)> {
        let mut entry = self.places.first_entry()?;
        let (bytes, places) = (*entry.key(), entry.get_mut());
        let taken = places.split_off(places.len().saturating_sub(most));
        if places.is_empty() {
            entry.remove();
        }
        Some((bytes, taken))
    }

    /// By class: the class and its bytes.
    pub(super) fn by_class(&self, layout: &BucketLayout) -> impl Iterator<Item = (ClassIndex, u64)> {
        self.places.iter().map(|(&bytes, places)| {
            let class = if bytes <= BUCKET_BYTES_MAX { layout.class_of(bytes) } else { layout.class_count() };
            (class, bytes * places.len() as u64)
        })
    }
}

impl Pool {
    /// How many places are preallocated for requests like this.
    pub(crate) fn preallocated_count(&self, request: Request) -> usize {
        let bytes = request.bytes(&self.layout);
        self.state.lock().preallocated.places.get(&bytes).map_or(0, Vec::len)
    }

    /// The last place that an allocation looks at before the pool must grow.
    pub(super) fn allocate_preallocated(&self, request: Request) -> Option<Place> {
        if request.alignment() > GRANULE_BYTES {
            return None;
        }
        let bytes = request.bytes(&self.layout);
        let mut state = self.state.lock();
        let place = state.preallocated.take(bytes)?;
        state.count_allocation(request, bytes);
        drop(state);
        self.count_rise(request, bytes);
        Some(place)
    }

    /// Finds places for requests like this in what is reserved, however bad a fit, until `places` has `count`. They are
    /// not counted as allocations.
    pub(crate) fn find_places(&self, request: Request, places: &mut Vec<Place>, count: usize) {
        let bytes = request.bytes(&self.layout);
        while places.len() < count {
            let mut state = self.state.lock();
            for _ in 0..PLACES_AT_ONCE.min(count - places.len()) {
                let Some(place) = state.find_place(NO_QUEUE, request, bytes, Fit::Any) else { return };
                places.push(place);
            }
        }
    }

    /// Makes a new block part of the pool, and puts one place into `places` before anybody else can have it; the block holds
    /// it.
    pub(crate) fn add_block(
        &self,
        block: BlockIndex,
        block_bytes: u64,
        request: Request,
        places: &mut Vec<Place>,
    ) {
        let (bytes, now) = (request.bytes(&self.layout), self.clock.now_ms());
        let mut state = self.state.lock();
        state.ranges.add_block(block, block_bytes, now);
        places.extend(state.find_place(NO_QUEUE, request, bytes, Fit::Any));
    }

    /// Keeps places for requests like this.
    pub(crate) fn preallocate(&self, request: Request, places: Vec<Place>) {
        let bytes = request.bytes(&self.layout);
        self.state.lock().preallocated.add(bytes, places);
    }

    /// Frees places for requests like this that nobody has been given.
    pub(crate) fn free_places(&self, request: Request, places: Vec<Place>) {
        let (bytes, now) = (request.bytes(&self.layout), self.clock.now_ms());
        for places in places.chunks(PLACES_AT_ONCE) {
            let mut state = self.state.lock();
            places.iter().for_each(|&place| state.free_place(place, bytes, Bound::NONE, now));
        }
    }

    /// Gives all preallocated places up, so that they merge; says whether there were any. At any moment each is preallocated or
    /// free, so that others who are short of memory find it.
    pub(crate) fn free_preallocated(&self) -> bool {
        let now = self.clock.now_ms();
        let mut is_any = false;
        loop {
            let mut state = self.state.lock();
            let Some((bytes, places)) = state.preallocated.take_some(PLACES_AT_ONCE) else { return is_any };
            is_any = true;
            places.into_iter().for_each(|place| state.free_place(place, bytes, Bound::NONE, now));
        }
    }

    /// Lets go of a block if it is idle.
    pub(crate) fn release_if_idle(&self, block: BlockIndex) -> Option<IdleBlock> {
        let mut state = self.state.lock();
        let idle = state.ranges.idle_block(block)?;
        state.ranges.remove_block(block).map(|_| idle)
    }
}
