//! The backend itself.

use crate::faults::Call;
use crate::queue::SimQueue;
use crate::schedule::{Schedule, Submission};
use crate::state::State;
use crate::{Access, QueueId, SimDesc};
use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, CopyEnd, DefaultDevice, DestroyError, Error,
    ErrorKind, HeapBudget, Properties, Ticket,
};
use parking_lot::{Mutex, MutexGuard};
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// A simulated device. Clones are the same device: one is the manager's backend, another the test's hand on it.
///
/// Any thread may use it. Each call takes a lock for as long as it takes to simulate what happens meanwhile; none waits in
/// real time. So a thread that waits for what another has not yet enqueued does not get it: its timeout passes at once.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    properties: Properties,
    state: Mutex<State>,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("device", &self.0.properties.device).finish_non_exhaustive()
    }
}

/// A block of a [`Sim`]: addresses, and nothing behind them.
#[derive(Debug)]
pub struct SimBlock {
    address: u64,
    bytes: u64,
}

impl Sim {
    /// Makes a device.
    ///
    /// # Panics
    ///
    /// If a granularity or alignment in `desc` is not what its documentation says.
    #[must_use]
    pub fn new(desc: SimDesc) -> Self {
        assert!(desc.block_granularity_bytes.is_power_of_two(), "{desc:?}");
        assert!(desc.alignment_bytes_min.is_power_of_two() && desc.alignment_bytes_min >= 256, "{desc:?}");
        Self(Arc::new(Shared { properties: desc.properties(), state: Mutex::new(State::new(&desc)) }))
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock()
    }

    fn check_purgeable(&self, operation: &'static str) -> Result<(), Error> {
        if self.0.properties.capabilities.contains(Capabilities::PURGEABLE) {
            return Ok(());
        }
        let message = "the device was made without purgeable memory";
        Err(Error::new(ErrorKind::Unsupported, operation, message))
    }

    pub(crate) fn queue_dropped(&self, queue: QueueId) {
        let mut state = self.state();
        let now_ns = state.schedule.now_ns();
        state.schedule.drive_to(now_ns);
        if !state.schedule.queue(queue).is_idle() {
            state.schedule.breach(format!("{queue} was dropped before its work had run"));
        }
    }
}

fn part(range: &BlockRange<'_, SimBlock>, access: impl FnOnce(u64, u64) -> Access) -> Access {
    access(range.block.address.saturating_add(range.offset), range.bytes)
}

/// What a copy touches on the device, and whether the host has a part in it.
fn copy_accesses(
    source: &CopyEnd<'_, SimBlock>,
    destination: &CopyEnd<'_, SimBlock>,
    bytes: u64,
) -> (Vec<Access>, bool) {
    let mut accesses = Vec::with_capacity(2);
    if let CopyEnd::Block { block, offset } = source {
        accesses.push(Access::read(block.address.saturating_add(*offset), bytes));
    }
    if let CopyEnd::Block { block, offset } = destination {
        accesses.push(Access::write(block.address.saturating_add(*offset), bytes));
    }
    let has_host = accesses.len() < 2;
    (accesses, has_host)
}

/// Notes a copy within one block whose ends overlap.
fn check_copy(schedule: &mut Schedule, accesses: &[Access]) {
    if let [from, to] = accesses
        && from.address < to.address.saturating_add(to.bytes)
        && to.address < from.address.saturating_add(from.bytes)
    {
        let (from, to, bytes) = (from.address, to.address, from.bytes);
        schedule.breach(format!("copy of {bytes} bytes from {from:#x} to {to:#x}: the ends overlap"));
    }
}

// SAFETY: a block's addresses are its own until it is destroyed (they come from a counter, or from a destroyed block), and no
// block has a host pointer. The properties are made once and never written. A queue is a list that the schedule works off
// from the front, one after the other, and a marker sets the value when it comes to the front; the place in it is taken
// under the device's lock. Nothing ever touches host memory.
unsafe impl Backend for Sim {
    type Block = SimBlock;
    type Queue = SimQueue;

