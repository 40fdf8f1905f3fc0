//! Queues of the backend itself: order, values, waiting, tickets.
//!
//! What memory holds is read by a queued copy to the host, so that these cases see it wherever queues do; where the host
//! has a pointer too, the two must agree.

use super::owned::Owned;
use crate::Pattern;
use aquifer_backend::{Backend, BlockRange, Capabilities, Command, CopyEnd, Error, ErrorKind, Ticket};
use std::mem::ManuallyDrop;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// Long enough for any device: it is over only when a case fails.
pub(super) const LONG: Duration = Duration::from_secs(60);

/// What copies and fills of these cases span at most.
const SPAN_BYTES: u64 = 3 << 20;

/// A queue, and the last value that was signalled.
///
/// Its drop waits, so that no work outlives the blocks that it uses: cases make their blocks before their queues.
struct Line<'a, B: Backend> {
    backend: &'a B,
    queue: B::Queue,
    value: u64,
}

impl<'a, B: Backend> Line<'a, B> {
    fn new(backend: &'a B) -> Self {
        Self { backend, queue: backend.create_queue().expect("a queue"), value: 0 }
    }

    fn enqueue(&self, command: Command<'_, B::Block>) -> Arc<Ticket> {
        let ticket = Arc::default();
        self.enqueue_with(command, &ticket);
        ticket
    }

    fn enqueue_with(&self, command: Command<'_, B::Block>, ticket: &Arc<Ticket>) {
        // SAFETY: the cases below give ranges in their blocks, which do not overlap and which live until this line is
        // dropped, and keep their hands off them until a value shows that the command has run.
        unsafe { self.backend.enqueue(&self.queue, command, ticket) }.expect("the queue takes a command");
    }

    fn fill(&self, block: &Owned<'_, B>, offset: u64, bytes: u64, value: u8) -> Arc<Ticket> {
        self.enqueue(Command::Fill { destination: block.range(offset, bytes), value })
    }

    /// Copies the first bytes of a block to the start of another.
    fn copy(&self, source: &Owned<'_, B>, destination: &Owned<'_, B>, bytes: u64) -> Arc<Ticket> {
        let (source, destination) =
            (block_end(source.range(0, bytes)), block_end(destination.range(0, bytes)));
        self.enqueue(Command::Copy { source, destination, bytes })
    }

    fn signal(&self, value: u64) -> Result<(), Error> {
        // SAFETY: the queue is this line's own.
        unsafe { self.backend.signal(&self.queue, value) }
    }

    /// Signals the next value.
    fn mark(&mut self) -> u64 {
        self.value += 1;
        self.signal(self.value).expect("the queue takes a marker");
        self.value
    }

    fn completed(&self) -> u64 {
        self.backend.completed(&self.queue).expect("a value")
    }

    fn wait(&self, value: u64, timeout: Duration) -> bool {
        self.backend.wait(&self.queue, value, timeout).expect("the device is there")
    }

    fn reach(&self, value: u64) {
        assert!(self.wait(value, LONG), "{value} is not reached: {}", self.completed());
        assert!(self.completed() >= value, "the wait saw {value}, the value is {}", self.completed());
    }

    /// Waits until everything in the queue has run.
    fn finish(&mut self) {
        let value = self.mark();
        self.reach(value);
    }

    /// Keeps what comes from running before `other` has come to `value`.
    fn wait_on(&self, other: &Self, value: u64) {
        self.backend.wait_on_queue(&self.queue, &other.queue, value).expect("the queue takes a wait");
    }

    fn upload(&mut self, bytes: Vec<u8>, destination: BlockRange<'_, B::Block>) {
        // Left alone if the queue does not come to its end: it may still read them.
        let mut bytes = ManuallyDrop::new(bytes);
        let length = bytes.len() as u64;
        let source = CopyEnd::Host(NonNull::new(bytes.as_mut_ptr()).expect("no vector is at null"));
        self.enqueue(Command::Copy { source, destination: block_end(destination), bytes: length });
        self.finish();
        drop(ManuallyDrop::into_inner(bytes));
    }

