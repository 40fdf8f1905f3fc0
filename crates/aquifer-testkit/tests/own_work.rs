//! What a queue's own work, and who is told of its end, may do with the manager that it belongs to.

use aquifer_core::{ErrorKind, MemoryManager, MemoryOptions};
use aquifer_host::Host;
use aquifer_testkit::{Channel, config_with_budget};
use parking_lot::Mutex;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Wake};
use std::time::Duration;

/// Longer than anything here takes, but for a hang.
const LONG: Duration = Duration::from_secs(60);

fn manager() -> MemoryManager<Host> {
    let host = Host::new().expect("the system says how much memory it has");
    MemoryManager::with_config(host, config_with_budget(64 << 20)).expect("a budget")
}

/// The last buffer, and the last handle, may go in the work of their own queue: it does not wait for itself, and the state
/// goes when the work is done.
#[test]
fn the_last_of_a_manager_may_go_in_its_queues_own_work() {
    for is_buffer_last in [true, false] {
        let manager = manager();
        let queue = manager.queue().expect("a queue");
        let buffer = queue.allocate(4096).expect("there is room");
        let (go, done) = (Channel::new(1), Channel::new(1));
        let (of_work, told) = (go.clone(), done.clone());
        let handle = queue.clone();
        queue.raw().submit(move || {
            let () = of_work.receive();
            if is_buffer_last {
                drop(handle);
                drop(buffer);
            } else {
                drop(buffer);
                drop(handle);
            }
            told.send(());
        });
        drop(queue);
        drop(manager);
        go.send(());
        let () = done.receive();
    }
}

/// A closure that touches a buffer which its own queue may use is refused, instead of waiting for itself.
#[test]
fn work_that_waits_for_its_own_queue_is_refused() {
    let manager = manager();
    let queue = manager.queue().expect("a queue");
    let mut buffer = queue.allocate(4096).expect("there is room");
    let done = Channel::new(1);
    let told = done.clone();
    queue.raw().submit(move || told.send(buffer.write(0, &[1_u8]).map_err(|error| error.kind())));
    assert_eq!(done.receive(), Err(ErrorKind::Driver));
    queue.synchronize(LONG).expect("the queue goes on");
}

/// Memory that must be zero is cleared by its queue: who waits for it in line does not wait for the queue.
#[test]
fn zeroed_memory_of_a_queue_does_not_wait_for_the_queue() {
    let manager = manager();
    let queue = manager.queue().expect("a queue");
    let mut used = queue.allocate(4096).expect("there is room");
    used.fill(7).expect("a fill");
    drop(used);
    let go = Channel::new(1);
    let of_work = go.clone();
    queue.raw().submit(move || of_work.receive());
    let buffer = manager.allocate_async(4096).on(&queue).options(MemoryOptions::ZEROED).wait();
    let buffer = buffer.expect("there is room");
    go.send(());
    assert!(buffer.as_slice::<u8>().expect("visible").iter().all(|&byte| byte == 0));
}

type Call = Box<dyn FnOnce() + Send>;

/// Calls a function when it is woken first.
struct Calling(Mutex<Option<Call>>);

impl Wake for Calling {
    fn wake(self: Arc<Self>) {
        let call = self.0.lock().take();
        if let Some(call) = call {
            call();
        }
    }
}

/// A waker may wait for another operation, also for one that ended at the same time.
#[test]
fn a_waker_may_wait_for_another_operation() {
    let manager = manager();
    let queue = manager.queue().expect("a queue");
    let go = Channel::new(1);
    let of_work = go.clone();
    queue.raw().submit(move || of_work.receive());
    let [one, two] = [(); 2].map(|()| manager.allocate(4096).expect("there is room"));
    let mut one = pin!(queue.fill(one, 1).expect("it begins"));
    let two = queue.fill(two, 2).expect("it begins");
    let done = Channel::new(1);
    let told = done.clone();
    let call: Call = Box::new(move || told.send(two.wait().is_ok()));
    let waker = Arc::new(Calling(Mutex::new(Some(call)))).into();
    assert!(one.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    go.send(());
    assert!(done.receive());
}
