//! Who keeps the shared state alive, and references into device memory.
//!
//! # Who keeps the shared state alive
//!
//! A buffer must reach its manager, also after the last handle is gone. A reference count per buffer costs 17 ns for
//! each allocation and free, 81 ns when two threads share it, which is more than all the rest (LOCAL-BASELINES, Arc
//! clone and drop). So buffers hold a plain pointer, and the count is the one that statistics need anyway: allocations
//! less frees, kept per thread.
//!
//! [`Shared::keepers`] is 1 for all handles together and 1 for each pool that may have live allocations. When the last
//! handle goes, each pool is closed: all threads' counters are summed while nobody is inside a cache, and from then on
//! every free is counted under the pool's lock. A pool without live allocations gives its 1 back at once, any other
//! with its last free. Who brings the sum to zero destroys the state. If a pool cannot be closed exactly
//! ([`Closing::Unknown`]) the state is never destroyed, which is safe.
//!
//! Imported buffers are of no pool and seldom come and go: each holds a 1 of its own.
//!
//! # References into device memory
//!
//! An [`Allocation`] owns its range alone: the pool hands no byte out twice. So `&Allocation` may give `&[u8]` and
//! `&mut Allocation` may give `&mut [u8]`, for as long as the allocation lives, since a block is destroyed only when it
//! has no used range.

use crate::manager::Shared;
use crate::pool::{Closing, Entry, Place, Request, Uses};
use crate::range as ranges;
use crate::range::{NO_QUEUE, QueueIndex};
use crate::statistics::Tag;
use crate::sync::{AtomicUsize, Ordering, UnmodelledAtomicU64};
use aquifer_backend::{Backend, BlockRange, Command, Error, Ticket};
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// How many parties need a manager's state; see the module's text.
#[derive(Debug)]
pub(crate) struct Keepers(AtomicUsize);

impl Keepers {
    /// One for all handles and one for each pool.
    pub(crate) fn new(pool_count: usize) -> Self {
        Self(AtomicUsize::new(1 + pool_count))
    }

    /// Adds one. The caller has one, or holds a handle.
    pub(crate) fn take(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes `count` away, which the caller had. True if they were the last: then all that others did before they gave
    /// theirs back has happened.
    pub(crate) fn give_back(&self, count: usize) -> bool {
        self.0.fetch_sub(count, Ordering::AcqRel) == count
    }
}

/// A pointer to the state that all handles and buffers of one manager share.
pub(crate) struct SharedPtr<B: Backend>(NonNull<Shared<B>>);

// SAFETY: the pointer gives `&Shared` to the thread that holds it and may destroy it there, which is what `Sync` and
// `Send` of `Shared` allow.
unsafe impl<B: Backend> Send for SharedPtr<B> where Shared<B>: Send + Sync {}
// SAFETY: as above; a shared pointer gives no more than an owned one.
unsafe impl<B: Backend> Sync for SharedPtr<B> where Shared<B>: Send + Sync {}

impl<B: Backend> std::ops::Deref for SharedPtr<B> {
    type Target = Shared<B>;

    #[inline]
    fn deref(&self) -> &Shared<B> {
        // SAFETY: the state outlives every pointer to it. Pointers are held by [`Owner`], which holds one keeper, and by
        // `Allocation`s, which are counted in a pool that holds another until they are freed, or hold one themselves, if they
        // are imported. An allocation's `drop` does not use its pointer after the free has been counted, unless it is
        // told that it was the last.
        unsafe { self.0.as_ref() }
    }
}

impl<B: Backend> SharedPtr<B> {
    /// Gives `count` keepers back, and destroys the state if they were the last. The caller must not use a pointer that
    /// relied on them again.
    fn release(&self, count: usize) {
        if !self.keepers.give_back(count) || self.is_forked() {
            // In a forked process the state is the parent's, and is left.
            return;
        }
        if !self.may_go() {
            self.keepers.take();
            let keeper = Keeper(SharedPtr(self.0));
            match self.finish_later.get() {
                Some(finish_later) => finish_later(keeper),
                None => keeper.abandon(),
            }
            return;
        }
        // SAFETY: made by `Box::leak` in `Owner::new`; no keeper is left, so no other pointer is used any more, and
        // only one caller sees the count reach zero.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }

    /// Another keeper, for who must go on when the owner of this pointer has gone.
    pub(crate) fn keeper(&self) -> Keeper<B> {
        self.keepers.take();
        Keeper(SharedPtr(self.0))
    }
}

/// All handles together. Dropped with the last of them.
pub(crate) struct Owner<B: Backend>(SharedPtr<B>);

impl<B: Backend> Owner<B> {
    pub(crate) fn new(shared: Shared<B>) -> Self {
        Self(SharedPtr(NonNull::from(Box::leak(Box::new(shared)))))
    }

