//! The slow end of allocating: making room, the cheapest ways first. Giving memory back is in [`super::shrink`].
//!
//! Everything here happens under the pool's growth lock, one thread at a time, which [`Growing`] stands for.

use super::elastic::{Elastic, Shortage};
use super::purgeable::Recover;
use super::shared::Shared;
use super::shrink::Leaving;
use super::typed_pool::{Growing, TypedPool};
use crate::pool::{BUCKET_BYTES_MAX, Growth, Lane, Place, Request, Return};
use crate::range::NO_QUEUE;
use crate::statistics::Tag;
use crate::sync::{AtomicU64, Ordering};
use aquifer_backend::{Backend, BlockDesc, Capabilities, Error, ErrorKind, OutOfMemoryReport, Properties};
use std::sync::Arc;
use std::time::Duration;

/// For how many markers trimming waits at most.
const MARKERS_MAX: u32 = 64;
/// How often an allocation searches, if others bring memory back while it does; and how often it gives up what is
/// preallocated, if others preallocate meanwhile.
pub(super) const ATTEMPTS_MAX: u32 = 3;
/// How long growing waits for its queue: less than it takes to make and map a physical block, and more than an idle queue takes.
const BRIEF_WAIT: Duration = Duration::from_micros(20);
/// Much is bound to queues when it is more than this share of what is reserved, and than so many bytes.
const MUCH_BOUND_SHARE: u64 = 16;
const MUCH_BOUND_BYTES: u64 = 64 << 20;
/// How long trimming waits for one queue, so that one that has nothing more to do passes its marker: some microseconds on
/// a GPU.
const MARKER_WAIT: Duration = Duration::from_millis(10);

/// The sizes that a new block for a request may have, in bytes.
#[derive(Debug, Clone, Copy)]
struct BlockSizes {
    /// The largest that the driver makes.
    most: u64,
    /// That of a slab, if the request is for a slot; else as `least`.
    ordinary: u64,
    /// For this request alone.
    least: u64,
}

/// Room for a request.
enum Room<T> {
    /// Found after all, here.
    Place(Place),
    /// For a new block.
    Block(T),
}

