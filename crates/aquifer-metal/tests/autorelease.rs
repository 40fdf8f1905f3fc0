//! No call of the backend needs its caller's autorelease pool. One test: threads of the backend's own are counted by process.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_backend::{Backend, BlockDesc, Command, CopyEnd, DefaultDevice, Ticket};
use aquifer_metal::objc2_metal::{
    MTLCommandBufferError, MTLCommandQueue, MTLDevice, MTLResource as _, MTLResourceOptions,
};
use aquifer_metal::{Metal, MetalBlock};
use aquifer_testkit::{MappedMemory, Shelf};
use common::assert_nothing_is_left;
use common::blocks::{LONG, OwnBlock, blit_fill, private_type, visible_type};
use common::signal;
use objc2_foundation::NSRange;
use software_metal::{Call, DeviceDesc, SoftwareDevice};
use software_objc::{poolless_autoreleases, thread_counts};
use std::ptr::NonNull;
use std::sync::Arc;
use std::thread;

const MIB: u64 = 1 << 20;

/// Makes every kind of block, also where Metal makes nothing, and uses it as a block is used.
fn use_blocks(device: &SoftwareDevice, metal: &Metal) {
    let properties = metal.properties().clone();
    metal.budget(0).expect("it never fails");
    for call in [Call::NewHeap, Call::NewBufferOnHeap, Call::NewBuffer] {
        device.faults().fail(call, 0);
        let dedicated_to = (call == Call::NewBuffer).then_some("one");
        let desc = BlockDesc { dedicated_to, ..BlockDesc::new(MIB, private_type(metal)) };
        OwnBlock::try_new(metal, &desc).expect_err("Metal made nothing");
    }
    device.faults().set_working_set(MIB);
    OwnBlock::try_new(metal, &BlockDesc::new(2 * MIB, 0)).expect_err("it is more than is recommended");
    device.faults().set_working_set(DeviceDesc::default().working_set_bytes);
    for index in 0..2 {
        for dedicated_to in [None, Some("one")] {
            let desc = BlockDesc { dedicated_to, ..BlockDesc::new(16 * MIB, index) };
            let block = OwnBlock::try_new(metal, &desc).expect("a block");
            let _ = (metal.host_pointer(&block), metal.device_address(&block));
            // By the processor, through staging, and by blits.
            block.write(3, &[1; 1000]);
            block.fill(1..9 * MIB, 2);
            let other = OwnBlock::new(metal, 16 * MIB, 1 - index);
            // SAFETY: the ranges lie in blocks that nobody else uses.
            unsafe { metal.copy(block.range(0, 8 * MIB), other.range(4, 8 * MIB)) }.expect("a copy");
            // SAFETY: as above.
            unsafe { metal.release_range(block.all()) }.expect_err("Metal gives back whole blocks only");
            // SAFETY: nobody uses the block.
            unsafe { metal.make_purgeable(&block) }.expect("Metal has such memory");
            metal.make_nonpurgeable(&block).expect("it was lent");
        }
    }
    if properties.import_alignment_bytes > 0 {
        let (shelf, unit) = (Shelf::default(), properties.import_alignment_bytes);
        let import =
            || metal.import_block(MappedMemory::new(unit, unit).lend(0..unit, &shelf), visible_type(metal));
        drop(OwnBlock::of(metal, import().expect("whole pages")));
        device.faults().fail(Call::NewBufferNoCopy, 0);
        drop(import().expect_err("Metal made nothing"));
    }
    if properties.physical_page_bytes > 0 {
        let desc = BlockDesc::new(16 * MIB, private_type(metal));
        let sparse = OwnBlock::of(metal, metal.create_sparse_block(&desc).expect("addresses"));
        let desc_of_memory = BlockDesc::new(MIB, private_type(metal));
        let memory = OwnBlock::of(metal, metal.create_physical_block(&desc_of_memory).expect("memory"));
        // SAFETY: the range is as long as the memory, which goes after the mapping.
        unsafe { metal.map(sparse.range(0, MIB), &memory) }.expect("a mapping");
        // SAFETY: nobody uses it.
        unsafe { metal.unmap(sparse.range(0, MIB)) }.expect("no mapping");
        device.faults().fail(Call::NewSparseBuffer, 0);
        metal.create_sparse_block(&desc).expect_err("Metal made nothing");
    }
    metal.flush_destroyed();
}

