//! A device with two memory types of one heap, that writes down what it is asked. It has no memory, but for types that the host
//! sees.
#![allow(unsafe_code)]

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, DestroyError, Error, ErrorKind, Heap, HeapBudget,
    MemoryFlags, MemoryType, Properties, Ticket,
};
use parking_lot::{Mutex, MutexGuard};
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

const ALIGNMENT: usize = 4096;

/// A call that was answered well, or was told to fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Call {
    Create { bytes: u64, memory_type: usize, dedicated_to: Option<String> },
    Destroy,
    Flush,
    MakePurgeable,
    MakeNonpurgeable,
    Fill,
}

/// Where a failing call tells that it fails, and where it waits.
type Meeting = (SyncSender<()>, Mutex<Receiver<()>>);

#[derive(Debug, Default)]
struct Books {
    calls: Vec<Call>,
    /// By the block's number: whether it is purgeable.
    live: BTreeMap<u64, bool>,
    next: u64,
    /// Whether what is purgeable has lost its content when it comes back.
    purges: bool,
    /// What there is of memory that is pinned, in bytes.
    locked_bytes: u64,
    /// What the heap is said to have.
    budget: Option<HeapBudget>,
    /// The kind of call that fails from now on, and how.
    failing: Option<(Call, ErrorKind)>,
    /// Told of each such failure of a new block, before it is answered; and asked whether it may be.
    meeting: Option<Arc<Meeting>>,
}

impl Books {
    fn fails(&self, call: &Call, operation: &'static str) -> Result<(), Error> {
        match &self.failing {
            Some((failing, kind)) if failing == call => Err(Error::new(*kind, operation, "told to fail")),
            _ => Ok(()),
        }
    }
}

/// The test's hand on a device: what it was asked, and what it is to answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Hand(Arc<Mutex<Books>>);

impl Hand {
    pub(super) fn calls(&self) -> Vec<Call> {
        self.0.lock().calls.clone()
    }

    pub(super) fn count(&self, call: &Call) -> usize {
        self.calls().iter().filter(|&other| other == call).count()
    }

    /// How many blocks were made.
    pub(super) fn creates(&self) -> usize {
        self.calls().iter().filter(|call| matches!(call, Call::Create { .. })).count()
    }

    /// How many blocks there are.
    pub(super) fn live(&self) -> usize {
        self.0.lock().live.len()
    }

    pub(super) fn purgeable(&self) -> usize {
        self.0.lock().live.values().filter(|&&is_purgeable| is_purgeable).count()
    }

    /// Lets a kind of call fail from now on.
    pub(super) fn fail(&self, call: Call, kind: ErrorKind) {
        self.0.lock().failing = Some((call, kind));
    }

    /// Lets each failure to make a block tell the first, and wait for the second before it is answered.
    pub(super) fn meet_at_failures(&self) -> (Receiver<()>, SyncSender<()>) {
        let (tell, told) = sync_channel(0);
        let (go, may_go) = sync_channel(0);
        self.0.lock().meeting = Some(Arc::new((tell, Mutex::new(may_go))));
        (told, go)
    }

    /// Ends the meetings.
    pub(super) fn part(&self) {
        self.0.lock().meeting = None;
    }

    /// Says this of the heap from now on.
    pub(super) fn set_budget(&self, budget: HeapBudget) {
        self.0.lock().budget = Some(budget);
    }

    /// Lets no call fail any more.
    pub(super) fn heal(&self) {
        self.0.lock().failing = None;
    }

    /// What there is of memory that is pinned, in bytes.
    pub(super) fn locked_bytes(&self) -> u64 {
        self.0.lock().locked_bytes
    }

    /// Lets what is purgeable lose its content.
    pub(super) fn purge(&self) {
        self.0.lock().purges = true;
    }
}

#[derive(Debug)]
pub(super) struct Device {
    properties: Properties,
    hand: Hand,
    /// The most that can be pinned, in bytes, and how it refuses more.
    lockable: (u64, ErrorKind),
}

/// Memory that is pinned, as `MemoryFlags` obliges: the host sees it.
pub(super) fn pinned() -> MemoryFlags {
    MemoryFlags::HOST_VISIBLE | MemoryFlags::PINNED
}

/// A block's number, and its memory, if the host sees it.
#[derive(Debug)]
pub(super) struct Block {
    number: u64,
    locked_bytes: u64,
    memory: Option<Memory>,
}

impl Block {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

#[derive(Debug)]
struct Memory {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the memory is the block's alone, and used as `Backend` says.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    fn new(bytes: u64) -> Self {
        let layout = Layout::from_size_align(bytes as usize, ALIGNMENT).expect("blocks are not that large");
        // SAFETY: a block has some bytes.
        let start = unsafe { alloc_zeroed(layout) };
        Self { start: NonNull::new(start).expect("the test machine has memory"), layout }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: from `alloc_zeroed`, with this layout.
        unsafe { dealloc(self.start.as_ptr(), self.layout) };
    }
}

impl Device {
    pub(super) fn new(capabilities: Capabilities, block_count_max: u64) -> Self {
        let memory_type = MemoryType { heap_index: 0, flags: MemoryFlags::NONE };
        let properties = Properties {
            backend: "recording",
            device: String::new(),
            heaps: vec![Heap { size_bytes: 1 << 40 }],
            memory_types: vec![memory_type.clone(), memory_type],
            block_granularity_bytes: 64 << 10,
            block_bytes_max: 1 << 40,
            block_count_max,
            alignment_bytes_min: ALIGNMENT as u64,
            physical_page_bytes: 0,
            mapping_count_max: 0,
            mapping_costs: None,
            import_alignment_bytes: 0,
            capabilities,
        };
        Self { properties, hand: Hand::default(), lockable: (u64::MAX, ErrorKind::OutOfMemory) }
    }

