//! What a manager hands out: sizes, places, zeros, reuse, tags.

use super::{BUDGET_BYTES, block_manager, manager};
use crate::{Faulty, Oracle, Pattern, Random, config_with_budget};
use aquifer_backend::Backend;
use aquifer_core::{Buffer, ErrorKind, MemoryManager, MemoryOptions, Tag, ZeroPolicy};

/// Sizes from 1 byte to 64 MiB: each power of two, the sizes next to it, and some between.
fn sizes() -> Vec<u64> {
    let mut sizes = vec![1, 2, 3, 100];
    for power in 8..=26 {
        let edge = 1_u64 << power;
        sizes.extend([edge - 1, edge, edge + 1]);
        if power < 20 {
            sizes.extend([edge + edge / 8, edge + edge / 8 + 1, edge + edge / 2 - 1]);
        }
    }
    sizes.retain(|&bytes| bytes <= 64 << 20);
    sizes
}

/// All bytes that a buffer occupies, rounding included.
fn occupied<B: Backend>(buffer: &mut Buffer<B>) -> &mut [u8] {
    let start = buffer.host_pointer().expect("the case needs memory that the host sees");
    // SAFETY: the allocated bytes lie in the block, are initialised, and belong to this buffer alone, which is borrowed
    // mutably.
    unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), buffer.allocated_bytes() as usize) }
}

/// Every size is served with as much as was asked for, not much more, and memory of its own.
pub fn every_size_is_served<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut oracle = Oracle::new();
    let mut buffers = Vec::new();
    for (seed, bytes) in sizes().into_iter().enumerate() {
        let mut buffer = manager.allocate(bytes).unwrap_or_else(|error| panic!("{bytes} bytes: {error}"));
        oracle.allocated(&buffer, bytes, 1);
        let waste = buffer.allocated_bytes() - bytes;
        let most = if bytes <= 1 << 20 { (bytes / 8).max(255) } else { 4095 };
        assert!(waste <= most, "{waste} bytes are wasted on {bytes}");
        let pattern = Pattern::new(seed as u64);
        pattern.write(&mut buffer);
        buffers.push((pattern, buffer));
    }
    oracle.check(&manager.statistics());
    for (pattern, buffer) in &buffers {
        pattern.check(buffer);
        oracle.freed(buffer);
    }
    drop(buffers);
    oracle.check(&manager.statistics());
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
}

/// Every alignment that the device gives is kept, in fresh memory and in holes.
pub fn every_alignment_is_kept<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let most = manager.properties().alignment_bytes_min;
    let mut oracle = Oracle::new();
    let mut random = Random::new(11);
    let mut buffers: Vec<(Pattern, Buffer<B>)> = Vec::new();
    for round in 0..200 {
        let alignment = 1 << random.below(u64::from(most.ilog2()) + 1);
        let bytes = random.size(100_000);
        let options = MemoryOptions::DEFAULT.alignment(alignment);
        let mut buffer = manager.allocate_with(bytes, options).expect("there is room");
        oracle.allocated(&buffer, bytes, alignment);
        let pattern = Pattern::new(round);
        pattern.write(&mut buffer);
        buffers.push((pattern, buffer));
        if buffers.len() > 40 {
            let (pattern, buffer) = buffers.swap_remove(random.below(40) as usize);
            pattern.check(&buffer);
            oracle.freed(&buffer);
        }
    }
    for (pattern, buffer) in &buffers {
        pattern.check(buffer);
    }
    oracle.check(&manager.statistics());
}

/// Dirties memory of many sizes, then checks that what `options` asks for is zero to the last allocated byte.
fn assert_zeroed<B: Backend>(manager: &MemoryManager<B>, options: MemoryOptions) {
    let sizes = [1, 255, 257, 1000, 4097, 33_000, 70_000, 1 << 20, (1 << 20) + 1, 3 << 20];
    for round in 0..3 {
        let mut buffers = Vec::new();
        for bytes in sizes.into_iter().chain(sizes) {
            let mut buffer = manager.allocate_with(bytes, options).expect("there is room");
            let occupied = occupied(&mut buffer);
            let dirty = occupied.iter().position(|&byte| byte != 0);
            assert_eq!(dirty, None, "{bytes} bytes, round {round}: the first byte that is not zero");
            occupied.fill(0xd1);
            buffers.push(buffer);
        }
        drop(buffers);
        // Now under another alignment, so that other places are cut from the same memory.
        let most = manager.properties().alignment_bytes_min;
        let mut buffer = manager.allocate_with(5000, options.alignment(most)).expect("there is room");
        assert!(occupied(&mut buffer).iter().all(|&byte| byte == 0), "aligned, round {round}");
        occupied(&mut buffer).fill(0xd2);
        if round == 1 {
            manager.trim();
        }
    }
}

/// What is asked for zeroed is zero, rounding included, wherever it comes from.
pub fn zeroed_memory_is_zero<B: Backend>(make: impl Fn() -> B) {
    assert_zeroed(&manager(make()), MemoryOptions::ZEROED);
}

/// With [`ZeroPolicy::OnReuse`] everything is zero without being asked for so.
pub fn reused_memory_is_zero_by_policy<B: Backend>(make: impl Fn() -> B) {
    let mut config = config_with_budget(BUDGET_BYTES);
    config.zero_policy = ZeroPolicy::OnReuse;
    let manager = MemoryManager::with_config(make(), config).expect("the budget is given");
    assert_zeroed(&manager, MemoryOptions::DEFAULT);
}

