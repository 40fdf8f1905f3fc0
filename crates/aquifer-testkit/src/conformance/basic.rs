//! The backend by itself, and reading and writing what a manager hands out.

use super::manager;
use super::owned::Owned;
use crate::Pattern;
use aquifer_backend::{Backend, BlockDesc, MemoryFlags};
use aquifer_core::{ErrorKind, MemoryOptions};

/// The device's facts make sense, and are the same each time.
pub fn a_device_is_described_sanely<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let properties = backend.properties().clone();
    assert!(!properties.backend.is_empty() && !properties.device.is_empty());
    assert!(!properties.heaps.is_empty() && !properties.memory_types.is_empty());
    assert!(properties.heaps.iter().all(|heap| heap.size_bytes > 0));
    assert!(
        properties.memory_types.iter().all(|memory_type| memory_type.heap_index < properties.heaps.len())
    );
    assert!(properties.block_granularity_bytes.is_power_of_two());
    assert!(properties.alignment_bytes_min.is_power_of_two() && properties.alignment_bytes_min >= 256);
    assert!(properties.block_bytes_max >= properties.block_granularity_bytes);
    assert!(properties.block_count_max > 0);
    let block = Owned::new(&backend, 1);
    assert_eq!(*backend.properties(), properties);
    drop(block);
    assert_eq!(*make().properties(), properties, "another of the same device");
}

/// Each heap has a budget, and no more is available than it.
pub fn budgets_are_sane<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for heap_index in 0..backend.properties().heaps.len() {
        let budget = backend.budget(heap_index).expect("a budget");
        assert!(budget.budget_bytes > 0);
        assert!(budget.available_bytes <= budget.budget_bytes, "{budget:?}");
    }
}

/// Blocks start at the promised multiples, and each keeps what was written to it and to no other.
pub fn blocks_are_aligned_and_do_not_overlap<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let alignment = backend.properties().alignment_bytes_min;
    let mut blocks: Vec<_> = (0..9).map(|index| Owned::new(&backend, 1 + index % 3 * 7)).collect();
    for (index, block) in blocks.iter_mut().enumerate() {
        assert_eq!(block.address().addr().get() as u64 % alignment, 0);
        Pattern::new(index as u64).bytes(0, block.beginning());
        block.fill(block.bytes - 1, 1, index as u8);
    }
    let mut ends: Vec<_> =
        blocks.iter().map(|block| (block.address().addr().get() as u64, block.bytes)).collect();
    ends.sort_unstable();
    assert!(ends.windows(2).all(|pair| pair[0].0 + pair[0].1 <= pair[1].0), "{ends:x?}");
    for (index, block) in blocks.iter_mut().enumerate() {
        assert_eq!(block.content().last(), Some(&(index as u8)), "block {index} changed at its end");
        let end = block.bytes - 1;
        let mut expected = vec![0; block.beginning().len()];
        Pattern::new(index as u64).bytes(0, &mut expected);
        if expected.len() as u64 > end {
            expected[end as usize] = index as u8;
        }
        assert!(*block.beginning() == *expected, "block {index} changed");
    }
}

/// New blocks are zero, also where dirty ones have just been destroyed.
pub fn new_blocks_are_zero<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for round in 0..3 {
        let mut blocks: Vec<_> = [1, 5, 64].map(|granules| Owned::new(&backend, granules)).into();
        for block in &mut blocks {
            assert!(block.content().iter().all(|&byte| byte == 0), "round {round}");
            block.content().fill(0xff);
        }
    }
}

/// There is a host pointer exactly where the flags say so, and it is the same each time.
pub fn host_pointers_follow_the_flags<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let properties = backend.properties();
    for (memory_type_index, memory_type) in properties.memory_types.iter().enumerate() {
        let desc = BlockDesc::new(properties.block_granularity_bytes, memory_type_index);
        let block = backend.create_block(&desc).expect("a small block");
        let pointer = backend.host_pointer(&block);
        assert_eq!(pointer.is_some(), memory_type.flags.contains(MemoryFlags::HOST_VISIBLE));
        assert_eq!(pointer, backend.host_pointer(&block));
        drop(Owned::of(&backend, block, desc.bytes));
    }
}

