//! What transfers do to memory: copies by processors, and commands for queues.
//!
//! A [`Plan`] names memory by address, without owning or borrowing it. It is made here only, from memory that is borrowed
//! ([`Reach`], [`ReachMut`]) or owned ([`Parts`]), and given to the [`Engine`](crate::transfer::Engine), which promises: it does to the plan's memory
//! what this module offers and no more, each byte of the destination once, and nothing once it has said that the transfer is over.
//! So whoever had the memory keeps it as it is until then: [`run`] has it borrowed and does not return before; parts that are owned
//! stay in the engine until then, whatever becomes of the future, and are [released](Parts::release) then.

use super::allocation::{Allocation, SharedPtr};
use super::shared_allocation::RangeClaim;
use crate::manager::{QueueState, Shared};
use crate::pool::Uses;
use crate::range::NO_QUEUE;
use crate::transfer::{Chunk, EntryDesc, Hop, HopQueue, Over, SlotIndex, Way};
use aquifer_backend::{Backend, BlockRange, Command, CopyEnd, Error, Ticket};
use std::any::Any;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::task::Waker;

/// A processor looks so often, in bytes, whether what it copies is cancelled. Copying in smaller steps is slower.
const STEP_BYTES: u64 = 256 << 10;

/// An address in memory of the host that a plan names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HostAddress(NonNull<u8>);

// SAFETY: it is used by this module only, for the plan that it is part of, whose memory any thread may use: it was borrowed or
// owned as `Send` bytes by whoever made the plan.
unsafe impl Send for HostAddress {}
// SAFETY: as above.
unsafe impl Sync for HostAddress {}

impl HostAddress {
    /// The address `offset` bytes on.
    ///
    /// # Safety
    ///
    /// - It lies in the same memory, or where that ends.
    unsafe fn at(self, offset: u64) -> NonNull<u8> {
        // SAFETY: the caller vouches for it.
        unsafe { self.0.add(offset as usize) }
    }
}

/// One end of a transfer.
pub(crate) enum End<B: Backend> {
    /// Memory of the host that is no block's, as far as this device is concerned.
    Host(HostAddress),
    /// A part of a block.
    Block {
        block: Arc<B::Block>,
        offset: u64,
        /// Where the host sees it, if it does.
        host: Option<HostAddress>,
    },
}

impl<B: Backend> Clone for End<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Host(address) => Self::Host(*address),
            Self::Block { block, offset, host } => {
                Self::Block { block: Arc::clone(block), offset: *offset, host: *host }
            }
        }
    }
}

impl<B: Backend> End<B> {
    /// Where a processor reaches it, if it does.
    pub(crate) fn host(&self) -> Option<HostAddress> {
        match self {
            Self::Host(address) => Some(*address),
            Self::Block { host, .. } => *host,
        }
    }

    /// The same memory, as a device sees it whose block it is not.
    pub(crate) fn of_host(&self) -> Option<Self> {
        self.host().map(Self::Host)
    }

    /// As a command names it, `offset` bytes on.
    ///
    /// # Safety
    ///
    /// - That lies in the end.
    unsafe fn copy_end(&self, offset: u64) -> CopyEnd<'_, B::Block> {
        match self {
            // SAFETY: the caller vouches for it.
            Self::Host(address) => CopyEnd::Host(unsafe { address.at(offset) }),
            Self::Block { block, offset: start, .. } => CopyEnd::Block { block, offset: start + offset },
        }
    }
}

/// Where the bytes are from.
pub(crate) enum Source<B: Backend> {
    Copy(End<B>),
    Fill(u8),
}

impl<B: Backend> Clone for Source<B> {
    fn clone(&self) -> Self {
        match self {
            Self::Copy(end) => Self::Copy(end.clone()),
            Self::Fill(value) => Self::Fill(*value),
        }
    }
}

/// What a transfer does: both ends are `bytes` long, and do not overlap.
pub(crate) struct Plan<B: Backend> {
    pub(crate) source: Source<B>,
    pub(crate) destination: End<B>,
    pub(crate) bytes: u64,
}

impl<B: Backend> Clone for Plan<B> {
    fn clone(&self) -> Self {
        Self { source: self.source.clone(), destination: self.destination.clone(), bytes: self.bytes }
    }
}