    /// Makes an allocation of what the pool has just handed out and counted.
    #[inline]
    pub(crate) fn adopt(&self, home: QueueIndex, place: Place, request: Request) -> Allocation<B> {
        let uses = UnmodelledAtomicU64::new(Uses::at_home(home).word());
        Allocation { shared: SharedPtr(self.0.0), place, request, uses }
    }

    /// Makes an allocation of a block that has just been imported, and is live.
    pub(crate) fn adopt_imported(&self, place: Place, request: Request) -> Allocation<B> {
        debug_assert!(request.is_imported());
        // Given back when it is freed.
        self.0.keepers.take();
        self.adopt(NO_QUEUE, place, request)
    }

    /// Another keeper, for who must go on when all handles are gone.
    pub(crate) fn keeper(&self) -> Keeper<B> {
        self.0.keeper()
    }

    pub(crate) fn shared_ptr(&self) -> &SharedPtr<B> {
        &self.0
    }
}

/// Keeps the shared state alive without being a handle.
pub(crate) struct Keeper<B: Backend>(SharedPtr<B>);

impl<B: Backend> Keeper<B> {
    /// One more.
    pub(crate) fn another(&self) -> Self {
        self.0.keeper()
    }

    /// Leaves the state as it is, for good: the device may touch its memory.
    pub(crate) fn abandon(self) {
        tracing::error!("a manager's memory is lost: its queues do not finish their work");
        std::mem::forget(self);
    }
}

impl<B: Backend> std::ops::Deref for Keeper<B> {
    type Target = Shared<B>;

    fn deref(&self) -> &Shared<B> {
        &self.0
    }
}

impl<B: Backend> Drop for Keeper<B> {
    fn drop(&mut self) {
        self.0.release(1);
    }
}

impl<B: Backend> std::ops::Deref for Owner<B> {
    type Target = Shared<B>;

    #[inline]
    fn deref(&self) -> &Shared<B> {
        &self.0
    }
}

impl<B: Backend> Drop for Owner<B> {
    fn drop(&mut self) {
        if self.0.is_forked() {
            // Left as it is: to close it calls the driver, and waits for threads that this process has not got.
            return;
        }
        let drained = self.0.close();
        self.0.release(drained + 1);
    }
}

/// A range that somebody holds. Frees it when dropped, on whichever thread that is.
pub(crate) struct Allocation<B: Backend> {
    shared: SharedPtr<B>,
    place: Place,
    request: Request,
    /// See [`Uses`].
    uses: UnmodelledAtomicU64,
}

impl<B: Backend> Drop for Allocation<B> {
    #[inline]
    fn drop(&mut self) {
        let shared = &*self.shared;
        if shared.observers.are_active() {
            self.free_watched();
        } else {
            self.free();
        }
    }
}

/// Frees an allocation's place when dropped, also while a panic of the user's code passes.
struct FreeOnDrop<'a, B: Backend>(&'a Allocation<B>);

impl<B: Backend> Drop for FreeOnDrop<'_, B> {
    fn drop(&mut self) {
        self.0.free();
    }
}

impl<B: Backend> Allocation<B> {
    /// Tells who watches, then frees.
    #[cold]
    #[inline(never)]
    fn free_watched(&self) {
        let _free = FreeOnDrop(self);
        if self.shared.observers.are_sanitized() && !self.request.is_imported() {
            self.note_freed();
        }
        self.shared.observers.freed(self.place, self.request);
    }

    /// Tells the backend of the requested bytes.
    pub(crate) fn note_allocated(&self) {
        let block = self.block();
        self.shared.backend.note_allocated(self.requested_range(&block));
    }

    /// The same when they are freed; waits for the queues that may use them, as long as an allocation would.
    fn note_freed(&self) {
        if self.shared.have_passed(self.uses()) {
            let block = self.block();
            self.shared.backend.note_freed(self.requested_range(&block));
        }
    }