    fn download(&mut self, source: BlockRange<'_, B::Block>) -> Vec<u8> {
        // As above.
        let mut bytes = ManuallyDrop::new(vec![0xc3; source.bytes as usize]);
        let length = source.bytes;
        let destination = CopyEnd::Host(NonNull::new(bytes.as_mut_ptr()).expect("no vector is at null"));
        self.enqueue(Command::Copy { source: block_end(source), destination, bytes: length });
        self.finish();
        ManuallyDrop::into_inner(bytes)
    }

    /// What a block holds: what the queue reads, which the host must see too where it can.
    fn content(&mut self, block: &mut Owned<'_, B>) -> Vec<u8> {
        let bytes = block.bytes.min(SPAN_BYTES);
        let content = self.download(block.range(0, bytes));
        if self.backend.host_pointer(block.block()).is_some() {
            assert!(
                content == block.content()[..bytes as usize],
                "the host sees something else than the queue"
            );
        }
        content
    }
}

impl<B: Backend> Drop for Line<'_, B> {
    fn drop(&mut self) {
        let marked = self.signal(self.value + 1);
        let reached = marked.and_then(|()| self.backend.wait(&self.queue, self.value + 1, LONG));
        if !std::thread::panicking() {
            assert!(reached.expect("the device is there"), "a queue does not come to its end");
        }
    }
}

fn block_end<T>(range: BlockRange<'_, T>) -> CopyEnd<'_, T> {
    CopyEnd::Block { block: range.block, offset: range.offset }
}

/// A block of [`SPAN_BYTES`] or a little more, which is filled with a byte.
fn block<B: Backend>(backend: &B, value: u8) -> Owned<'_, B> {
    let mut block = Owned::new(backend, SPAN_BYTES.div_ceil(backend.properties().block_granularity_bytes));
    block.fill(0, block.bytes, value);
    block
}

/// The pattern that a seed gives.
fn pattern(seed: u64, bytes: u64) -> Vec<u8> {
    let mut pattern = vec![0; bytes as usize];
    Pattern::new(seed).bytes(0, &mut pattern);
    pattern
}

/// Queues can be made where the device says so, and elsewhere the answer is [`ErrorKind::Unsupported`].
pub fn there_are_queues_exactly_where_promised<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let is_promised = backend.properties().capabilities.contains(Capabilities::QUEUES);
    match backend.create_queue() {
        Ok(_) => assert!(is_promised, "there are queues that are not promised"),
        Err(error) => assert!(!is_promised && error.kind() == ErrorKind::Unsupported, "{error}"),
    }
}

/// A new queue's value is 0, whatever other queues have come to.
pub fn a_new_queue_has_the_value_0<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let mut first = Line::new(&backend);
    assert_eq!(first.completed(), 0);
    assert!(first.wait(0, Duration::ZERO), "0 is reached from the beginning");
    first.finish();
    let second = Line::new(&backend);
    assert_eq!((first.completed(), second.completed()), (1, 0));
}

/// A queue comes to one value after the other, never falls, and never runs ahead of what was signalled.
pub fn values_rise_in_order<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let block = block(&backend, 0);
    let mut line = Line::new(&backend);
    let mut last = 0;
    for round in 0..200 {
        if round % 3 == 0 {
            line.fill(&block, 0, SPAN_BYTES / 16, round as u8);
        }
        let value = line.mark();
        let now = line.completed();
        assert!(last <= now && now <= value, "{now} after {last}, with {value} signalled");
        last = now;
        if round % 7 == 0 {
            line.reach(value - value / 2);
            line.reach(value);
            last = line.completed();
            assert_eq!(last, value);
        }
    }
    line.reach(1);
    line.reach(200);
    assert_eq!(line.completed(), 200);
}