    /// One with these memory types, that pins so many bytes and refuses more in this way.
    pub(super) fn with_types(flags: &[MemoryFlags], lockable: (u64, ErrorKind)) -> Self {
        let mut device = Self::new(Capabilities::ZEROED_BLOCKS, 1000);
        device.properties.memory_types =
            flags.iter().map(|&flags| MemoryType { heap_index: 0, flags }).collect();
        Self { lockable, ..device }
    }

    pub(super) fn hand(&self) -> Hand {
        self.hand.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Books> {
        self.hand.0.lock()
    }
}

fn unsupported<T>(operation: &'static str) -> Result<T, Error> {
    Err(Error::new(ErrorKind::Unsupported, operation, "the recording device has no queues"))
}

// SAFETY: each block that the host sees has memory of its own, which is readable, writable, zeroed and lies still; the others
// have none; there are no queues.
unsafe impl Backend for Device {
    type Block = Block;
    type Queue = ();

    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn budget(&self, _heap_index: usize) -> Result<HeapBudget, Error> {
        let ample = HeapBudget { budget_bytes: 1 << 40, available_bytes: 1 << 40, process_bytes: None };
        Ok(self.lock().budget.unwrap_or(ample))
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<Block, Error> {
        let call = Call::Create {
            bytes: desc.bytes,
            memory_type: desc.memory_type_index,
            dedicated_to: desc.dedicated_to.map(str::to_owned),
        };
        let mut books = self.lock();
        if let Err(error) = books.fails(&call, "create_block") {
            let meeting = books.meeting.clone();
            drop(books);
            if let Some((tell, may_go)) = meeting.as_deref() {
                // Whoever does not come any more is not waited for.
                let _ = tell.send(());
                let _ = may_go.lock().recv();
            }
            return Err(error);
        }
        let flags = self.properties.memory_types[desc.memory_type_index].flags;
        let locked_bytes = if flags.contains(MemoryFlags::PINNED) { desc.bytes } else { 0 };
        if books.locked_bytes + locked_bytes > self.lockable.0 {
            return Err(Error::new(self.lockable.1, "create_block", "no more can be locked"));
        }
        assert!((books.live.len() as u64) < self.properties.block_count_max, "a block too many is asked for");
        books.calls.push(call);
        let number = books.next;
        books.next += 1;
        books.live.insert(number, false);
        books.locked_bytes += locked_bytes;
        let memory = flags.contains(MemoryFlags::HOST_VISIBLE).then(|| Memory::new(desc.bytes));
        Ok(Block { number, locked_bytes, memory })
    }

    unsafe fn destroy_block(&self, block: Block) -> Result<(), DestroyError<Block>> {
        let mut books = self.lock();
        if let Err(error) = books.fails(&Call::Destroy, "destroy_block") {
            return Err(DestroyError { block, error });
        }
        books.calls.push(Call::Destroy);
        books.locked_bytes -= block.locked_bytes;
        books.live.remove(&block.number).expect("a block that is destroyed exists");
        Ok(())
    }

    unsafe fn make_purgeable(&self, block: &Block) -> Result<(), Error> {
        let mut books = self.lock();
        books.fails(&Call::MakePurgeable, "make_purgeable")?;
        books.calls.push(Call::MakePurgeable);
        assert_eq!(books.live.insert(block.number, true), Some(false), "made purgeable twice");
        Ok(())
    }

    fn make_nonpurgeable(&self, block: &Block) -> Result<bool, Error> {
        let mut books = self.lock();
        books.fails(&Call::MakeNonpurgeable, "make_nonpurgeable")?;
        books.calls.push(Call::MakeNonpurgeable);
        assert_eq!(books.live.insert(block.number, false), Some(true), "it was not purgeable");
        Ok(!books.purges)
    }

    fn flush_destroyed(&self) {
        self.lock().calls.push(Call::Flush);
    }

    fn host_pointer(&self, block: &Block) -> Option<NonNull<u8>> {
        block.memory.as_ref().map(|memory| memory.start)
    }

    unsafe fn copy(
        &self,
        _source: BlockRange<'_, Block>,
        _destination: BlockRange<'_, Block>,
    ) -> Result<(), Error> {
        Ok(())
    }

    unsafe fn fill(&self, destination: BlockRange<'_, Block>, value: u8) -> Result<(), Error> {
        let mut books = self.lock();
        assert_eq!(books.live.get(&destination.block.number), Some(&false), "a purgeable block is used");
        books.fails(&Call::Fill, "fill")?;
        books.calls.push(Call::Fill);
        if let Some(memory) = &destination.block.memory {
            // SAFETY: the range lies in the block, says the caller.
            let start = unsafe { memory.start.add(destination.offset as usize) };
            // SAFETY: as above, and nobody else uses it.
            unsafe { start.write_bytes(value, destination.bytes as usize) };
        }
        Ok(())
    }

    fn device_address(&self, _block: &Block) -> Option<u64> {
        None
    }

    fn create_queue(&self) -> Result<(), Error> {
        unsupported("create_queue")
    }

    unsafe fn enqueue(
        &self,
        _queue: &(),
        _command: Command<'_, Block>,
        _ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        unsupported("enqueue")
    }

    unsafe fn signal(&self, _queue: &(), _value: u64) -> Result<(), Error> {
        unsupported("signal")
    }

    fn completed(&self, _queue: &()) -> Result<u64, Error> {
        unsupported("completed")
    }

    fn wait(&self, _queue: &(), _value: u64, _timeout: Duration) -> Result<bool, Error> {
        unsupported("wait")
    }

    fn wait_on_queue(&self, _queue: &(), _other: &(), _value: u64) -> Result<(), Error> {
        unsupported("wait_on_queue")
    }
}
