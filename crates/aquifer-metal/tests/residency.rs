//! Which memory is kept resident, by the books of the device in software.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_backend::{Backend, BlockDesc, Command};
use aquifer_metal::{Metal, MetalOptions, MetalQueue};
use common::assert_nothing_is_left;
use common::blocks::{LONG, OwnBlock, await_that};
use common::signal;
use software_metal::{Call, DeviceDesc, SoftwareDevice};
use std::sync::Arc;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

fn block(metal: &Metal, bytes: u64) -> OwnBlock {
    OwnBlock::new(metal, bytes, 0)
}

/// A device whose sets take 100 MiB each, and its backend.
fn of_small_sets() -> (SoftwareDevice, Metal) {
    let device = common::device(DeviceDesc {
        working_set_bytes: 2000 * MIB,
        memory_bytes: 64 * GIB,
        ..DeviceDesc::default()
    });
    let metal = common::metal_with(&device, MetalOptions::default().overcommit(true));
    (device, metal)
}

/// A queue and how many markers it has.
struct Worker {
    queue: MetalQueue,
    value: u64,
}

impl Worker {
    fn new(metal: &Metal) -> Self {
        Self { queue: metal.create_queue().expect("a queue"), value: 0 }
    }

    /// Lets the device write the first bytes of a block.
    fn touch(&mut self, metal: &Metal, block: &OwnBlock) {
        let fill = Command::Fill { destination: block.range(0, 256), value: 1 };
        // SAFETY: the block lives until this returns, and the work has ended then.
        unsafe { metal.enqueue(&self.queue, fill, &Arc::default()) }.expect("work");
        self.value += 1;
        signal(metal, &self.queue, self.value).expect("a marker");
        assert!(metal.wait(&self.queue, self.value, LONG).expect("the device works"));
    }
}

#[test]
fn sets_are_filled_to_a_share_of_the_working_set() {
    {
        let (device, metal) = of_small_sets();
        let blocks: Vec<_> = (0..10).map(|_| block(&metal, 40 * MIB)).collect();
        assert_eq!(device.residency().sets, 5, "two of 40 MiB go into 100");
        // Smaller ones find room in the first.
        let small = block(&metal, 20 * MIB);
        assert_eq!(device.residency().sets, 5);
        // One larger than a set has a set of its own, which takes nothing else.
        let large = block(&metal, 300 * MIB);
        assert_eq!(device.residency().sets, 6);
        // What becomes empty is filled again.
        drop(large);
        let other = block(&metal, 100 * MIB);
        assert_eq!(device.residency().sets, 6);
        drop((blocks, small, other));
    }
    assert_nothing_is_left();
}

/// A queue takes 32 sets; the device in software panics at more.
#[test]
fn sets_are_never_more_than_a_queue_takes() {
    {
        let (device, metal) = of_small_sets();
        let mut before = Worker::new(&metal);
        let blocks: Vec<_> = (0..70).map(|_| block(&metal, 90 * MIB)).collect();
        assert_eq!(device.residency().sets, 32);
        let mut after = Worker::new(&metal);
        for one in blocks.iter().step_by(7) {
            before.touch(&metal, one);
            after.touch(&metal, one);
        }
        assert_eq!(device.residency().unresident_uses, 0);
        // All of them are in sets.
        let held = metal.keep_resident().expect("a thread");
        await_that(|| device.residency().resident_bytes == 70 * 90 * MIB);
        drop(held);
    }
    assert_nothing_is_left();
}

