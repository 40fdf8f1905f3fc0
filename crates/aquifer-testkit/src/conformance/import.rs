//! Buffers of memory that the user brings.

use super::{BUDGET_BYTES, manager};
use crate::{Channel, MappedMemory, Pattern, Random, Shelf, assert_balanced, config_with_budget};
use aquifer_backend::{Capabilities, Properties, SyncBackend};
use aquifer_core::{
    Buffer, CopyDesc, ErrorKind, HostMemory, MemoryManager, MemoryOptions, Tracking, ZeroPolicy,
};
use std::thread;
use std::time::Duration;

/// Nothing here takes so long, unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// Memory of `units` times what is imported at least, with a pattern in it.
fn memory(properties: &Properties, units: u64, seed: u64) -> MappedMemory {
    let alignment = properties.import_alignment_bytes;
    let mut memory = MappedMemory::new(units * alignment, alignment);
    Pattern::new(seed).bytes(0, memory.content_mut());
    memory
}

/// As [`memory`], lent.
fn lent(properties: &Properties, units: u64, seed: u64, shelf: &Shelf) -> HostMemory {
    memory(properties, units, seed).lend(0..units * properties.import_alignment_bytes, shelf)
}

fn expected(seed: u64, bytes: usize) -> Vec<u8> {
    let mut expected = vec![0; bytes];
    Pattern::new(seed).bytes(0, &mut expected);
    expected
}

/// Checks that nothing imported is left, and that so many owners have been dropped.
fn assert_all_back<B: SyncBackend>(manager: &MemoryManager<B>, shelf: &Shelf, count: usize) {
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.imported.current, statistics.imported_block_count), (0, 0), "{statistics:#?}");
    assert_eq!(shelf.count(), count);
}