/// Memory that a transfer reads, borrowed.
pub(crate) struct Reach<'a, B: Backend> {
    pub(crate) end: End<B>,
    pub(crate) bytes: u64,
    /// Whose block it is.
    pub(crate) shared: Option<&'a SharedPtr<B>>,
    /// Index of the memory type, if it is a block's.
    pub(crate) memory_type: usize,
    pub(crate) uses: Uses,
    borrow: PhantomData<&'a [u8]>,
}

/// Memory that a transfer writes, borrowed mutably.
pub(crate) struct ReachMut<'a, B: Backend>(pub(crate) Reach<'a, B>);

impl<'a, B: Backend> Reach<'a, B> {
    /// Memory of the host; if it is pinned memory of `own`'s, the part of a block that it is.
    pub(crate) fn memory(own: &'a SharedPtr<B>, memory: &'a [u8]) -> Self {
        Self::host(own, NonNull::from(memory).cast(), memory.len() as u64)
    }

    fn host(own: &'a SharedPtr<B>, start: NonNull<u8>, bytes: u64) -> Self {
        let address = HostAddress(start);
        // The memory is borrowed, so that its allocation is live, if it lies in one.
        let pinned = own.find_pinned(start.addr().get(), bytes as usize);
        let shared = pinned.is_some().then_some(own);
        let end = match pinned {
            Some((block, offset)) => End::Block { block, offset, host: Some(address) },
            None => End::Host(address),
        };
        let memory_type = own.pinned_type().unwrap_or(0);
        Self { end, bytes, shared, memory_type, uses: Uses::at_home(NO_QUEUE), borrow: PhantomData }
    }

    /// A part of an allocation, which the caller has checked.
    pub(crate) fn allocation(allocation: &'a Allocation<B>, range: Range<u64>) -> Self {
        debug_assert!(range.start <= range.end && range.end <= allocation.requested_bytes());
        let (block, start) = allocation.located();
        // SAFETY: the range lies in the allocation, and that is one object of the host's memory, where it sees it.
        let host =
            allocation.host_pointer().map(|host| HostAddress(unsafe { host.add(range.start as usize) }));
        Self {
            end: End::Block { block, offset: start + range.start, host },
            bytes: range.end - range.start,
            shared: Some(allocation.shared_ptr()),
            memory_type: allocation.memory_type(),
            uses: allocation.uses(),
            borrow: PhantomData,
        }
    }

    /// What a claim holds. It must be granted before the transfer begins.
    pub(crate) fn claim(claim: &'a RangeClaim<B>) -> Self {
        Self::allocation(claim.allocation(), claim.range())
    }

    /// Blocks until no queue uses the memory, but for transfers.
    pub(crate) fn wait_for_queues(&self) -> Result<(), Error> {
        match self.shared {
            Some(shared) if self.is_used() => shared.wait_for_uses(self.uses),
            _ => Ok(()),
        }
    }

    /// What must have passed before the memory is used, by the manager `own`: a marker in each queue that may use it now.
    pub(crate) fn marks(&self, own: &SharedPtr<B>) -> Result<Vec<(HopQueue<B>, u64)>, Error> {
        let Some(shared) = self.shared.filter(|_| self.is_used()) else { return Ok(Vec::new()) };
        let mark = |queue: Arc<QueueState<B::Queue>>| {
            let value = shared.signal(&queue)?;
            let foreign = (!std::ptr::eq::<Shared<B>>(&**shared, &**own)).then(|| shared.keeper());
            Ok((HopQueue { queue, foreign }, value))
        };
        shared.queues_of(self.uses).map(mark).collect()
    }

    /// Whether queues may use the memory.
    pub(crate) fn is_used(&self) -> bool {
        self.uses != Uses::at_home(NO_QUEUE)
    }

    /// Whether a processor sees it.
    pub(crate) fn is_visible(&self) -> bool {
        self.end.host().is_some()
    }

    /// Names the memory as devices see it that it is no block of.
    pub(crate) fn become_host(&mut self) {
        if let Some(end) = self.end.of_host() {
            self.end = end;
        }
    }
}

impl<'a, B: Backend> ReachMut<'a, B> {
    /// As [`Reach::memory`].
    pub(crate) fn memory(own: &'a SharedPtr<B>, memory: &'a mut [u8]) -> Self {
        let bytes = memory.len() as u64;
        Self(Reach::host(own, NonNull::from(memory).cast(), bytes))
    }

