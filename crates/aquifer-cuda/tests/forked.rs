//! In a forked process the driver is not called, and whoever asks is told.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, Error, ErrorKind};
use aquifer_cuda::{Cuda, CudaOptions};
use std::ptr;
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

fn is_forked<T>(answer: Result<T, Error>) -> bool {
    answer.is_err_and(|error| error.kind() == ErrorKind::Forked)
}

#[test]
fn in_a_forked_process_nothing_calls_the_driver() {
    if common::is_real() {
        aquifer_testkit::skip("the calls of a real driver are not counted");
        return;
    }
    let backend = common::cuda();
    let queue = backend.create_queue().unwrap();
    let hold = queue.hold().unwrap();
    // SAFETY: nobody relies on the queue's value.
    unsafe { backend.signal(&queue, 1) }.unwrap();
    let done = backend.create_queue().unwrap();
    // SAFETY: as above.
    unsafe { backend.signal(&done, 1) }.unwrap();
    assert!(backend.wait(&done, 1, MINUTE).unwrap());
    let calls = || software_cuda::calls("cuCtxGetCurrent") + software_cuda::calls("cuInit");
    let before = calls();
    // SAFETY: no other thread of this process holds a lock that the child takes: the stream's waits for the hold.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: ends the process if something blocks.
        unsafe { libc::alarm(60) };
        queue.wait_idle();
        // SAFETY: the default stream lives as long as its context.
        let adopted = unsafe { backend.adopt_raw_stream(ptr::null_mut()) };
        let are_refused = [
            is_forked(queue.hold()),
            is_forked(adopted),
            is_forked(backend.create_queue()),
            is_forked(backend.budget(0)),
            is_forked(Cuda::with_options(CudaOptions::default())),
            is_forked(Cuda::device_count()),
        ];
        // The word is the parent's, where the device writes it.
        let is_apart = backend.completed(&done).is_ok_and(|value| value == 0);
        let is_refused = is_forked(backend.wait(&queue, 1, Duration::ZERO));
        drop((done, queue, backend));
        let is_well = are_refused == [true; 6] && is_apart && is_refused && calls() == before;
        // SAFETY: ends the process, whatever the state of its memory.
        unsafe { libc::_exit(i32::from(!is_well)) };
    }
    let mut status = 0;
    // SAFETY: the child is this process's, and the status is written to a number of its own.
    let waited = unsafe { libc::waitpid(child, &raw mut status, 0) };
    assert_eq!((waited, status), (child, 0), "the child was refused nothing, called the driver, or hung");
    drop(hold);
    assert_eq!(backend.completed(&done).unwrap(), 1);
    assert!(backend.wait(&queue, 1, MINUTE).unwrap());
}