fn end(block: &OwnBlock, offset: u64) -> CopyEnd<'_, MetalBlock> {
    CopyEnd::Block { block, offset }
}

/// Enqueues every kind of command, also ones that fail, and uses queues as queues are used.
fn use_queues(device: &SoftwareDevice, metal: &Metal) {
    for call in [Call::NewCommandQueue, Call::NewSharedEvent] {
        device.faults().fail(call, 0);
        metal.create_queue().expect_err("Metal made nothing");
    }
    let [queue, other] = [(); 2].map(|()| metal.create_queue().expect("a queue"));
    let blocks = [0, 1].map(|index| OwnBlock::new(metal, 4 * MIB, index));
    let ticket = Arc::new(Ticket::default());
    let mut host = vec![0_u8; MIB as usize];
    let start = NonNull::from(host.as_mut_slice()).cast();
    let enqueue = |command: Command<'_, _>| {
        // SAFETY: blocks and host memory stay until both queues have passed their markers, below.
        unsafe { metal.enqueue(&queue, command, &ticket) }
    };
    let hold = queue.hold().expect("the device is there");
    for (block, offset) in blocks.iter().flat_map(|block| [(block, 0), (block, 3)]) {
        let bytes = MIB - 5;
        for (source, destination) in
            [(CopyEnd::Host(start), end(block, offset)), (end(block, offset), CopyEnd::Host(start))]
        {
            enqueue(Command::Copy { source, destination, bytes }).expect("work");
        }
        enqueue(Command::Fill { destination: block.range(offset, bytes), value: 1 }).expect("work");
        let (source, destination) = (end(&blocks[0], offset), end(&blocks[1], 1));
        enqueue(Command::Copy { source, destination, bytes }).expect("work");
    }
    let fill = || Command::Fill { destination: blocks[0].range(0, 256), value: 1 };
    for call in [Call::NewCommandBuffer, Call::NewBlitEncoder] {
        device.faults().fail(call, 0);
        enqueue(fill()).expect_err("Metal made nothing");
    }
    signal(metal, &queue, 1).expect("a marker");
    metal.wait_on_queue(&other, &queue, 1).expect("an order");
    signal(metal, &other, 1).expect("a marker");
    drop(hold);
    for queue in [&queue, &other] {
        assert!(metal.wait(queue, 1, LONG).expect("the device works"));
        assert_eq!(metal.completed(queue).expect("the device is there"), 1);
    }
    assert!(ticket.take_error().is_none());
    blit_fill(metal, &queue, blocks[0].buffer(), NSRange::new(0, 64), 7, 2);
    device.faults().fail_command_buffer(0, MTLCommandBufferError::PageFault);
    enqueue(fill()).expect("work");
    queue.wait_idle();
    assert!(ticket.take_error().is_some(), "the command buffer failed");
}

/// Copies from one device's memory in the other's queue: by a blit, by the processor where blits go by multiples of 4, and to
/// the host.
fn use_peers(metal: &Metal, peer: &Metal) {
    let private = private_type(metal);
    assert!(peer.reads_peer(metal, private));
    let (source, destination) = (OwnBlock::new(metal, MIB, private), OwnBlock::new(peer, MIB, private));
    let (queue, ticket) = (peer.create_queue().expect("a queue"), Arc::<Ticket>::default());
    let mut host = vec![0_u8; 512];
    let host = NonNull::from(host.as_mut_slice()).cast();
    for (offset, to) in [(0, end(&destination, 0)), (1, end(&destination, 1)), (1, CopyEnd::Host(host))] {
        let command = Command::Copy { source: end(&source, offset), destination: to, bytes: 512 };
        // SAFETY: the ranges lie in their blocks, which nobody else uses, and all of it lives until the queue is idle.
        unsafe { peer.enqueue(&queue, command, &ticket) }.expect("work");
    }
    queue.wait_idle();
    assert!(ticket.take_error().is_none());
}

