//! Pinned and unified memory.
//!
//! Little can be locked on some systems (8 MiB of a process, by default), so each case makes do with a small block or two, one case
//! at a time. Where the system locks not even that, the case on a driver that refuses is the one that counts.

use super::{BUDGET_BYTES, manager};
use crate::{Faults, Faulty, Pattern, assert_balanced, config_with_budget};
use aquifer_backend::{Backend, MemoryFlags};
use aquifer_core::allocator_api2::alloc::Allocator;
use aquifer_core::allocator_api2::{boxed::Box, vec, vec::Vec};
use aquifer_core::{
    ErrorKind, MemoryKind, MemoryManager, MemoryOptions, PinnedBuffer, PinnedConfig, PinnedStatistics,
    WhenRefused,
};
use parking_lot::{Mutex, MutexGuard};
use std::alloc::Layout;

static LOCKED: Mutex<()> = Mutex::new(());

/// Keeps others of these cases, in this process, from locking memory meanwhile.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    LOCKED.lock()
}

/// The statistics, without words.
pub(super) fn figures<B: Backend>(manager: &MemoryManager<B>) -> PinnedStatistics {
    let mut figures = manager.statistics().pinned;
    figures.last_refusal = None;
    figures
}

/// Whether the system locks so little memory that a case makes no sense; then it says so.
pub(super) fn is_lockable<B: Backend>(manager: &MemoryManager<B>) -> bool {
    match manager.pinned().allocate(64 << 10) {
        Ok(_) => true,
        Err(refusal) => {
            println!("skipped: {refusal}");
            let is_refusal = [ErrorKind::OutOfMemory, ErrorKind::Driver, ErrorKind::Unsupported];
            assert!(is_refusal.contains(&refusal.kind()), "{refusal}");
            false
        }
    }
}

pub(super) fn check_empty<B: Backend>(manager: &MemoryManager<B>) {
    let now = figures(manager);
    assert_eq!((now.live_count, now.live_bytes, now.unlocked_count, now.unlocked_bytes), (0, 0, 0, 0));
    manager.trim();
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!((statistics.live_count(), statistics.reserved.current), (0, 0), "{}", manager.report());
}

fn limited<B: Backend>(backend: B, pinned: PinnedConfig) -> MemoryManager<B> {
    let mut config = config_with_budget(BUDGET_BYTES);
    config.pinned = pinned;
    MemoryManager::with_config(backend, config).expect("the budget is given")
}

/// A manager on a driver that locks so many bytes.
fn refusing<B: Backend>(backend: B, bytes: u64, pinned: PinnedConfig) -> (MemoryManager<Faulty<B>>, Faults) {
    let faulty = Faulty::new(backend);
    let faults = faulty.faults();
    faults.lock_at_most(bytes);
    (limited(faulty, pinned), faults)
}

/// Memory that is pinned is the host's.
pub fn pinned_memory_is_host_visible<B: Backend>(make: impl Fn() -> B) {
    for memory_type in &make().properties().memory_types {
        let is_pinned = memory_type.flags.contains(MemoryFlags::PINNED);
        assert!(!is_pinned || memory_type.flags.contains(MemoryFlags::HOST_VISIBLE), "{memory_type:?}");
    }
}

/// A device without a kind of memory says so, and is asked for none.
pub fn kinds_that_the_device_has_not_are_refused<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let has = |flags| manager.properties().memory_types.iter().any(|one| one.flags.contains(flags));
    let unified = MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL;
    let kinds = [(MemoryKind::Pinned, has(MemoryFlags::PINNED)), (MemoryKind::Unified, has(unified))];
    for (kind, _) in kinds.into_iter().filter(|(_, has_kind)| !has_kind) {
        let options = MemoryOptions::DEFAULT.kind(kind);
        let error = manager.allocate_with(1000, options).expect_err("the device has none");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains(&manager.properties().device), "{error}");
    }
    assert_eq!(manager.statistics().driver_calls.count(), 0);
    assert_eq!(figures(&manager).refused_count(), 0);
}