    fn requested_range<'a>(&self, block: &'a B::Block) -> BlockRange<'a, B::Block> {
        BlockRange { block, offset: self.place.offset, bytes: self.requested_bytes() }
    }

    #[inline]
    fn free(&self) {
        let uses = self.uses();
        if uses.are_recorded() {
            if self.request.quarantine_cached(self.place, uses).is_none() {
                self.quarantine_slow(uses);
            }
        } else if self.request.free_cached(self.place).is_none() {
            self.free_slow(uses.home());
        }
    }

    #[cold]
    #[inline(never)]
    fn free_slow(&self, home: QueueIndex) {
        if self.request.is_imported() {
            return self.free_imported();
        }
        let shared = &*self.shared;
        if self.request.is_charged() {
            shared.refund_charge(self.request);
            if self.request.free_cached_refunded(self.place).is_some() {
                return;
            }
        }
        if self.request.is_pinned() {
            shared.forget_pinned(self.place, self.request);
        }
        let pool = Arc::clone(&shared.pools[self.request.memory_type()].pool);
        if Arc::clone(&pool).free(home, self.place, self.request) == Closing::Drained {
            self.shared.release(1);
        }
        // The manager may be gone by now, but not the pool's bell.
        pool.bell().freed();
        if home != NO_QUEUE {
            pool.bell().note_in_flight();
        }
    }

    /// Frees what queues other than its home may still use: makes room among what waits for them, then waits too.
    #[cold]
    #[inline(never)]
    fn quarantine_slow(&self, uses: Uses) {
        if self.request.is_imported() {
            return self.free_imported();
        }
        let shared = &*self.shared;
        if self.request.is_charged() {
            shared.refund_charge(self.request);
            if self.request.quarantine_cached_refunded(self.place, uses).is_some() {
                return;
            }
        }
        if self.request.is_pinned() {
            shared.forget_pinned(self.place, self.request);
        }
        let pool = Arc::clone(&shared.pools[self.request.memory_type()].pool);
        // Before the free is counted: after it the manager may be gone.
        shared.seal_full_quarantine(uses.home(), self.request);
        let entry = Entry { place: self.place, request: self.request, uses };
        if Arc::clone(&pool).quarantine(entry) == Closing::Drained {
            self.shared.release(1);
        }
        pool.bell().note_in_flight();
    }

    fn free_imported(&self) {
        self.shared.free_imported(self.place, self.request, self.uses());
        // What `Owner::adopt_imported` took. After it the manager may be gone.
        self.shared.release(1);
    }

    /// The queues that may use it.
    #[inline]
    pub(crate) fn uses(&self) -> Uses {
        Uses::from_word(self.uses.load(Ordering::Relaxed))
    }

    /// Notes that `queue` may use it until it is freed, and beyond.
    pub(crate) fn record_use(&self, queue: QueueIndex) {
        let recorded = self.uses().with(queue).word();
        self.uses.fetch_or(recorded, Ordering::Relaxed);
    }

    pub(crate) fn requested_bytes(&self) -> u64 {
        self.request.requested_bytes
    }

    /// Whether it counts as pinned, locked or not.
    pub(crate) fn is_pinned(&self) -> bool {
        self.request.is_pinned()
    }

    /// Whether the system keeps its memory where it is.
    pub(crate) fn is_locked(&self) -> bool {
        self.request.is_pinned() && self.shared.is_locked(self.request)
    }

    /// What the allocation occupies, rounding included.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.request.bytes(self.shared.pools[self.request.memory_type()].pool.layout())
    }

    pub(crate) fn tag(&self) -> Tag {
        self.request.tag()
    }

    pub(crate) fn shared(&self) -> &Shared<B> {
        &self.shared
    }

    pub(crate) fn shared_ptr(&self) -> &SharedPtr<B> {
        &self.shared
    }

    pub(crate) fn memory_type(&self) -> usize {
        self.request.memory_type()
    }

    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// Its block and first byte there.
    pub(super) fn located(&self) -> (Arc<B::Block>, u64) {
        (self.block(), self.place.offset)
    }

    fn block(&self) -> Arc<B::Block> {
        if self.request.is_imported() {
            return self.shared.imported.block(self.place.block());
        }
        self.shared.pools[self.request.memory_type()].block(self.place.block())
    }

    /// Calls with the block and the first byte there. The allocation is borrowed meanwhile, so the block is not destroyed.
    pub(crate) fn with_block<R>(&self, use_block: impl FnOnce(&B::Block, u64) -> R) -> R {
        let block = self.block();
        use_block(&block, self.place.offset)
    }

    /// The address of the first byte, by which the device's programs reach it.
    #[inline]
    pub(crate) fn device_address(&self) -> Option<u64> {
        let start = if self.request.is_imported() {
            self.shared.backend.device_address(&self.block())
        } else {
            self.shared.pools[self.request.memory_type()].device_address(self.place.block())
        };
        Some(start? + self.place.offset)
    }

    /// The address of the first byte, where the host can see it.
    pub(crate) fn host_pointer(&self) -> Option<NonNull<u8>> {
        let start = if self.request.is_imported() {
            self.shared.backend.host_pointer(&self.block())
        } else {
            self.shared.pools[self.request.memory_type()].host_pointer(self.place.block())
        }?;
        // SAFETY: the range lies in its block, and the block is one object of the host's memory (`Backend`).
        Some(unsafe { start.add(self.place.offset as usize) })
    }

    /// Blocks until no queue uses the memory any more: neither for this allocation nor for those that had it before.
    pub(crate) fn wait_for_queues(&self) -> Result<(), Error> {
        let uses = self.uses();
        if uses == Uses::at_home(NO_QUEUE) { Ok(()) } else { self.shared.wait_for_uses(uses) }
    }

    /// The requested bytes, where the host can see them. Blocks until no queue uses them.
    pub(crate) fn bytes(&self) -> Result<Option<&[u8]>, Error> {
        let Some(start) = self.host_pointer() else { return Ok(None) };
        self.wait_for_queues()?;
        // SAFETY: the bytes are readable and initialised (`Backend`), lie in a range that only this allocation has, and
        // that allocation is borrowed, so that nobody writes them through `bytes_mut`, `fill` or `copy_from`, which
        // borrow it mutably, and it is not freed. No queue uses them: what was queued for those who had the memory before
        // is over, and what is queued for this allocation by operations owns it.
        Ok(Some(unsafe { std::slice::from_raw_parts(start.as_ptr(), self.requested_bytes() as usize) }))
    }

    /// The requested bytes, to be written. Blocks until no queue uses them.
    pub(crate) fn bytes_mut(&mut self) -> Result<Option<&mut [u8]>, Error> {
        let Some(start) = self.host_pointer() else { return Ok(None) };
        self.wait_for_queues()?;
        // SAFETY: as in `bytes`, and borrowed mutably, so that nobody else reads or writes them.
        Ok(Some(unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.requested_bytes() as usize) }))
    }

    /// Sets part of the allocation to `value`. The caller has checked that `range` lies in what is allocated.
    pub(crate) fn fill(&mut self, range: Range<u64>, value: u8) -> Result<(), Error> {
        debug_assert!(range.start <= range.end && range.end <= self.allocated_bytes());
        self.shared.check_process("fill")?;
        self.wait_for_queues()?;
        let block = self.block();
        let destination = BlockRange {
            block: &*block,
            offset: self.place.offset + range.start,
            bytes: range.end - range.start,
        };
        // SAFETY: the range lies in the allocation, and so in its block; it is borrowed mutably, and no queue uses it.
        let answer = unsafe { self.shared.backend.fill(destination, value) };
        self.shared.note(answer)
    }

    /// Sets everything that is allocated to zero, before anybody uses it: on its home queue, if it has one, without waiting for
    /// it.
    pub(crate) fn clear(&mut self) -> Result<(), Error> {
        // A tool that checks knows what was asked for.
        let is_sanitized = self.shared.observers.are_sanitized();
        let bytes = if is_sanitized { self.requested_bytes() } else { self.allocated_bytes() };
        let home = self.uses().home();
        if home == NO_QUEUE {
            return self.fill(0..bytes, 0);
        }
        self.shared.check_process("fill")?;
        let queue = self.shared.queues.get(home);
        let block = self.block();
        let destination = BlockRange { block: &*block, offset: self.place.offset, bytes };
        let command = Command::Fill { destination, value: 0 };
        // SAFETY: the range is the allocation, and lies in its block. Whoever uses the memory after this is ordered behind the
        // home queue: its own work by the order of the queue, operations by `order_after_uses`, the host by `wait_for_queues`,
        // and those who get it when it has been freed by what it is then bound to. Nor is the block destroyed before.
        let answer =
            unsafe { self.shared.backend.enqueue(&queue.raw, command, &Arc::new(Ticket::default())) };
        self.shared.note(answer)
    }

    /// Copies `bytes` bytes of another allocation of the same manager. The caller has checked both ranges.
    pub(crate) fn copy_from(
        &mut self,
        offset: u64,
        source: &Self,
        source_offset: u64,
        bytes: u64,
    ) -> Result<(), Error> {
        debug_assert!(
            offset + bytes <= self.allocated_bytes() && source_offset + bytes <= source.allocated_bytes()
        );
        debug_assert!(std::ptr::eq(self.shared(), source.shared()));
        self.shared.check_process("copy")?;
        self.wait_for_queues()?;
        source.wait_for_queues()?;
        let from = source.block();
        let to = self.block();
        let source = BlockRange { block: &*from, offset: source.place.offset + source_offset, bytes };
        let destination = BlockRange { block: &*to, offset: self.place.offset + offset, bytes };
        // SAFETY: both ranges lie in their allocations, equally long; two allocations never overlap; the destination is
        // borrowed mutably and the source is borrowed, so that nobody writes either meanwhile.
        let answer = unsafe { self.shared.backend.copy(source, destination) };
        self.shared.note(answer)
    }
}