/// Every call, on a device of this kind, on a thread that has no pool.
fn use_everything(desc: &DeviceDesc) {
    let device = common::device(desc.clone());
    // The device's own answers are the test's to take care of.
    let [raw, raw_peer] = {
        let peer = common::device(DeviceDesc { registry_id: 99, peer_index: 1, ..desc.clone() });
        objc2::rc::autoreleasepool(|_| [device.metal_device(), peer.metal_device()])
    };
    device.faults().fail(Call::NewCommandQueue, 0);
    Metal::new(raw.clone()).expect_err("Metal made no queue");
    let [metal, peer] = [raw, raw_peer].map(|raw| Metal::new(raw).expect("a queue"));
    let held = metal.keep_resident().expect("a thread");
    use_blocks(&device, &metal);
    use_queues(&device, &metal);
    let _ = (metal.reaches_directly(&peer), metal.raw_device(), metal.options(), metal.clone());
    if metal.reaches_directly(&peer) {
        use_peers(&metal, &peer);
    }
    drop(held);
    // A queue of a device that is lost.
    let queue = metal.create_queue().expect("a queue");
    let block = OwnBlock::new(&metal, MIB, 0);
    device.faults().remove();
    let fill = Command::Fill { destination: block.all(), value: 1 };
    // SAFETY: the block lives until the queue is idle.
    let _ = unsafe { metal.enqueue(&queue, fill, &Arc::default()) };
    queue.wait_idle();
    metal.create_queue().expect_err("the device is lost");
    OwnBlock::try_new(&metal, &BlockDesc::new(MIB, 0)).expect_err("as above");
    drop((block, queue, metal, peer));
    assert_nothing_is_left();
}

/// Runs it on a new thread; answers what leaked there.
fn leaks_of(work: impl FnOnce() + Send) -> u64 {
    let run = || {
        work();
        thread_counts().poolless_autoreleases
    };
    thread::scope(|scope| scope.spawn(run).join()).expect("the thread's checks hold")
}

#[test]
fn every_call_brings_its_own_pool() {
    for desc in [
        DeviceDesc { has_metal4: true, peer_group_id: 4, peer_count: 2, ..DeviceDesc::default() },
        DeviceDesc {
            is_unified: false,
            is_apple_family: false,
            has_residency_sets: false,
            peer_group_id: 4,
            peer_count: 2,
            ..DeviceDesc::default()
        },
    ] {
        assert_eq!(leaks_of(|| use_everything(&desc)), 0, "{desc:?}");
    }
    let defaults = || {
        drop(Metal::default_device().expect("the process has a device"));
        assert_eq!(Metal::all().expect("as above").len(), 1);
    };
    assert_eq!(leaks_of(defaults), 0);
    assert_eq!(poolless_autoreleases(), 0, "nor do the threads that it starts");

    // Planted, to see that it would be counted: objects that Metal autoreleases.
    let careless = || {
        let device = common::device(DeviceDesc::default()).metal_device();
        let queue = device.newCommandQueue().expect("a queue");
        drop(queue.commandBuffer().expect("a command buffer"));
        let buffer = device.newBufferWithLength_options(64, MTLResourceOptions::empty()).expect("a buffer");
        buffer.setLabel(Some(&objc2_foundation::NSString::from_str("a label")));
        drop(buffer.label().expect("a label"));
    };
    assert!(leaks_of(careless) >= 2);
    assert!(poolless_autoreleases() >= 2);
}