/// Through thousands of allocations and frees no two live buffers share a byte.
pub fn live_buffers_do_not_overlap<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut oracle = Oracle::new();
    let mut random = Random::new(3);
    let mut buffers: Vec<(Pattern, Buffer<B>)> = Vec::new();
    for round in 0..3000 {
        if buffers.len() == 150 || (!buffers.is_empty() && random.below(5) < 2) {
            let (pattern, buffer) = buffers.swap_remove(random.below(buffers.len() as u64) as usize);
            pattern.check(&buffer);
            oracle.freed(&buffer);
        } else {
            let bytes_max = if random.below(20) == 0 { 2 << 20 } else { 8 << 10 };
            let bytes = random.size(bytes_max);
            let mut buffer = manager.allocate(bytes).expect("there is room");
            oracle.allocated(&buffer, bytes, 256);
            let pattern = Pattern::new(round);
            pattern.write(&mut buffer);
            buffers.push((pattern, buffer));
        }
        if round % 700 == 0 {
            manager.trim();
            oracle.check(&manager.statistics());
        }
    }
    for (pattern, buffer) in &buffers {
        pattern.check(buffer);
    }
    oracle.check(&manager.statistics());
}

/// A program that always needs the same calls the driver only at its beginning.
pub fn freed_memory_is_used_again<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let sizes = [100, 3000, 40_000, 900_000, 5 << 20];
    let one_round = || {
        let buffers = sizes.map(|bytes| manager.allocate(bytes).expect("there is room"));
        drop(buffers);
    };
    one_round();
    let before = manager.statistics();
    for _ in 0..500 {
        one_round();
    }
    let after = manager.statistics();
    assert_eq!(after.driver_calls, before.driver_calls);
    assert_eq!(after.reserved, before.reserved);
    assert_eq!(after.allocation_count, 501 * sizes.len() as u64);
    assert!(after.pool_hit_rate() > 0.99, "{}", after.pool_hit_rate());
}

/// What is larger than every bucket has a block of its own, counted and given back like the rest.
pub fn large_requests_are_dedicated<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let bytes = (256 << 20) + 1;
    if manager.properties().block_bytes_max < 2 * bytes {
        println!("the device makes no block so large");
        return;
    }
    let mut buffer = manager.allocate(bytes).expect("there is room");
    buffer.fill_range(bytes - 100..bytes, 1).expect("the end is there");
    let statistics = manager.statistics();
    crate::assert_balanced(&statistics);
    let large = statistics.classes.last().expect("a class was used");
    assert_eq!((large.size_bytes, large.requested_bytes), (None, bytes));
    assert!(buffer.allocated_bytes() - bytes < 4096 && statistics.reserved.current - bytes < 4 << 20);
    drop(buffer);
    let again = manager.allocate(bytes).expect("it is cached");
    assert_eq!(
        manager.statistics().driver_calls.create,
        statistics.driver_calls.create,
        "nothing is made again"
    );
    drop(again);
    assert!(manager.trim() >= bytes);
}

/// A name is always the same tag, and there are 1023 besides "untagged".
pub fn tags_are_names<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let weights = manager.tag("weights").expect("a tag");
    assert_eq!(manager.tag("weights").expect("the same"), weights);
    assert_eq!(manager.clone().tag("weights").expect("of all handles"), weights);
    assert_eq!(manager.tag("untagged").expect("a tag"), Tag::UNTAGGED);
    let buffer = manager.allocate_with(5, MemoryOptions::DEFAULT.tag(weights)).expect("there is room");
    assert_eq!(buffer.tag(), weights);
    let mut last = weights;
    for index in 0..1022 {
        last = manager.tag(&index.to_string()).expect("not yet too many");
    }
    let error = manager.tag("one more").expect_err("too many");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    assert_eq!(manager.tag("weights").expect("known ones still work"), weights);
    let late = manager.allocate_with(1 << 21, MemoryOptions::DEFAULT.tag(last)).expect("there is room");
    let statistics = manager.statistics();
    crate::assert_balanced(&statistics);
    let bytes = |name: &str| statistics.tags.iter().find(|tag| tag.name == name).map(|tag| tag.current_bytes);
    assert_eq!((bytes("weights"), bytes("1021"), bytes("untagged")), (Some(5), Some(1 << 21), Some(0)));
    drop(late);
}

/// When the last handle is gone, blocks without live buffers go; the others go with their last buffer.
pub fn buffers_outlive_their_manager<B: Backend>(make: impl Fn() -> B) {
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = block_manager(backend);
    let one = manager.allocate(8 << 20).expect("there is room");
    let mut other = manager.allocate(16 << 20).expect("there is room");
    let small = manager.allocate(100).expect("there is room");
    let handle = manager.clone();
    drop(manager);
    drop(one);
    assert_eq!(faults.live_blocks(), 3, "a handle is left");
    drop(handle);
    assert_eq!(faults.live_blocks(), 2, "the block that nothing uses goes with the last handle");
    other.fill(1).expect("a buffer works without its manager");
    drop(small);
    other.fill_range(5..6, 2).expect("as above");
    drop(other);
    assert_eq!(faults.live_blocks(), 0);
}
