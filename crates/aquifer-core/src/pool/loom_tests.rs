//! Models of the depot and of a whole pool, reached as managers reach it: through each thread's own cache.
#![expect(clippy::arc_with_non_send_sync, reason = "loom's cells are not `Sync`, nor do its threads ask")]

mod queues;

use super::*;
use crate::loom_tests::device::{DeviceQueue, Memory};
use crate::loom_tests::explore;
use crate::pool::depot::Depot;
use crate::raw::allocation::Keepers;
use crate::statistics::Tag;
use crate::sync::Ordering;
use loom::cell::UnsafeCell;
use loom::thread::{self, JoinHandle};
use std::sync::atomic::AtomicBool;

const BYTES: u64 = 256;
const BLOCK_BYTES: u64 = 2 << 20;
/// The slots of one slab, of which no model here needs more.
const SLOT_COUNT: usize = 64;

/// Where a model's allocations are made: a lane, and the request that all of them are.
struct Home {
    lane: Arc<Lane>,
    request: Request,
}

impl Home {
    fn new(layout: &BucketLayout, lane: Arc<Lane>) -> Self {
        let key = LaneKey::new(lane.identity(), 0);
        Self { request: Request::new(layout, key, BYTES, 1, Tag::UNTAGGED), lane }
    }
}

/// A slot's memory, and whether anybody holds it. Loom's threads are one to the system, so that `std`'s atomics say how it
/// is, and order nothing.
#[derive(Default)]
struct Slot {
    memory: Arc<Memory>,
    is_held: AtomicBool,
}

/// A pool of one block, and the memory of each of its slots.
struct Model {
    pool: Arc<Pool>,
    /// That of no queue.
    home: Home,
    queues: Vec<queues::Queue>,
    slots: Vec<Slot>,
}

impl Model {
    /// The second part is a live allocation on no queue: a block comes into a pool with one.
    fn new() -> (Arc<Self>, Place) {
        let model = Self::with_queues(0);
        let first = model.pool.grow(&model.home.lane, 0, BLOCK_BYTES, model.home.request);
        model.took(first);
        model.touch(first);
        (model, first)
    }

    /// Without a block.
    fn with_queues(count: QueueIndex) -> Arc<Self> {
        let layout = BucketLayout::power_of_two();
        let pool = Pool::new(layout, false, 0, Clock::manual(), Arc::default(), Arc::new(Bell::new(0)));
        let home = Home::new(&layout, pool.lane(NO_QUEUE));
        let queues = (1..=count).map(|index| queues::Queue::new(&pool, index)).collect();
        let slots = (0..SLOT_COUNT).map(|_| Slot::default()).collect();
        Arc::new(Self { pool, home, queues, slots })
    }

    fn spawn<R: 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> R + 'static) -> JoinHandle<R> {
        let model = Arc::clone(self);
        thread::spawn(move || work(&model))
    }

    fn slot(&self, place: Place) -> &Slot {
        &self.slots[(place.offset / BYTES) as usize]
    }

    /// Loom panics unless all that other holders of the slot did happens before this, or after.
    fn touch(&self, place: Place) {
        self.slot(place).memory.use_on_host();
    }

    fn took(&self, place: Place) {
        assert!(!self.slot(place).is_held.swap(true, Ordering::Relaxed), "the slot is held");
    }

    fn gives(&self, place: Place) {
        assert!(self.slot(place).is_held.swap(false, Ordering::Relaxed), "nobody holds the slot");
    }

    /// Allocates without touching the memory.
    fn allocate_at(&self, home: &Home) -> Place {
        let place = home.request.allocate_cached(home.lane.identity());
        let place = place.or_else(|| self.pool.allocate(&home.lane, home.request));
        let place = place.expect("the slab has free slots");
        self.took(place);
        place
    }

    fn free_at(&self, home: &Home, place: Place) -> Closing {
        self.gives(place);
        match home.request.free_cached(place) {
            Some(()) => Closing::Orphans,
            None => Arc::clone(&self.pool).free(home.lane.queue, place, home.request),
        }
    }

    fn allocate(&self) -> Place {
        let place = self.allocate_at(&self.home);
        self.touch(place);
        place
    }

    fn free(&self, place: Place) -> Closing {
        self.touch(place);
        self.free_at(&self.home, place)
    }

    /// At rest: live, cached and free bytes make up the block, and the counters say how many are live.
    fn check_sums(&self, live_count: u64) {
        let snapshot = self.pool.snapshot();
        let class = &snapshot.classes[self.home.request.class()];
        assert_eq!(class.allocations - class.deallocations, live_count);
        assert_eq!(class.requested_bytes, live_count * BYTES);
        assert_eq!(class.allocated_bytes, live_count * BYTES);
        let free_bytes = snapshot.cached_bytes + snapshot.quarantined_bytes + snapshot.free_bytes;
        assert_eq!(class.allocated_bytes + free_bytes, BLOCK_BYTES);
        let (live_bytes, _) = {
            let caches = self.pool.thread_caches();
            let _still = self.pool.tally.hold_still();
            self.pool.tally.allocated.read(caches.iter().map(|cache| &cache.tally().allocated))
        };
        assert_eq!(live_bytes, live_count * BYTES);
    }

    /// Nothing is live: every place finds its way back, and the block can go.
    fn check_empty(&self) {
        self.check_sums(0);
        self.pool.flush();
        if !self.queues.is_empty() {
            // Once for the quarantine, and once more for the lanes that it gives to.
            self.pass();
            self.check_sums(0);
            self.pool.flush();
            self.pass();
        }
        assert_eq!(self.pool.release_idle(|_, _| true).len(), 1, "a place was lost on its way");
    }
}

