//! The backend itself.

use crate::SimDesc;
use crate::blocks::{Placed, Side};
use crate::content::Content;
use crate::faults::Call;
use crate::queue::SimQueue;
use crate::schedule::Submission;
use crate::sim::{Sim, SimBlock, is_host_side};
use crate::state::State;
use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, CopyEnd, DefaultDevice, DestroyError, Error,
    ErrorKind, HeapBudget, MemoryFlags, Properties, Ticket,
};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

impl Sim {
    /// Every block starts at a multiple of this many addresses, and has as many behind it that are nobody's.
    fn address_unit(&self) -> u64 {
        let properties = self.device_properties();
        properties.block_granularity_bytes.max(properties.alignment_bytes_min)
    }

    /// What is behind a block; `None` if the device has no content.
    fn make_content(&self, bytes: u64) -> Result<Option<Arc<Content>>, Error> {
        if !self.has_content() {
            return Ok(None);
        }
        let content = Content::new(bytes, self.device_properties().alignment_bytes_min);
        let message = || format!("the host has no {bytes} bytes to be behind a simulated block");
        let content = content.ok_or_else(|| Error::new(ErrorKind::OutOfMemory, "create_block", message()))?;
        Ok(Some(Arc::new(content)))
    }

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

impl State<'_> {
    /// Whether a block of so many bytes may be made; if not, it is out of memory.
    fn find_room(&mut self, bytes: u64, heap_index: usize, properties: &Properties) -> Result<(), Error> {
        let live_blocks = self.own().books.live_blocks;
        if live_blocks < properties.block_count_max && self.make_room(bytes, heap_index) {
            return Ok(());
        }
        Err(self.no_room(bytes, heap_index, properties))
    }

    fn no_room(&mut self, bytes: u64, heap_index: usize, properties: &Properties) -> Error {
        let own = self.own_mut();
        own.books.failed_calls += 1;
        let message = format!(
            "{bytes} bytes of {} that are left, {} blocks of at most {}; destroy some first",
            own.available_bytes(heap_index),
            own.books.live_blocks,
            properties.block_count_max
        );
        Error::new(ErrorKind::OutOfMemory, "create_block", message)
    }
}

/// Refuses what pinned memory cannot do: the system leaves it where it is, all of it, until it is destroyed.
fn check_not_host_side(block: &SimBlock, operation: &'static str) -> Result<(), Error> {
    if !block.is_host_side() {
        return Ok(());
    }
    let message = "pinned memory of the host is given back as a whole only, by destroying the block";
    Err(Error::new(ErrorKind::Driver, operation, message))
}

// SAFETY: a block's addresses are its own until it is destroyed (they come from a counter, or from a destroyed block). So is
// the memory behind it, if the device has content: it is zero at first, and allocated for as long as the block is known; its
// start, a multiple of the alignment, is the host pointer of visible types, whose devices have content (`SimDesc::check`).
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
        let operation = "create_block";
        let properties = self.device_properties();
        let mut state = self.state();
        let ns = state.own().costs.create.ns(desc.bytes);
        state.enter(Call::Create, operation, ns)?;
        let BlockDesc { bytes, memory_type_index, .. } = *desc;
        if bytes == 0
            || !bytes.is_multiple_of(properties.block_granularity_bytes)
            || bytes > properties.block_bytes_max
            || memory_type_index >= properties.memory_types.len()
        {
            let message = format!("create_block of {bytes} bytes of memory type {memory_type_index}");
            state.schedule.breach(message.clone());
            return Err(Error::new(ErrorKind::Driver, operation, message));
        }
        let memory_type = &properties.memory_types[memory_type_index];
        let (heap_index, flags) = (memory_type.heap_index, memory_type.flags);
        state.find_room(bytes, heap_index, properties)?;
        let content = self.make_content(bytes)?;
        let Some(address) = state.take_address(bytes, self.address_unit()) else {
            return Err(state.no_room(bytes, heap_index, properties));
        };
        let device = state.device;
        state.schedule.checker.add_block(address, bytes);
        state.own_mut().books.live_blocks += 1;
        state.own_mut().add_live_bytes(heap_index, bytes);
        let block = SimBlock { address, bytes, device, heap_index, flags, content };
        state.blocks.add(
            address,
            Placed {
                end: address + bytes,
                side: if is_host_side(flags) { Side::Host } else { Side::Device(device) },
                content: block.content.clone(),
                host_address: self.host_pointer(&block).map(|start| start.addr().get()),
            },
        );
        Ok(block)
    }

    /// On a lost device this succeeds, at no cost.
    unsafe fn destroy_block(&self, block: SimBlock) -> Result<(), DestroyError<SimBlock>> {
        let mut state = self.state();
        match state.enter(Call::Destroy, "destroy_block", 0) {
            Err(error) if error.kind() != ErrorKind::DeviceLost => {
                let ns = state.own().costs.destroy.base_ns;
                state.charge(ns);
                return Err(DestroyError { block, error });
            }
            Ok(()) | Err(_) => {}
        }
        // The check is made before the driver waits: not every driver does.
        let start_ns = state.schedule.now_ns();
        let released_bytes = state.schedule.checker.remove_block(start_ns, block.address);
        let kept_bytes = block.bytes - released_bytes - state.forget_purgeable(block.address);
        if !state.is_lost() {
            if state.own().costs.destroy_waits_for_all_queues {
                let device = state.device;
                state.schedule.finish_all(device);
            }
            state.note_driver_ns(start_ns);
            let ns = state.own().costs.destroy.ns(kept_bytes);
            state.charge(ns);
        }
        state.blocks.remove(block.address);
        state.own_mut().books.live_blocks -= 1;
        state.own_mut().remove_live_bytes(block.heap_index, kept_bytes);
        state.give_address(block.address, block.bytes, self.address_unit());
        Ok(())
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
        check_not_host_side(block, operation)?;
        let granularity_bytes = self.device_properties().block_granularity_bytes;
        let is_whole = offset.is_multiple_of(granularity_bytes) && bytes.is_multiple_of(granularity_bytes);
        if !is_whole || offset.checked_add(bytes).is_none_or(|end| end > block.bytes) {
            let message = format!("release_range of {bytes} bytes at {offset} of {}", block.bytes);
            state.schedule.breach(message.clone());
            return Err(Error::new(ErrorKind::Driver, operation, message));
        }
        let now_ns = state.schedule.now_ns();
        let address = block.address + offset;
        let new_bytes = state.schedule.checker.release(now_ns, block.address, address, bytes);
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
        check_not_host_side(block, operation)?;
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
        let is_visible = block.flags.contains(MemoryFlags::HOST_VISIBLE);
        block.content.as_ref().filter(|_| is_visible).map(|content| content.start())
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
        Some(block.address)
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