#[test]
fn many_changes_are_one_commit() {
    {
        let device = common::device(DeviceDesc::default());
        let metal = common::metal_on(&device);
        let mut worker = Worker::new(&metal);
        let mut blocks: Vec<_> =
            (0..30).map(|_| metal.create_block(&BlockDesc::new(MIB, 0)).unwrap()).collect();
        assert_eq!((device.residency().sets, device.residency().commits), (1, 0), "nothing works yet");
        let used = OwnBlock::of(&metal, blocks.remove(0));
        worker.touch(&metal, &used);
        assert_eq!(device.residency().commits, 1);
        worker.touch(&metal, &used);
        assert_eq!(device.residency().commits, 1, "nothing has changed");
        for block in blocks {
            // SAFETY: nobody has used it.
            unsafe { metal.destroy_block(block) }.expect("Metal takes every block back");
        }
        // The set keeps them until it is told.
        let commits = device.residency().commits;
        assert_eq!((commits, device.allocated_bytes()), (1, 30 * MIB));
        metal.flush_destroyed();
        assert_eq!((device.residency().commits, device.allocated_bytes()), (2, MIB));
        metal.flush_destroyed();
        assert_eq!(device.residency().commits, 2);
        worker.touch(&metal, &used);
        assert_eq!((device.residency().commits, device.residency().unresident_uses), (2, 0));
    }
    assert_nothing_is_left();
}

#[test]
fn every_queue_has_every_set() {
    {
        let (device, metal) = of_small_sets();
        let mut workers = vec![Worker::new(&metal)];
        let mut blocks = Vec::new();
        for _ in 0..4 {
            blocks.push(block(&metal, 90 * MIB));
            workers.push(Worker::new(&metal));
            for worker in &mut workers {
                blocks.iter().for_each(|block| worker.touch(&metal, block));
            }
        }
        // The backend's own queue too, which makes copies that are waited for.
        let private = OwnBlock::new(&metal, MIB, 1);
        private.fill(0..MIB, 3);
        assert_eq!(private.read(0..1), [3]);
        let residency = device.residency();
        assert_eq!((residency.sets, residency.unresident_uses), (4, 0));
        // A queue that goes leaves nothing of itself.
        assert_eq!(device.live_objects()["MTLCommandQueue"], 6);
        workers.truncate(2);
        await_that(|| device.live_objects()["MTLCommandQueue"] == 3);
        workers.iter_mut().for_each(|worker| worker.touch(&metal, &blocks[0]));
        assert_eq!(device.residency().unresident_uses, 0);
    }
    assert_nothing_is_left();
}

#[test]
fn purgeable_memory_is_not_kept_resident() {
    {
        let device = common::device(DeviceDesc::default());
        let metal = common::metal_on(&device);
        let (one, other) = (block(&metal, 3 * MIB), block(&metal, 5 * MIB));
        let held = metal.keep_resident().expect("a thread");
        await_that(|| device.residency().resident_bytes == 8 * MIB);
        // SAFETY: nobody uses the block.
        unsafe { metal.make_purgeable(&one) }.expect("Metal has such memory");
        assert_eq!(device.residency().resident_bytes, 5 * MIB, "without another call");
        // Destroyed while it is in no set.
        drop(one);
        assert_eq!(device.allocated_bytes(), 5 * MIB);
        // SAFETY: as above.
        unsafe { metal.make_purgeable(&other) }.expect("as above");
        assert!(metal.make_nonpurgeable(&other).expect("as above"));
        Worker::new(&metal).touch(&metal, &other);
        let residency = device.residency();
        assert_eq!((residency.resident_bytes, residency.unresident_uses), (5 * MIB, 0));
        drop(held);
    }
    assert_nothing_is_left();
}

/// Taking back twice what was lent once, or never, adds nothing twice: a block leaves its set with its end.
#[test]
fn a_block_is_in_one_set_once() {
    {
        let (device, metal) = of_small_sets();
        let (one, other) = (block(&metal, 60 * MIB), block(&metal, 60 * MIB));
        assert_eq!(device.residency().sets, 2);
        for _ in 0..5 {
            assert!(metal.make_nonpurgeable(&one).expect("it was not lent"));
        }
        drop(one);
        assert_eq!(device.allocated_bytes(), 60 * MIB, "a set keeps what is gone");
        // The share is counted as if nothing had happened.
        let third = block(&metal, 60 * MIB);
        assert_eq!(device.residency().sets, 2);
        drop((other, third));
        assert_eq!(device.allocated_bytes(), 0);
    }
    assert_nothing_is_left();
}

