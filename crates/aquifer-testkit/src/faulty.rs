//! A driver that fails when it is told to, around one that does not.

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, CopyEnd, DestroyError, Error, ErrorKind,
    HeapBudget, MemoryFlags, Properties, Ticket,
};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// A kind of call that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverCall {
    /// [`Backend::budget`].
    Budget,
    /// [`Backend::create_block`].
    Create,
    /// [`Backend::destroy_block`].
    Destroy,
    /// [`Backend::release_range`].
    Release,
    /// [`Backend::copy`].
    Copy,
    /// [`Backend::fill`].
    Fill,
    /// [`Backend::create_queue`].
    CreateQueue,
    /// [`Backend::enqueue`].
    Enqueue,
    /// [`Backend::signal`].
    Signal,
    /// [`Backend::wait_on_queue`].
    WaitOnQueue,
}

/// How many kinds there are.
const CALL_KINDS: usize = DriverCall::WaitOnQueue as usize + 1;

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultMode {
    /// One.
    Once,
    /// One and all after it.
    FromThenOn,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    call_number: u64,
    mode: FaultMode,
    create_kind: ErrorKind,
}

#[derive(Debug, Clone, Copy)]
struct LiveBlock {
    bytes: u64,
    /// Whether the last word on it was a refusal to take it back.
    is_refused: bool,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    calls: u64,
    failed: u64,
    counts: [u64; CALL_KINDS],
    live: BTreeMap<u64, LiveBlock>,
    live_bytes_peak: u64,
    next_id: u64,
}

impl State {
    fn live_bytes(&self) -> u64 {
        self.live.values().map(|block| block.bytes).sum()
    }
}

/// The hand on a [`Faulty`] driver: says what fails, and knows what happened. Clones are the same hand.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// From now on, fails the call with the number `call_number`, counted from 0 over all kinds and from this moment.
    ///
    /// A call that creates a block fails with `create_kind`. The others fail with [`ErrorKind::Driver`], the one kind
    /// that the contract allows them.
    pub fn fail(&self, call_number: u64, mode: FaultMode, create_kind: ErrorKind) {
        let mut state = self.state();
        state.plan = Some(Plan { call_number, mode, create_kind });
        state.calls = 0;
    }

    /// Fails nothing from now on.
    pub fn stop(&self) {
        self.state().plan = None;
    }

    /// How many calls there were, since the last [`Faults::fail`] if there was one.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How many calls of one kind there have ever been, failed ones too.
    #[must_use]
    pub fn calls_of(&self, call: DriverCall) -> u64 {
        self.state().counts[call as usize]
    }

    /// How many calls failed because they were told to.
    #[must_use]
    pub fn failed_count(&self) -> u64 {
        self.state().failed
    }

    /// How many blocks exist.
    #[must_use]
    pub fn live_blocks(&self) -> u64 {
        self.state().live.len() as u64
    }

    /// Their bytes.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.state().live_bytes()
    }

    /// The highest their bytes have been.
    #[must_use]
    pub fn live_bytes_peak(&self) -> u64 {
        self.state().live_bytes_peak
    }

    /// How many of the blocks that exist the driver has refused to take back, when it was last asked.
    #[must_use]
    pub fn refused_blocks(&self) -> u64 {
        self.state().live.values().filter(|block| block.is_refused).count() as u64
    }

    /// Counts a call, and the error it is to fail with.
    fn call(&self, call: DriverCall, operation: &'static str) -> Result<(), Error> {
        let mut state = self.state();
        let call_number = state.calls;
        state.calls += 1;
        state.counts[call as usize] += 1;
        let Some(plan) = state.plan else { return Ok(()) };
        let is_hit = match plan.mode {
            FaultMode::Once => call_number == plan.call_number,
            FaultMode::FromThenOn => call_number >= plan.call_number,
        };
        if !is_hit {
            return Ok(());
        }
        state.failed += 1;
        let kind = if call == DriverCall::Create { plan.create_kind } else { ErrorKind::Driver };
        Err(Error::new(kind, operation, format!("call {call_number} was told to fail")))
    }
}