/// Where the device uses addresses, a block's is a multiple of the alignment, the same each time and no other block's.
pub fn device_addresses_are_aligned_and_stay<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let alignment = backend.properties().alignment_bytes_min;
    let blocks: Vec<_> = (0..9).map(|index| Owned::new(&backend, 1 + index % 3)).collect();
    let addresses = || blocks.iter().map(|block| backend.device_address(block.block())).collect::<Vec<_>>();
    let before = addresses();
    let other = Owned::new(&backend, 2);
    assert_eq!(addresses(), before);
    drop(other);
    assert_eq!(addresses(), before);
    let mut known: Vec<u64> = before.iter().copied().flatten().collect();
    assert!(known.is_empty() || known.len() == blocks.len(), "some blocks have an address: {before:x?}");
    assert!(known.iter().all(|address| address.is_multiple_of(alignment)), "{before:x?}");
    known.sort_unstable();
    known.dedup();
    assert!(known.is_empty() || known.len() == blocks.len(), "two blocks have one address: {before:x?}");
}

/// Copies and fills of odd lengths at odd offsets change their bytes and no others, within a block and between two.
pub fn copy_and_fill_touch_just_their_range<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let granules = 16384_u64.div_ceil(backend.properties().block_granularity_bytes);
    let (mut one, mut other) = (Owned::new(&backend, granules), Owned::new(&backend, granules));
    let size = one.beginning().len() as u64;
    let mut expected = vec![0; size as usize];
    for (offset, bytes) in [(0, 1), (1, 255), (255, 2), (4095, 4099), (13, 0), (0, size), (size - 1, 1)] {
        Pattern::new(offset).bytes(0, one.beginning());
        Pattern::new(offset).bytes(0, &mut expected);
        one.fill(offset, bytes, 0x5c);
        expected[offset as usize..(offset + bytes) as usize].fill(0x5c);
        assert!(*one.beginning() == *expected, "fill of {bytes} at {offset}");
    }
    for (from, to, bytes) in
        [(0, 0, 1), (3, 8, 1000), (8, 3, 1000), (4097, 1, 4095), (1, 4096, 4097), (0, 0, size)]
    {
        Pattern::new(from).bytes(0, one.beginning());
        Pattern::new(!to).bytes(0, other.beginning());
        Pattern::new(!to).bytes(0, &mut expected);
        // SAFETY: both ranges lie in their blocks, which are two, and nobody else uses them.
        unsafe { backend.copy(one.range(from, bytes), other.range(to, bytes)) }.expect("a copy");
        Pattern::new(from).bytes(from, &mut expected[to as usize..(to + bytes) as usize]);
        assert!(*other.beginning() == *expected, "copy of {bytes} from {from} to {to}");
    }
    Pattern::new(1).bytes(0, one.beginning());
    Pattern::new(1).bytes(0, &mut expected);
    // SAFETY: the ranges lie in the block and do not overlap, and nobody else uses it.
    unsafe { backend.copy(one.range(5, 4000), one.range(4005, 4000)) }.expect("a copy");
    expected.copy_within(5..4005, 4005);
    assert!(*one.beginning() == *expected, "copy within a block");
}