/// When a value is reached, the copies and fills before it have happened, to their bytes and no others.
pub fn what_is_before_a_reached_value_has_happened<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let (mut one, mut other) = (block(&backend, 1), block(&backend, 2));
    let mut line = Line::new(&backend);
    for (offset, bytes) in [(0, SPAN_BYTES), (0, 1), (1, 255), (4095, 70_001), (SPAN_BYTES - 1, 1), (13, 0)] {
        line.fill(&one, 0, SPAN_BYTES, 1);
        line.fill(&other, 0, SPAN_BYTES, 2);
        line.fill(&one, offset, bytes, 0x5c);
        // From the middle, so that source and destination differ in alignment.
        let (from, to) = (offset / 2, offset);
        let (source, destination) = (block_end(one.range(from, bytes)), block_end(other.range(to, bytes)));
        line.enqueue(Command::Copy { source, destination, bytes });
        line.finish();
        let mut expected = [vec![1; SPAN_BYTES as usize], vec![2; SPAN_BYTES as usize]];
        let span = |start: u64| start as usize..(start + bytes) as usize;
        expected[0][span(offset)].fill(0x5c);
        let copied = expected[0][span(from)].to_vec();
        expected[1][span(to)].copy_from_slice(&copied);
        assert!(line.content(&mut one) == expected[0], "fill of {bytes} at {offset}");
        assert!(line.content(&mut other) == expected[1], "copy of {bytes} from {from} to {to}");
    }
}

/// Commands of one queue run one after the other, in the order in which they came, without a marker between.
pub fn commands_run_in_order<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let source = block(&backend, 0);
    let mut copies: Vec<_> = (0..4).map(|_| block(&backend, 0)).collect();
    let mut line = Line::new(&backend);
    for round in 1..=3 {
        for (index, copy) in copies.iter().enumerate() {
            line.fill(&source, 0, SPAN_BYTES, round * 10 + index as u8);
            line.copy(&source, copy, SPAN_BYTES);
            // Stays to the end of the last round only: the next copy covers it.
            line.fill(copy, 0, 100, round);
        }
    }
    line.finish();
    for (index, copy) in copies.iter_mut().enumerate() {
        let content = line.content(copy);
        let (beginning, rest) = content.split_at(100);
        assert!(beginning.iter().all(|&byte| byte == 3), "copy {index}: its last fill came too early");
        assert!(rest.iter().all(|&byte| byte == 30 + index as u8), "copy {index}: {}", rest[0]);
    }
}

/// Memory of the host is a source and a destination, at odd places too.
pub fn host_memory_is_copied_both_ways<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let mut block = block(&backend, 7);
    let mut line = Line::new(&backend);
    let mut expected = vec![7; SPAN_BYTES as usize];
    for (offset, bytes) in [(0, SPAN_BYTES), (3, 1), (255, 4099), (SPAN_BYTES - 70_001, 70_001), (5, 0)] {
        let sent = pattern(offset, bytes);
        expected[offset as usize..(offset + bytes) as usize].copy_from_slice(&sent);
        line.upload(sent.clone(), block.range(offset, bytes));
        assert!(line.download(block.range(offset, bytes)) == sent, "{bytes} bytes at {offset}");
        assert!(line.content(&mut block) == expected, "around {bytes} bytes at {offset}");
    }
}

/// A ticket says, when its command has run, that all has arrived and nothing went wrong.
pub fn tickets_count_what_arrives<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let (one, other) = (block(&backend, 1), block(&backend, 2));
    let mut line = Line::new(&backend);
    let sizes = [SPAN_BYTES, 1, 0, 70_001];
    let tickets = sizes.map(|bytes| [line.fill(&one, 0, bytes, 3), line.copy(&one, &other, bytes)]);
    line.finish();
    for (bytes, tickets) in sizes.into_iter().zip(tickets) {
        for ticket in tickets {
            assert_eq!(ticket.done_bytes(), bytes);
            assert!(ticket.take_error().is_none() && !ticket.is_cancelled());
        }
    }
}

/// A wait for what nobody has signalled ends with its time, and says so; when it has come, it is seen.
pub fn a_value_that_nobody_signalled_times_out<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let mut line = Line::new(&backend);
    for value in 1..=3 {
        assert!(!line.wait(value, Duration::ZERO));
        assert!(!line.wait(value, Duration::from_millis(3)));
        assert!(!line.wait(u64::MAX, Duration::from_millis(1)));
        assert_eq!(line.completed(), value - 1);
        line.finish();
        assert!(line.wait(value, Duration::ZERO));
    }
}

