//! The timed loops.
//!
//! A lane is one thread's part in the measurement of one peer. Its loop is compiled for that peer: a lane is called
//! through a pointer once for each batch, never for each pair. A slot takes one cache line whatever the peer's handle,
//! so that replacing a buffer touches as much memory in each peer's loop as in that of the loop alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use crate::mix::Draw;
use crate::pairs::{Plan, Set};
use crate::peers::Peer;

/// How many pairs go by between two looks at the stop flag.
const STRIDE: usize = 256;

/// What came of a batch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) pairs: usize,
    pub(crate) failures: usize,
}

/// One thread's part in the measurement of one peer.
pub(crate) trait Lane: Send {
    /// Fills this thread's part of the live set; answers how many allocations failed.
    fn fill(&mut self, draws: &[Draw]) -> usize;

    /// Runs the pairs of `draws`, in order, until they end or `stop` is set.
    fn run(&mut self, draws: &[Draw], stop: &AtomicBool) -> Tally;

    /// Frees this thread's part of the live set.
    fn empty(&mut self);
}

/// The one lane of a peer that one thread at a time can use.
pub(crate) fn alone<P: Peer + 'static>(peer: P, plan: &Plan) -> Vec<Box<dyn Lane>> {
    assert_eq!(plan.threads, 1, "the peer cannot be shared");
    vec![own(peer, plan)]
}

/// The lanes of a peer whose clones all use one allocator.
pub(crate) fn together<P: Peer + Clone + 'static>(peer: P, plan: &Plan) -> Vec<Box<dyn Lane>> {
    match plan.set {
        Set::Own => (0..plan.threads).map(|_| own(peer.clone(), plan)).collect(),
        Set::Shared => {
            let slots: Arc<[_]> = (0..plan.live).map(|_| Line(Mutex::new(None))).collect();
            let share = |thread| Share { first: thread, stride: plan.threads };
            let lane =
                |thread| SharedSet { peer: peer.clone(), slots: Arc::clone(&slots), share: share(thread) };
            (0..plan.threads as usize).map(|thread| Box::new(lane(thread)) as Box<dyn Lane>).collect()
        }
    }
}

fn own<P: Peer + 'static>(peer: P, plan: &Plan) -> Box<dyn Lane> {
    if plan.is_hot() {
        return Box::new(Hot { peer });
    }
    Box::new(OwnSet { peer, slots: (0..plan.live).map(|_| Line(None)).collect() })
}

/// How many pairs ahead a slot is fetched.
const AHEAD: usize = 12;

/// Begins to fetch a slot's cache line.
///
/// The slots are the caller's memory. A random one of a million is not in any cache, and an allocator that is called
/// meanwhile pays for that wait in the measurement of all but the emptiest loop: the more instructions a pair has, the
/// fewer of the loop's misses overlap. Fetched ahead, they cost all peers the same.
#[inline]
fn fetch<T>(slot: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 processor has the instruction, and it never faults, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(slot).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = slot;
}

/// A value with a cache line of its own.
#[repr(align(64))]
struct Line<T>(T);

impl<T> Line<T> {
    /// Fails to compile for a handle that needs a second line.
    const FITS: () = assert!(size_of::<Self>() == 64, "a handle must leave room in 64 bytes");
}

/// The live buffers of one thread.
struct OwnSet<P: Peer> {
    peer: P,
    slots: Vec<Line<Option<P::Handle>>>,
}

impl<P: Peer> Lane for OwnSet<P> {
    fn fill(&mut self, draws: &[Draw]) -> usize {
        const { Line::<Option<P::Handle>>::FITS };
        for (slot, draw) in self.slots.iter_mut().zip(draws) {
            slot.0 = self.peer.allocate(draw.bytes.into());
        }
        self.slots.iter().filter(|slot| slot.0.is_none()).count()
    }

