//! Blocks and queues of the backend itself, as tests handle them.

use super::signal;
use aquifer_backend::{
    Backend as _, BlockDesc, BlockRange, Command, CopyEnd, Error, ErrorKind, MemoryFlags, Ticket,
};
use aquifer_core::MemoryManager;
use aquifer_metal::{Metal, MetalBlock, MetalQueue};
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use objc2_metal::{MTLBlitCommandEncoder as _, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder as _};
use parking_lot::Mutex;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// Long enough for any device: it is over only when a test fails.
pub const LONG: Duration = Duration::from_secs(30);

/// The index of the first memory type that the host sees, or does not.
pub fn memory_type(metal: &Metal, is_visible: bool) -> usize {
    let types = &metal.properties().memory_types;
    let is_wanted = |flags: MemoryFlags| flags.contains(MemoryFlags::HOST_VISIBLE) == is_visible;
    types.iter().position(|memory_type| is_wanted(memory_type.flags)).expect("Metal has both")
}

/// A block that is given back when it is dropped. To be made before the lines that use it.
pub struct OwnBlock {
    metal: Metal,
    block: Option<MetalBlock>,
}

impl OwnBlock {
    /// At least `bytes` bytes.
    pub fn new(metal: &Metal, bytes: u64, memory_type_index: usize) -> Self {
        let bytes = bytes.max(1).next_multiple_of(metal.properties().block_granularity_bytes);
        let block = metal.create_block(&BlockDesc::new(bytes, memory_type_index)).expect("a block");
        Self { metal: metal.clone(), block: Some(block) }
    }

    /// One that the host sees.
    pub fn visible(metal: &Metal, bytes: u64) -> Self {
        Self::new(metal, bytes, memory_type(metal, true))
    }

    /// One that the host does not see.
    pub fn private(metal: &Metal, bytes: u64) -> Self {
        Self::new(metal, bytes, memory_type(metal, false))
    }

    pub fn block(&self) -> &MetalBlock {
        self.block.as_ref().expect("it is taken by drop only")
    }

    pub fn range(&self, range: Range<u64>) -> BlockRange<'_, MetalBlock> {
        assert!(range.start <= range.end && range.end <= self.block().bytes());
        BlockRange { block: self.block(), offset: range.start, bytes: range.end - range.start }
    }

    fn all(&self) -> BlockRange<'_, MetalBlock> {
        self.range(0..self.block().bytes())
    }

    /// Sets every byte; no queue may use the block meanwhile.
    pub fn fill(&self, value: u8) {
        // SAFETY: the range is in the block, which no queue uses, as the test knows.
        unsafe { self.metal.fill(self.all(), value) }.expect("a fill");
    }

    /// The first bytes of what it holds; no queue may write it meanwhile.
    pub fn content(&self, bytes: usize) -> Vec<u8> {
        let read = |start: NonNull<u8>| {
            // SAFETY: the block is that long, initialised, and nobody writes it now, as the test knows.
            unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes) }.to_vec()
        };
        if let Some(start) = self.metal.host_pointer(self.block()) {
            return read(start);
        }
        let near = Self::visible(&self.metal, self.block().bytes());
        // SAFETY: both are that long; the one is new, and nobody writes the other now, as the test knows.
        unsafe { self.metal.copy(self.all(), near.range(0..self.block().bytes())) }.expect("a copy");
        read(self.metal.host_pointer(near.block()).expect("the host sees it"))
    }
}

impl Drop for OwnBlock {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            // SAFETY: the lines that use it are dropped before, and they wait.
            let destroyed = unsafe { self.metal.destroy_block(block) };
            destroyed.expect("Metal takes blocks back");
        }
    }
}

/// A queue, the last value that was signalled, and the host's memory that its commands use.
///
/// Its drop waits for its end, so that no work outlives what it uses. Commands are given blocks that live longer.
pub struct Line {
    metal: Metal,
    queue: Option<MetalQueue>,
    last_value: Mutex<u64>,
    host: Mutex<Vec<Vec<u8>>>,
}

impl Line {
    pub fn new(metal: &Metal) -> Self {
        let queue = metal.create_queue().expect("a queue");
        Self {
            metal: metal.clone(),
            queue: Some(queue),
            last_value: Mutex::default(),
            host: Mutex::default(),
        }
    }

    pub fn queue(&self) -> &MetalQueue {
        self.queue.as_ref().expect("it is taken by drop only")
    }

    pub fn try_enqueue(&self, command: Command<'_, MetalBlock>, ticket: &Arc<Ticket>) -> Result<(), Error> {
        // SAFETY: ranges are in their blocks and do not overlap, the blocks live longer than the line, host memory is the line's,
        // and tests keep their hands off until a value shows that the command has run.
        unsafe { self.metal.enqueue(self.queue(), command, ticket) }
    }

    pub fn enqueue(&self, command: Command<'_, MetalBlock>) -> Arc<Ticket> {
        let ticket = Arc::default();
        self.try_enqueue(command, &ticket).expect("the queue takes a command");
        ticket
    }

    pub fn fill(&self, block: &OwnBlock, range: Range<u64>, value: u8) -> Arc<Ticket> {
        self.enqueue(Command::Fill { destination: block.range(range), value })
    }

    /// Copies a part of one block to another, from an offset on.
    pub fn copy(&self, from: &OwnBlock, part: Range<u64>, to: &OwnBlock, offset: u64) -> Arc<Ticket> {
        let bytes = part.end - part.start;
        let (source, destination) = (from.range(part), to.range(offset..offset + bytes));
        self.enqueue(Command::Copy { source: end(source), destination: end(destination), bytes })
    }