    fn properties(&self) -> &Properties {
        &self.0.properties
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        let memory_bytes = self.0.properties.heaps[heap_index].size_bytes;
        let mut state = self.state();
        let ns = state.costs.budget_ns;
        state.enter(Call::Budget, "budget", ns)?;
        let budget_bytes = memory_bytes.saturating_sub(state.other_process_bytes);
        Ok(HeapBudget { budget_bytes, available_bytes: state.available_bytes(memory_bytes) })
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<SimBlock, Error> {
        let operation = "create_block";
        let properties = &self.0.properties;
        let mut state = self.state();
        let ns = state.costs.create.ns(desc.bytes);
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
        let memory_bytes = properties.heaps[0].size_bytes;
        let has_place =
            state.books.live_blocks < properties.block_count_max && state.make_room(bytes, memory_bytes);
        let unit = properties.block_granularity_bytes.max(properties.alignment_bytes_min);
        let Some(address) = has_place.then(|| state.take_address(bytes, unit)).flatten() else {
            state.books.failed_calls += 1;
            let available_bytes = state.available_bytes(memory_bytes);
            let message = format!(
                "{bytes} bytes of {available_bytes} that are left, {} blocks of at most {}; destroy some first",
                state.books.live_blocks, properties.block_count_max
            );
            return Err(Error::new(ErrorKind::OutOfMemory, operation, message));
        };
        state.schedule.checker.add_block(address, bytes);
        state.books.live_blocks += 1;
        state.add_live_bytes(bytes);
        Ok(SimBlock { address, bytes })
    }

    /// On a lost device this succeeds, at no cost.
    unsafe fn destroy_block(&self, block: SimBlock) -> Result<(), DestroyError<SimBlock>> {
        let mut state = self.state();
        match state.enter(Call::Destroy, "destroy_block", 0) {
            Err(error) if error.kind() != ErrorKind::DeviceLost => {
                let ns = state.costs.destroy.base_ns;
                state.charge(ns);
                return Err(DestroyError { block, error });
            }
            Ok(()) | Err(_) => {}
        }
        // The check is made before the driver waits: not every driver does.
        let start_ns = state.schedule.now_ns();
        let released_bytes = state.schedule.checker.remove_block(start_ns, block.address);
        let kept_bytes = block.bytes - released_bytes - state.forget_purgeable(block.address);
        if !state.schedule.is_lost() {
            if state.costs.destroy_waits_for_all_queues {
                state.schedule.finish_all();
            }
            state.books.driver_ns += state.schedule.now_ns() - start_ns;
            let ns = state.costs.destroy.ns(kept_bytes);
            state.charge(ns);
        }
        state.books.live_blocks -= 1;
        state.books.live_bytes -= kept_bytes;
        state.give_address(block.address, block.bytes);
        Ok(())
    }

    unsafe fn release_range(&self, range: BlockRange<'_, SimBlock>) -> Result<(), Error> {
        let operation = "release_range";
        if !self.0.properties.capabilities.contains(Capabilities::RELEASE_RANGE) {
            let message = "the device was made without the capability to release ranges";
            return Err(Error::new(ErrorKind::Unsupported, operation, message));
        }
        let mut state = self.state();
        let ns = state.costs.release.ns(range.bytes);
        state.enter(Call::Release, operation, 0)?;
        let BlockRange { block, offset, bytes } = range;
        let granularity_bytes = self.0.properties.block_granularity_bytes;
        let is_whole = offset.is_multiple_of(granularity_bytes) && bytes.is_multiple_of(granularity_bytes);
        if !is_whole || offset.checked_add(bytes).is_none_or(|end| end > block.bytes) {
            let message = format!("release_range of {bytes} bytes at {offset} of {}", block.bytes);
            state.schedule.breach(message.clone());
            return Err(Error::new(ErrorKind::Driver, operation, message));
        }
        let now_ns = state.schedule.now_ns();
        let address = block.address + offset;
        let new_bytes = state.schedule.checker.release(now_ns, block.address, address, bytes);
        state.books.live_bytes -= new_bytes;
        state.charge(ns);
        Ok(())
    }

    unsafe fn make_purgeable(&self, block: &SimBlock) -> Result<(), Error> {
        let operation = "make_purgeable";
        self.check_purgeable(operation)?;
        let mut state = self.state();
        let ns = state.costs.purge_ns;
        state.enter(Call::MakePurgeable, operation, ns)?;
        let released_bytes = state.schedule.checker.released_bytes(block.address);
        state.make_purgeable(block.address, block.bytes - released_bytes);
        Ok(())
    }

    fn make_nonpurgeable(&self, block: &SimBlock) -> Result<bool, Error> {
        let operation = "make_nonpurgeable";
        self.check_purgeable(operation)?;
        let mut state = self.state();
        let ns = state.costs.purge_ns;
        state.enter(Call::MakeNonpurgeable, operation, ns)?;
        let memory_bytes = self.0.properties.heaps[0].size_bytes;
        state.make_nonpurgeable(block.address, memory_bytes).ok_or_else(|| {
            state.books.failed_calls += 1;
            let message = format!(
                "the system has no memory for {} bytes again; destroy some blocks first",
                block.bytes
            );
            Error::new(ErrorKind::OutOfMemory, operation, message)
        })
    }

    /// Always `None`: there is nothing behind the addresses.
    fn host_pointer(&self, _block: &SimBlock) -> Option<NonNull<u8>> {
        None
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, SimBlock>,
        destination: BlockRange<'_, SimBlock>,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let ns = state.costs.enqueue_copy_ns;
        state.enter(Call::Copy, "copy", ns)?;
        let accesses = [part(&source, Access::read), part(&destination, Access::write)];
        check_copy(&mut state.schedule, &accesses);
        let duration_ns = state.costs.transfer_ns(source.bytes, state.costs.copy_bytes_per_second);
        state.run_now("copy", source.bytes, duration_ns, &accesses)
    }

    unsafe fn fill(&self, destination: BlockRange<'_, SimBlock>, _value: u8) -> Result<(), Error> {
        let mut state = self.state();
        let ns = state.costs.enqueue_fill_ns;
        state.enter(Call::Fill, "fill", ns)?;
        let duration_ns = state.costs.transfer_ns(destination.bytes, state.costs.fill_bytes_per_second);
        state.run_now("fill", destination.bytes, duration_ns, &[part(&destination, Access::write)])
    }

    fn device_address(&self, block: &SimBlock) -> Option<u64> {
        Some(block.address)
    }

    fn create_queue(&self) -> Result<SimQueue, Error> {
        let id = {
            let mut state = self.state();
            let ns = state.costs.create_queue_ns;
            state.enter(Call::CreateQueue, "create_queue", ns)?;
            state.schedule.add_queue()
        };
        Ok(SimQueue { sim: self.clone(), id })
    }

    /// Notes when and where; no byte is moved, and host memory is not looked at.
    unsafe fn enqueue(
        &self,
        queue: &SimQueue,
        command: Command<'_, SimBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let costs = state.costs;
        let (what, ns, bytes, accesses, rate) = match command {
            Command::Copy { source, destination, bytes } => {
                let (accesses, has_host) = copy_accesses(&source, &destination, bytes);
                let (ns, rate) = if has_host {
                    (costs.enqueue_host_copy_ns, costs.host_copy_bytes_per_second)
                } else {
                    (costs.enqueue_copy_ns, costs.copy_bytes_per_second)
                };
                ("copy", ns, bytes, accesses, rate)
            }
            Command::Fill { destination, .. } => {
                let accesses = vec![part(&destination, Access::write)];
                ("fill", costs.enqueue_fill_ns, destination.bytes, accesses, costs.fill_bytes_per_second)
            }
        };
        state.enter(Call::Enqueue, "enqueue", ns)?;
        check_copy(&mut state.schedule, &accesses);
        let submission = Submission {
            what,
            accesses: &accesses,
            duration_ns: Some(costs.transfer_ns(bytes, rate)),
            bytes,
            ticket: Some(Arc::clone(ticket)),
            fails: state.faults.befalls_command(),
        };
        state.schedule.submit(queue.id, submission);
        Ok(())
    }

    unsafe fn signal(&self, queue: &SimQueue, value: u64) -> Result<(), Error> {
        let mut state = self.state();
        state.schedule.ask_value(queue.id, value);
        let ns = state.costs.signal_ns;
        state.enter(Call::Signal, "signal", ns)?;
        state.schedule.signal(queue.id, value);
        Ok(())
    }

    fn completed(&self, queue: &SimQueue) -> Result<u64, Error> {
        let mut state = self.state();
        let ns = state.costs.completed_ns;
        state.enter(Call::Completed, "completed", ns)?;
        Ok(state.schedule.queue(queue.id).seen_value)
    }

    /// Blocks in virtual time: goes on to when the value comes, or by `timeout`, whichever is first.
    fn wait(&self, queue: &SimQueue, value: u64, timeout: Duration) -> Result<bool, Error> {
        let mut state = self.state();
        let ns = state.costs.completed_ns;
        state.enter(Call::Wait, "wait", ns)?;
        let start_ns = state.schedule.now_ns();
        let timeout_ns = u64::try_from(timeout.as_nanos()).unwrap_or(u64::MAX);
        let is_reached = state.schedule.wait(queue.id, value, timeout_ns);
        state.books.waited_ns += state.schedule.now_ns() - start_ns;
        state.check_not_lost("wait")?;
        Ok(is_reached)
    }

    fn wait_on_queue(&self, queue: &SimQueue, other: &SimQueue, value: u64) -> Result<(), Error> {
        let mut state = self.state();
        let ns = state.costs.wait_on_queue_ns;
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