/// Values of all kinds are read as they were written, at any offset.
pub fn values_come_back<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut buffer = manager.allocate(1000).expect("1000 bytes");
    buffer.write(0, &[1.5_f64, -2.0]).expect("in bounds");
    buffer.write(17, &[u32::MAX, 7]).expect("in bounds, at an odd offset");
    buffer.write(999, b"!").expect("the last byte");
    buffer.write::<u64>(1000, &[]).expect("nothing, at the end");
    let (mut floats, mut words, mut last) = ([0.0_f64; 2], [0_u32; 2], [0_u8]);
    buffer.read(0, &mut floats).expect("in bounds");
    buffer.read(17, &mut words).expect("in bounds");
    buffer.read(999, &mut last).expect("in bounds");
    assert_eq!((floats, words, last), ([1.5, -2.0], [u32::MAX, 7], *b"!"));
    buffer.fill_range(18..19, 0).expect("in bounds");
    buffer.read(17, &mut words).expect("in bounds");
    assert_eq!(words, [0xffff_00ff_u32.to_be().swap_bytes(), 7].map(u32::to_le));
    buffer.fill(9).expect("a fill");
    assert!(buffer.as_slice::<u8>().expect("visible").iter().all(|&byte| byte == 9));
}

/// A buffer is a slice of values, if its size is a multiple of theirs.
pub fn memory_is_seen_as_values<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut buffer = manager.allocate_with(96, MemoryOptions::ZEROED).expect("96 bytes");
    let words = buffer.as_mut_slice::<u64>().expect("a multiple of 8");
    assert_eq!(words, [0; 12]);
    words[11] = u64::MAX;
    assert_eq!(buffer.as_slice::<[u32; 3]>().expect("a multiple of 12")[7], [0, u32::MAX, u32::MAX]);
    for refused in [buffer.as_slice::<[u8; 9]>().err(), buffer.as_mut_slice::<[u64; 7]>().err()] {
        let error = refused.expect("no multiple");
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
        assert!(error.message().contains("96"), "{error}");
    }
}

/// Ranges outside a buffer of 300 bytes, as offset and length.
const OUTSIDE_300: [(u64, usize); 7] =
    [(300, 1), (299, 2), (0, 301), (301, 0), (u64::MAX, 1), (u64::MAX - 3, 4), (1 << 40, 8)];

/// What does not lie in the buffer is refused, and neither side has changed.
pub fn out_of_bounds_changes_nothing<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let pattern = Pattern::new(5);
    let mut buffer = manager.allocate(300).expect("300 bytes");
    let mut other = manager.allocate(1 << 10).expect("a KiB");
    pattern.write(&mut buffer);
    other.fill(3).expect("a fill");
    for (offset, bytes) in OUTSIDE_300 {
        let length = bytes as u64;
        let mut target = vec![0xee_u8; bytes];
        let errors = [
            buffer.write(offset, &vec![1_u8; bytes]).err(),
            buffer.read(offset, &mut target).err(),
            buffer.copy_from(offset, &other, 0, length).err(),
            other.copy_from(0, &buffer, offset, length).err(),
            buffer.fill_range(offset..offset.saturating_add(length.max(1)), 1).err(),
        ];
        for error in errors {
            let error = error.unwrap_or_else(|| panic!("{bytes} bytes at {offset} were accepted"));
            assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{error}");
            assert!(!error.is_retryable());
        }
        assert!(target.iter().all(|&byte| byte == 0xee), "a refused read wrote its target");
    }
    let backwards = buffer.fill_range(std::ops::Range { start: 20, end: 10 }, 1);
    assert_eq!(backwards.expect_err("it ends before it starts").kind(), ErrorKind::OutOfBounds);
    pattern.check(&buffer);
    assert!(other.as_slice::<u8>().expect("visible").iter().all(|&byte| byte == 3));
}

