//! What transfers wait for: queues that use their buffers, and other transfers of the same views.

mod simulated;

use aquifer::sim::{Access, Kernel, Sim};
use aquifer::{Buffer, CopyDesc, Queue};
use simulated::{close, content, discrete, pattern, run, zeroed};

const BYTES: usize = 500_000;

/// A program that writes `value` to every byte of a buffer when it ends, a second of virtual time from now.
fn write_late(sim: &Sim, queue: &Queue<Sim>, buffer: &Buffer<Sim>, value: u8) {
    let address = buffer.device_address().unwrap();
    let kernel = Kernel::new([Access::write(address, BYTES as u64)]).lasting(1_000_000_000);
    let program = move |memory: &mut aquifer::sim::KernelMemory| memory.write(address, &vec![value; BYTES]);
    // SAFETY: the buffer lives until the queue has passed the kernel, and the host has no pointer to device memory.
    unsafe { sim.launch_program(queue.raw(), kernel, program) }.unwrap();
}

/// A program that checks that every byte of a buffer is `value`, for a second from now.
fn read_late(sim: &Sim, queue: &Queue<Sim>, buffer: &Buffer<Sim>, value: u8) {
    let address = buffer.device_address().unwrap();
    let kernel = Kernel::new([Access::read(address, BYTES as u64)]).lasting(1_000_000_000);
    let program = move |memory: &mut aquifer::sim::KernelMemory| {
        assert!(memory.expect(address, &vec![value; BYTES]));
    };
    // SAFETY: as in `write_late`.
    unsafe { sim.launch_program(queue.raw(), kernel, program) }.unwrap();
}

#[test]
fn what_is_downloaded_is_what_a_queue_writes_before() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let (home, other) = (manager.queue().unwrap(), manager.queue().unwrap());
    for is_recorded in [false, true] {
        let buffer = home.allocate(BYTES as u64).unwrap();
        let queue = if is_recorded { &other } else { &home };
        buffer.record_use(queue).unwrap();
        write_late(&sim, queue, &buffer, 5);
        assert!(content(&transfers, &buffer) == [5; BYTES]);
        write_late(&sim, queue, &buffer, 6);
        let transfer = transfers.download_async(buffer, 0, vec![0_u8; BYTES]).unwrap();
        assert!(!transfer.is_over());
        let (buffer, back) = transfer.wait().unwrap();
        assert!(back == [6; BYTES]);
        write_late(&sim, queue, &buffer, 7);
        let mut copy = zeroed(&manager, BYTES);
        transfers.copy(&buffer, &mut copy).unwrap();
        assert!(content(&transfers, &copy) == [7; BYTES]);
    }
    drop((home, other, transfers));
    close(&sim, manager);
}

#[test]
fn what_a_queue_reads_is_overwritten_after_that() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let queue = manager.queue().unwrap();
    let mut buffer = manager.allocate(BYTES as u64).unwrap();
    buffer.record_use(&queue).unwrap();
    transfers.fill(&mut buffer, 0..BYTES as u64, 1).unwrap();
    read_late(&sim, &queue, &buffer, 1);
    transfers.upload(&[2_u8; BYTES], &mut buffer, 0).unwrap();
    read_late(&sim, &queue, &buffer, 2);
    let transfer = transfers.fill_async(buffer, 0..BYTES as u64, 3).unwrap();
    run(&sim, &transfers, || transfer.is_over());
    let buffer = transfer.wait().unwrap();
    read_late(&sim, &queue, &buffer, 3);
    let (buffer, _) = transfers.upload_async(vec![4_u8; BYTES], buffer, 0).unwrap().wait().unwrap();
    read_late(&sim, &queue, &buffer, 4);
    let mut buffer = buffer;
    transfers.copy(&zeroed(&manager, BYTES), &mut buffer).unwrap();
    assert!(content(&transfers, &buffer) == [0; BYTES]);
    drop((buffer, queue, transfers));
    close(&sim, manager);
}

#[test]
fn transfers_of_overlapping_views_come_in_the_order_in_which_they_were_begun() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let view = zeroed(&manager, BYTES).into_view();
    let (low, high) = view.split_at(BYTES as u64 / 2).unwrap();
    let middle = view.view(100_000..400_000).unwrap();
    let first = transfers.upload_async(pattern(BYTES, 1), view.clone(), 0).unwrap();
    let second = transfers.fill_async(middle.clone(), 0..300_000, 9).unwrap();
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: BYTES as u64 / 2 };
    let third = transfers.copy_async(low, high.clone(), desc).unwrap();
    let back = transfers.download_async(view.clone(), 0, vec![0_u8; BYTES]).unwrap();
    let last = transfers.fill_async(view.clone(), 0..BYTES as u64, 0).unwrap();
    // Whoever looks in whatever order.
    let (_, found) = back.wait().unwrap();
    let mut expected = pattern(BYTES, 1);
    expected[100_000..400_000].fill(9);
    expected.copy_within(0..BYTES / 2, BYTES / 2);
    assert!(found == expected);
    drop((last.wait().unwrap(), third.wait().unwrap(), second.wait().unwrap(), first.wait().unwrap()));
    drop((middle, high));
    assert!(content(&transfers, &view.try_into_buffer().unwrap()) == [0; BYTES]);
    drop(transfers);
    close(&sim, manager);
}

#[test]
fn disjoint_views_of_one_buffer_go_at_the_same_time() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let (low, high) = zeroed(&manager, BYTES).into_view().split_at(BYTES as u64 / 2).unwrap();
    let both = [(low, 1), (high, 2)]
        .map(|(view, seed)| transfers.upload_async(pattern(BYTES / 2, seed), view, 0).unwrap());
    let mut were_together = false;
    run(&sim, &transfers, || {
        let done = [0, 1].map(|index: usize| both[index].done_bytes());
        were_together |= done.iter().all(|&bytes| bytes > 0 && bytes < BYTES as u64 / 2);
        both.iter().all(|transfer| transfer.is_over())
    });
    assert!(were_together);
    let [(low, _), (high, _)] = both.map(|transfer| transfer.wait().unwrap());
    for (view, seed) in [(&low, 1), (&high, 2)] {
        let mut back = vec![0_u8; BYTES / 2];
        transfers.download(view, 0, &mut back).unwrap();
        assert!(back == pattern(BYTES / 2, seed));
    }
    drop((low, high, transfers));
    close(&sim, manager);
}

/// Nobody else copies, so who waits for a view does what holds it.
#[test]
fn who_blocks_for_a_view_does_what_was_begun_with_it() {
    let (sim, manager) = discrete();
    let transfers = manager.transfers();
    let view = zeroed(&manager, BYTES).into_view();
    let transfer = transfers.upload_async(pattern(BYTES, 1), view.clone(), 0).unwrap();
    let mut back = vec![0_u8; BYTES];
    transfers.download(&view, 0, &mut back).unwrap();
    assert!(back == pattern(BYTES, 1));
    drop((transfer.wait().unwrap(), view, transfers));
    close(&sim, manager);
}