/// What the host writes into unified memory is what the device copies.
pub fn unified_memory_is_used_where_it_is<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let pattern = Pattern::new(5);
    for bytes in [300, 100_000, 3 << 20] {
        let mut unified = manager.allocate_with(bytes, MemoryOptions::UNIFIED).expect("there is room");
        assert!(unified.host_pointer().is_some());
        pattern.write(&mut unified);
        let mut plain = manager.allocate(bytes).expect("there is room");
        plain.copy_from(0, &unified, 0, bytes).expect("the device can");
        unified.fill(0).expect("the device can");
        unified.copy_from(0, &plain, 0, bytes).expect("the device can");
        pattern.check(&unified);
    }
    let zeroed = manager.allocate_with(5000, MemoryOptions::UNIFIED.zeroed(true)).expect("there is room");
    assert_eq!(zeroed.as_slice::<u8>().expect("the host sees it"), [0; 5000]);
    drop(zeroed);
    check_empty(&manager);
}

/// Pinned memory is read and written as it is, and comes zeroed if that is asked for.
pub fn pinned_memory_is_a_slice<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !is_lockable(&manager) {
        return;
    }
    let pinned = manager.pinned();
    let mut buffers = [1, 1000, 64 << 10].map(|bytes| pinned.allocate(bytes).expect("there is room"));
    for (seed, buffer) in buffers.iter_mut().enumerate() {
        assert!(buffer.is_locked() && buffer.len() as u64 == buffer.size_bytes());
        Pattern::new(seed as u64).bytes(0, buffer);
    }
    for (seed, buffer) in buffers.iter().enumerate() {
        let mut expected = vec![0; buffer.len()];
        Pattern::new(seed as u64).bytes(0, &mut expected);
        assert!(**buffer == expected[..], "{seed}");
    }
    buffers[2].as_mut_slice::<f64>().expect("a whole number of them").fill(0.5);
    assert_eq!(buffers[2].as_slice::<f64>().expect("as above")[8191], 0.5);
    let error = buffers[1].as_slice::<[u8; 64]>().expect_err("no whole number of them");
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    drop(buffers);
    for bytes in [1, 1000, 64 << 10] {
        let zeroed = pinned.allocate_zeroed(bytes).expect("there is room");
        assert!(zeroed.iter().all(|&byte| byte == 0), "{bytes}");
    }
    drop(pinned);
    check_empty(&manager);
}

/// The device copies from and to pinned memory, which is a buffer like any other.
pub fn pinned_memory_is_used_by_the_device<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !is_lockable(&manager) {
        return;
    }
    let mut mine = manager.pinned().allocate(5000).expect("there is room");
    Pattern::new(8).bytes(0, &mut mine);
    let mut pinned = mine.into_buffer();
    let mut plain = manager.allocate(5000).expect("there is room");
    plain.copy_from(0, &pinned, 0, 5000).expect("the device can");
    pinned.fill(0).expect("the device can");
    pinned.copy_from(0, &plain, 0, 5000).expect("the device can");
    let mine = PinnedBuffer::try_from(pinned).expect("no queue may use it");
    let mut expected = [0; 5000];
    Pattern::new(8).bytes(0, &mut expected);
    assert!(*mine == expected);
    let refusal = PinnedBuffer::try_from(plain).expect_err("it is not pinned");
    assert_eq!(refusal.error().kind(), ErrorKind::InvalidArgument);
    assert!(refusal.into_parts().is_some(), "it comes back");
    drop(mine);
    check_empty(&manager);
}

/// Each is counted while it is live, by whatever way it was allocated.
pub fn pinned_allocations_are_counted<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !is_lockable(&manager) {
        return;
    }
    let first = manager.allocate_with(1000, MemoryOptions::PINNED).expect("there is room");
    let view = manager.pinned().allocate(500).expect("there is room").into_buffer().into_view();
    let third = vec![in manager.pinned(); 1_u8; 25];
    let now = figures(&manager);
    assert_eq!((now.live_count, now.live_bytes), (3, 1525));
    assert_eq!((now.peak_bytes, now.unlocked_count, now.refused_count()), (64 << 10, 0, 0));
    drop((first, third));
    assert_eq!((figures(&manager).live_count, figures(&manager).live_bytes), (1, 500));
    let part = view.view(100..200).expect("it lies in the view");
    drop(view);
    assert_eq!((figures(&manager).live_count, figures(&manager).peak_count), (1, 3));
    assert!(manager.report().to_string().contains("pinned: "), "{}", manager.report());
    drop(part);
    check_empty(&manager);
}

