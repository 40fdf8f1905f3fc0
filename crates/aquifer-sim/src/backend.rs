//! The backend itself.

use crate::SimDesc;
use crate::faults::Call;
use crate::queue::SimQueue;
use crate::schedule::Submission;
use crate::sim::{BlockKind, Sim, SimBlock};
use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, CopyEnd, DefaultDevice, DestroyError, Error,
    ErrorKind, HeapBudget, Properties, Ticket,
};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

impl Sim {
    /// Runs a command that is waited for.
    fn run_now(&self, call: Call, command: &Command<'_, SimBlock>) -> Result<(), Error> {
        let mut state = self.state();
        let mut order = state.order(command, self.has_content());
        state.enter(call, order.what, order.call_ns)?;
        if let Some(breach) = order.breach.take() {
            state.schedule.breach(breach);
        }
        state.run_now(order)
    }
}

/// Refuses what pinned memory cannot do: the system leaves it where it is, all of it, until it is destroyed.
fn check_can_shrink(block: &SimBlock, operation: &'static str) -> Result<(), Error> {
    if !block.is_host_side() {
        return Ok(());
    }
    let message = "pinned memory of the host is given back as a whole only, by destroying the block";
    Err(Error::new(ErrorKind::Driver, operation, message))
}

// SAFETY: a block's addresses are its own until it is destroyed (they come from a counter, or from a destroyed block). So is
// the memory behind it, if the device has content: it is zero at first, and allocated for as long as the block is known, or is
// mapped; its start, a multiple of the alignment, is the host pointer of visible types, whose devices have content
// (`SimDesc::check`). Sparse and physical blocks are of types that are not visible.
// The properties are made once and never written. Programs of kernels are kept from unwinding. A queue is a list that the
// schedule works off from the front, one after the other, and a marker sets the value when it comes to the front; the place
// in it is taken under the lock of all devices that share the clock. Under the same lock commands move their bytes, before
// the value that covers them is set or, of a lost device, before anybody can see that it is lost, and no later: without
// content, memory of the host is never touched.
unsafe impl Backend for Sim {
    type Block = SimBlock;
    type Queue = SimQueue;

