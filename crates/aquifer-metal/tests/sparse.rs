//! Sparse blocks: heaps behind addresses of their own. Metal 4 only, so on the device in software.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_backend::{Backend, BlockDesc, ErrorKind};
use aquifer_core::Capabilities;
use aquifer_metal::Metal;
use common::assert_nothing_is_left;
use common::blocks::{LONG, OwnBlock, pattern, private_type, visible_type};
use common::signal;
use software_metal::{Call, DeviceDesc, SoftwareDevice};

fn device() -> SoftwareDevice {
    common::device(DeviceDesc { has_metal4: true, ..DeviceDesc::default() })
}

fn sparse(metal: &Metal, pages: u64) -> OwnBlock {
    let desc = BlockDesc::new(pages * page(metal), private_type(metal));
    OwnBlock::of(metal, metal.create_sparse_block(&desc).expect("addresses"))
}

fn memory(metal: &Metal, pages: u64) -> OwnBlock {
    let desc = BlockDesc::new(pages * page(metal), private_type(metal));
    OwnBlock::of(metal, metal.create_physical_block(&desc).expect("memory"))
}

fn page(metal: &Metal) -> u64 {
    metal.properties().physical_page_bytes
}

/// Maps memory behind the pages of `sparse` from page `at` on.
fn map(metal: &Metal, sparse: &OwnBlock, at: u64, memory: &OwnBlock) {
    let range = sparse.range(at * page(metal), memory.bytes());
    // SAFETY: the range lies in the block, nothing is behind it, and the memory outlives the mapping or is not used by it.
    unsafe { metal.map(range, memory) }.expect("a mapping");
}

fn unmap(metal: &Metal, sparse: &OwnBlock, at: u64, memory: &OwnBlock) {
    // SAFETY: the memory was mapped there, and nobody uses it.
    unsafe { metal.unmap(sparse.range(at * page(metal), memory.bytes())) }.expect("no mapping");
}

/// Checks that a block has the pattern of `seed` from page `at` on.
#[track_caller]
fn assert_page(metal: &Metal, block: &OwnBlock, at: u64, seed: u64) {
    let page = page(metal);
    assert!(block.read(at * page..(at + 1) * page) == pattern(seed, page), "page {at} is not of {seed}");
}

#[test]
fn what_is_written_through_one_range_is_read_through_another() {
    {
        let metal = common::metal_on(&device());
        let page = page(&metal);
        assert!(metal.properties().capabilities.contains(Capabilities::SPARSE_BLOCKS));
        let (long, short) = (memory(&metal, 2), memory(&metal, 1));
        let sparse = sparse(&metal, 8);
        map(&metal, &sparse, 0, &long);
        map(&metal, &sparse, 5, &short);
        map(&metal, &sparse, 6, &long);
        sparse.write(0, &pattern(1, page));
        sparse.write(page, &pattern(2, page));
        sparse.write(5 * page, &pattern(3, page));
        assert_page(&metal, &sparse, 6, 1);
        assert_page(&metal, &sparse, 7, 2);
        assert_page(&metal, &sparse, 5, 3);
        // Over the seam of two heaps.
        sparse.fill(6 * page - 100..6 * page + 100, 9);
        assert!(sparse.read(0..100).iter().all(|&byte| byte == 9));
        assert!(sparse.read(100..page) == pattern(1, page)[100..]);
        assert!(sparse.read(5 * page..6 * page - 100) == pattern(3, page)[..page as usize - 100]);
    }
    assert_nothing_is_left();
}

#[test]
fn memory_moves_behind_addresses_that_stay() {
    {
        let metal = common::metal_on(&device());
        let page = page(&metal);
        let [first, second] = [(); 2].map(|()| memory(&metal, 1));
        let sparse = sparse(&metal, 4);
        let address = metal.device_address(&sparse);
        for (memory, seed) in [(&first, 1), (&second, 2), (&first, 3)] {
            map(&metal, &sparse, 1, memory);
            sparse.write(page, &pattern(seed, page));
            unmap(&metal, &sparse, 1, memory);
        }
        assert_eq!((metal.device_address(&sparse), metal.host_pointer(&sparse)), (address, None));
        // What has been taken away is not written any more.
        sparse.fill(0..4 * page, 7);
        map(&metal, &sparse, 2, &first);
        map(&metal, &sparse, 3, &second);
        assert_page(&metal, &sparse, 2, 3);
        assert_page(&metal, &sparse, 3, 2);
    }
    assert_nothing_is_left();
}