/// A view cannot reach what is around it, even inside its buffer.
pub fn views_have_bounds_of_their_own<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut buffer = manager.allocate(1000).expect("1000 bytes");
    buffer.fill(1).expect("a fill");
    let whole = buffer.into_view();
    let middle = whole.view(100..400).expect("in bounds");
    assert_eq!((middle.size_bytes(), middle.offset_in_buffer()), (300, 100));
    for (offset, bytes) in OUTSIDE_300 {
        let mut target = vec![0xee_u8; bytes];
        let errors = [
            middle.write(offset, &vec![9_u8; bytes]).err(),
            middle.read(offset, &mut target).err(),
            middle.view(offset..offset.saturating_add(bytes.max(1) as u64)).err(),
        ];
        for error in errors {
            let error = error.unwrap_or_else(|| panic!("{bytes} bytes at {offset} were accepted"));
            assert_eq!(error.kind(), ErrorKind::OutOfBounds, "{error}");
        }
        assert!(target.iter().all(|&byte| byte == 0xee));
    }
    assert_eq!(
        middle.view(std::ops::Range { start: 2, end: 1 }).expect_err("backwards").kind(),
        ErrorKind::OutOfBounds
    );
    assert_eq!(middle.split_at(301).expect_err("too far").kind(), ErrorKind::OutOfBounds);
    let (left, right) = middle.split_at(300).expect("at the end");
    assert_eq!((left.size_bytes(), right.size_bytes()), (300, 0));
    right.fill(7).expect("nothing to fill");
    let inner = left.view(50..60).expect("in bounds");
    assert_eq!(inner.offset_in_buffer(), 150);
    inner.fill(2).expect("a fill");
    inner.write(9, &[3_u8]).expect("in bounds");
    middle.write(0, &[4_u8]).expect("in bounds");
    let mut bytes = [0_u8; 1000];
    whole.read(0, &mut bytes).expect("in bounds");
    let mut expected = [1_u8; 1000];
    expected[100] = 4;
    expected[150..159].fill(2);
    expected[159] = 3;
    assert!(bytes == expected);
}

/// The buffer lives as long as any of its views, and comes back from the last.
pub fn views_keep_the_buffer<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = manager.allocate(512).expect("512 bytes").into_view();
    let part = whole.view(0..10).expect("in bounds");
    part.write(0, &[8_u8; 10]).expect("in bounds");
    let whole = whole.try_into_buffer().expect_err("there is another view");
    drop(whole);
    assert_eq!(manager.statistics().live_count(), 1);
    let copy = part.clone();
    drop(part);
    let buffer = copy.try_into_buffer().expect("it was the last view");
    assert_eq!(buffer.size_bytes(), 512);
    assert_eq!(buffer.as_slice::<u8>().expect("visible")[..10], [8; 10]);
    drop(buffer);
    assert_eq!(manager.statistics().live_count(), 0);
}