/// Waits until the driver has let go of all imported memory that was freed, and so many owners have been dropped: that may come a
/// moment after the block has gone, if the driver still holds what its queues have used.
fn come_to_rest<B: SyncBackend>(manager: &MemoryManager<B>, shelf: &Shelf, count: usize) {
    for _ in 0..60_000 {
        manager.settle();
        if manager.statistics().imported_block_count == 0 && shelf.count() == count {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("imported memory stays, {} of {count} are back: {}", shelf.count(), manager.report());
}

/// The buffer is the very memory: what was there is read, what the device writes is there afterwards, and nothing is counted
/// as the driver's.
pub fn memory_is_used_where_it_is<B: SyncBackend>(make: impl Fn() -> B) {
    let mut config = config_with_budget(BUDGET_BYTES);
    // What is imported is not cleared, whatever is.
    config.zero_policy = ZeroPolicy::OnReuse;
    let manager = MemoryManager::with_config(make(), config).expect("the budget is given");
    let properties = manager.properties().clone();
    let alignment = properties.import_alignment_bytes;
    assert!(alignment.is_power_of_two() && alignment.is_multiple_of(properties.alignment_bytes_min));
    let (shelf, bytes) = (Shelf::default(), 9 * alignment);
    let memory = memory(&properties, 9, 1);
    let start = memory.start();
    let mut buffer = manager.import(memory.lend(0..bytes, &shelf)).expect("it is aligned");
    assert_eq!((buffer.size_bytes(), buffer.allocated_bytes()), (bytes, bytes));
    assert_eq!(buffer.host_pointer(), Some(start), "it was copied");
    assert!(buffer.device_address().is_none_or(|address| address % properties.alignment_bytes_min == 0));
    assert!(buffer.as_slice::<u8>().expect("the host sees it") == expected(1, bytes as usize));
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    let imported = statistics.imported;
    assert_eq!((imported.current, imported.peak, imported.total), (bytes, bytes, bytes));
    assert_eq!((statistics.imported_block_count, statistics.reserved.total), (1, 0));

    // There, back, and over it again, by the device.
    let mut copy = manager.allocate(bytes).expect("there is room");
    copy.copy_from(0, &buffer, 0, bytes).expect("a copy");
    buffer.fill_range(0..bytes - 100, 7).expect("a fill");
    buffer.copy_from(0, &copy, bytes - 300, 300).expect("a copy");
    drop(buffer);
    assert_all_back(&manager, &shelf, 1);
    let (memory, pattern) = (shelf.take().remove(0), expected(1, bytes as usize));
    let (content, end) = (memory.content(), bytes as usize);
    assert!(content[..300] == pattern[end - 300..] && content[end - 100..] == pattern[end - 100..]);
    assert!(content[300..end - 100].iter().all(|&byte| byte == 7));
}

/// Operations of queues reach it, and the owner stays until they are over.
pub fn queues_use_imported_memory<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let properties = manager.properties().clone();
    if !properties.capabilities.contains(Capabilities::QUEUES) {
        return;
    }
    let (shelf, bytes) = (Shelf::default(), 4 * properties.import_alignment_bytes);
    let (queue, other) = (manager.queue().expect("a queue"), manager.queue().expect("a queue"));
    let buffer = manager.import(lent(&properties, 4, 2, &shelf)).expect("it is aligned");
    let ordinary = manager.allocate(bytes).expect("there is room");
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes };
    let (buffer, ordinary) = queue.copy(buffer, ordinary, desc).expect("begun").wait().expect("it ends well");
    let buffer = other.fill(buffer, 9).expect("begun").wait().expect("it ends well");
    let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: bytes / 2 };
    let (ordinary, buffer) = other.copy(ordinary, buffer, desc).expect("begun").wait().expect("it ends well");
    let values = vec![3_u8; 100];
    let (buffer, _) = queue.upload(values, buffer, bytes - 100).expect("begun").wait().expect("it ends well");
    let download = queue.download::<u8>(buffer, 0, bytes as usize).expect("begun");
    let (buffer, found) = download.wait().expect("it ends well");
    let mut wanted = expected(2, bytes as usize);
    wanted[bytes as usize / 2..].fill(9);
    wanted[bytes as usize - 100..].fill(3);
    if !properties.capabilities.contains(Capabilities::SIMULATED) {
        assert!(found == wanted, "the device sees something else");
        assert!(buffer.as_slice::<u8>().expect("the host sees it") == wanted, "the host sees something else");
    }
    assert_eq!(shelf.count(), 0);

    // Freed while queues may use it, and by an operation that nobody waits for.
    for queue in [&queue, &other] {
        buffer.record_use(queue).expect("a queue of its manager");
    }
    drop((buffer, ordinary));
    come_to_rest(&manager, &shelf, 1);
    assert_eq!(shelf.take().len(), 1);
    for seed in 0..20 {
        let buffer = manager.import(lent(&properties, 4, seed, &shelf)).expect("it is aligned");
        drop(queue.fill(buffer, seed as u8).expect("begun"));
    }
    queue.synchronize(LONG).expect("the queue ends");
    come_to_rest(&manager, &shelf, 20);
    assert_all_back(&manager, &shelf, 20);
    if !properties.capabilities.contains(Capabilities::SIMULATED) {
        // In whichever order they came back, each was filled before.
        let mut values: Vec<_> = shelf.take().iter().map(|memory| memory.content()[0]).collect();
        values.sort_unstable();
        assert_eq!(values, (0..20).collect::<Vec<_>>());
    }
}

