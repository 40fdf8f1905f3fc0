use super::*;
use crate::Host;
use aquifer_backend::{Backend, BlockDesc, BlockRange, CopyEnd};
use aquifer_testkit::Channel;
use std::ptr::NonNull;

/// Long enough for any machine: it is over only when a test fails.
const LONG: Duration = Duration::from_secs(60);

fn reach(queue: &HostQueue, value: u64) {
    assert!(queue.wait(value, LONG).unwrap(), "{value} is not reached: {}", queue.completed());
}

/// Holds a queue up until it is dropped, also by a test that fails: else the queue's own drop would wait for ever.
struct Gate(Channel<()>);

impl Drop for Gate {
    fn drop(&mut self) {
        self.0.send(());
    }
}

/// Returns when the queue's thread stands at the gate.
fn hold_up(queue: &HostQueue) -> Gate {
    let (begun, go) = (Channel::new(1), Channel::new(1));
    let (of_queue, gate) = (begun.clone(), go.clone());
    queue.submit(move || {
        of_queue.send(());
        let () = gate.receive();
    });
    let () = begun.receive();
    Gate(go)
}

/// Appends `number` to what has happened when the queue comes to it.
fn note(queue: &HostQueue, events: &Arc<Mutex<Vec<u32>>>, number: u32) {
    let events = Arc::clone(events);
    queue.submit(move || events.lock().push(number));
}

/// A block. It stays mapped unless it is destroyed, so that a failed test pulls none away under a queue.
fn block(host: &Host, bytes: u64) -> HostBlock {
    host.create_block(&BlockDesc::new(bytes, 0)).unwrap()
}

fn content<'a>(host: &Host, block: &'a mut HostBlock) -> &'a mut [u8] {
    let start = host.host_pointer(block).unwrap();
    // SAFETY: the block is readable, writable and initialised over its size; it is borrowed exclusively, and the tests
    // below call this when its queues have passed.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), block.bytes()) }
}

fn destroy(host: &Host, block: HostBlock) {
    // SAFETY: the tests below use no block after this, and their queues have passed.
    unsafe { host.destroy_block(block) }.unwrap();
}

fn fill(queue: &HostQueue, destination: BlockRange<'_, HostBlock>, value: u8) -> Arc<Ticket> {
    let ticket = Arc::default();
    // SAFETY: the range lies in its block, which the tests below keep, and leave alone until the queue has passed.
    unsafe { queue.enqueue(Command::Fill { destination, value }, &ticket) };
    ticket
}

fn copy(queue: &HostQueue, source: &HostBlock, destination: CopyEnd<'_, HostBlock>) -> Arc<Ticket> {
    let (ticket, bytes) = (Arc::default(), source.bytes() as u64);
    let source = CopyEnd::Block { block: source, offset: 0 };
    // SAFETY: the ends are as long as the source and do not overlap, and the tests below keep them, and leave them alone
    // until the queue has passed.
    unsafe { queue.enqueue(Command::Copy { source, destination, bytes }, &ticket) };
    ticket
}

fn whole(block: &HostBlock) -> BlockRange<'_, HostBlock> {
    BlockRange { block, offset: 0, bytes: block.bytes() as u64 }
}

#[test]
fn queues_may_cross_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<HostQueue>();
}

#[test]
fn work_runs_in_order_and_on_a_thread_of_its_own() {
    let queue = HostQueue::new().unwrap();
    let events = Arc::default();
    for number in 0..1000 {
        note(&queue, &events, number);
    }
    let name = Arc::new(Mutex::new(None));
    let of_queue = Arc::clone(&name);
    queue.submit(move || *of_queue.lock() = thread::current().name().map(str::to_owned));
    queue.signal(1);
    reach(&queue, 1);
    assert_eq!(*events.lock(), (0..1000).collect::<Vec<_>>());
    assert_eq!(name.lock().as_deref(), Some("aquifer-queue"));
}

#[test]
fn an_idle_queue_takes_a_marker_at_once() {
    let queue = HostQueue::new().unwrap();
    assert_eq!(queue.completed(), 0);
    for value in 1..100 {
        queue.signal(value);
        assert_eq!(queue.completed(), value);
    }
    // Also when it has become idle again: the worker has run the job, and may be on its way to sleep.
    drop(hold_up(&queue));
    queue.signal(100);
    reach(&queue, 100);
    queue.signal(101);
    assert_eq!(queue.completed(), 101);
}