/// A backend around a backend, with a [`Faults`] to make it fail and to ask it what is live.
///
/// It can also be a poorer device than the one inside; see [`Faulty::with_properties`].
#[derive(Debug)]
pub struct Faulty<B> {
    inner: B,
    properties: Properties,
    faults: Faults,
}

/// A block of a [`Faulty`] backend.
#[derive(Debug)]
pub struct FaultyBlock<T> {
    inner: T,
    memory_type_index: usize,
    id: u64,
}

/// What a new block holds at its start if the device does not promise zeros.
const GARBAGE: u8 = 0xa7;
/// So many bytes of it at most.
const GARBAGE_BYTES_MAX: u64 = 1 << 20;

impl<B: Backend> Faulty<B> {
    /// Wraps `inner`; nothing fails until it is told to.
    #[must_use]
    pub fn new(inner: B) -> Self {
        let properties = inner.properties().clone();
        Self { inner, properties, faults: Faults::default() }
    }

    /// Wraps `inner` as a device that promises less: `change` may take abilities away, forbid the host to see memory,
    /// lower limits that are a maximum and alignments, and make granules coarser.
    ///
    /// Without [`Capabilities::ZEROED_BLOCKS`] new blocks start with a MiB of garbage. Without [`Capabilities::QUEUES`]
    /// no queue can be made.
    #[must_use]
    pub fn with_properties(inner: B, change: impl FnOnce(&mut Properties)) -> Self {
        let mut faulty = Self::new(inner);
        change(&mut faulty.properties);
        faulty
    }

    /// The hand on this driver. It may outlive it.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    fn has_zeroed_blocks(&self) -> bool {
        self.properties.capabilities.contains(Capabilities::ZEROED_BLOCKS)
    }
}

