//! What C++ sees, called the same way.

use super::*;
use std::thread;

fn open() -> *mut AqManager {
    software_cuda::install();
    // SAFETY: no policy is named.
    let manager = unsafe { aq_open(0, ptr::null()) };
    assert!(!manager.is_null(), "{}", last_error());
    manager
}

fn open_queue(manager: *mut AqManager) -> *mut AqQueue {
    // SAFETY: the tests pass open managers.
    let queue = unsafe { aq_queue_open(manager) };
    assert!(!queue.is_null(), "{}", last_error());
    queue
}

fn close(manager: *mut AqManager, queues: impl IntoIterator<Item = *mut AqQueue>) {
    for queue in queues {
        // SAFETY: the tests pass each queue once.
        unsafe { aq_queue_close(queue) };
    }
    // SAFETY: the tests close each manager once.
    unsafe { aq_close(manager) };
}

fn statistics(manager: *mut AqManager) -> AqStatistics {
    // SAFETY: the tests pass open managers.
    unsafe { aq_statistics(manager) }
}

fn last_error() -> String {
    // SAFETY: it is always text that ends with a zero byte.
    unsafe { CStr::from_ptr(aq_last_error()) }.to_string_lossy().into_owned()
}

fn empty() -> AqBuffer {
    AqBuffer { words: [MaybeUninit::uninit(); 6] }
}

#[test]
fn a_buffer_lies_in_the_callers_storage() {
    let manager = open();
    let queue = open_queue(manager);
    let mut buffer = empty();
    // SAFETY: the queue is open and the storage empty.
    let address = unsafe { aq_allocate(queue, 1000, &mut buffer) };
    assert!(address != 0 && address % 256 == 0, "{address:#x}: {}", last_error());
    // SAFETY: the storage holds a buffer.
    assert_eq!(unsafe { aq_address(&buffer) }, address);
    let counted = statistics(manager);
    assert!((1000..=counted.reserved_bytes).contains(&counted.live_bytes), "{counted:?}");
    assert!(counted.reserved_peak_bytes >= counted.reserved_bytes && counted.driver_call_count > 0);
    // SAFETY: the storage holds a buffer, which goes.
    unsafe { aq_free(&mut buffer) };
    assert_eq!(statistics(manager).live_bytes, 0);
    // SAFETY: the manager is open.
    let given_back = unsafe { aq_trim(manager) };
    assert!(given_back > 0 && given_back <= counted.reserved_bytes, "{given_back}");
    close(manager, [queue]);
}

#[test]
fn each_thread_has_a_queue_and_records_another() {
    let manager = open();
    let main = open_queue(manager) as usize;
    let shared = manager as usize;
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(move || {
                let own = open_queue(shared as *mut AqManager);
                let mut buffers: [AqBuffer; 8] = std::array::from_fn(|_| empty());
                for (index, buffer) in buffers.iter_mut().enumerate() {
                    // SAFETY: the queue is open and the storage empty.
                    let address = unsafe { aq_allocate(own, 4096 << index, buffer) };
                    assert_ne!(address, 0, "{}", last_error());
                    // SAFETY: the storage holds a buffer, and the queue is open.
                    assert_eq!(unsafe { aq_record_use(buffer, main as *const AqQueue) }, 0);
                }
                for buffer in &mut buffers {
                    // SAFETY: the storage holds a buffer, which goes.
                    unsafe { aq_free(buffer) };
                }
                // SAFETY: it is this thread's.
                unsafe { aq_queue_close(own) };
            });
        }
    });
    assert_eq!(statistics(manager).live_bytes, 0);
    close(manager, [main as *mut AqQueue]);
}

#[test]
fn what_fails_says_why() {
    // SAFETY: a text that ends with a zero byte.
    assert!(unsafe { aq_open(0, c"frugal".as_ptr()) }.is_null());
    assert!(last_error().contains("frugal"), "{}", last_error());

    // SAFETY: a text that ends with a zero byte.
    let manager = unsafe { aq_open(64 << 20, c"blocks".as_ptr()) };
    assert!(!manager.is_null(), "{}", last_error());
    let (queue, other) = (open_queue(manager), open());
    let foreign = open_queue(other);
    let mut buffer = empty();
    // SAFETY: the queue is open and the storage empty.
    assert_eq!(unsafe { aq_allocate(queue, 1 << 40, &mut buffer) }, 0);
    assert!(last_error().contains("can never fit"), "{}", last_error());
    // SAFETY: the queue is open and the storage still empty.
    assert_ne!(unsafe { aq_allocate(queue, 1 << 20, &mut buffer) }, 0);
    // SAFETY: the storage holds a buffer, and the queue is open.
    assert_eq!(unsafe { aq_record_use(&buffer, foreign) }, -1);
    assert!(last_error().contains("another manager"), "{}", last_error());
    // SAFETY: the storage holds a buffer, which goes.
    unsafe { aq_free(&mut buffer) };
    close(manager, [queue]);
    close(other, [foreign]);
}

#[test]
fn a_queue_has_a_stream() {
    let manager = open();
    let queue = open_queue(manager);
    // SAFETY: the queue is open.
    assert!(!unsafe { aq_queue_stream(queue) }.is_null());
    close(manager, [queue]);
}