/// 64 may be live at once; the driver is not asked for what would be one more.
pub fn so_many_are_live_at_once_and_no_more<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !is_lockable(&manager) {
        return;
    }
    let pinned = manager.pinned();
    let mut held: std::vec::Vec<_> =
        (0..64).map(|bytes| pinned.allocate(1 + bytes).expect("there is room")).collect();
    let calls = manager.statistics().driver_calls;
    for _ in 0..2 {
        let error = pinned.allocate(1).expect_err("one too many");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.message().contains("Config::pinned.count_max allows 64"), "{error}");
        assert!(error.out_of_memory().is_some() && error.is_retryable());
    }
    assert_eq!(manager.statistics().driver_calls, calls);
    drop(held.pop());
    held.push(pinned.allocate(1).expect("one may be live again"));
    let now = figures(&manager);
    assert_eq!((now.live_count, now.peak_count, now.count_max), (64, 64, 64));
    assert_eq!((now.refused_by_count, now.refused_count()), (2, 2));
    drop(held);
    check_empty(&manager);
    let none = limited(make(), PinnedConfig::DEFAULT.count_max(0));
    assert_eq!(none.pinned().allocate(1).expect_err("none").kind(), ErrorKind::CanNeverFit);
}

/// More than 256 MiB, or what the configuration says, is refused before memory is asked for.
pub fn what_is_too_large_is_refused_at_once<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    for (pinned, most) in [(PinnedConfig::DEFAULT, 256 << 20), (PinnedConfig::DEFAULT.bytes_max(1000), 1000)]
    {
        let manager = limited(make(), pinned);
        let most_possible = manager.properties().block_bytes_max;
        for bytes in [most + 1, 2 * most].into_iter().filter(|&bytes| bytes <= most_possible) {
            let error = manager.pinned().allocate(bytes).expect_err("too large");
            assert_eq!(error.kind(), ErrorKind::CanNeverFit, "{error}");
            let limit = format!("Config::pinned.bytes_max allows {most}");
            assert!(error.message().contains(&limit), "{error}");
        }
        assert_eq!(manager.statistics().driver_calls.count(), 0);
        assert_eq!(figures(&manager).refused_by_size, figures(&manager).refused_count());
    }
}

/// Where the driver locks no more, the error says so and what could be done, and nothing is counted as live.
pub fn a_refusal_to_lock_says_what_to_do<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let (manager, faults) = refusing(make(), 0, PinnedConfig::DEFAULT.count_max(2));
    for _ in 0..3 {
        let error = manager.pinned().allocate(1000).expect_err("nothing can be locked");
        assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
        assert!(error.message().contains("Config::pinned.when_refused"), "{error}");
        assert!(error.out_of_memory().is_some());
    }
    let now = manager.statistics().pinned;
    assert_eq!((now.live_count, now.refused_by_system, now.refused_by_count), (0, 3, 0));
    assert!(now.last_refusal.is_some_and(|reason| reason.contains("0 of 0 are locked")));
    assert_eq!(faults.locked_bytes(), 0);
    check_empty(&manager);
}