/// Two threads put places in and take places out at the same time: each place is at the end in one thread's hands or
/// in the depot, once, and no more are kept than may be.
///
/// 11 runs.
#[test]
fn the_depot_keeps_each_place_once() {
    explore(3, || {
        let depot = Arc::new(Depot::new(&BucketLayout::power_of_two()));
        let exchange = |first: u32| {
            let depot = Arc::clone(&depot);
            move || {
                let mut places: Batch = (first..first + 2).map(|number| Place::new(number, 0, 0)).collect();
                depot.put(0, &mut places);
                depot.take(0, 1, &mut places);
                places.to_vec()
            }
        };
        let other = thread::spawn(exchange(0));
        let mut all = exchange(2)();
        all.extend(other.join().expect("the other thread ends"));
        assert!(depot.place_count(0) <= 2);
        depot.drain(|_, places| all.extend(places));
        let mut numbers: Vec<_> = all.into_iter().map(Place::source).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [0, 1, 2, 3]);
    });
}

/// Two threads allocate and free through their caches and the depot: no slot has two holders at a time, a slot that
/// changes hands brings along what its last holder did, and the sums are right at the end.
///
/// 710 runs, 0.1 s.
#[test]
fn two_threads_never_hold_the_same_slot() {
    explore(3, || {
        let (model, first) = Model::new();
        let churn = move |model: &Model| {
            let places = [model.allocate(), model.allocate()];
            places.into_iter().for_each(|place| _ = model.free(place));
        };
        let other = model.spawn(churn);
        churn(&model);
        other.join().expect("the other thread ends");
        model.check_sums(1);
        model.free(first);
        model.check_empty();
    });
}

/// One thread empties all caches while another allocates, frees and ends, which takes its cache in.
///
/// 94,000 runs, 16 s.
#[test]
fn a_flush_takes_nothing_that_is_in_use() {
    explore(3, || {
        let (model, first) = Model::new();
        let other = model.spawn(|model| {
            let places = [model.allocate(), model.allocate()];
            places.into_iter().for_each(|place| _ = model.free(place));
        });
        model.pool.flush();
        model.free(first);
        other.join().expect("the other thread ends");
        model.check_empty();
    });
}

/// A pool is closed while one thread frees three places, of which the last finds its cache full, and another thread
/// frees one. One party alone learns that the pool is drained, and one alone gives the last keeper back. By then all
/// that any of them did has happened, the counters say that nothing is live, and no place is still on its way.
///
/// 148,000 runs, 29 s. Two preemptions would not do: they miss a pool that sums up what is live under one lock and says
/// that it is closed under the next.
#[test]
fn one_party_learns_that_a_closed_pool_is_drained() {
    explore(3, || {
        let (model, first) = Model::new();
        let (second, third, fourth) = (model.allocate(), model.allocate(), model.allocate());
        let keepers = Arc::new(Keepers::new(1));
        // What each party does last before it gives its keeper back.
        let uses = Arc::new([UnsafeCell::new(()), UnsafeCell::new(()), UnsafeCell::new(())]);
        let give_back = |party: usize| {
            let (model, keepers, uses) = (Arc::clone(&model), Arc::clone(&keepers), Arc::clone(&uses));
            move |count: usize| {
                uses[party].with_mut(|_| {});
                let is_last = keepers.give_back(count);
                if is_last {
                    model.slots.iter().for_each(|slot| slot.memory.use_on_host());
                    uses.iter().for_each(|used| used.with_mut(|_| {}));
                    model.check_empty();
                }
                is_last
            }
        };
        let free = |party: usize, places: Vec<Place>| {
            let give_back = give_back(party);
            move |model: &Model| {
                let is_drained = |place| model.free(place) == Closing::Drained;
                let drained = places.into_iter().map(is_drained).filter(|&is_drained| is_drained).count();
                (drained, drained > 0 && give_back(drained))
            }
        };
        let others = [model.spawn(free(1, vec![first, second, third])), model.spawn(free(2, vec![fourth]))];
        let drained = usize::from(model.pool.close() == Closing::Drained);
        let is_last = give_back(0)(drained + 1);
        let mut outcomes = others.map(|other| other.join().expect("a freeing thread ends")).to_vec();
        outcomes.push((drained, is_last));
        assert_eq!(outcomes.iter().map(|outcome| outcome.0).sum::<usize>(), 1);
        assert_eq!(outcomes.iter().filter(|outcome| outcome.1).count(), 1);
    });
}