#[test]
fn without_sets_all_works_and_none_is_made() {
    let off = MetalOptions::default().residency_sets(false);
    let old = DeviceDesc { has_residency_sets: false, ..DeviceDesc::default() };
    for (desc, options) in [(DeviceDesc::default(), off), (old, MetalOptions::default())] {
        {
            let device = common::device(desc);
            let metal = common::metal_with(&device, options);
            let block = block(&metal, MIB);
            let held = metal.keep_resident().expect("nothing to do");
            Worker::new(&metal).touch(&metal, &block);
            // SAFETY: nobody uses the block.
            unsafe { metal.make_purgeable(&block) }.expect("Metal has such memory");
            assert!(metal.make_nonpurgeable(&block).expect("as above"));
            drop((held, block));
            assert_eq!(device.made_objects().get("MTLResidencySet"), None);
            let residency = device.residency();
            // And the book of uses that nothing made resident is kept.
            assert_eq!((residency.requests, residency.unresident_uses), (0, 1));
        }
        assert_nothing_is_left();
    }
}

#[test]
fn memory_is_requested_again_and_again_until_the_last_hold_ends() {
    {
        let (device, metal) = of_small_sets();
        let _blocks = [block(&metal, 80 * MIB), block(&metal, 80 * MIB)];
        let first = metal.keep_resident().expect("a thread");
        await_that(|| device.residency().requests >= 2);
        assert_eq!(device.residency().resident_bytes, 160 * MIB);
        let second = metal.keep_resident().expect("a thread");
        drop(first);
        assert_eq!((device.residency().ends, device.residency().resident_bytes), (0, 160 * MIB));
        // What comes later is requested with the next reminder.
        let _later = block(&metal, 80 * MIB);
        await_that(|| device.residency().resident_bytes == 240 * MIB);
        drop(second);
        let residency = device.residency();
        assert_eq!((residency.sets, residency.ends, residency.resident_bytes), (3, 3, 0));
        // Nobody asks any more: the thread has ended, and a new hold begins anew.
        let third = metal.keep_resident().expect("a thread");
        await_that(|| device.residency().resident_bytes == 240 * MIB);
        drop(third);
        assert_eq!((device.residency().ends, device.residency().resident_bytes), (6, 0));
    }
    assert_nothing_is_left();
}

/// The hold may outlive everything.
#[test]
fn a_hold_may_go_last() {
    {
        let metal = common::metal();
        let block = block(&metal, MIB);
        let held = metal.keep_resident().expect("a thread");
        drop((block, metal));
        drop(held);
    }
    assert_nothing_is_left();
}

#[test]
fn a_set_that_metal_does_not_make_is_done_without() {
    {
        let (device, metal) = of_small_sets();
        let mut worker = Worker::new(&metal);
        device.faults().fail_all(Call::NewResidencySet, true);
        let bare = block(&metal, 90 * MIB);
        worker.touch(&metal, &bare);
        assert_eq!((device.residency().sets, device.residency().unresident_uses), (0, 1));
        // Then one can be had, and then no more: the others go into that.
        device.faults().fail_all(Call::NewResidencySet, false);
        let mut blocks = vec![block(&metal, 90 * MIB)];
        device.faults().fail_all(Call::NewResidencySet, true);
        blocks.extend((0..3).map(|_| block(&metal, 90 * MIB)));
        blocks.iter().for_each(|block| worker.touch(&metal, block));
        assert_eq!((device.residency().sets, device.residency().unresident_uses), (1, 1));
        drop((bare, blocks));
        await_that(|| device.allocated_bytes() == 0);
    }
    assert_nothing_is_left();
}