/// Gives a block back to the driver. `Ok` with the block inside if the driver refused.
///
/// The pool has let the block go, so no range of it is used; or it was imported, its one buffer is freed, and the queues that
/// might use it have passed.
pub(crate) fn destroy_block<B: Backend>(
    backend: &B,
    block: B::Block,
) -> Result<(), aquifer_backend::DestroyError<B::Block>> {
    // SAFETY: a pool lets go only of blocks without a used range, and every reference into a block belongs to a used
    // range. A physical block has been unmapped everywhere, or its sparse blocks are gone. An imported block has come out of `ImportedBlocks`, which has it no more as a live one, and every reference
    // into it belongs to its live buffer; what queues did with it is over.
    unsafe { backend.destroy_block(block) }
}

/// Maps a physical block of the pool's behind a part of a sparse block of the pool's.
pub(crate) fn map<B: Backend>(
    backend: &B,
    sparse: BlockRange<'_, B::Block>,
    physical: &B::Block,
) -> Result<(), Error> {
    // SAFETY: the pool's books say where nothing is mapped, and how long a physical block is; the growth lock is held, so they
    // stay true. A physical block is unmapped everywhere before it is destroyed.
    unsafe { backend.map(sparse, physical) }
}

/// Takes the physical block away from behind a part of a sparse block of the pool's.
pub(crate) fn unmap<B: Backend>(backend: &B, sparse: BlockRange<'_, B::Block>) -> Result<(), Error> {
    // SAFETY: the pool's books say that a physical block was mapped there, as long as the range, and the growth lock is held. The
    // pool has taken the addresses out of all free ranges, none of which was used or bound to a queue.
    unsafe { backend.unmap(sparse) }
}