/// Views, tags, numbers and the list of live allocations know it.
pub fn it_is_a_buffer_like_any_other<B: SyncBackend>(make: impl Fn() -> B) {
    let mut config = config_with_budget(BUDGET_BYTES);
    config.tracking = Tracking::Places;
    let manager = MemoryManager::with_config(make(), config).expect("the budget is given");
    let properties = manager.properties().clone();
    let (shelf, unit) = (Shelf::default(), properties.import_alignment_bytes);
    let tag = manager.tag("weights").expect("a tag");
    let tagged = MemoryOptions::DEFAULT.tag(tag).alignment(unit.min(4096));
    let buffer = manager.import_with(lent(&properties, 2, 3, &shelf), tagged).expect("it is aligned");
    let line = line!() - 1;
    let ordinary = manager.allocate_with(500, MemoryOptions::DEFAULT.tag(tag)).expect("there is room");
    let report = manager.live_allocations();
    assert_eq!((report.live_count, report.live_bytes), (2, 2 * unit + 500));
    let listed = report.allocations.as_ref().expect("they are tracked");
    assert_eq!((listed[0].bytes, listed[0].tag.as_str()), (2 * unit, "weights"));
    assert_eq!((listed[0].location.file(), listed[0].location.line()), (file!(), line));
    let of_tag = || manager.statistics().tags.into_iter().find(|tag| tag.name == "weights");
    assert_eq!(of_tag().map(|tag| tag.current_bytes), Some(2 * unit + 500));
    assert_eq!(buffer.tag(), tag);

    let view = buffer.into_view();
    let (low, high) = view.split_at(unit).expect("there are two units");
    low.copy_from(&high).expect("they do not overlap");
    drop((low, high));
    let buffer = view.try_into_buffer().expect("it is the only one");
    let raw = buffer.into_raw();
    let buffer: Buffer<B> = manager.take_raw(raw).expect("it lives");
    let pattern = expected(3, 2 * unit as usize);
    let content = buffer.as_slice::<u8>().expect("the host sees it");
    assert!(
        content[..unit as usize] == pattern[unit as usize..]
            && content[unit as usize..] == pattern[unit as usize..]
    );
    drop((buffer, ordinary));
    let report = manager.live_allocations();
    assert_eq!((report.live_count, report.allocations.map(|listed| listed.len())), (0, Some(0)));
    assert_eq!(of_tag().map(|tag| (tag.current_bytes, tag.peak_bytes)), Some((0, 2 * unit + 500)));
    assert_all_back(&manager, &shelf, 1);
}

/// What was imported is not handed out again, while it lives or after.
pub fn it_serves_nobody_else<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let properties = manager.properties().clone();
    let (shelf, mut random) = (Shelf::default(), Random::new(5));
    let mut imported: Vec<_> = (0..16)
        .map(|seed| {
            manager.import(lent(&properties, 1 + seed % 5 * 20, seed, &shelf)).expect("it is aligned")
        })
        .collect();
    let sizes: Vec<u64> = imported.iter().map(Buffer::size_bytes).collect();
    for round in 0..4 {
        for _ in 0..3 {
            drop(imported.swap_remove(random.below(imported.len() as u64) as usize));
        }
        // Sizes that would fit well, and many small ones. What they hold shows if one of them lies there.
        let small = (0..100).map(|_| 1 + random.below(5000));
        let buffers = sizes.iter().copied().chain(small).map(|bytes| {
            let mut buffer = manager.allocate(bytes).expect("there is room");
            buffer.fill(0xee).expect("a fill");
            buffer
        });
        let buffers: Vec<_> = buffers.collect();
        assert_balanced(&manager.statistics());
        drop(buffers);
        if round % 2 == 0 {
            manager.trim();
        }
    }
    manager.trim();
    let statistics = manager.statistics();
    assert_eq!(
        (statistics.imported_block_count, statistics.reserved.current),
        (4, 0),
        "trimming takes the rest"
    );
    drop(imported);
    assert_all_back(&manager, &shelf, 16);
    let is_whole = |memory: &MappedMemory| {
        (0..16).any(|seed| memory.content() == expected(seed, memory.content().len()))
    };
    assert!(shelf.take().iter().all(is_whole), "another allocation has written to it");
}