    fn properties(&self) -> &Properties {
        self.device_properties()
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        let mut state = self.state();
        let ns = state.own().costs.budget_ns;
        state.enter(Call::Budget, "budget", ns)?;
        let own = state.own();
        Ok(HeapBudget {
            budget_bytes: own.budget_bytes(heap_index),
            available_bytes: own.available_bytes(heap_index),
            process_bytes: Some(own.books.live_bytes_by_heap[heap_index]),
        })
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<SimBlock, Error> {
        self.create(desc, BlockKind::Ordinary)
    }

    /// On a lost device this succeeds, at no cost.
    unsafe fn destroy_block(&self, block: SimBlock) -> Result<(), DestroyError<SimBlock>> {
        self.destroy(block)
    }

    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<SimBlock, Error> {
        self.create(desc, BlockKind::Sparse)
    }

    fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<SimBlock, Error> {
        self.create(desc, BlockKind::Physical)
    }

    unsafe fn map(&self, sparse: BlockRange<'_, SimBlock>, physical: &SimBlock) -> Result<(), Error> {
        self.map_behind(sparse, physical)
    }

    unsafe fn unmap(&self, sparse: BlockRange<'_, SimBlock>) -> Result<(), Error> {
        self.unmap_behind(sparse)
    }

    unsafe fn release_range(&self, range: BlockRange<'_, SimBlock>) -> Result<(), Error> {
        let operation = "release_range";
        if !self.device_properties().capabilities.contains(Capabilities::RELEASE_RANGE) {
            let message = "the device was made without the capability to release ranges";
            return Err(Error::new(ErrorKind::Unsupported, operation, message));
        }
        let mut state = self.state();
        let ns = state.own().costs.release.ns(range.bytes);
        state.enter(Call::Release, operation, 0)?;
        let BlockRange { block, offset, bytes } = range;
        check_can_shrink(block, operation)?;
        let granularity_bytes = self.device_properties().block_granularity_bytes;
        let is_whole = offset.is_multiple_of(granularity_bytes) && bytes.is_multiple_of(granularity_bytes);
        if !is_whole || offset.checked_add(bytes).is_none_or(|end| end > block.bytes) {
            return Err(state.refuse(operation, format!("{bytes} bytes at {offset} of {}", block.bytes)));
        }
        let now_ns = state.schedule.now_ns();
        let (address, checker) = (block.address + offset, &mut state.schedule.checker);
        let new_bytes = match block.kind {
            BlockKind::Ordinary => checker.release(now_ns, block.address, address, bytes),
            BlockKind::Sparse | BlockKind::Physical => match checker.release_mapped(now_ns, address, bytes) {
                Ok(new_bytes) => new_bytes,
                Err(breach) => return Err(state.refuse(operation, breach)),
            },
        };
        // SAFETY: the caller vouches that nobody uses it.
        unsafe { block.clear_released(offset, bytes) };
        state.own_mut().remove_live_bytes(block.heap_index, new_bytes);
        state.charge(ns);
        Ok(())
    }

    unsafe fn make_purgeable(&self, block: &SimBlock) -> Result<(), Error> {
        let operation = "make_purgeable";
        self.check_purgeable(operation)?;
        let mut state = self.state();
        let ns = state.own().costs.purge_ns;
        state.enter(Call::MakePurgeable, operation, ns)?;
        check_can_shrink(block, operation)?;
        if block.kind != BlockKind::Ordinary {
            return Err(state.refuse(operation, format!("a {:?} block", block.kind)));
        }
        let released_bytes = state.schedule.checker.released_bytes(block.address);
        state.make_purgeable(block.address, block.bytes - released_bytes, block.heap_index);
        Ok(())
    }

    fn make_nonpurgeable(&self, block: &SimBlock) -> Result<bool, Error> {
        let operation = "make_nonpurgeable";
        self.check_purgeable(operation)?;
        let mut state = self.state();
        let ns = state.own().costs.purge_ns;
        state.enter(Call::MakeNonpurgeable, operation, ns)?;
        state.make_nonpurgeable(block.address).ok_or_else(|| {
            state.own_mut().books.failed_calls += 1;
            let message = format!(
                "the system has no memory for {} bytes again; destroy some blocks first",
                block.bytes
            );
            Error::new(ErrorKind::OutOfMemory, operation, message)
        })
    }

    fn host_pointer(&self, block: &SimBlock) -> Option<NonNull<u8>> {
        block.host_pointer()
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, SimBlock>,
        destination: BlockRange<'_, SimBlock>,
    ) -> Result<(), Error> {
        let bytes = source.bytes;
        let source = CopyEnd::Block { block: source.block, offset: source.offset };
        let destination = CopyEnd::Block { block: destination.block, offset: destination.offset };
        self.run_now(Call::Copy, &Command::Copy { source, destination, bytes })
    }

    unsafe fn fill(&self, destination: BlockRange<'_, SimBlock>, value: u8) -> Result<(), Error> {
        self.run_now(Call::Fill, &Command::Fill { destination, value })
    }

    fn device_address(&self, block: &SimBlock) -> Option<u64> {
        (block.kind != BlockKind::Physical).then_some(block.address)
    }

    fn create_queue(&self) -> Result<SimQueue, Error> {
        let id = {
            let mut state = self.state();
            let ns = state.own().costs.create_queue_ns;
            state.enter(Call::CreateQueue, "create_queue", ns)?;
            let device = state.device;
            state.schedule.add_queue(device)
        };
        Ok(SimQueue { sim: self.clone(), id })
    }

    /// Notes when, where and what: bytes move when the command ends.
    unsafe fn enqueue(
        &self,
        queue: &SimQueue,
        command: Command<'_, SimBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let order = state.order(&command, self.has_content());
        state.enter(Call::Enqueue, "enqueue", order.call_ns)?;
        if let Some(breach) = order.breach {
            state.schedule.breach(breach);
        }
        let fails = state.own_mut().faults.befalls_command();
        let submission = Submission {
            duration_ns: Some(order.duration_ns),
            bytes: order.bytes,
            ticket: Some(Arc::clone(ticket)),
            fails,
            direction: order.direction,
            peer: order.peer,
            motion: order.motion,
            ..Submission::new(order.what, &order.accesses)
        };
        state.schedule.submit(queue.id, submission);
        Ok(())
    }

    /// Whether it was made so and the other is its peer.
    fn reads_peer(&self, peer: &Self, memory_type_index: usize) -> bool {
        let is_type = memory_type_index < peer.device_properties().memory_types.len();
        is_type && self.is_peer_of(peer) && self.state().own().reads_peers
    }

    unsafe fn signal(&self, queue: &SimQueue, value: u64) -> Result<(), Error> {
        let mut state = self.state();
        state.schedule.ask_value(queue.id, value);
        let ns = state.own().costs.signal_ns;
        state.enter(Call::Signal, "signal", ns)?;
        state.schedule.signal(queue.id, value);
        Ok(())
    }

    fn completed(&self, queue: &SimQueue) -> Result<u64, Error> {
        let mut state = self.state();
        let ns = state.own().costs.completed_ns;
        state.enter(Call::Completed, "completed", ns)?;
        Ok(state.schedule.queue(queue.id).seen_value)
    }

    /// Blocks in virtual time: goes on to when the value comes, or by `timeout`, whichever is first.
    fn wait(&self, queue: &SimQueue, value: u64, timeout: Duration) -> Result<bool, Error> {
        let mut state = self.state();
        let ns = state.own().costs.completed_ns;
        state.enter(Call::Wait, "wait", ns)?;
        let start_ns = state.schedule.now_ns();
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let is_reached = state.schedule.wait(queue.id, value, timeout_ns);
        let waited_ns = state.schedule.now_ns() - start_ns;
        state.own_mut().books.waited_ns += waited_ns;
        state.check_not_lost("wait")?;
        Ok(is_reached)
    }

    fn wait_on_queue(&self, queue: &SimQueue, other: &SimQueue, value: u64) -> Result<(), Error> {
        let mut state = self.state();
        let ns = state.own().costs.wait_on_queue_ns;
        state.enter(Call::WaitOnQueue, "wait_on_queue", ns)?;
        state.schedule.wait_on_queue(queue.id, other.id, value);
        Ok(())
    }
}

impl DefaultDevice for Sim {
    /// An H200 with seed 0.
    fn default_device() -> Result<Self, Error> {
        Ok(Self::new(SimDesc::default()))
    }
}