#[test]
fn blocks_may_go_in_any_order() {
    for order in 0..4 {
        {
            let device = device();
            let metal = common::metal_on(&device);
            let (sparse, memory) = (sparse(&metal, 8), memory(&metal, 4));
            map(&metal, &sparse, 0, &memory);
            map(&metal, &sparse, 4, &memory);
            sparse.fill(0..4 * page(&metal), 1);
            let live = device.live_objects();
            assert_eq!((live["MTLBuffer"], live["MTLHeap"], live["MTL4CommandQueue"]), (2, 1, 1));
            let counts = || ["MTLBuffer", "MTLHeap"].map(|name| device.live_objects().get(name).copied());
            match order {
                // Addresses first, mapped or not.
                0 => {
                    drop(sparse);
                    assert_eq!(counts(), [Some(1), Some(1)]);
                    drop(memory);
                }
                1 => {
                    unmap(&metal, &sparse, 4, &memory);
                    unmap(&metal, &sparse, 0, &memory);
                    drop(sparse);
                    drop(memory);
                }
                // Memory first, once it is unmapped.
                2 => {
                    unmap(&metal, &sparse, 4, &memory);
                    unmap(&metal, &sparse, 0, &memory);
                    drop(memory);
                    assert_eq!(counts(), [Some(1), None]);
                    drop(sparse);
                }
                // Memory last, with one of the mappings gone.
                _ => {
                    unmap(&metal, &sparse, 0, &memory);
                    drop(sparse);
                    drop(memory);
                }
            }
            assert_eq!((counts(), device.allocated_bytes()), ([None, None], 0), "order {order}");
        }
        assert_nothing_is_left();
    }
}

/// Addresses without memory take none of the device's.
#[test]
fn only_memory_is_counted_as_memory() {
    {
        let device = device();
        let metal = common::metal_on(&device);
        let sparse = sparse(&metal, 1 << 14);
        assert_eq!(device.allocated_bytes(), 0);
        let memory = memory(&metal, 2);
        map(&metal, &sparse, 12_345, &memory);
        map(&metal, &sparse, 54, &memory);
        assert_eq!(device.allocated_bytes(), 2 * page(&metal));
    }
    assert_nothing_is_left();
}

#[test]
fn what_cannot_be_mapped_is_refused_by_name() {
    {
        let device = device();
        let metal = common::metal_on(&device);
        let page = page(&metal);
        let sparse = sparse(&metal, 1);
        let desc = BlockDesc { dedicated_to: Some("one"), ..BlockDesc::new(page, private_type(&metal)) };
        let dedicated = OwnBlock::try_new(&metal, &desc).expect("a block");
        // SAFETY: that the block is dedicated is what is refused.
        let refused = unsafe { metal.map(sparse.all(), &dedicated) }.expect_err("it is no heap");
        assert_eq!(refused.kind(), ErrorKind::Unsupported);

        let desc = BlockDesc::new(page, visible_type(&metal));
        for shared in [metal.create_sparse_block(&desc), metal.create_physical_block(&desc)] {
            assert_eq!(shared.expect_err("sparse blocks are private").kind(), ErrorKind::Unsupported);
        }
        device.faults().fail(Call::NewSparseBuffer, 0);
        let desc = BlockDesc::new(page, private_type(&metal));
        let error = metal.create_sparse_block(&desc).expect_err("Metal made nothing");
        assert_eq!(error.kind(), ErrorKind::Driver, "{error}");
    }
    assert_nothing_is_left();
}

