//! Copies that the processor does in a stream's turn: refused half-way, and overtaken by the device's loss. One device for each test.

#![cfg(target_os = "linux")]

mod common;

use aquifer_backend::{Backend, BlockDesc, BlockRange, Command, CopyEnd, ErrorKind, Ticket};
use aquifer_cuda::{Cuda, CudaBlock, CudaOptions};
use software_cuda::Settings;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

const DEVICES: u32 = 3;
const MINUTE: Duration = Duration::from_secs(60);
/// The types of memory: the device's, and what is page-locked.
const DEVICE: usize = 0;
const PINNED: usize = 1;

fn device(ordinal: u32) -> Option<Cuda> {
    if common::is_real() {
        aquifer_testkit::skip("no real device fails when it is told to");
        return None;
    }
    let _is_first = software_cuda::configure(&Settings { device_count: DEVICES, ..Settings::default() });
    Some(Cuda::with_options(CudaOptions::default().ordinal(ordinal)).unwrap())
}

fn block(backend: &Cuda, memory_type: usize, bytes: usize) -> CudaBlock {
    backend.create_block(&BlockDesc::new(bytes as u64, memory_type)).unwrap()
}

#[test]
fn a_copy_of_which_some_is_queued_is_not_refused() {
    const OUT_OF_MEMORY: i32 = 2;
    const BYTES: usize = 3 << 20;
    let Some(backend) = device(0) else { return };
    let queue = backend.create_queue().unwrap();
    let destination = block(&backend, DEVICE, 4 << 20);
    let mut values = vec![2_u8; BYTES];
    let ticket = Arc::new(Ticket::default());
    let upload = Command::Copy {
        source: CopyEnd::Host(NonNull::from(values.as_mut_slice()).cast()),
        destination: CopyEnd::Block { block: &destination, offset: 0 },
        bytes: BYTES as u64,
    };
    let hold = queue.hold().unwrap();
    // The second of three pieces.
    software_cuda::fail_on_this_thread("cuLaunchHostFunc", 1, OUT_OF_MEMORY);
    // SAFETY: both ends are alive, and used by nobody else, until the queue has come to its end below.
    let queued = unsafe { backend.enqueue(&queue, upload, &ticket) };
    drop(hold);
    // SAFETY: nobody relies on the queue's value.
    unsafe { backend.signal(&queue, 1) }.unwrap();
    assert!(backend.wait(&queue, 1, MINUTE).unwrap());
    // An error would have told the core that both ends are free while the first piece is still to run.
    queued.expect("a piece was in the queue");
    let error = ticket.take_error().expect("the ticket tells that not all of it came");
    assert_eq!((error.kind(), ticket.done_bytes()), (ErrorKind::OutOfMemory, 0), "{error}");
    // SAFETY: the queue is idle.
    unsafe { backend.destroy_block(destination) }.unwrap();
}

#[test]
fn once_the_loss_is_told_the_processor_copies_nothing_more() {
    const BYTES: usize = 128 << 20;
    const LAUNCH_FAILED: i32 = 719;
    let Some(backend) = device(1) else { return };
    let queue = backend.create_queue().unwrap();
    let source = block(&backend, PINNED, BYTES);
    // SAFETY: the block is as long, and nobody else uses it.
    unsafe { backend.host_pointer(&source).unwrap().write_bytes(1, BYTES) };
    let mut values = vec![0_u8; BYTES];
    let destination = NonNull::from(values.as_mut_slice()).cast::<u8>();
    let read = |index: usize| {
        // SAFETY: the index is inside; who writes meanwhile writes whole bytes.
        let byte = unsafe { destination.add(index) };
        // SAFETY: as above.
        unsafe { byte.read_volatile() }
    };
    let copy = Command::Copy {
        source: CopyEnd::Block { block: &source, offset: 0 },
        destination: CopyEnd::Host(destination),
        bytes: BYTES as u64,
    };
    // SAFETY: both ends stay until the device is lost.
    unsafe { backend.enqueue(&queue, copy, &Arc::default()) }.unwrap();
    // Not the first byte, which may be written last.
    while read(BYTES / 16) == 0 {
        std::hint::spin_loop();
    }
    software_cuda::lose_device(1, LAUNCH_FAILED);
    let error = backend.wait(&queue, 1, Duration::ZERO).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
    // Where the copy ends, some ten milliseconds later.
    let end_by_then = read(BYTES - 1);
    // The context goes with them, and waits for its streams' threads.
    drop((queue, backend));
    assert_eq!(read(BYTES - 1), end_by_then, "the core had been told that nobody writes any more");
}

#[test]
fn memory_that_is_page_locked_in_part_is_copied_whole() {
    const BYTES: usize = 64 << 10;
    let Some(backend) = device(2) else { return };
    let queue = backend.create_queue().unwrap();
    let (locked, found) = (block(&backend, PINNED, BYTES), block(&backend, DEVICE, BYTES));
    // Page-locked from its middle, or up to it.
    let mut values: Vec<u8> = (0..2 * BYTES).map(|index| (index % 251) as u8).collect();
    let middle = values.as_ptr().align_offset(4096) + 8 * 4096;
    let start = NonNull::from(&mut values[middle]);
    // SAFETY: the memory is `values`', which outlives the block, and nobody writes it.
    let memory = unsafe { aquifer_backend::HostMemory::new(start, 4096, ()) };
    let imported = backend.import_block(memory, PINNED).unwrap();
    for (value, first) in [(1, middle), (2, middle - 4096)] {
        let upload = Command::Copy {
            source: CopyEnd::Host(NonNull::from(&mut values[first..first + 8192]).cast()),
            destination: CopyEnd::Block { block: &found, offset: 0 },
            bytes: 8192,
        };
        // SAFETY: both ends are alive, and used by nobody else, until the queue has come to its end.
        unsafe { backend.enqueue(&queue, upload, &Arc::default()) }.unwrap();
        // SAFETY: nobody relies on the queue's value.
        unsafe { backend.signal(&queue, value) }.unwrap();
        assert!(backend.wait(&queue, value, MINUTE).unwrap());
        let [from, to] = [&found, &locked].map(|block| BlockRange { block, offset: 0, bytes: 8192 });
        // SAFETY: nobody else uses the blocks.
        unsafe { backend.copy(from, to) }.unwrap();
        let start = backend.host_pointer(&locked).unwrap().as_ptr();
        // SAFETY: the block is longer than that, and nobody writes it now.
        let copied = unsafe { std::slice::from_raw_parts(start, 8192) };
        assert!(copied == &values[first..first + 8192]);
    }
    for block in [locked, found, imported] {
        // SAFETY: the queue is idle.
        unsafe { backend.destroy_block(block) }.unwrap();
    }
}