    /// As [`Reach::allocation`].
    pub(crate) fn allocation(allocation: &'a mut Allocation<B>, range: Range<u64>) -> Self {
        Self(Reach::allocation(allocation, range))
    }

    /// What a claim to write holds. It must be granted before the transfer begins.
    pub(crate) fn claim(claim: &'a mut RangeClaim<B>) -> Self {
        Self(Reach::claim(claim))
    }
}

/// Where a blocking transfer's bytes are from.
pub(crate) enum From<'a, B: Backend> {
    Memory(Reach<'a, B>),
    Value(u8),
}

/// What a transfer owns until it is over.
pub(crate) trait Parts<B: Backend>: Send {
    /// Whether all of it may be used by now; if not, `waker` is woken when that may have changed. Once true it stays so.
    fn poll_granted(&mut self, waker: &Waker) -> bool;
    /// Its ends. Where they are does not change when the parts are moved.
    fn ends<'a>(&'a mut self, own: &'a SharedPtr<B>) -> (From<'a, B>, ReachMut<'a, B>);
    /// Lets others use its ends again: the transfer is over.
    fn release(&mut self);
    /// Itself, to be taken apart.
    fn into_any(self: Box<Self>) -> Box<dyn Any + Send>;
}

fn plan<B: Backend>(from: From<'_, B>, to: ReachMut<'_, B>) -> Plan<B> {
    let source = match from {
        From::Memory(reach) => {
            debug_assert_eq!(reach.bytes, to.0.bytes);
            Source::Copy(reach.end)
        }
        From::Value(value) => Source::Fill(value),
    };
    Plan { source, destination: to.0.end, bytes: to.0.bytes }
}

/// Does a transfer, and returns when it is over. The caller has waited for the queues that use its ends, and `desc` says how it is
/// done with these.
pub(crate) fn run<B: Backend>(
    shared: &Shared<B>,
    from: From<'_, B>,
    to: ReachMut<'_, B>,
    desc: EntryDesc<B>,
) -> Over {
    // The ends are borrowed until this returns, which is not before the transfer is over, not even by a panic.
    let plan = plan(from, to);
    if !desc.is_short(plan.bytes) || !desc.options.are_plain() {
        return run_engine(shared, plan, desc);
    }
    match desc.way {
        Way::Processor => run_by_processor(shared, &plan, &desc),
        Way::StageIn => match shared.transfers.take_slot(shared) {
            Some(slot) => run_staged_in(shared, &plan, &desc, slot),
            None => run_engine(shared, plan, desc),
        },
        _ => run_engine(shared, plan, desc),
    }
}

/// The shortest way for what is short: no entry, no lock, no other thread.
fn run_by_processor<B: Backend>(shared: &Shared<B>, plan: &Plan<B>, desc: &EntryDesc<B>) -> Over {
    let start = shared.config.clock.now();
    let ticket = Ticket::default();
    plan.copy_by_processor(Chunk { offset: 0, bytes: plan.bytes, slot: None }, &ticket);
    let over = Over { result: Ok(()), done_bytes: plan.bytes };
    shared.transfers.count(desc.route, &over, shared.config.clock.now().saturating_sub(start));
    over
}

/// As [`run_by_processor`], through one staging chunk and one call of the driver.
fn run_staged_in<B: Backend>(
    shared: &Shared<B>,
    plan: &Plan<B>,
    desc: &EntryDesc<B>,
    (index, slot): (SlotIndex, SlotPart<B>),
) -> Over {
    let start = shared.config.clock.now();
    let chunk = Chunk { offset: 0, bytes: plan.bytes, slot: Some(index) };
    plan.stage_in(chunk, &slot, &Ticket::default());
    let result = match (&slot.end(), &plan.destination) {
        (End::Block { block, offset, .. }, End::Block { block: to, offset: to_offset, .. }) => {
            let source = BlockRange { block: &**block, offset: *offset, bytes: plan.bytes };
            let destination = BlockRange { block: &**to, offset: *to_offset, bytes: plan.bytes };
            // SAFETY: the slot is as long as a chunk and this call's alone; the destination is the transfer's, which is not over before
            // this returns, and another allocation. The queues that may have used it have passed.
            let answer = unsafe { shared.backend.copy(source, destination) };
            shared.note(answer)
        }
        _ => unreachable!("what is staged goes from a block to a block"),
    };
    drop(slot);
    shared.transfers.give_slot_back(index);
    let over = Over { done_bytes: if result.is_ok() { plan.bytes } else { 0 }, result };
    shared.transfers.count(desc.route, &over, shared.config.clock.now().saturating_sub(start));
    over
}