fn inner_range<T>(range: BlockRange<'_, FaultyBlock<T>>) -> BlockRange<'_, T> {
    BlockRange { block: &range.block.inner, offset: range.offset, bytes: range.bytes }
}

fn inner_end<T>(end: CopyEnd<'_, FaultyBlock<T>>) -> CopyEnd<'_, T> {
    match end {
        CopyEnd::Block { block, offset } => CopyEnd::Block { block: &block.inner, offset },
        CopyEnd::Host(start) => CopyEnd::Host(start),
    }
}

fn inner_command<T>(command: Command<'_, FaultyBlock<T>>) -> Command<'_, T> {
    match command {
        Command::Copy { source, destination, bytes } => {
            Command::Copy { source: inner_end(source), destination: inner_end(destination), bytes }
        }
        Command::Fill { destination, value } => {
            Command::Fill { destination: inner_range(destination), value }
        }
    }
}

// SAFETY: blocks and their addresses are those of the backend inside, which keeps the contract. What is changed, a
// block's host pointer, is taken away wholly and always or not at all; the properties are made once and never written.
unsafe impl<B: Backend> Backend for Faulty<B> {
    type Block = FaultyBlock<B::Block>;
    type Queue = B::Queue;

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        self.faults.call(DriverCall::Budget, "budget")?;
        self.inner.budget(heap_index)
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<Self::Block, Error> {
        assert_eq!(desc.bytes % self.properties.block_granularity_bytes, 0, "{desc:?}");
        assert!(desc.bytes > 0 && desc.bytes <= self.properties.block_bytes_max, "{desc:?}");
        assert!(desc.memory_type_index < self.properties.memory_types.len(), "{desc:?}");
        self.faults.call(DriverCall::Create, "create_block")?;
        let inner = self.inner.create_block(desc)?;
        if !self.has_zeroed_blocks() {
            let destination =
                BlockRange { block: &inner, offset: 0, bytes: desc.bytes.min(GARBAGE_BYTES_MAX) };
            // SAFETY: the range lies in the block, which nobody else knows yet.
            unsafe { self.inner.fill(destination, GARBAGE) }?;
        }
        let mut state = self.faults.state();
        let id = state.next_id;
        state.next_id += 1;
        state.live.insert(id, LiveBlock { bytes: desc.bytes, is_refused: false });
        state.live_bytes_peak = state.live_bytes_peak.max(state.live_bytes());
        Ok(FaultyBlock { inner, memory_type_index: desc.memory_type_index, id })
    }

    unsafe fn destroy_block(&self, block: Self::Block) -> Result<(), DestroyError<Self::Block>> {
        let FaultyBlock { inner, memory_type_index, id } = block;
        let refusal = match self.faults.call(DriverCall::Destroy, "destroy_block") {
            Err(error) => Err(DestroyError { block: inner, error }),
            // SAFETY: the caller vouches that no range of the block is in use.
            Ok(()) => unsafe { self.inner.destroy_block(inner) },
        };
        let mut state = self.faults.state();
        refusal.map_err(|DestroyError { block, error }| {
            state.live.get_mut(&id).expect("a block that is destroyed exists").is_refused = true;
            DestroyError { block: FaultyBlock { inner: block, memory_type_index, id }, error }
        })?;
        state.live.remove(&id).expect("a block that is destroyed exists");
        Ok(())
    }

    unsafe fn release_range(&self, range: BlockRange<'_, Self::Block>) -> Result<(), Error> {
        let granularity = self.properties.block_granularity_bytes;
        assert_eq!((range.offset % granularity, range.bytes % granularity), (0, 0), "not whole granules");
        self.faults.call(DriverCall::Release, "release_range")?;
        let (id, bytes) = (range.block.id, range.bytes);
        // SAFETY: the caller vouches for the range, which is the same in the block inside.
        unsafe { self.inner.release_range(inner_range(range)) }?;
        self.faults.state().live.get_mut(&id).expect("a block of which a part is released exists").bytes -=
            bytes;
        Ok(())
    }

    fn host_pointer(&self, block: &Self::Block) -> Option<NonNull<u8>> {
        let flags = self.properties.memory_types[block.memory_type_index].flags;
        if flags.contains(MemoryFlags::HOST_VISIBLE) { self.inner.host_pointer(&block.inner) } else { None }
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, Self::Block>,
        destination: BlockRange<'_, Self::Block>,
    ) -> Result<(), Error> {
        self.faults.call(DriverCall::Copy, "copy")?;
        // SAFETY: the caller vouches for the ranges, which are the same in the blocks inside.
        unsafe { self.inner.copy(inner_range(source), inner_range(destination)) }
    }

    unsafe fn fill(&self, destination: BlockRange<'_, Self::Block>, value: u8) -> Result<(), Error> {
        self.faults.call(DriverCall::Fill, "fill")?;
        // SAFETY: the caller vouches for the range, which is the same in the block inside.
        unsafe { self.inner.fill(inner_range(destination), value) }
    }

    fn device_address(&self, block: &Self::Block) -> Option<u64> {
        self.inner.device_address(&block.inner)
    }

    fn create_queue(&self) -> Result<Self::Queue, Error> {
        if !self.properties.capabilities.contains(Capabilities::QUEUES) {
            return Err(Error::new(ErrorKind::Unsupported, "create_queue", "this device has no queues"));
        }
        self.faults.call(DriverCall::CreateQueue, "create_queue")?;
        self.inner.create_queue()
    }

    unsafe fn enqueue(
        &self,
        queue: &Self::Queue,
        command: Command<'_, Self::Block>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        self.faults.call(DriverCall::Enqueue, "enqueue")?;
        // SAFETY: the caller vouches for the command, whose ranges are the same in the blocks inside.
        unsafe { self.inner.enqueue(queue, inner_command(command), ticket) }
    }

    fn signal(&self, queue: &Self::Queue, value: u64) -> Result<(), Error> {
        self.faults.call(DriverCall::Signal, "signal")?;
        self.inner.signal(queue, value)
    }

    fn completed(&self, queue: &Self::Queue) -> Result<u64, Error> {
        self.inner.completed(queue)
    }

    fn wait(&self, queue: &Self::Queue, value: u64, timeout: Duration) -> Result<bool, Error> {
        self.inner.wait(queue, value, timeout)
    }

    fn wait_on_queue(&self, queue: &Self::Queue, other: &Self::Queue, value: u64) -> Result<(), Error> {
        self.faults.call(DriverCall::WaitOnQueue, "wait_on_queue")?;
        self.inner.wait_on_queue(queue, other, value)
    }
}