/// What cannot be imported comes back, with the reason.
pub fn senseless_memory_comes_back<B: SyncBackend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let properties = manager.properties().clone();
    let (shelf, unit) = (Shelf::default(), properties.import_alignment_bytes);
    let parts = [(0, 0), (1, unit + 1), (unit / 2, unit + unit / 2), (0, unit - 1), (0, unit + 1), (1, unit)];
    for (count, (start, end)) in parts.into_iter().enumerate() {
        let memory = memory(&properties, 2, 4);
        let address = memory.start().addr().get() as u64 + start;
        let refused = manager.import(memory.lend(start..end, &shelf)).expect_err("it is not aligned");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidArgument, "{refused}");
        assert!(refused.error.message().contains(&unit.to_string()), "what is needed: {refused}");
        let memory = refused.memory;
        assert_eq!((memory.start().addr().get() as u64, memory.bytes()), (address, end - start));
        assert_eq!(shelf.count(), count, "it was dropped");
        drop(memory);
    }
    for options in [MemoryOptions::ZEROED, MemoryOptions::DEFAULT.alignment(3)] {
        let refused = manager.import_with(lent(&properties, 2, 4, &shelf), options).expect_err("senseless");
        assert_eq!(refused.error.kind(), ErrorKind::InvalidArgument, "{refused}");
        drop(manager.import(refused.memory).expect("there is nothing wrong with it"));
    }
    assert_all_back(&manager, &shelf, parts.len() + 2);
    assert_eq!(manager.statistics().imported.total, 4 * unit);
}

/// The last buffer takes its manager's state along, whether it was imported or not.
pub fn imported_buffers_outlive_their_manager<B: SyncBackend>(make: impl Fn() -> B) {
    for imported_goes_last in [true, false] {
        let manager = manager(make());
        let shelf = Shelf::default();
        let import = |seed| {
            let memory = lent(manager.properties(), 3, seed, &shelf);
            manager.import(memory).expect("it is aligned")
        };
        let (mut imported, ordinary) = (import(6), manager.allocate(5000).expect("there is room"));
        let _ = import(7).into_raw();
        drop(manager);
        assert_eq!(shelf.count(), 1, "nobody could have freed the raw one");
        imported.fill(8).expect("it lives");
        let freer = thread::spawn(move || {
            let (mut imported, mut ordinary) = (Some(imported), Some(ordinary));
            if imported_goes_last {
                drop(ordinary.take());
            }
            drop(imported.take());
        });
        freer.join().expect("it is freed");
        let memory = shelf.take();
        assert_eq!(memory.len(), 2);
        assert!(memory[1].content().iter().all(|&byte| byte == 8));
    }
}

/// Many threads at once: each buffer is freed by another thread than imported it, whole and once.
pub fn many_threads_import_and_free<B: SyncBackend>(make: impl Fn() -> B) {
    const THREADS: u64 = 6;
    const ROUNDS: u64 = 60;
    let manager = manager(make());
    let (shelf, channel) = (Shelf::default(), Channel::new(8));
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (manager, shelf, sender) = (&manager, &shelf, channel.clone());
            scope.spawn(move || {
                let mut random = Random::new(thread);
                for round in 0..ROUNDS {
                    let seed = thread << 32 | round;
                    let memory = lent(manager.properties(), 1 + random.below(4), seed, shelf);
                    let buffer = manager.import(memory).expect("it is aligned");
                    sender.send((Pattern::new(seed), buffer));
                    if round % 7 == 0 {
                        manager.trim();
                    }
                }
            });
            let receiver = channel.clone();
            scope.spawn(move || {
                for _ in 0..ROUNDS {
                    let (pattern, buffer): (Pattern, Buffer<B>) = receiver.receive();
                    pattern.check(&buffer);
                }
            });
        }
    });
    come_to_rest(&manager, &shelf, (THREADS * ROUNDS) as usize);
    assert_all_back(&manager, &shelf, (THREADS * ROUNDS) as usize);
}