fn run_engine<B: Backend>(shared: &Shared<B>, plan: Plan<B>, desc: EntryDesc<B>) -> Over {
    let running = Running { shared, id: shared.transfers.begin(shared, plan, desc, None) };
    shared.transfers.wait(shared, running.id).0
}

/// A blocking transfer. Ends it, when dropped early.
struct Running<'a, B: Backend> {
    shared: &'a Shared<B>,
    id: u64,
}

impl<B: Backend> Drop for Running<'_, B> {
    fn drop(&mut self) {
        let engine = &self.shared.transfers;
        if std::thread::panicking() && engine.cancel(self.id) {
            drop(engine.wait(self.shared, self.id));
        }
    }
}

/// Begins a transfer that owns what it uses; answers its number. `desc` makes a description of how it is done with its ends.
pub(crate) fn begin<B: Backend>(
    own: &SharedPtr<B>,
    mut parts: Box<dyn Parts<B>>,
    desc: impl for<'a> FnOnce(&mut From<'a, B>, &mut ReachMut<'a, B>) -> Result<EntryDesc<B>, Error>,
) -> Result<u64, (Error, Box<dyn Parts<B>>)> {
    // What the addresses are of stays where it is when its owner moves: blocks, and what vectors and boxes point to. The engine keeps the
    // parts, in their box, until the transfer is over, and does nothing before they are granted.
    let (mut from, mut to) = parts.ends(own);
    let desc = match desc(&mut from, &mut to) {
        Ok(desc) => desc,
        Err(error) => {
            drop((from, to));
            return Err((error, parts));
        }
    };
    let plan = plan(from, to);
    Ok(own.transfers.begin(own, plan, desc, Some(parts)))
}

impl<B: Backend> Plan<B> {
    /// Copies, or fills, a part by this processor; false if the ticket was cancelled first. What has arrived is added to the ticket.
    pub(crate) fn copy_by_processor(&self, chunk: Chunk, ticket: &Ticket) -> bool {
        let to = self.destination.host().expect("the way is the processor's, who sees both ends");
        for (offset, bytes) in steps(chunk) {
            if ticket.is_cancelled() {
                return false;
            }
            // SAFETY: chunks lie in the plan.
            let to = unsafe { to.at(offset) };
            match &self.source {
                Source::Copy(from) => {
                    let from = from.host().expect("the way is the processor's, who sees both ends");
                    // SAFETY: as above.
                    let from = unsafe { from.at(offset) };
                    // SAFETY: both ends are as long as the plan, do not overlap, and are the transfer's until it is over, which it is not
                    // before this piece is (see the module's text); nobody else has this piece.
                    unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
                }
                // SAFETY: as for copies.
                Source::Fill(value) => unsafe { to.write_bytes(*value, bytes as usize) },
            }
            ticket.add_done(bytes);
        }
        true
    }

    /// Copies a part of the source to a staging chunk; false if the ticket was cancelled first.
    pub(crate) fn stage_in(&self, chunk: Chunk, slot: &SlotPart<B>, ticket: &Ticket) -> bool {
        let Source::Copy(end) = &self.source else { unreachable!("fills are not staged") };
        let from = end.host().expect("what is staged lies in memory of the host");
        let start = chunk.offset;
        for (offset, bytes) in steps(chunk) {
            if ticket.is_cancelled() {
                return false;
            }
            // SAFETY: chunks lie in the plan.
            let from = unsafe { from.at(offset) };
            // SAFETY: no chunk is longer than a slot.
            let to = unsafe { slot.host.at(offset - start) };
            // SAFETY: as for `copy_by_processor`; the slot is the chunk's alone, and another allocation than the source.
            unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
        }
        true
    }

    /// Copies a staging chunk to a part of the destination. What has arrived is added to the ticket.
    pub(crate) fn stage_out(&self, chunk: Chunk, slot: &SlotPart<B>, ticket: &Ticket) {
        let to = self.destination.host().expect("what is staged goes to memory of the host");
        for (offset, bytes) in steps(chunk) {
            if ticket.is_cancelled() {
                return;
            }
            // SAFETY: chunks lie in the plan.
            let to = unsafe { to.at(offset) };
            // SAFETY: no chunk is longer than a slot.
            let from = unsafe { slot.host.at(offset - chunk.offset) };
            // SAFETY: as for `stage_in`; the queue that filled the slot has passed.
            unsafe { from.copy_to_nonoverlapping(to, bytes as usize) };
            ticket.add_done(bytes);
        }
    }

