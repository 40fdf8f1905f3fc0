//! The beginning of transfers: those that block, with memory that is borrowed, and those that own theirs.

use super::{End, From, Parts, Plan, ReachMut, SlotPart, Source};
use crate::manager::Shared;
use crate::raw::allocation::SharedPtr;
use crate::transfer::{Chunk, EntryDesc, Over, SlotIndex, Way};
use aquifer_backend::{Backend, BlockRange, Error, Ticket};

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