    #[inline(never)]
    fn run(&mut self, draws: &[Draw], stop: &AtomicBool) -> Tally {
        let Self { peer, slots } = self;
        let mut tally = Tally::default();
        for part in draws.chunks(STRIDE) {
            for (index, draw) in part.iter().enumerate() {
                if let Some(ahead) = part.get(index + AHEAD) {
                    fetch(&slots[ahead.slot as usize]);
                }
                let slot = &mut slots[draw.slot as usize];
                if let Some(old) = slot.0.take() {
                    peer.free(old);
                }
                slot.0 = peer.allocate(draw.bytes.into());
                tally.failures += usize::from(slot.0.is_none());
            }
            tally.pairs += part.len();
            if stop.load(Relaxed) {
                break;
            }
        }
        tally
    }

    fn empty(&mut self) {
        for handle in self.slots.iter_mut().filter_map(|slot| slot.0.take()) {
            self.peer.free(handle);
        }
    }
}

/// The slots a thread fills and empties in a set that all threads replace buffers in.
struct Share {
    first: usize,
    stride: u32,
}

/// A live buffer that any thread may replace.
type SharedSlot<H> = Line<Mutex<Option<H>>>;

/// Live buffers that every thread replaces: of the buffers a thread frees, most came from another. Each slot has a
/// lock, held for the pair; the loop alone pays for it too.
struct SharedSet<P: Peer> {
    peer: P,
    slots: Arc<[SharedSlot<P::Handle>]>,
    share: Share,
}

impl<P: Peer> Lane for SharedSet<P> {
    fn fill(&mut self, draws: &[Draw]) -> usize {
        const { SharedSlot::<P::Handle>::FITS };
        let mut failures = 0;
        let own = self.slots.iter().skip(self.share.first).step_by(self.share.stride as usize);
        for (slot, draw) in own.zip(draws) {
            let handle = self.peer.allocate(draw.bytes.into());
            failures += usize::from(handle.is_none());
            *slot.0.lock() = handle;
        }
        failures
    }

    #[inline(never)]
    fn run(&mut self, draws: &[Draw], stop: &AtomicBool) -> Tally {
        let Self { peer, slots, .. } = self;
        let mut tally = Tally::default();
        for part in draws.chunks(STRIDE) {
            for (index, draw) in part.iter().enumerate() {
                if let Some(ahead) = part.get(index + AHEAD) {
                    fetch(&slots[ahead.slot as usize]);
                }
                let mut slot = slots[draw.slot as usize].0.lock();
                if let Some(old) = slot.take() {
                    peer.free(old);
                }
                *slot = peer.allocate(draw.bytes.into());
                tally.failures += usize::from(slot.is_none());
            }
            tally.pairs += part.len();
            if stop.load(Relaxed) {
                break;
            }
        }
        tally
    }

    fn empty(&mut self) {
        for slot in self.slots.iter().skip(self.share.first).step_by(self.share.stride as usize) {
            if let Some(handle) = slot.0.lock().take() {
                self.peer.free(handle);
            }
        }
    }
}

/// No live buffers: each is freed as soon as it is allocated.
struct Hot<P> {
    peer: P,
}

impl<P: Peer> Lane for Hot<P> {
    fn fill(&mut self, _: &[Draw]) -> usize {
        0
    }

    #[inline(never)]
    fn run(&mut self, draws: &[Draw], stop: &AtomicBool) -> Tally {
        let mut tally = Tally::default();
        for part in draws.chunks(STRIDE) {
            for draw in part {
                let mut handle = self.peer.allocate(draw.bytes.into());
                tally.failures += usize::from(handle.is_none());
                // The user has it in between: without this the compiler undoes one with the other.
                std::hint::black_box(&handle);
                self.peer.free_in_place(&mut handle);
            }
            tally.pairs += part.len();
            if stop.load(Relaxed) {
                break;
            }
        }
        tally
    }

    fn empty(&mut self) {}
}
