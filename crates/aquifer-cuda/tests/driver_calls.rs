//! How often the driver is called: in what is done often, each call counts.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, BlockDesc, Command, CopyEnd, Ticket};
use aquifer_cuda::{Cuda, CudaBlock};
use software_cuda::calls_of_this_thread;
use std::sync::Arc;
use std::time::Duration;

const BYTES: u64 = 2 << 20;

/// How often a function was called meanwhile, by this thread.
fn calls(function: &str, run: impl FnOnce()) -> u64 {
    let before = calls_of_this_thread(function);
    run();
    calls_of_this_thread(function) - before
}

/// How often the device's context was entered.
fn entries(run: impl FnOnce()) -> u64 {
    calls("cuCtxGetCurrent", run)
}

fn copy<'a>(from: &'a CudaBlock, to: &'a CudaBlock) -> Command<'a, CudaBlock> {
    let [source, destination] = [from, to].map(|block| CopyEnd::Block { block, offset: 0 });
    Command::Copy { source, destination, bytes: BYTES }
}

#[test]
fn an_operation_enters_the_context_once() {
    if common::is_real() {
        aquifer_testkit::skip("only the driver in software counts its calls");
        return;
    }
    let backend: Cuda = common::cuda();
    let queue = backend.create_queue().unwrap();
    let block = |memory_type| backend.create_block(&BlockDesc::new(BYTES, memory_type)).unwrap();
    let (mut near, mut far) = (None, None);
    assert_eq!(entries(|| near = Some(block(0))), 1, "a block of whole physical pages");
    assert_eq!(entries(|| far = Some(block(1))), 1, "a block of page-locked memory");
    let (near, far) = (near.unwrap(), far.unwrap());
    let ticket = Arc::new(Ticket::default());
    // SAFETY: both blocks are used by nobody else until the queue has come to its end.
    let enqueue = || unsafe { backend.enqueue(&queue, copy(&far, &near), &ticket) }.unwrap();
    assert_eq!(entries(enqueue), 1);
    assert_eq!(calls("cuPointerGetAttribute", enqueue), 0, "both addresses are known");
    // SAFETY: nobody relies on the queue's value.
    assert_eq!(entries(|| unsafe { backend.signal(&queue, 1) }.unwrap()), 1);
    assert!(backend.wait(&queue, 1, Duration::from_secs(60)).unwrap());
    for block in [near, far] {
        // SAFETY: the queue is idle.
        assert_eq!(entries(|| unsafe { backend.destroy_block(block) }.unwrap()), 1);
    }
}
