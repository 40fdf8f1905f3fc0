//! What cannot be had is an error that says so, and what others do to the device is found out.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, BlockDesc, BlockRange, Command, ErrorKind};
use aquifer_core::{MemoryManager, MemoryOptions};
use aquifer_cuda::cudarc::driver::CudaContext;
use aquifer_cuda::{Cuda, CudaOptions, UnifiedMemory};
use aquifer_testkit::config_with_budget;
use common::{cuda, prepare, with};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn a_device_that_is_not_there_is_named() {
    prepare();
    let count = Cuda::device_count().unwrap();
    let error = Cuda::with_options(CudaOptions::default().ordinal(count)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains(&format!("device {count} asked for")), "{error}");
    assert!(Cuda::with_options(CudaOptions::default().ordinal(u32::MAX)).is_err());
}

#[test]
fn a_stream_of_the_programs_becomes_a_queue() {
    prepare();
    let context = CudaContext::new(0).unwrap();
    let backend = Cuda::with_context(&context, CudaOptions::default()).unwrap();
    let stream = context.new_stream().unwrap();
    let manager = MemoryManager::with_config(backend.clone(), config_with_budget(64 << 20)).unwrap();
    let queue = manager.adopt_queue(backend.adopt_stream(&stream).unwrap()).unwrap();
    assert_eq!(queue.raw().stream(), stream.cu_stream());
    let buffer = queue.allocate(1 << 20).unwrap();
    let (buffer, ticket) = (buffer, queue.signal().unwrap());
    drop(buffer);
    queue.wait(ticket, MINUTE).unwrap();
    // The program's own work on the stream is in order with it.
    stream.synchronize().unwrap();
    drop(queue);
    // Nobody else is given the stream.
    let other = manager.queue().unwrap();
    assert_ne!(other.raw().stream(), stream.cu_stream());
}

#[test]
fn a_queue_of_another_backend_is_refused() {
    let (one, other) = (cuda(), cuda());
    let manager = MemoryManager::with_config(one, config_with_budget(64 << 20)).unwrap();
    let error = manager.adopt_queue(other.create_queue().unwrap()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

#[test]
fn a_queue_that_was_used_is_not_adopted() {
    let backend = cuda();
    let queue = backend.create_queue().unwrap();
    // SAFETY: nobody relies on the queue's value.
    unsafe { backend.signal(&queue, 1) }.unwrap();
    assert!(backend.wait(&queue, 1, MINUTE).unwrap());
    let manager = MemoryManager::with_config(backend, config_with_budget(64 << 20)).unwrap();
    let error = manager.adopt_queue(queue).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
}

#[test]
fn managed_memory_has_a_limit() {
    let bytes_max = NonZeroU64::new(4 << 20).unwrap();
    let backend = with(CudaOptions::default().unified(UnifiedMemory::Managed { bytes_max }));
    let manager = MemoryManager::with_config(backend, config_with_budget(64 << 20)).unwrap();
    let held = manager.allocate_with(4 << 20, MemoryOptions::UNIFIED).unwrap();
    let error = manager.allocate_with(4 << 20, MemoryOptions::UNIFIED).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    drop(held);
    manager.allocate_with(2 << 20, MemoryOptions::UNIFIED).expect("it has been given back");
}

#[test]
fn holds_end_in_any_order() {
    let backend = cuda();
    let queue = backend.create_queue().unwrap();
    let (first, second) = (queue.hold().unwrap(), queue.hold().unwrap());
    // SAFETY: nobody relies on the queue's value.
    unsafe { backend.signal(&queue, 1) }.unwrap();
    drop(second);
    assert!(!backend.wait(&queue, 1, Duration::from_millis(20)).unwrap());
    drop(first);
    assert!(backend.wait(&queue, 1, MINUTE).unwrap());
    queue.wait_idle();
}

#[test]
fn a_hold_that_goes_after_its_queue_lets_the_stream_go() {
    const PINNED: usize = 1;
    let backend = cuda();
    let block = backend.create_block(&BlockDesc::new(4096, PINNED)).unwrap();
    let start = backend.host_pointer(&block).unwrap();
    // SAFETY: nobody else uses the block yet.
    unsafe { start.write_bytes(0, 4096) };
    // Once is no proof: the stream may look at the right time.
    for value in 1..=8 {
        let queue = backend.create_queue().unwrap();
        let hold = queue.hold().unwrap();
        let destination = BlockRange { block: &block, offset: 0, bytes: 4096 };
        // SAFETY: nobody else uses the block until the fill has run.
        unsafe { backend.enqueue(&queue, Command::Fill { destination, value }, &Arc::default()) }.unwrap();
        drop(queue);
        drop(hold);
        // Whoever comes next is given the word.
        let next = backend.create_queue().unwrap();
        let next_hold = next.hold().unwrap();
        let start_of_wait = Instant::now();
        // SAFETY: the byte is there, and is written as a whole.
        while unsafe { start.read_volatile() } != value {
            assert!(start_of_wait.elapsed() < MINUTE, "the stream waits for good");
            std::thread::yield_now();
        }
        drop((next_hold, next));
    }
    // SAFETY: the fills have run.
    unsafe { backend.destroy_block(block) }.unwrap();
}

#[test]
fn a_value_is_held_while_the_stream_runs_on() {
    let backend = cuda();
    let queue = backend.create_queue().unwrap();
    let (first, second) = (queue.hold_value(), queue.hold_value());
    // SAFETY: nobody relies on the queue's value, here and below.
    unsafe { backend.signal(&queue, 1) }.unwrap();
    queue.wait_idle();
    drop(first);
    assert_eq!(backend.completed(&queue).unwrap(), 0);
    assert!(!backend.wait(&queue, 1, Duration::from_millis(3)).unwrap());
    // Another queue's stream waits as it would for a stream that is held.
    let other = backend.create_queue().unwrap();
    backend.wait_on_queue(&other, &queue, 1).unwrap();
    // SAFETY: as above.
    unsafe { backend.signal(&other, 1) }.unwrap();
    assert!(!backend.wait(&other, 1, Duration::from_millis(3)).unwrap());
    drop(second);
    assert!(backend.wait(&queue, 1, MINUTE).unwrap());
    assert!(backend.wait(&other, 1, MINUTE).unwrap());
    // SAFETY: as above.
    unsafe { backend.signal(&queue, 2) }.unwrap();
    queue.wait_idle();
    assert_eq!(backend.completed(&queue).unwrap(), 2);
}
