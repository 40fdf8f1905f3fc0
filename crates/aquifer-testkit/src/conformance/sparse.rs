//! Sparse and physical blocks of the backend itself: addresses, and memory behind them.

mod device;

use aquifer_backend::{Backend, BlockDesc, Capabilities, ErrorKind, MemoryFlags};
use device::Device;

use super::owned::Owned;

/// Sparse and physical blocks can be made where the device says so, of the memory types that it says, and nowhere else.
pub fn there_are_sparse_blocks_exactly_where_promised<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let properties = backend.properties();
    let page_bytes = properties.physical_page_bytes;
    let is_promised = properties.capabilities.contains(Capabilities::SPARSE_BLOCKS);
    if is_promised {
        assert!(page_bytes.is_power_of_two(), "{page_bytes}");
        assert_eq!(page_bytes % properties.block_granularity_bytes, 0);
        assert!(properties.mapping_count_max > 0, "nothing could be mapped");
    } else {
        assert_eq!((page_bytes, properties.mapping_count_max, properties.mapping_costs), (0, 0, None));
    }
    let is_sparse = |index: &usize| properties.memory_types[*index].flags.contains(MemoryFlags::SPARSE);
    let (sparse, others): (Vec<_>, Vec<_>) = (0..properties.memory_types.len()).partition(is_sparse);
    assert_eq!(!sparse.is_empty(), is_promised, "{properties:?}");
    let bytes = page_bytes.max(properties.block_granularity_bytes);
    for memory_type_index in sparse {
        let desc = BlockDesc::new(bytes, memory_type_index);
        drop(Owned::of(&backend, backend.create_sparse_block(&desc).expect("it was promised"), bytes));
        drop(Owned::of(&backend, backend.create_physical_block(&desc).expect("it was promised"), bytes));
    }
    for memory_type_index in others {
        let desc = BlockDesc::new(bytes, memory_type_index);
        for created in [backend.create_sparse_block(&desc), backend.create_physical_block(&desc)] {
            let error = created.err().expect("it was not promised");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        }
    }
}

/// Sparse blocks have addresses like others, apart from all others, and keep them whatever is mapped.
pub fn sparse_blocks_have_addresses_of_their_own<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let devices = Device::all(&backend);
    let alignment = backend.properties().alignment_bytes_min;
    let mut blocks = Vec::new();
    for device in &devices {
        blocks.extend([4, 1, 64].map(|pages| device.sparse(pages)));
        blocks.extend([2, 1].map(|pages| device.ordinary(pages)));
    }
    let mut ends = Vec::new();
    for block in &blocks {
        let Some(address) = backend.device_address(block.block()) else { return };
        assert_eq!(address % alignment, 0);
        ends.push((address, block.bytes));
    }
    for (device, blocks) in devices.iter().zip(blocks.chunks(5)) {
        let physical = device.physical(2);
        device.map(&blocks[0], 1, &physical);
        device.unmap(&blocks[0], 1, &physical);
        device.map(&blocks[2], 3, &physical);
        device.unmap(&blocks[2], 3, &physical);
    }
    let again = blocks.iter().map(|block| backend.device_address(block.block()));
    assert!(again.eq(ends.iter().map(|&(address, _)| Some(address))), "they are the same each time");
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ends:x?}");
}

/// The same memory behind several parts, of one sparse block and of two: what is written through one is read through the others.
pub fn memory_is_seen_through_several_parts<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for device in Device::all(&backend) {
        let (long, short) = (device.physical(2), device.physical(1));
        let (mut sparse, second) = (device.sparse(8), device.sparse(2));
        device.map(&sparse, 0, &long);
        device.map(&sparse, 2, &short);
        device.map(&sparse, 5, &long);
        device.map(&sparse, 4, &short);
        device.map(&second, 0, &long);
        for (page, seed) in [(0, 1), (1, 2), (2, 3)] {
            device.write(&sparse, page, seed);
        }
        for (page, seed) in [(5, 1), (6, 2), (4, 3), (0, 1), (1, 2), (2, 3)] {
            device.check(&sparse, page, seed);
        }
        device.check(&second, 1, 2);
        device.write(&second, 0, 4);
        device.check(&sparse, 5, 4);
        device.check(&sparse, 1, 2);
        // Over the seam of two physical blocks, and on over one within the second.
        let page_bytes = device.page_bytes;
        sparse.fill(4 * page_bytes + page_bytes / 2, page_bytes * 3 / 2, 0x77);
        let half = page_bytes as usize / 2;
        let [first, last] = [2, 1].map(|page| device.read(&sparse, page));
        assert!(first[half..].iter().chain(&device.read(&sparse, 0)).all(|&byte| byte == 0x77), "over two");
        assert!(first[..half] == device.pattern(3)[..half], "not before");
        assert!(last == device.pattern(2), "and not behind");
    }
}