impl<B: Backend> Shared<B> {
    /// Makes room for a request that the pool has none for: the slow end of allocating.
    ///
    /// Answers whether the place is memory fresh from the driver.
    #[cold]
    pub(crate) fn grow(&self, lane: &Arc<Lane>, request: Request) -> Result<(Place, bool), Error> {
        // What the driver holds of it may be what it lacks.
        self.let_go_of_imported();
        let (mut attempts, mut give_ups, mut are_others_asked) = (0, 0, false);
        loop {
            // Noted here, under no lock.
            let answer = self.note(self.grow_locked(lane, request));
            self.bell.tell_news();
            self.tell_loss();
            let is_short = answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::OutOfMemory);
            if is_short && !std::mem::replace(&mut are_others_asked, true) && self.release_in_others(request)
            {
                continue;
            }
            // Memory that is short now goes before what was made ready for later. Not for ever, if others make it ready again.
            if is_short && give_ups < ATTEMPTS_MAX && self.give_up_preallocated(request) {
                give_ups += 1;
                are_others_asked = false;
                continue;
            }
            attempts += 1;
            let report = answer.as_ref().err().and_then(Error::out_of_memory);
            // Not asked after the last attempt: what it would bring back, nobody would look for.
            if attempts == ATTEMPTS_MAX || !report.is_some_and(|report| self.could_fit_now(request, report)) {
                return answer;
            }
        }
    }

    /// Whether a request that has just failed may find room now: since it looked, queues have passed, or another thread has
    /// brought back what they had passed before.
    fn could_fit_now(&self, request: Request, report: &OutOfMemoryReport) -> bool {
        let pool = &self.pools[request.memory_type()].pool;
        let bytes = pool.bytes(request);
        let unreserved = report.budget_bytes.saturating_sub(report.reserved_bytes);
        // The search has emptied all caches, so what is in them now came later.
        let came_back =
            report.cached_bytes > 0 && report.cached_bytes + report.free_bytes + unreserved >= bytes;
        // What threads keep to themselves must get its markers, so that it can be waited for.
        let has_moved = report.quarantined_bytes > 0 && self.settle_if_moved();
        let has_passed = report.quarantined_bytes > 0 && !pool.has_in_flight();
        came_back || has_moved || has_passed || report.largest_free_bytes >= bytes
    }

    fn grow_locked(&self, lane: &Arc<Lane>, request: Request) -> Result<(Place, bool), Error> {
        let mut growing = self.pools[request.memory_type()].lock_growth();
        let growing = &mut growing;
        let ledger = &self.ledgers[growing.heap_index];
        // Another thread may have made room while this one waited; and what caches keep may do, once it has merged.
        if let Some(place) = growing.pool.allocate(lane, request) {
            return Ok((place, false));
        }
        let is_flushed = growing.pool.flush_for(request);
        let is_settled = self.settle_for(growing);
        if (is_flushed || is_settled)
            && let Some(place) =
                growing.pool.allocate(lane, request).or_else(|| growing.pool.allocate_across(lane, request))
        {
            return Ok((place, false));
        }
        if growing.is_elastic
            && self.settle_briefly(growing, lane)
            && let Some(place) =
                growing.pool.allocate(lane, request).or_else(|| growing.pool.allocate_across(lane, request))
        {
            return Ok((place, false));
        }
        self.release_decayed(growing);
        let sizes = self.block_sizes(growing, request);
        if sizes.least > ledger.budget_bytes() {
            let message = format!("{} bytes asked for; raise the budget", request.requested_bytes);
            return Err(self.out_of_memory(ErrorKind::CanNeverFit, message, growing.heap_index, request));
        }
        if growing.is_elastic
            && let Some(placed) = self.grow_elastic_or_fail(growing, lane, request)?
        {
            return Ok(placed);
        }
        if let Some(place) = self.recover(growing, lane, request, Recover::GoodFit)? {
            return Ok((place, false));
        }
        let granularity = self.backend.properties().block_granularity_bytes;
        let wanted = match growing.pool.plan_growth(lane, request, granularity) {
            Growth::Placed(place) => return Ok((place, false)),
            Growth::Create { aside_bytes, evicted, bytes } => {
                let purgeable = growing.purgeable.take_bytes(aside_bytes);
                self.destroy(growing, Leaving { purgeable, idle: evicted });
                bytes.min(sizes.most).max(sizes.ordinary)
            }
        };
        let Some(room) = self.charge(growing, lane, request, wanted, sizes)? else {
            let message =
                self.why_spent("free something, trim, or raise the budget", growing.heap_index, sizes.least)?;
            return Err(self.out_of_memory(ErrorKind::OutOfMemory, message, growing.heap_index, request));
        };
        let created = match room {
            Room::Place(place) => return Ok((place, false)),
            Room::Block(bytes) => {
                self.create(growing, request, bytes).map(|block| Room::Block((block, bytes)))
            }
        };
        let created = match created {
            Err(refusal) if refusal.kind() == ErrorKind::OutOfMemory => {
                self.create_at_all_costs(growing, lane, request, sizes, refusal)?
            }
            other => other?,
        };
        let (block, bytes) = match created {
            Room::Place(place) => return Ok((place, false)),
            Room::Block((block, bytes)) => (block, bytes),
        };
        ledger.confirm(bytes);
        let index = growing.insert_block(&self.backend, block);
        let place = growing.pool.grow(lane, index, bytes, request);
        let is_fresh = place.block() == index
            && self.backend.properties().capabilities.contains(Capabilities::ZEROED_BLOCKS);
        Ok((place, is_fresh))
    }

    /// Puts markers where something waits without one, and lets others have what queues have passed: before growing, that
    /// is worth a call. False if there is no queue.
    fn settle_for(&self, growing: &mut Growing<'_, B::Block>) -> bool {
        if !growing.pool.has_in_flight() {
            return false;
        }
        growing.pool.flush_quarantine();
        self.mark(growing);
        self.look();
        growing.pool.settle(Return::ToRanges);
        true
    }

    /// Puts a marker into a queue that keeps up and has much bound to it. What is bound merges with nothing that is not, so the pool would
    /// break what it need not, and map more; with a marker for each such part of the pool it does as well as without queues.
    /// True if that may have freed something.
    pub(super) fn unbind_much(&self, typed: &TypedPool<B::Block>, lane: &Lane) -> bool {
        if lane.queue == NO_QUEUE
            || !typed.pool.is_much_bound(MUCH_BOUND_SHARE, MUCH_BOUND_BYTES)
            || self.is_forked()
        {
            return false;
        }
        let queue = self.queues.get(lane.queue);
        let mut has_moved = self.look();
        if queue.timeline.completed() >= queue.timeline.claimed() && typed.pool.needs_marker(lane.queue) {
            let _ = self.signal(&queue);
            has_moved |= self.look();
        }
        if has_moved {
            typed.pool.settle(Return::ToCaches);
        }
        has_moved
    }

    /// Gives the queue that memory is wanted on a moment to pass what it has been given: if it has nothing else to do that takes less than
    /// making memory does. False if it has not passed.
    fn settle_briefly(&self, growing: &mut Growing<'_, B::Block>, lane: &Lane) -> bool {
        if lane.queue == NO_QUEUE {
            return false;
        }
        let queue = self.queues.get(lane.queue);
        let claimed = queue.timeline.claimed();
        let would_help = growing.pool.first_bound(lane.queue).is_some_and(|first| first <= claimed);
        if !would_help || queue.timeline.completed() >= claimed {
            return false;
        }
        let has_passed = matches!(self.wait_a_while(&queue, claimed, BRIEF_WAIT), Ok(true));
        has_passed && self.settle_for(growing)
    }

    /// As [`Shared::settle_for`], and gives the queues a moment to pass what they have just been given.
    pub(super) fn settle_soon(&self, growing: &mut Growing<'_, B::Block>) {
        if !self.settle_for(growing) {
            return;
        }
        // Others may free all the time: so only for so long.
        for _ in 0..MARKERS_MAX {
            let Some((queue, value)) = growing.pool.next_in_flight() else { break };
            let waited = self.wait_a_while(&self.queues.get(queue), value, MARKER_WAIT);
            if !waited.unwrap_or(self.is_lost()) {
                break;
            }
            self.settle_for(growing);
        }
    }

    /// Brings together all that is cached anywhere and all that queues have passed, and looks again.
    fn flush_and_allocate(
        &self,
        growing: &mut Growing<'_, B::Block>,
        lane: &Lane,
        request: Request,
    ) -> Option<Place> {
        self.flush_and_settle(growing);
        growing.pool.allocate_anywhere(lane, request)
    }

    /// Empties all caches, and lets others have what queues have passed.
    pub(super) fn flush_and_settle(&self, growing: &mut Growing<'_, B::Block>) {
        growing.pool.flush();
        // What comes back from the quarantine may be bound to its home, and then needs a marker there.
        if self.settle_for(growing) {
            self.settle_for(growing);
        }
    }

    /// Serves a request from memory that is mapped for it. `None` if the driver maps no more, or a physical page is more than the
    /// budget: then a block of its own may do.
    fn grow_elastic_or_fail(
        &self,
        growing: &mut Growing<'_, B::Block>,
        lane: &Arc<Lane>,
        request: Request,
    ) -> Result<Option<(Place, bool)>, Error> {
        let (mut is_flushed, mut has_made_room) = (false, false);
        loop {
            let outcome = self.grow_elastic(growing, lane, request)?;
            if let Elastic::Placed(place, is_fresh) = outcome {
                return Ok(Some((place, is_fresh)));
            }
            if self.block_count.is_full() && !std::mem::replace(&mut has_made_room, true) {
                self.remove_unused_sparse(growing, None, usize::MAX);
                self.release_one(growing);
                continue;
            }
            let Elastic::Short(refusal) = outcome else { return Ok(None) };
            // Before anything fails, what caches keep must merge, however often that has been done.
            if !std::mem::replace(&mut is_flushed, true) {
                if let Some(place) = self.flush_and_allocate(growing, lane, request) {
                    return Ok(Some((place, false)));
                }
                continue;
            }
            let budget_bytes = self.ledgers[growing.heap_index].budget_bytes();
            if budget_bytes < self.backend.properties().physical_page_bytes {
                return Ok(None);
            }
            let (message, source) = match refusal {
                Shortage::Budget(bytes) => {
                    let advice = "free something, trim, or raise the budget";
                    (self.why_spent(advice, growing.heap_index, bytes)?, None)
                }
                Shortage::Driver(refusal) => (format!("the driver has no more: {refusal}"), Some(refusal)),
            };
            let error = self.out_of_memory(ErrorKind::OutOfMemory, message, growing.heap_index, request);
            return Err(match source {
                Some(source) => error.with_source(source),
                None => error,
            });
        }
    }

    fn block_sizes(&self, growing: &mut Growing<'_, B::Block>, request: Request) -> BlockSizes {
        let Properties { block_granularity_bytes: granularity, block_bytes_max, .. } =
            *self.backend.properties();
        let most = block_bytes_max / granularity * granularity;
        let least = growing.pool.bytes(request).next_multiple_of(granularity);
        let ordinary = growing.pool.range_bytes(request).next_multiple_of(granularity).min(most).max(least);
        BlockSizes { most, ordinary, least }
    }

    /// Charges a block of `wanted` bytes, or as many as there is room for; if there is none, makes room, the cheapest
    /// ways first.
    fn charge(
        &self,
        growing: &mut Growing<'_, B::Block>,
        lane: &Lane,
        request: Request,
        wanted: u64,
        sizes: BlockSizes,
    ) -> Result<Option<Room<u64>>, Error> {
        let ledger = &self.ledgers[growing.heap_index];
        let charge = |bytes: u64| ledger.charge(bytes).then_some(Room::Block(bytes));
        if let Some(room) = charge(wanted).or_else(|| charge(sizes.ordinary)) {
            return Ok(Some(room));
        }
        // Before anything fails, what caches keep must merge, however often that has been done.
        if let Some(place) = self.flush_and_allocate(growing, lane, request) {
            return Ok(Some(Room::Place(place)));
        }
        if let Some(place) = self.recover(growing, lane, request, Recover::AnyFit)? {
            return Ok(Some(Room::Place(place)));
        }
        self.release_down_to(growing, ledger.level_for(sizes.ordinary));
        Ok(charge(sizes.ordinary).or_else(|| {
            self.release_holes(growing);
            charge(sizes.ordinary).or_else(|| charge(sizes.least))
        }))
    }

    /// Why a charge was refused, and what to try. An error if the group of processes that share the budget is broken.
    pub(super) fn why_spent(&self, advice: &str, heap_index: usize, bytes: u64) -> Result<String, Error> {
        let Some(group) = self.ledgers[heap_index].refusing_group(bytes) else {
            return Ok(format!("the budget is spent; {advice}"));
        };
        group.check("allocate")?;
        Ok(group.shortage(bytes))
    }

    /// The driver has less than the budget says: gives back all that can go, and asks for no more than needed.
    fn create_at_all_costs(
        &self,
        growing: &mut Growing<'_, B::Block>,
        lane: &Lane,
        request: Request,
        sizes: BlockSizes,
        refusal: Error,
    ) -> Result<Room<(B::Block, u64)>, Error> {
        if let Some(place) = self.flush_and_allocate(growing, lane, request) {
            return Ok(Room::Place(place));
        }
        if let Some(place) = self.recover(growing, lane, request, Recover::AnyFit)? {
            return Ok(Room::Place(place));
        }
        self.release_down_to(growing, 0);
        self.release_holes(growing);
        if self.ledgers[growing.heap_index].charge(sizes.least) {
            match self.create(growing, request, sizes.least) {
                Ok(block) => return Ok(Room::Block((block, sizes.least))),
                Err(error) if error.kind() == ErrorKind::DeviceLost => return Err(error),
                Err(_) => {}
            }
        }
        let message = format!("the driver has no more: {refusal}");
        Err(self
            .out_of_memory(ErrorKind::OutOfMemory, message, growing.heap_index, request)
            .with_source(refusal))
    }

    /// Calls the driver for a block whose bytes have been charged; refunds them if the driver refuses.
    pub(super) fn create(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        bytes: u64,
    ) -> Result<B::Block, Error> {
        let dedicated_to = self.dedicated_to(request, bytes);
        let desc = BlockDesc {
            dedicated_to: dedicated_to.as_deref(),
            ..BlockDesc::new(bytes, request.memory_type())
        };
        if !self.charge_block(growing) {
            self.ledgers[growing.heap_index].refund(desc.bytes);
            return Err(Error::new(ErrorKind::OutOfMemory, "create_block", self.too_many_blocks()));
        }
        self.create_with(growing, &desc, "create_block", B::create_block)
    }

    /// Calls the driver for memory that has been charged, and a block, too; refunds both if the driver refuses.
    pub(super) fn create_with(
        &self,
        growing: &mut Growing<'_, B::Block>,
        desc: &BlockDesc<'_>,
        call: &'static str,
        create: impl FnOnce(&B, &BlockDesc<'_>) -> Result<B::Block, Error>,
    ) -> Result<B::Block, Error> {
        let answer = create(&self.backend, desc);
        self.count_call(growing, call, desc.bytes, &self.calls.create, answer.as_ref().err());
        match answer {
            Ok(block) => {
                let reserved_bytes = self.ledgers[growing.heap_index].reserved_bytes();
                self.pressure.growth.grew(growing.heap_index, reserved_bytes);
                Ok(block)
            }
            Err(refusal) => {
                self.block_count.refund();
                self.ledgers[growing.heap_index].refund(desc.bytes);
                Err(refusal)
            }
        }
    }

    /// Counts a call of the driver's and notes it for the log.
    pub(super) fn count_call(
        &self,
        growing: &mut Growing<'_, B::Block>,
        call: &'static str,
        bytes: u64,
        counter: &AtomicU64,
        refusal: Option<&Error>,
    ) {
        match refusal {
            None => {
                counter.fetch_add(1, Ordering::Relaxed);
                growing.log.done(call, bytes);
            }
            Some(refusal) => {
                self.calls.failed.fetch_add(1, Ordering::Relaxed);
                growing.log.refused(call, bytes, refusal);
            }
        }
    }

    pub(super) fn too_many_blocks(&self) -> String {
        let (count, most) = (self.block_count.count(), self.block_count.most());
        format!("there are {count} blocks; the driver makes no more than {most}")
    }

    /// Counts a block to be made, of all pools together. If there are as many as the driver makes, one that holds nothing goes
    /// first.
    fn charge_block(&self, growing: &mut Growing<'_, B::Block>) -> bool {
        if self.block_count.charge() {
            return true;
        }
        self.release_one(growing);
        self.block_count.charge()
    }

    /// The tag of the one allocation that a block of `bytes` bytes for `request` is made for; `None` if the block will be
    /// cut. Above the largest bucket a block has just the size of its request, rounded up as all blocks are; unless there
    /// may be fewer blocks than such places are preallocated.
    fn dedicated_to(&self, request: Request, bytes: u64) -> Option<String> {
        let name =
            || if request.tag() == Tag::UNTAGGED { String::new() } else { self.tags.name(request.tag()) };
        let is_for_one = bytes / 2 < request.requested_bytes;
        (is_for_one && request.requested_bytes > BUCKET_BYTES_MAX).then(name)
    }
}