#[test]
fn values_never_fall_and_come_after_their_work() {
    let queue = Arc::new(HostQueue::new().unwrap());
    let events = Arc::default();
    let watcher = {
        let (queue, events) = (Arc::clone(&queue), Arc::clone(&events));
        thread::spawn(move || {
            let mut last = 0;
            while last < 500 {
                let value = queue.completed();
                assert!(value >= last, "{value} after {last}");
                last = value;
                let count = Mutex::<Vec<u32>>::lock(&events).len();
                assert!(count as u64 >= value, "{value} after {count} pieces of work");
                thread::yield_now();
            }
        })
    };
    for value in 1..=500 {
        note(&queue, &events, 0);
        queue.signal(value);
    }
    watcher.join().unwrap();
}

#[test]
fn a_wait_for_a_queue_that_is_held_up_times_out_and_succeeds_later() {
    let queue = HostQueue::new().unwrap();
    let gate = hold_up(&queue);
    queue.signal(1);
    assert_eq!(queue.completed(), 0);
    assert!(!queue.wait(1, Duration::ZERO).unwrap());
    assert!(!queue.wait(1, Duration::from_millis(5)).unwrap());
    assert!(queue.wait(0, Duration::ZERO).unwrap());
    drop(gate);
    // As long as there is.
    assert!(queue.wait(1, Duration::MAX).unwrap());
    assert!(queue.wait(1, Duration::ZERO).unwrap());
}

#[test]
fn all_who_wait_are_woken() {
    let queue = Arc::new(HostQueue::new().unwrap());
    let gate = hold_up(&queue);
    let waiters: Vec<_> = (1..=6)
        .map(|value| {
            let queue = Arc::clone(&queue);
            thread::spawn(move || reach(&queue, value))
        })
        .collect();
    (1..=5).for_each(|value| queue.signal(value));
    drop(gate);
    reach(&queue, 5);
    // This one by a marker that no worker carries.
    queue.signal(6);
    waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
}

#[test]
fn one_queue_waits_for_another() {
    let (one, other) = (HostQueue::new().unwrap(), HostQueue::new().unwrap());
    let events = Arc::default();
    let gate = hold_up(&other);
    note(&other, &events, 1);
    other.signal(1);
    one.wait_on(&other, 1);
    note(&one, &events, 2);
    one.signal(1);
    assert!(!one.wait(1, Duration::from_millis(5)).unwrap(), "it did not wait");
    drop(gate);
    reach(&one, 1);
    assert_eq!(*events.lock(), [1, 2]);
    // What is reached already leaves the queue idle.
    one.wait_on(&other, 1);
    one.signal(2);
    assert_eq!(one.completed(), 2);
}

#[test]
fn a_queue_that_is_gone_keeps_nobody_waiting() {
    let (one, other) = (HostQueue::new().unwrap(), HostQueue::new().unwrap());
    one.wait_on(&other, 7);
    one.signal(1);
    assert_eq!(one.completed(), 0);
    drop(other);
    reach(&one, 1);
}

#[test]
fn copies_and_fills_arrive_whole() {
    let host = Host::new().unwrap();
    // Some chunks, and a part of one.
    let bytes = 3 * (1 << 20) + (64 << 10);
    let mut read = vec![0_u8; bytes as usize];
    let queue = HostQueue::new().unwrap();
    let (mut a, mut b) = (block(&host, bytes), block(&host, bytes));
    for (index, byte) in content(&host, &mut a).iter_mut().enumerate() {
        *byte = (index % 251) as u8;
    }
    let copied = copy(&queue, &a, CopyEnd::Block { block: &b, offset: 0 });
    let filled = fill(&queue, BlockRange { block: &b, offset: 5, bytes: 2 << 20 }, 0xee);
    let downloaded = copy(&queue, &b, CopyEnd::Host(NonNull::new(read.as_mut_ptr()).unwrap()));
    let nothing = fill(&queue, BlockRange { block: &a, offset: bytes, bytes: 0 }, 1);
    queue.signal(1);
    reach(&queue, 1);
    let mut expected = content(&host, &mut a).to_vec();
    expected[5..5 + (2 << 20)].fill(0xee);
    assert!(content(&host, &mut b) == expected);
    assert!(read == expected);
    let done = [copied, filled, downloaded, nothing].map(|ticket| ticket.done_bytes());
    assert_eq!(done, [bytes, 2 << 20, bytes, 0]);
    destroy(&host, a);
    destroy(&host, b);
}