/// Physical blocks have the size that was asked for: neighbours do not touch, neither in memory nor in addresses.
pub fn physical_blocks_of_all_sizes_are_apart<B: Backend>(make: impl Fn() -> B) {
    let sizes = [1, 2, 3, 5, 8, 13, 32, 1];
    let backend = make();
    for device in Device::all(&backend) {
        let sparse = device.sparse(sizes.iter().sum());
        // In the order of the addresses and against it.
        for is_reversed in [false, true] {
            let mut order: Vec<_> = (0..sizes.len()).collect();
            if is_reversed {
                order.reverse();
            }
            let physical = sizes.map(|pages| device.physical(pages));
            let mut starts = [0; 8];
            let mut page = 0;
            for &index in &order {
                device.map(&sparse, page, &physical[index]);
                starts[index] = page;
                page += sizes[index];
            }
            (0..page).for_each(|page| device.write(&sparse, page, page + 100));
            (0..page).for_each(|page| device.check(&sparse, page, page + 100));
            // The same memory in another order of addresses.
            for (index, physical) in physical.iter().enumerate() {
                device.unmap(&sparse, starts[index], physical);
            }
            let mut page = 0;
            for (index, physical) in physical.iter().enumerate() {
                device.map(&sparse, page, physical);
                for offset in 0..sizes[index] {
                    device.check(&sparse, page + offset, starts[index] + offset + 100);
                }
                page += sizes[index];
            }
            let mut page = 0;
            for physical in &physical {
                device.unmap(&sparse, page, physical);
                page += physical.bytes / device.page_bytes;
            }
        }
    }
}

/// What is unmapped stays in the physical block, and others may take its place.
pub fn unmapped_memory_keeps_what_it_holds<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for device in Device::all(&backend) {
        let (kept, other) = (device.physical(2), device.physical(2));
        let (sparse, second) = (device.sparse(5), device.sparse(2));
        for round in 0..4 {
            device.map(&sparse, 1, &kept);
            device.write(&sparse, 1, 10 + round);
            device.write(&sparse, 2, 20 + round);
            device.unmap(&sparse, 1, &kept);
            device.map(&sparse, 1, &other);
            device.write(&sparse, 1, 30 + round);
            device.write(&sparse, 2, 40 + round);
            device.map(&sparse, 3, &kept);
            device.check(&sparse, 3, 10 + round);
            device.check(&sparse, 4, 20 + round);
            device.unmap(&sparse, 1, &other);
            device.check(&sparse, 3, 10 + round);
            device.unmap(&sparse, 3, &kept);
        }
        // Behind two sparse blocks, and then behind one.
        device.map(&sparse, 2, &kept);
        device.map(&second, 0, &kept);
        device.unmap(&sparse, 2, &kept);
        device.write(&second, 0, 50);
        device.check(&second, 1, 23);
        device.map(&sparse, 0, &kept);
        device.check(&sparse, 0, 50);
    }
}

/// A sparse block may be destroyed with memory behind it, which is then as usable as before.
pub fn sparse_blocks_are_destroyed_mapped_or_not<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for device in Device::all(&backend) {
        let physical = [1, 2, 1].map(|pages| device.physical(pages));
        for round in 0..5 {
            drop(device.sparse(2));
            let sparse = device.sparse(12);
            for (index, physical) in (0..).zip(&physical) {
                device.map(&sparse, 3 * index, physical);
                device.write(&sparse, 3 * index, 10 * round + index);
            }
            device.unmap(&sparse, 3, &physical[1]);
            drop(sparse);
            let again = device.sparse(6);
            for (index, physical) in (0..).zip(&physical) {
                device.map(&again, 2 * index, physical);
                device.check(&again, 2 * index, 10 * round + index);
            }
        }
    }
}

