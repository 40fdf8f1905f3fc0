//! Queues whose stream a graph is captured on, or may be: the driver answers as it does then. One device for each test.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, ErrorKind};
use aquifer_cuda::{Cuda, CudaOptions};
use software_cuda::{Settings, calls_of_this_thread, fail_on_this_thread};
use std::time::Duration;

const DEVICES: u32 = 4;
const MINUTE: Duration = Duration::from_secs(60);
/// What questions about the default stream are answered while a stream that it orders with is captured.
const IMPLICIT: i32 = 906;
/// What a stream that is captured says to what would wait for it.
const UNSUPPORTED: i32 = 900;

fn device(ordinal: u32) -> Option<Cuda> {
    if common::is_real() {
        aquifer_testkit::skip("no real device answers as it is told to");
        return None;
    }
    let _is_first = software_cuda::configure(&Settings { device_count: DEVICES, ..Settings::default() });
    Some(Cuda::with_options(CudaOptions::default().ordinal(ordinal)).unwrap())
}

#[test]
fn a_capture_elsewhere_is_no_error_of_who_waits() {
    let Some(backend) = device(0) else { return };
    let queue = backend.create_queue().unwrap();
    let hold = queue.hold().unwrap();
    // SAFETY: nobody relies on the queue's value.
    unsafe { backend.signal(&queue, 1) }.unwrap();
    for function in ["cuStreamIsCapturing", "cuStreamQuery"] {
        fail_on_this_thread(function, 0, IMPLICIT);
        assert!(!backend.wait(&queue, 1, Duration::ZERO).unwrap(), "{function}");
    }
    drop(hold);
    assert!(backend.wait(&queue, 1, MINUTE).unwrap());
}

#[test]
fn a_stream_that_is_captured_is_not_waited_for() {
    let Some(backend) = device(1) else { return };
    let queue = backend.create_queue().unwrap();
    // Were it waited for, this would hang.
    let hold = queue.hold().unwrap();
    fail_on_this_thread("cuStreamIsCapturing", 0, IMPLICIT);
    let before = calls_of_this_thread("cuStreamSynchronize");
    queue.wait_idle();
    assert_eq!(calls_of_this_thread("cuStreamSynchronize"), before);
    drop(hold);
    queue.wait_idle();
    assert_eq!(calls_of_this_thread("cuStreamSynchronize"), before + 1);
}

#[test]
fn a_marker_that_a_graph_may_have_taken_says_nothing_more() {
    let Some(backend) = device(2) else { return };
    let queue = backend.create_queue().unwrap();
    let hold = queue.hold().unwrap();
    // SAFETY: nobody relies on the queue's value, here and below.
    unsafe { backend.signal(&queue, 1) }.unwrap();
    // The question before the marker is answered; the one behind it says that a capture has begun meanwhile.
    fail_on_this_thread("cuStreamIsCapturing", 1, UNSUPPORTED);
    // SAFETY: as above.
    let error = unsafe { backend.signal(&queue, 2) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Driver, "{error}");
    drop(hold);
    queue.wait_idle();
    // The marker has run, as it would in a graph, and is not taken for the queue's; who waits is told of what was signalled before.
    assert!(backend.wait(&queue, 1, MINUTE).unwrap());
    queue.wait_idle();
    assert_eq!(backend.completed(&queue).unwrap(), 1);
    // SAFETY: as above.
    unsafe { backend.signal(&queue, 3) }.unwrap();
    assert!(backend.wait(&queue, 3, MINUTE).unwrap());
}

#[test]
fn a_stream_waits_for_one_whose_marker_a_graph_may_have_taken() {
    let Some(backend) = device(3) else { return };
    let [first, second] = [(); 2].map(|()| backend.create_queue().unwrap());
    let hold = first.hold().unwrap();
    // SAFETY: nobody relies on the queues' values, here and below.
    unsafe { backend.signal(&first, 1) }.unwrap();
    fail_on_this_thread("cuStreamIsCapturing", 1, UNSUPPORTED);
    // SAFETY: as above.
    unsafe { backend.signal(&first, 2) }.unwrap_err();
    backend.wait_on_queue(&second, &first, 1).unwrap();
    // SAFETY: as above.
    unsafe { backend.signal(&second, 1) }.unwrap();
    assert!(!backend.wait(&second, 1, Duration::from_millis(5)).unwrap());
    drop(hold);
    assert!(backend.wait(&second, 1, MINUTE).unwrap());
}