    pub fn upload(&self, bytes: Vec<u8>, to: &OwnBlock, offset: u64) -> Arc<Ticket> {
        let length = bytes.len() as u64;
        let (_, source) = self.keep(bytes);
        let destination = end(to.range(offset..offset + length));
        self.enqueue(Command::Copy { source: CopyEnd::Host(source), destination, bytes: length })
    }

    /// Begins to copy to the host; [`Line::take`] has the bytes once the queue is through.
    pub fn download(&self, from: &OwnBlock, part: Range<u64>) -> (usize, Arc<Ticket>) {
        let bytes = part.end - part.start;
        let (place, destination) = self.keep(vec![0xc3; bytes as usize]);
        let source = end(from.range(part));
        (place, self.enqueue(Command::Copy { source, destination: CopyEnd::Host(destination), bytes }))
    }

    fn keep(&self, mut bytes: Vec<u8>) -> (usize, NonNull<u8>) {
        let start = NonNull::new(bytes.as_mut_ptr()).expect("no vector is at null");
        let mut host = self.host.lock();
        host.push(bytes);
        (host.len() - 1, start)
    }

    /// What a download has brought, when the queue is through.
    pub fn take(&self, place: usize) -> Vec<u8> {
        std::mem::take(&mut self.host.lock()[place])
    }

    /// Signals the next value.
    pub fn mark(&self) -> u64 {
        let mut last_value = self.last_value.lock();
        *last_value += 1;
        signal(&self.metal, self.queue(), *last_value).expect("the queue takes a marker");
        *last_value
    }

    pub fn completed(&self) -> u64 {
        self.metal.completed(self.queue()).expect("a value")
    }

    pub fn reach(&self, value: u64) {
        let reached = self.metal.wait(self.queue(), value, LONG).expect("the device is there");
        assert!(reached, "after {LONG:?} the value is {} instead of {value}", self.completed());
        assert!(self.completed() >= value);
    }

    /// Waits until everything in the queue has run.
    pub fn finish(&self) {
        self.reach(self.mark());
    }

    /// Keeps what comes from running before all that is in `other` now has run.
    pub fn wait_on(&self, other: &Self) {
        let value = other.mark();
        self.metal.wait_on_queue(self.queue(), other.queue(), value).expect("the queue takes a wait");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let value = *self.last_value.get_mut() + 1;
        let queue = self.queue.as_ref().expect("it is taken here only");
        let marked = signal(&self.metal, queue, value);
        let is_through = match marked.and_then(|()| self.metal.wait(queue, value, LONG)) {
            Ok(is_through) => is_through,
            Err(error) => error.kind() == ErrorKind::DeviceLost,
        };
        if !is_through {
            // Something may still use it.
            std::mem::forget(std::mem::take(self.host.get_mut()));
            assert!(std::thread::panicking(), "a queue does not come to its end");
        }
    }
}

pub fn end(range: BlockRange<'_, MetalBlock>) -> CopyEnd<'_, MetalBlock> {
    CopyEnd::Block { block: range.block, offset: range.offset }
}

/// A new ticket.
pub fn ticket() -> Arc<Ticket> {
    Arc::default()
}

/// The error that a ticket tells, if it does.
pub fn failure(ticket: &Ticket) -> Option<ErrorKind> {
    ticket.take_error().map(|error| error.kind())
}

/// Something that runs on a thread of its own, and must come to its end.
pub struct Started<R> {
    what: &'static str,
    outcome: Receiver<R>,
}

/// Runs something on a thread of its own; see [`Started::end`].
pub fn start<R: Send + 'static>(what: &'static str, run: impl FnOnce() -> R + Send + 'static) -> Started<R> {
    let (sender, outcome) = channel();
    std::thread::spawn(move || sender.send(run()));
    Started { what, outcome }
}

impl<R> Started<R> {
    /// What came of it, which must be soon.
    pub fn end(self) -> R {
        let Self { what, outcome } = self;
        outcome.recv_timeout(LONG).unwrap_or_else(|error| panic!("{what}: nothing within {LONG:?} ({error})"))
    }
}

/// Looks until something is so, which nobody would tell; it must be soon.
pub fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < LONG, "{what}: not within {LONG:?}");
        std::thread::yield_now();
    }
}

/// Waits until a manager has nothing live: the thread that found an operation to be over frees what it used a moment later.
pub(crate) fn until_all_is_free(manager: &MemoryManager<Metal>) {
    until("everything is freed", || {
        manager.settle();
        manager.statistics().allocated.current == 0
    });
}

/// Fills a part of a buffer by work of the program's own.
pub fn submit_fill(
    queue: &MetalQueue,
    buffer: &ProtocolObject<dyn MTLBuffer>,
    range: Range<u64>,
    value: u8,
) -> Arc<Ticket> {
    let ticket = ticket();
    let encode = |command_buffer: &ProtocolObject<dyn MTLCommandBuffer>| {
        let encoder = command_buffer.blitCommandEncoder().expect("an encoder");
        let range = NSRange::new(range.start as usize, (range.end - range.start) as usize);
        encoder.fillBuffer_range_value(buffer, range, value);
        encoder.endEncoding();
    };
    // SAFETY: the part is in its buffer, whose memory the tests keep, and which nobody uses who is not ordered with this.
    unsafe { queue.submit(&ticket, encode) }.expect("the queue takes work");
    ticket
}