/// Physical blocks are as new as ordinary ones, also where others have been before.
pub fn new_physical_blocks_are_zero<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for device in Device::all(&backend).iter().filter(|device| device.has(Capabilities::ZEROED_BLOCKS)) {
        let sparse = device.sparse(8);
        for sizes in [[1, 2, 5], [5, 2, 1], [4, 1, 3]] {
            let physical = sizes.map(|pages| device.physical(pages));
            let mut page = 0;
            for physical in &physical {
                device.map(&sparse, page, physical);
                page += physical.bytes / device.page_bytes;
            }
            (0..page).for_each(|page| device.check_zero(&sparse, page));
            (0..page).for_each(|page| device.write(&sparse, page, page));
            let mut page = 0;
            for physical in physical {
                device.unmap(&sparse, page, &physical);
                page += physical.bytes / device.page_bytes;
            }
        }
    }
}

/// Memory that is released behind a part of a mapping reads as zero through all its addresses, also when it is mapped again;
/// what lies beside it stays.
pub fn released_memory_comes_back_zeroed<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for device in Device::all(&backend) {
        let (physical, beside) = (device.physical(4), device.physical(1));
        let (sparse, second) = (device.sparse(16), device.sparse(4));
        device.map(&sparse, 3, &physical);
        device.map(&sparse, 7, &beside);
        device.map(&sparse, 2, &beside);
        device.map(&sparse, 10, &physical);
        device.map(&second, 0, &physical);
        device.write(&sparse, 7, 9);
        for released in [1..3, 0..1, 3..4, 0..4] {
            (0..4).for_each(|page| device.write(&sparse, 3 + page, page));
            device.release(&sparse, 3 + released.start..3 + released.end);
            for page in 0..4 {
                for (block, page_in_block) in [(&second, page), (&sparse, 3 + page), (&sparse, 10 + page)] {
                    if released.contains(&page) {
                        device.check_zero(block, page_in_block);
                    } else {
                        device.check(block, page_in_block, page);
                    }
                }
            }
            device.check(&sparse, 2, 9);
            device.check(&sparse, 7, 9);
        }
        // It is memory as before.
        device.write(&second, 2, 5);
        device.check(&sparse, 12, 5);
        device.release(&sparse, 10..12);
        device.unmap(&sparse, 3, &physical);
        device.map(&sparse, 14, &beside);
        device.map(&sparse, 3, &physical);
        device.check_zero(&sparse, 4);
        device.check(&sparse, 5, 5);
    }
}

/// The host sees what is mapped behind a sparse block at the same offset from its start, and sees it where else it is mapped; it
/// sees no sparse block of memory that it cannot see.
pub fn the_host_sees_mapped_memory<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for device in Device::all(&backend) {
        let page_bytes = device.page_bytes as usize;
        let (physical, sparse) = (device.physical(2), device.sparse(8));
        if !device.is_visible() {
            assert_eq!(backend.host_pointer(sparse.block()), None);
            continue;
        }
        let start = sparse.address();
        assert_eq!(start.addr().get() as u64 % backend.properties().alignment_bytes_min, 0);
        device.map(&sparse, 1, &physical);
        device.map(&sparse, 5, &physical);
        assert_eq!(sparse.address(), start, "it is the same each time");
        device.write(&sparse, 1, 1);
        let page = |index: usize| {
            // SAFETY: the page lies in the block.
            unsafe { start.add(index * page_bytes) }
        };
        for index in [1, 5] {
            // SAFETY: a physical block is mapped there, which nobody writes meanwhile.
            let seen = unsafe { std::slice::from_raw_parts(page(index).as_ptr(), page_bytes) };
            assert!(seen == device.pattern(1), "page {index}");
        }
        // SAFETY: a physical block is mapped there, to which there are no references.
        unsafe { page(6).write_bytes(0x5a, page_bytes) };
        assert!(device.read(&sparse, 2).iter().all(|&byte| byte == 0x5a));
        device.check(&sparse, 5, 1);
    }
}