/// If the configuration says so, memory that is not locked stands in, and is counted as such.
pub fn unlocked_memory_stands_in_by_configuration<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let unlocked = PinnedConfig::DEFAULT.when_refused(WhenRefused::UseUnlocked).count_max(2);
    let (manager, faults) = refusing(make(), 0, unlocked);
    let is_unlocked = |flags: MemoryFlags| {
        flags.contains(MemoryFlags::HOST_VISIBLE) && !flags.contains(MemoryFlags::PINNED)
    };
    let has_unlocked = manager.properties().memory_types.iter().any(|one| is_unlocked(one.flags));
    let buffer = manager.pinned().allocate(1000);
    if !has_unlocked {
        assert_eq!(buffer.expect_err("there is no other").kind(), ErrorKind::OutOfMemory);
        return check_empty(&manager);
    }
    let mut buffer = buffer.expect("there is room");
    assert!(!buffer.is_locked());
    buffer.fill(3);
    let floats = vec![in manager.pinned(); 1.5_f32; 100];
    let now = figures(&manager);
    assert_eq!((now.live_count, now.live_bytes), (2, 1400));
    assert_eq!((now.unlocked_count, now.unlocked_bytes, now.refused_by_system), (2, 1400, 2));
    assert!(manager.pinned().allocate(1).is_err(), "they count");
    assert!(buffer.iter().all(|&byte| byte == 3) && floats.iter().all(|&value| value == 1.5));
    let again = PinnedBuffer::try_from(buffer.into_buffer()).expect("it counts as pinned");
    assert!(!again.is_locked());
    assert_eq!(faults.locked_bytes(), 0);
    drop((again, floats));
    check_empty(&manager);
}

/// What nobody uses is given back before locking fails.
pub fn idle_blocks_count_as_locked_no_longer_than_need_be<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let granularity = make().properties().block_granularity_bytes;
    // The smallest block that pools make, rounded up as the device wants it.
    let block_bytes = (2_u64 << 20).next_multiple_of(granularity);
    let larger = block_bytes + 1;
    if larger.next_multiple_of(granularity) > make().properties().block_bytes_max {
        return println!("skipped: all blocks are small");
    }
    let most = larger.next_multiple_of(granularity);
    let (manager, faults) = refusing(make(), most, PinnedConfig::DEFAULT);
    if !is_lockable(&manager) {
        return;
    }
    assert!(faults.locked_bytes() > 0, "an idle block");
    let buffer = match manager.pinned().allocate(larger) {
        Ok(buffer) => buffer,
        // The system's limit, not the driver's.
        Err(refusal) if faults.failed_count() == 0 => return println!("skipped: {refusal}"),
        Err(refusal) => panic!("{refusal}"),
    };
    assert_eq!(faults.locked_bytes(), most, "of just the request, and the idle block is gone");
    let error = manager.pinned().allocate(most).expect_err("all is locked");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    drop(buffer);
    check_empty(&manager);
    assert_eq!(faults.locked_bytes(), 0);
}

/// Vectors and boxes grow, shrink, are cloned and dropped, and each is one allocation.
pub fn collections_live_in_pinned_memory<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !is_lockable(&manager) {
        return;
    }
    let mut floats = Vec::<f32, _>::new_in(manager.pinned());
    assert_eq!(figures(&manager).live_count, 0);
    (0..2000).for_each(|number| floats.push(number as f32));
    let now = figures(&manager);
    assert_eq!((now.live_count, now.live_bytes), (1, 4 * floats.capacity() as u64));
    let copy = floats.clone();
    floats.truncate(3);
    floats.shrink_to_fit();
    assert_eq!((floats.capacity(), &floats[..]), (3, &[0.0, 1.0, 2.0][..]));
    let boxed: Box<[f32], _> = floats.into_boxed_slice();
    assert_eq!(figures(&manager).live_bytes, 12 + 4 * copy.capacity() as u64);
    assert!((0..2000).all(|number| copy[number] == number as f32));
    let pair = Box::new_in((1_u64, 2_u8), manager.pinned());
    assert_eq!((figures(&manager).live_count, figures(&manager).peak_count), (3, 3));
    // The last of them takes the manager along.
    drop((manager, boxed));
    assert_eq!((copy.len(), *pair), (2000, (1, 2)));
    let allocator = Box::allocator(&pair).clone();
    drop((copy, pair));
    check_empty(allocator.manager());
}

