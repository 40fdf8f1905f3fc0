use super::*;
use crate::mapping::HUGE_PAGE_BYTES;

fn create(host: &Host, bytes: u64) -> HostBlock {
    host.create_block(&BlockDesc::new(bytes, 0)).unwrap()
}

fn destroy(host: &Host, block: HostBlock) {
    // SAFETY: the tests below use no block after this.
    unsafe { host.destroy_block(block) }.unwrap();
}

/// The block's content. The borrow of the block keeps it from being destroyed meanwhile.
fn bytes<'a>(host: &Host, block: &'a mut HostBlock) -> &'a mut [u8] {
    let start = host.host_pointer(block).unwrap();
    // SAFETY: the block is readable, writable and initialised over its size, and borrowed exclusively.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), block.bytes()) }
}

fn range(block: &HostBlock, offset: u64, bytes: u64) -> BlockRange<'_, HostBlock> {
    BlockRange { block, offset, bytes }
}

#[test]
fn properties_keep_the_contract() {
    let host = Host::new().unwrap();
    let properties = host.properties();
    assert_eq!(properties.backend, "host");
    assert!(properties.device.starts_with("host memory"));
    assert!(properties.block_granularity_bytes.is_power_of_two());
    assert!(properties.alignment_bytes_min.is_power_of_two() && properties.alignment_bytes_min >= 256);
    assert_eq!(properties.heaps.len(), 1);
    assert!(properties.heaps[0].size_bytes > 0);
    let flags: Vec<_> = properties.memory_types.iter().map(|memory_type| memory_type.flags).collect();
    let visible = MemoryFlags::HOST_VISIBLE;
    let has_sparse = properties.capabilities.contains(Capabilities::SPARSE_BLOCKS);
    let sparse = if has_sparse { MemoryFlags::SPARSE } else { MemoryFlags::NONE };
    assert_eq!(flags, [visible | MemoryFlags::DEVICE_LOCAL | sparse, visible | MemoryFlags::PINNED]);
    assert!(properties.memory_types[PINNED].flags.contains(MemoryFlags::PINNED));
    assert_eq!(host.pinned_node(), None);
    assert!(properties.block_count_max > 0);
    assert!(properties.block_bytes_max.is_multiple_of(properties.block_granularity_bytes));
}

#[test]
fn budget_is_within_the_heap() {
    let host = Host::new().unwrap();
    let budget = host.budget(0).unwrap();
    assert!(budget.budget_bytes > 0 && budget.budget_bytes <= host.properties().heaps[0].size_bytes);
    assert!(budget.available_bytes <= budget.budget_bytes);
}

#[test]
fn blocks_are_zeroed_aligned_and_writable_to_the_last_byte() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let huge = HUGE_PAGE_BYTES as u64;
    let sizes =
        [granule, 3 * granule, huge - granule, huge, huge + granule, 5 * huge, 5 * huge + 7 * granule];
    // Twice, so that addresses which have been dirty come round again.
    for size in sizes.into_iter().chain(sizes) {
        let mut block = create(&host, size);
        let address = host.host_pointer(&block).unwrap().addr().get() as u64;
        let alignment = if size >= huge { huge } else { host.properties().alignment_bytes_min };
        assert!(address.is_multiple_of(alignment), "{size} bytes at {address:#x}");
        let content = bytes(&host, &mut block);
        assert_eq!(content.len() as u64, size);
        assert!(content.iter().all(|&byte| byte == 0), "{size}");
        content.fill(0xa5);
        assert_eq!(content.last(), Some(&0xa5));
        destroy(&host, block);
    }
}

#[test]
fn blocks_do_not_overlap() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let size = |index: u64| if index.is_multiple_of(2) { (2 << 20) + granule } else { granule };
    let mut blocks: Vec<_> = (0..20).map(|index| create(&host, size(index))).collect();
    for (index, block) in blocks.iter_mut().enumerate() {
        bytes(&host, block).fill(index as u8 + 1);
    }
    for (index, block) in blocks.iter_mut().enumerate() {
        assert!(bytes(&host, block).iter().all(|&byte| byte == index as u8 + 1), "{index}");
    }
    for block in blocks {
        destroy(&host, block);
    }
}

#[test]
fn impossible_sizes_are_out_of_memory() {
    let host = Host::new().unwrap();
    for size in [1 << 60, 1 << 63, u64::MAX - 0x3fff] {
        let error = host.create_block(&BlockDesc::new(size, 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.is_retryable());
        assert!(error.message().contains(&size.to_string()) && error.message().contains("ulimit"), "{error}");
    }
    // The largest block may be possible: it is address space only.
    let desc = BlockDesc::new(host.properties().block_bytes_max, 0);
    match host.create_block(&desc) {
        Ok(block) => destroy(&host, block),
        Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}"),
    }
}

#[test]
fn no_size_at_all_is_an_error_with_its_cause() {
    let error = Host::new().unwrap().create_block(&BlockDesc::new(0, 0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Driver);
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn copies_between_blocks_and_within_one() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let (mut a, mut b) = (create(&host, granule), create(&host, granule));
    for (index, byte) in bytes(&host, &mut a).iter_mut().enumerate() {
        *byte = index as u8;
    }
    // SAFETY: both ranges lie in their blocks, which are different, and nobody else knows them.
    unsafe { host.copy(range(&a, 3, 100), range(&b, granule - 100, 100)) }.unwrap();
    let content = bytes(&host, &mut b);
    let (before, copied) = content.split_at(content.len() - 100);
    assert!(before.iter().all(|&byte| byte == 0));
    assert!(copied.iter().enumerate().all(|(index, &byte)| byte == index as u8 + 3));
    // SAFETY: the ranges touch but do not overlap.
    unsafe { host.copy(range(&a, 10, 20), range(&a, 30, 20)) }.unwrap();
    assert_eq!(bytes(&host, &mut a)[30..50], (10..30).collect::<Vec<u8>>());
    // SAFETY: both ranges are empty, at the very end of their blocks.
    unsafe { host.copy(range(&a, granule, 0), range(&b, granule, 0)) }.unwrap();
    destroy(&host, a);
    destroy(&host, b);
}

#[test]
fn fills_a_range_and_nothing_else() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let mut block = create(&host, granule);
    // SAFETY: the range lies in the block, and nobody else knows it.
    unsafe { host.fill(range(&block, 5, 10), 0xff) }.unwrap();
    let content = bytes(&host, &mut block);
    assert!(content.iter().enumerate().all(|(index, &byte)| (byte == 0xff) == (5..15).contains(&index)));
    destroy(&host, block);
}

#[test]
fn backend_and_blocks_may_cross_threads() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Host>();
    is_shared::<HostBlock>();
    let host = Host::new().unwrap();
    let mut block = create(&host, host.properties().block_granularity_bytes);
    let block = std::thread::scope(|scope| {
        let write = || {
            bytes(&host, &mut block)[0] = 9;
            block
        };
        scope.spawn(write).join().unwrap()
    });
    destroy(&host, block);
}