    /// Gives a part of the plan to a queue of `shared`: from the source to the slot, from the slot to the destination, or, without a slot, all the way.
    pub(crate) fn enqueue(
        &self,
        shared: &Shared<B>,
        queue: &QueueState<B::Queue>,
        hop: Hop,
        chunk: Chunk,
        slot: Option<&End<B>>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        shared.check_process("transfer")?;
        let Chunk { offset, bytes, .. } = chunk;
        let (source, destination) = match (&self.source, slot, hop) {
            (Source::Fill(value), ..) => {
                let End::Block { block, offset: start, .. } = &self.destination else {
                    unreachable!("queues fill blocks")
                };
                let destination = BlockRange { block: &**block, offset: start + offset, bytes };
                let command = Command::Fill { destination, value: *value };
                // SAFETY: as for copies, below.
                return shared.note(unsafe { shared.backend.enqueue(&queue.raw, command, ticket) });
            }
            (Source::Copy(from), Some(slot), Hop::Near) => ((from, offset), (slot, 0)),
            (Source::Copy(_), Some(slot), Hop::Far) => ((slot, 0), (&self.destination, offset)),
            (Source::Copy(from), None, _) => ((from, offset), (&self.destination, offset)),
        };
        // SAFETY: chunks lie in the plan, and start where slots do.
        let from = unsafe { source.0.copy_end(source.1) };
        // SAFETY: as above.
        let to = unsafe { destination.0.copy_end(destination.1) };
        let command = Command::Copy { source: from, destination: to, bytes };
        // SAFETY: chunks lie in the plan, whose ends do not overlap, and are not longer than a slot, which is the chunk's alone. All of it is
        // the transfer's until it is over, which it is not before this queue has passed the marker that comes behind, or the device is lost.
        // The queues that may have used the ends before have passed. Blocks are the queue's device's, or such as it reads.
        let answer = unsafe { shared.backend.enqueue(&queue.raw, command, ticket) };
        shared.note(answer)
    }
}

/// A chunk in steps: offset in the plan, and bytes.
fn steps(chunk: Chunk) -> impl Iterator<Item = (u64, u64)> {
    let end = chunk.offset + chunk.bytes;
    (chunk.offset..end).step_by(STEP_BYTES as usize).map(move |offset| (offset, STEP_BYTES.min(end - offset)))
}

/// A chunk of pinned memory, for staging.
pub(crate) struct Slot<B: Backend> {
    block: Arc<B::Block>,
    offset: u64,
    host: HostAddress,
    _allocation: Allocation<B>,
}

impl<B: Backend> Slot<B> {
    /// `None` if the host does not see the memory, which no pinned memory is like.
    pub(crate) fn new(allocation: Allocation<B>) -> Option<Self> {
        let host = HostAddress(allocation.host_pointer()?);
        let (block, offset) = allocation.located();
        Some(Self { block, offset, host, _allocation: allocation })
    }
}

/// A staging chunk, or the part of one, that one piece of a transfer has for itself.
pub(crate) struct SlotPart<B: Backend> {
    slot: Arc<Slot<B>>,
    /// From the start of the chunk, in bytes.
    offset: u64,
    host: HostAddress,
}

impl<B: Backend> SlotPart<B> {
    /// The bytes from `offset` of the chunk on, which lie in it.
    pub(crate) fn new(slot: Arc<Slot<B>>, offset: u64) -> Self {
        debug_assert!(offset < slot._allocation.requested_bytes());
        // SAFETY: the part begins in the chunk.
        let host = HostAddress(unsafe { slot.host.at(offset) });
        Self { slot, offset, host }
    }

    /// As the manager's own device sees it.
    pub(crate) fn end(&self) -> End<B> {
        let Slot { block, offset, .. } = &*self.slot;
        End::Block { block: Arc::clone(block), offset: offset + self.offset, host: Some(self.host) }
    }

    /// As another device sees it: memory of the host.
    pub(crate) fn end_of_host(&self) -> End<B> {
        End::Host(self.host)
    }
}