#[test]
fn what_is_cancelled_before_it_runs_does_nothing() {
    let host = Host::new().unwrap();
    let queue = HostQueue::new().unwrap();
    let mut block = block(&host, 4 << 20);
    let gate = hold_up(&queue);
    let ticket = fill(&queue, whole(&block), 1);
    queue.signal(1);
    ticket.cancel();
    drop(gate);
    reach(&queue, 1);
    assert_eq!(ticket.done_bytes(), 0);
    assert!(ticket.take_error().is_none());
    assert!(content(&host, &mut block).iter().all(|&byte| byte == 0));
    destroy(&host, block);
}

#[test]
fn what_is_cancelled_midway_has_done_what_it_says() {
    let host = Host::new().unwrap();
    let queue = HostQueue::new().unwrap();
    let mut block = block(&host, 64 << 20);
    let ticket = fill(&queue, whole(&block), 1);
    queue.signal(1);
    while ticket.done_bytes() == 0 {
        thread::yield_now();
    }
    ticket.cancel();
    reach(&queue, 1);
    // Where the machine gave this thread no turn, that is everything.
    let done = ticket.done_bytes() as usize;
    let content = content(&host, &mut block);
    assert!(done > 0 && content[..done].iter().all(|&byte| byte == 1), "{done}");
    assert!(content[done..].iter().all(|&byte| byte == 0), "{done}");
    destroy(&host, block);
}

#[test]
fn a_closure_that_panics_does_not_stop_the_queue() {
    /// A payload that panics when it is dropped.
    struct Nasty;
    impl Drop for Nasty {
        fn drop(&mut self) {
            // What this throws is leaked, so it has no size.
            std::panic::resume_unwind(Box::new(()));
        }
    }
    let queue = HostQueue::new().unwrap();
    // Without the hook, which would print.
    queue.submit(|| std::panic::resume_unwind(Box::new("the closure panics")));
    queue.submit(|| std::panic::resume_unwind(Box::new(Nasty)));
    queue.signal(1);
    reach(&queue, 1);
    assert_eq!(queue.panic_count(), 2);
    let events = Arc::default();
    note(&queue, &events, 1);
    queue.signal(2);
    reach(&queue, 2);
    assert_eq!(*events.lock(), [1]);
    assert_eq!(queue.panic_count(), 2);
}

#[test]
fn dropping_a_queue_runs_what_is_left() {
    let events = Arc::default();
    let queue = HostQueue::new().unwrap();
    let gate = hold_up(&queue);
    for number in 0..100 {
        note(&queue, &events, number);
    }
    drop(gate);
    drop(queue);
    assert_eq!(*events.lock(), (0..100).collect::<Vec<_>>());
    assert_eq!(Arc::strong_count(&events), 1, "every closure is gone");
}

#[test]
fn a_queue_dropped_by_its_own_thread_runs_what_is_left_and_ends() {
    let queue = Arc::new(HostQueue::new().unwrap());
    let gate = hold_up(&queue);
    let shared = Arc::clone(&queue.shared);
    let last = Arc::clone(&queue);
    queue.submit(move || drop(last));
    let events = Arc::default();
    note(&queue, &events, 1);
    drop(queue);
    drop(gate);
    shared.wait_or_over(u64::MAX);
    assert_eq!(*events.lock(), [1]);
}

#[test]
fn many_threads_share_a_queue() {
    let queue = Arc::new(HostQueue::new().unwrap());
    let events = Arc::default();
    let threads: Vec<_> = (0..4)
        .map(|thread_index| {
            let (queue, events) = (Arc::clone(&queue), Arc::clone(&events));
            thread::spawn(move || {
                (0..200).for_each(|index| note(&queue, &events, thread_index * 1000 + index));
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    queue.signal(1);
    reach(&queue, 1);
    let events = events.lock();
    assert_eq!(events.len(), 800);
    for thread_index in 0..4 {
        let of_thread = events.iter().filter(|&&number| number / 1000 == thread_index);
        assert!(of_thread.is_sorted(), "work of thread {thread_index} was reordered");
    }
}

#[test]
fn a_closure_that_waits_for_its_own_queue_is_refused() {
    let queue = Arc::new(HostQueue::new().unwrap());
    let (answer, answered) = std::sync::mpsc::channel();
    let own = Arc::clone(&queue);
    queue.submit(move || {
        own.signal(1);
        answer.send(own.wait(1, LONG).map_err(|error| error.kind())).unwrap();
    });
    assert_eq!(answered.recv().unwrap(), Err(ErrorKind::Driver));
    assert!(queue.wait(1, LONG).unwrap());
}