/// A device without Metal 4 promises none of it, and says so when asked.
#[test]
fn older_systems_have_no_sparse_blocks() {
    {
        let metal = common::metal();
        let properties = metal.properties();
        assert!(!properties.capabilities.contains(Capabilities::SPARSE_BLOCKS));
        assert_eq!((properties.physical_page_bytes, properties.mapping_count_max), (0, 0));
        let desc = BlockDesc::new(1 << 16, private_type(&metal));
        for refused in [metal.create_sparse_block(&desc), metal.create_physical_block(&desc)] {
            assert_eq!(refused.expect_err("there is no Metal 4").kind(), ErrorKind::Unsupported);
        }
        let block = OwnBlock::new(&metal, 1 << 16, private_type(&metal));
        // SAFETY: that nothing is sparse is what is refused.
        let mapped = unsafe { metal.map(block.all(), &block) };
        assert_eq!(mapped.expect_err("as above").kind(), ErrorKind::Unsupported);
    }
    assert_nothing_is_left();
}

/// Work of a queue goes through the mappings that there are when it runs.
#[test]
fn queues_work_through_mappings() {
    {
        let metal = common::metal_on(&device());
        let page = page(&metal);
        let sparse = sparse(&metal, 4);
        let [first, second] = [(); 2].map(|()| memory(&metal, 1));
        for at in [0, 2] {
            map(&metal, &sparse, at, &first);
            map(&metal, &sparse, at + 1, &second);
        }
        sparse.fill(0..2 * page, 1);
        let queue = metal.create_queue().expect("a queue");
        let fill = aquifer_backend::Command::Fill { destination: sparse.range(page / 2, page), value: 4 };
        // SAFETY: the block lives until the queue has passed the marker.
        unsafe { metal.enqueue(&queue, fill, &std::sync::Arc::default()) }.expect("work");
        signal(&metal, &queue, 1).expect("a marker");
        assert!(metal.wait(&queue, 1, LONG).expect("the device works"));
        let seen = sparse.read(2 * page..4 * page);
        let (start, end) = (page as usize / 2, page as usize * 3 / 2);
        assert!(seen[start..end].iter().all(|&byte| byte == 4), "within the fill");
        assert!(seen[..start].iter().chain(&seen[end..]).all(|&byte| byte == 1), "and beside it");
    }
    assert_nothing_is_left();
}

/// A device that is removed makes no change any more and says nothing of it; one that is slow makes it in the end.
#[test]
fn a_mapping_waits_for_a_slow_device_and_ends_with_a_lost_one() {
    for is_lost in [false, true] {
        {
            let device = device();
            let metal = common::metal_on(&device);
            let (sparse, memory) = (sparse(&metal, 4), memory(&metal, 2));
            map(&metal, &sparse, 2, &memory);
            sparse.write(3 * page(&metal), &pattern(1, page(&metal)));
            let hold = device.faults().hold_execution();
            let mapped = std::thread::scope(|scope| {
                let mapping = scope.spawn(|| {
                    let range = sparse.range(0, memory.bytes());
                    // SAFETY: the range lies in its block, nothing is behind it, and the memory outlives the mapping.
                    unsafe { metal.map(range, &memory) }
                });
                // It has asked whether the device is there: it has waited for a while.
                common::until("the device is asked", || {
                    device.live_objects().contains_key("MTLCommandBuffer") || mapping.is_finished()
                });
                if is_lost {
                    device.faults().remove();
                }
                assert!(is_lost || !mapping.is_finished(), "the change may still come");
                drop(hold);
                mapping.join().expect("no panic")
            });
            if is_lost {
                assert_eq!(mapped.expect_err("the device is gone").kind(), ErrorKind::DeviceLost);
                let created = metal.create_queue().map(drop).map_err(|error| error.kind());
                assert_eq!(created, Err(ErrorKind::DeviceLost), "everybody knows");
            } else {
                mapped.expect("a mapping");
                assert_page(&metal, &sparse, 1, 1);
            }
        }
        assert_nothing_is_left();
    }
}
