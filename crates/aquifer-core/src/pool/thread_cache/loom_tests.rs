//! Models of one cache: its owner against whoever looks in.
#![expect(clippy::arc_with_non_send_sync, reason = "loom's cells are not `Sync`, nor do its threads ask")]

use super::*;
use crate::loom_tests::explore;
use crate::pool::LaneKey;
use crate::range::NO_QUEUE;
use crate::raw::local::LaneIdentity;
use crate::statistics::Tag;
use crate::sync::{Mutex, Rank};
use loom::cell::UnsafeCell;
use loom::thread;

const BYTES: u64 = 200;

fn cache_and_request() -> (Arc<ThreadCache>, Request) {
    let layout = BucketLayout::power_of_two();
    let key = LaneKey::new(LaneIdentity::from_bits(1), 0);
    let request = Request::new(&layout, key, BYTES, 1, Tag::UNTAGGED);
    (Arc::new(ThreadCache::new(&layout, NO_QUEUE, Arc::default())), request)
}

fn place(number: u32) -> Place {
    Place::new(number, 0, u64::from(number))
}

fn numbers(places: impl IntoIterator<Item = Place>) -> Vec<u32> {
    let mut numbers: Vec<_> = places.into_iter().map(Place::source).collect();
    numbers.sort_unstable();
    numbers
}

/// What only one of owner and revoker may touch at a time.
#[derive(Default)]
struct Inner(UnsafeCell<u32>);

impl Inner {
    fn touch(&self) {
        // Loom panics unless every other touch happens before this one or after.
        self.0.with_mut(|_| {});
    }
}

fn enter_and_touch(cache: &ThreadCache, inner: &Inner) {
    if let Some(_inside) = cache.enter() {
        inner.touch();
    }
}

fn revoke_and_touch(cache: &Arc<ThreadCache>, inner: &Inner) {
    assert!(ThreadCache::revoke_all(std::slice::from_ref(cache)));
    inner.touch();
    cache.readmit();
}

/// Owner and revoker are never inside at the same time, and each sees all that the other did before, however often the
/// owner comes back and however often it is kept out.
///
/// 620 runs, under 0.1 s.
#[test]
fn owner_and_revoker_exclude_each_other() {
    explore(3, || {
        let (cache, _) = cache_and_request();
        let inner = Arc::new(Inner::default());
        let revoker = thread::spawn({
            let (cache, inner) = (Arc::clone(&cache), Arc::clone(&inner));
            move || (0..2).for_each(|_| revoke_and_touch(&cache, &inner))
        });
        (0..2).for_each(|_| enter_and_touch(&cache, &inner));
        revoker.join().expect("the revoker ends");
        enter_and_touch(&cache, &inner);
    });
}

/// The same with two revokers, as long as a lock lets in one at a time.
///
/// 680 runs, under 0.1 s.
#[test]
fn two_revokers_under_a_lock_and_the_owner_exclude_each_other() {
    explore(2, || {
        let (cache, _) = cache_and_request();
        let shared = Arc::new((Inner::default(), Mutex::new(Rank::Registry, ())));
        let revoke = || {
            let (cache, shared) = (Arc::clone(&cache), Arc::clone(&shared));
            move || {
                let _one_at_a_time = shared.1.lock();
                revoke_and_touch(&cache, &shared.0);
            }
        };
        let revokers = [thread::spawn(revoke()), thread::spawn(revoke())];
        (0..2).for_each(|_| enter_and_touch(&cache, &shared.0));
        for revoker in revokers {
            revoker.join().expect("a revoker ends");
        }
    });
}

/// While the owner allocates and frees, another thread empties the cache and lets the owner in again: at the end each
/// place has been taken by one of the two or is still kept, once; the counters say what the owner did, whoever
/// published them; and the owner sees its cache again.
///
/// 340 runs, under 0.1 s.
#[test]
fn no_place_is_lost_or_handed_out_twice() {
    explore(3, || {
        let (cache, request) = cache_and_request();
        let mut stock = Batch::from_iter([place(1), place(2), place(3)]);
        (0..2).for_each(|_| _ = cache.grow(request.class(), u64::MAX));
        cache.fill(request.class(), &mut stock);
        assert!(stock.is_empty());
        let mut held = vec![cache.allocate(request).expect("places are kept and nobody looks in")];
        let (mut allocations, mut frees) = (1, 0);
        let revoker = thread::spawn({
            let cache = Arc::clone(&cache);
            move || {
                let mut taken = Vec::new();
                assert!(ThreadCache::revoke_all(std::slice::from_ref(&cache)));
                cache.drain(|_, place| taken.push(place));
                cache.publish();
                cache.readmit();
                taken
            }
        });
        if let Some(place) = cache.allocate(request) {
            held.push(place);
            allocations += 1;
        }
        if cache.free(held[0], request).is_some() {
            held.remove(0);
            frees += 1;
        }
        let taken = revoker.join().expect("the revoker ends");
        if let Some(place) = held.pop() {
            assert!(cache.free(place, request).is_some(), "the owner was let in again");
            frees += 1;
        }
        let kept: Vec<_> = cache.classes[request.class()].places().collect();
        assert_eq!(numbers([held, taken, kept].concat()), [1, 2, 3]);
        let mut sums = ClassSums::default();
        cache.add_freed(request.class(), &mut sums);
        cache.add_allocated(request.class(), &mut sums);
        let expected = ClassSums {
            allocations,
            frees,
            requested_allocated: allocations * BYTES,
            requested_freed: frees * BYTES,
        };
        assert_eq!(sums, expected);
        let (live_bytes, _) = cache.shared_tally.requested.read([&cache.tally.requested].into_iter());
        assert_eq!(live_bytes, (allocations - frees) * BYTES);
    });
}

/// While the owner exchanges places with the depot (takes the older half out, puts others in), another thread empties
/// the cache: each place is in one hand at the end.
///
/// 340 runs, under 0.1 s.
#[test]
fn an_exchange_loses_nothing_to_a_revoker() {
    explore(3, || {
        let (cache, request) = cache_and_request();
        let class = request.class();
        let mut stock = Batch::from_iter([place(1), place(2)]);
        cache.grow(class, u64::MAX);
        cache.fill(class, &mut stock);
        let revoker = thread::spawn({
            let cache = Arc::clone(&cache);
            move || {
                let mut taken = Vec::new();
                assert!(ThreadCache::revoke_all(std::slice::from_ref(&cache)));
                cache.drain(|_, place| taken.push(place));
                cache.readmit();
                taken
            }
        });
        let mut out = Batch::new();
        cache.take_half(class, &mut out);
        let mut more = Batch::from_iter([place(3), place(4)]);
        cache.fill(class, &mut more);
        let taken = revoker.join().expect("the revoker ends");
        let kept: Vec<_> = cache.classes[class].places().collect();
        assert_eq!(numbers([out.to_vec(), more.to_vec(), taken, kept].concat()), [1, 2, 3, 4]);
    });
}