/// What can fail fails cleanly at a limit, with the reason in the statistics.
pub fn collections_meet_the_limits<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = limited(make(), PinnedConfig::DEFAULT.count_max(2).bytes_max(4096));
    if !is_lockable(&limited(make(), PinnedConfig::DEFAULT)) {
        return;
    }
    let mut first = vec![in manager.pinned(); 1_u8; 100];
    let second = Box::new_in([2_u8; 50], manager.pinned());
    let mut third = Vec::<u8, _>::new_in(manager.pinned());
    let is_refused = third.try_reserve(1).is_err();
    assert!(is_refused);
    let reason = manager.pinned().statistics().last_refusal.expect("a reason");
    assert!(reason.contains("Config::pinned.count_max allows 2"), "{reason}");
    // To grow and to shrink takes no third place, though it takes memory.
    first.extend([1; 3000]);
    first.truncate(10);
    first.shrink_to_fit();
    assert_eq!((&first[..], figures(&manager).peak_count), (&[1; 10][..], 2));
    let is_refused = first.try_reserve_exact(4096).is_err();
    assert!(is_refused && first[..] == [1; 10]);
    let reason = manager.pinned().statistics().last_refusal.expect("a reason");
    assert!(reason.contains("Config::pinned.bytes_max allows 4096"), "{reason}");
    drop((first, second, third));
    check_empty(&manager);
}

/// The allocator by itself: alignment, zeros, growing, and any handle.
pub fn the_allocator_keeps_its_contract<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !is_lockable(&manager) {
        return;
    }
    let (one, other) = (manager.pinned(), manager.pinned().clone());
    let layout = |bytes, alignment| Layout::from_size_align(bytes, alignment).expect("a power of two");
    let content = |block: std::ptr::NonNull<[u8]>| -> &[u8] {
        // SAFETY: every block that is looked at is live and was written, or zeroed.
        unsafe { block.as_ref() }
    };
    let most = manager.properties().alignment_bytes_min.min(4096) as usize;
    for alignment in [1, 8, 256, most] {
        // So that what is used again is dirty.
        one.allocate(10_000).expect("there is room").fill(0xff);
        let small = layout(1000, alignment);
        let block = Allocator::allocate_zeroed(&one, small).expect("there is room");
        assert!(block.cast::<u8>().addr().get().is_multiple_of(alignment));
        assert_eq!((content(block).len(), content(block)), (1000, &[0; 1000][..]));
        let large = layout(10_000, alignment);
        // SAFETY: the block is of this allocator, of which `other` is a clone, and of this layout.
        let block = unsafe { Allocator::grow_zeroed(&other, block.cast(), small, large) };
        let block = block.expect("there is room");
        assert!(content(block).len() == 10_000 && content(block).iter().all(|&byte| byte == 0));
        let half = layout(8000, alignment);
        // SAFETY: as above.
        let same = unsafe { Allocator::shrink(&one, block.cast(), large, half) }.expect("it never fails");
        assert_eq!((same.cast::<u8>(), same.len()), (block.cast::<u8>(), 8000));
        // SAFETY: as above, with the layout that it has now.
        let grown = unsafe { Allocator::grow(&one, same.cast(), half, large) }.expect("it has room there");
        assert_eq!(grown.cast::<u8>(), block.cast::<u8>());
        let nothing = layout(0, alignment);
        // SAFETY: as above.
        let empty =
            unsafe { Allocator::shrink(&other, grown.cast(), large, nothing) }.expect("it never fails");
        assert_eq!((empty.len(), figures(&manager).live_count), (0, 0));
        // SAFETY: nothing is there, as the layout says.
        let block = unsafe { Allocator::grow(&one, empty.cast(), nothing, small) }.expect("there is room");
        // SAFETY: the block is of this allocator, and of this layout.
        unsafe { Allocator::deallocate(&other, block.cast(), small) };
    }
    let too_aligned = layout(1, 1 << 40);
    assert!(Allocator::allocate(&one, too_aligned).is_err());
    assert!(one.statistics().last_refusal.is_some_and(|reason| reason.contains("alignment")));
    drop((one, other));
    check_empty(&manager);
}