/// Puts the marker for a value that was claimed into a queue of the manager's. The caller holds what lets one thread do that at a time.
pub(crate) fn signal<B: Backend>(backend: &B, queue: &B::Queue, value: u64) -> Result<(), Error> {
    // SAFETY: the core's queues are signalled here alone.
    unsafe { backend.signal(queue, value) }
}

/// Allows the system to take a block's memory. The pool has set the block aside.
pub(crate) fn make_purgeable<B: Backend>(backend: &B, block: &B::Block) -> Result<(), Error> {
    // SAFETY: a pool sets aside only blocks without a used range, which no queue may still use; every reference into a block
    // belongs to a used range. It hands nothing of the block out before `make_nonpurgeable` has answered.
    unsafe { backend.make_purgeable(block) }
}

/// Gives a part of a block back to the driver. The pool has released it.
pub(crate) fn release_range<B: Backend>(
    backend: &B,
    block: &B::Block,
    range: &ranges::Range,
) -> Result<(), Error> {
    let range = BlockRange { block, offset: range.offset, bytes: range.bytes };
    // SAFETY: a pool releases only holes, which nobody uses, cut to whole granules. Those of blocks with memory of their own it hands
    // out no more; those of sparse blocks nobody finds before they are taken back, under the growth lock, which is held.
    unsafe { backend.release_range(range) }
}