/// Copies between buffers and views arrive whole, and those that make no sense are refused.
pub fn copies_arrive<B: Backend>(make: impl Fn() -> B) {
    let (one, two) = (manager(make()), manager(make()));
    let mut source = one.allocate(5000).expect("5000 bytes");
    Pattern::new(2).write(&mut source);
    let mut target = one.allocate_with(6000, MemoryOptions::ZEROED).expect("6000 bytes");
    target.copy_from(7, &source, 3, 4997).expect("in bounds");
    target.copy_from(6000, &source, 5000, 0).expect("nothing, at the ends");
    let mut expected = vec![0; 6000];
    Pattern::new(2).bytes(3, &mut expected[7..5004]);
    assert!(*target.as_slice::<u8>().expect("visible") == *expected);

    let mut foreign = two.allocate(5000).expect("5000 bytes");
    let error = foreign.copy_from(0, &source, 0, 10).expect_err("two managers");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");

    let (source, target) = (source.into_view(), target.into_view());
    let refused = [
        target.view(0..10).expect("in bounds").copy_from(&source).expect_err("shorter"),
        source
            .view(0..10)
            .expect("in bounds")
            .copy_from(&source.view(5..15).expect("in bounds"))
            .expect_err("they overlap"),
        foreign.into_view().copy_from(&source).expect_err("two managers"),
    ];
    for error in refused {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    let apart = source.view(2000..3000).expect("in bounds");
    apart.copy_from(&source.view(0..1000).expect("in bounds")).expect("two parts of one buffer");
    let mut copied = [vec![0_u8; 1000], vec![0_u8; 1000]];
    apart.read(0, &mut copied[0]).expect("in bounds");
    source.read(0, &mut copied[1]).expect("in bounds");
    assert!(copied[0] == copied[1]);
    for (from, to) in [(&source, &target), (&target, &source)] {
        to.view(100..199)
            .expect("in bounds")
            .copy_from(&from.view(1..100).expect("in bounds"))
            .expect("a copy");
    }
    let (mut wrote, mut read) = ([0_u8; 99], [0_u8; 99]);
    source.read(1, &mut wrote).expect("in bounds");
    target.read(100, &mut read).expect("in bounds");
    assert_eq!(wrote, read);
}

/// Where the host cannot see memory it is told so, and nothing is lost.
pub fn invisible_memory_refuses_the_host<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut buffer = manager.allocate(64).expect("64 bytes");
    assert!(buffer.host_pointer().is_none());
    let errors = [
        buffer.write(0, &[1_u8]).err(),
        buffer.read(0, &mut [0_u8]).err(),
        buffer.as_slice::<u8>().err(),
        buffer.as_mut_slice::<u8>().err(),
    ];
    for error in errors {
        assert_eq!(error.expect("the host cannot see it").kind(), ErrorKind::Unsupported);
    }
    let view = buffer.into_view();
    assert_eq!(view.write(0, &[1_u8]).expect_err("as above").kind(), ErrorKind::Unsupported);
    assert_eq!(view.read(0, &mut [0_u8]).expect_err("as above").kind(), ErrorKind::Unsupported);
    assert_eq!(view.read(64, &mut [0_u8]).expect_err("not there").kind(), ErrorKind::OutOfBounds);
    let errors = [
        view.as_slice::<u8>().err(),
        view.try_as_slice::<u8>().err(),
        view.as_mut_slice::<u8>().err(),
        view.try_as_mut_slice::<u8>().err(),
        view.typed::<u32>().expect("64 bytes").as_slice().err(),
    ];
    for error in errors {
        assert_eq!(error.expect("the host cannot see it").kind(), ErrorKind::Unsupported);
    }
    view.fill(1).expect("who was refused is in nobody's way");
}

/// Filling, copying and zeroing work whether the host can see the memory or not.
pub fn fill_and_copy_need_no_host<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut one = manager.allocate_with(70_000, MemoryOptions::ZEROED).expect("70000 bytes");
    let mut other = manager.allocate(70_000).expect("70000 bytes");
    one.fill(1).expect("a fill");
    one.fill_range(3..69_999, 2).expect("a fill");
    other.copy_from(1, &one, 0, 69_999).expect("a copy");
    let (one, other) = (one.into_view(), other.into_view());
    other.copy_from(&one).expect("a copy");
    other.fill(0).expect("a fill");
}

/// Requests that no call can serve are refused with the kind that says why, and change nothing.
pub fn senseless_requests_are_refused<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let most = manager.properties().alignment_bytes_min;
    let ask = |bytes, options| manager.allocate_with(bytes, options).expect_err("a senseless request").kind();
    let plain = MemoryOptions::DEFAULT;
    assert_eq!(ask(0, plain), ErrorKind::InvalidArgument);
    assert_eq!(ask(0, MemoryOptions::ZEROED), ErrorKind::InvalidArgument);
    for bytes in [u64::MAX, u64::MAX - 255, u64::MAX - 4095, 1 << 63, (1 << 63) - 1, 1 << 50] {
        for options in [plain, MemoryOptions::ZEROED, plain.alignment(most)] {
            assert_eq!(ask(bytes, options), ErrorKind::CanNeverFit, "{bytes}");
        }
    }
    for alignment in [0, 3, 255, 257, most - 1, most + 1, u64::MAX] {
        assert_eq!(ask(100, plain.alignment(alignment)), ErrorKind::InvalidArgument, "{alignment}");
    }
    for alignment in [2 * most, 1 << 63] {
        assert_eq!(ask(100, plain.alignment(alignment)), ErrorKind::Unsupported, "{alignment}");
    }
    let statistics = manager.statistics();
    assert_eq!((statistics.allocation_count, statistics.reserved.total), (0, 0));
    assert_eq!(statistics.driver_calls.count(), 0);
}