/// What a queue is given after a wait for another sees what the other did before.
pub fn one_queue_waits_for_another<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let (source, mut copy) = (block(&backend, 0), block(&backend, 0));
    let (mut writer, mut reader) = (Line::new(&backend), Line::new(&backend));
    for round in 1..=10 {
        // Much before the fill that counts, so that a reader that does not wait is early.
        (0..10).for_each(|_| drop(writer.fill(&source, 0, SPAN_BYTES, 0xff)));
        writer.fill(&source, 0, SPAN_BYTES, round);
        let value = writer.mark();
        reader.wait_on(&writer, value);
        reader.copy(&source, &copy, SPAN_BYTES);
        reader.finish();
        assert!(writer.completed() >= value, "the reader passed the writer in round {round}");
        assert!(reader.content(&mut copy).iter().all(|&byte| byte == round), "round {round}");
    }
    // What is reached already holds nothing up, on the same queue neither.
    reader.wait_on(&writer, 1);
    let own = reader.mark();
    reader.wait_on(&reader, own);
    reader.finish();
}

/// Two queues that wait for each other in turn work on one block as one.
pub fn queues_take_turns<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let mut blocks = [block(&backend, 1), block(&backend, 0)];
    let mut lines = [Line::new(&backend), Line::new(&backend)];
    let mut last = None;
    for turn in 0..40_u64 {
        let [here, there] = [turn % 2, (turn + 1) % 2].map(|index| index as usize);
        if let Some(value) = last {
            lines[here].wait_on(&lines[there], value);
        }
        // Each turn moves the content to the other block, and adds a byte of its own.
        lines[here].copy(&blocks[here], &blocks[there], SPAN_BYTES);
        lines[here].fill(&blocks[there], turn, 1, 100 + turn as u8);
        lines[here].fill(&blocks[here], 0, SPAN_BYTES, 0xee);
        last = Some(lines[here].mark());
    }
    let mut expected = vec![1; SPAN_BYTES as usize];
    (0..40).for_each(|turn| expected[turn] = 100 + turn as u8);
    // The last turn was the second queue's, to the first block.
    lines[1].finish();
    let [_, line] = &mut lines;
    assert!(line.content(&mut blocks[0]) == expected);
    assert!(line.content(&mut blocks[1]).iter().all(|&byte| byte == 0xee));
}

/// A cancelled command does all, nothing, or a part, of its own only; values come, and so does what follows it.
pub fn what_is_cancelled_holds_nothing_up<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let (mut cancelled, mut other) = (block(&backend, 1), block(&backend, 1));
    let mut line = Line::new(&backend);
    let tickets: Vec<_> = (0..20)
        .map(|round| {
            let ticket = Arc::default();
            if round % 2 == 0 {
                Ticket::cancel(&ticket);
            }
            let destination = cancelled.range(10, SPAN_BYTES - 20);
            line.enqueue_with(Command::Fill { destination, value: 2 }, &ticket);
            ticket.cancel();
            ticket
        })
        .collect();
    line.fill(&other, 0, SPAN_BYTES, 3);
    line.finish();
    for ticket in &tickets {
        assert!(ticket.is_cancelled() && ticket.done_bytes() <= SPAN_BYTES - 20, "{ticket:?}");
    }
    assert!(line.content(&mut other).iter().all(|&byte| byte == 3), "what followed did not run");
    let content = line.content(&mut cancelled);
    let (inner, end) = content[10..].split_at(SPAN_BYTES as usize - 20);
    assert!(content[..10].iter().chain(end).all(|&byte| byte == 1), "bytes outside of it changed");
    assert!(inner.iter().all(|byte| [1, 2].contains(byte)));
}

/// Queues can be made, used and dropped again and again, and several exist at once.
pub fn queues_come_and_go<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let blocks: Vec<_> = (0..3).map(|_| block(&backend, 0)).collect();
    for round in 0..20 {
        let mut lines: Vec<_> = blocks.iter().map(|_| Line::new(&backend)).collect();
        for (line, block) in lines.iter_mut().zip(&blocks) {
            line.fill(block, 0, SPAN_BYTES / 8, round);
            line.mark();
        }
        // Some are dropped while they work: that waits.
        if round % 2 == 0 {
            lines.iter().for_each(|line| line.reach(1));
        }
    }
    let mut line = Line::new(&backend);
    for block in &blocks {
        assert!(line.download(block.range(0, SPAN_BYTES / 8)).iter().all(|&byte| byte == 19));
    }
}
