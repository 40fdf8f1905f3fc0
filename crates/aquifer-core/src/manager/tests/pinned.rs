//! Pinned memory of a driver that locks little.

use super::device::{Device, Hand, pinned};
use super::{Call, Config, MIB, MemoryManager, MemoryOptions, created};
use crate::manager::Buffer;
use crate::manager::kinds::MemoryKind;
use crate::manager::pinned::{PinnedConfig, WhenRefused};
use crate::statistics::PinnedStatistics;
use aquifer_backend::{Error, ErrorKind, MemoryFlags};
use std::error::Error as _;

pub(super) const VISIBLE: MemoryFlags = MemoryFlags::HOST_VISIBLE;
pub(super) const LOCAL: MemoryFlags = MemoryFlags::DEVICE_LOCAL;
pub(super) const LOCKABLE: u64 = 8 * MIB;
const UNLOCKED: PinnedConfig = PinnedConfig::DEFAULT.when_refused(WhenRefused::UseUnlocked);

/// Device-local, pinned and visible.
fn types() -> [MemoryFlags; 3] {
    [LOCAL, pinned(), VISIBLE]
}

/// A manager of a device whose memory types are device-local, pinned and visible, and which locks so many bytes.
pub(super) fn manager(pinned: PinnedConfig, lockable: (u64, ErrorKind)) -> (MemoryManager<Device>, Hand) {
    let device = Device::with_types(&types(), lockable);
    let hand = device.hand();
    let config = Config { pinned, budget_bytes: Some(1 << 40), ..Config::default() };
    (MemoryManager::with_config(device, config).expect("the configuration is sound"), hand)
}

pub(super) fn plain() -> (MemoryManager<Device>, Hand) {
    manager(PinnedConfig::DEFAULT, (LOCKABLE, ErrorKind::OutOfMemory))
}

fn pin(manager: &MemoryManager<Device>, bytes: u64) -> Result<Buffer<Device>, Error> {
    manager.allocate_with(bytes, MemoryOptions::PINNED)
}

pub(super) fn figures(manager: &MemoryManager<Device>) -> PinnedStatistics {
    manager.statistics().pinned
}

#[test]
fn the_first_block_is_small_and_serves_many() {
    let (manager, hand) = plain();
    let buffers: Vec<_> = (0..32).map(|_| pin(&manager, 64 << 10).expect("there is room")).collect();
    assert_eq!(created(&hand), [(2 * MIB, None)]);
    assert_eq!(hand.calls()[0], Call::Create { bytes: 2 * MIB, memory_type: 1, dedicated_to: None });
    let now = figures(&manager);
    assert_eq!((now.live_count, now.live_bytes, now.unlocked_count), (32, 2 * MIB, 0));
    drop(buffers);
    let later = figures(&manager);
    assert_eq!((later.live_count, later.live_bytes, later.peak_count, later.peak_bytes), (0, 0, 32, 2 * MIB));
    assert_eq!(manager.statistics().cached_bytes, 0, "thread caches keep none");
}

#[test]
fn small_ones_are_ranges_and_none_is_kept_by_a_thread() {
    let (manager, hand) = plain();
    let small = pin(&manager, 1).expect("there is room");
    let statistics = manager.statistics();
    assert_eq!((statistics.allocated.current, statistics.cached_bytes), (256, 0));
    drop(small);
    assert_eq!(manager.trim(), 2 * MIB);
    assert_eq!((hand.live(), hand.locked_bytes()), (0, 0));
}

#[test]
fn idle_blocks_go_before_an_error_and_the_error_says_what_to_do() {
    let (manager, hand) = plain();
    let (first, second) = (pin(&manager, 5 * MIB).expect("there is room"), pin(&manager, 2 * MIB));
    let second = second.expect("there is room");
    assert_eq!((hand.locked_bytes(), hand.live()), (8 * MIB, 2));
    let error = pin(&manager, 2 * MIB).expect_err("all is locked, and 1 MiB is free");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.message().contains("Config::pinned.when_refused"), "{error}");
    assert!(error.out_of_memory().is_some_and(|report| report.requested_bytes == 2 * MIB), "{error}");
    assert!(error.source().is_some_and(|source| source.to_string().contains("no more can be locked")));
    drop((first, second));
    // Two idle blocks, both too small.
    let all = pin(&manager, 8 * MIB).expect("both idle blocks go");
    assert_eq!((hand.locked_bytes(), hand.live()), (8 * MIB, 1));
    let now = figures(&manager);
    assert_eq!((now.refused_by_system, now.refused_count(), now.live_count), (1, 1, 1));
    drop(all);
}

#[test]
fn a_block_shrinks_to_the_request_where_the_driver_refuses() {
    let most = 7 * MIB + 64 * 1024;
    let (manager, hand) = manager(PinnedConfig::DEFAULT, (most, ErrorKind::OutOfMemory));
    let exact = pin(&manager, 7 * MIB + 1).expect("a block of 8 MiB is refused, one of the request is not");
    assert_eq!(hand.locked_bytes(), most);
    drop(exact);
}

#[test]
fn limits_are_looked_at_before_the_driver_is_asked() {
    let limits = PinnedConfig::DEFAULT.count_max(2).bytes_max(MIB);
    let (manager, hand) = manager(limits, (LOCKABLE, ErrorKind::OutOfMemory));
    let error = pin(&manager, MIB + 1).expect_err("too large");
    assert_eq!(error.kind(), ErrorKind::CanNeverFit);
    assert!(error.message().contains("Config::pinned.bytes_max allows 1048576"), "{error}");
    assert_eq!(hand.calls(), []);
    let _held = [pin(&manager, MIB).expect("there is room"), pin(&manager, 1).expect("there is room")];
    let calls = hand.calls().len();
    let error = pin(&manager, 1).expect_err("one too many");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let said = "2 pinned allocations are live, of 1048577 bytes in all; Config::pinned.count_max allows 2";
    assert!(error.message().contains(said) && error.out_of_memory().is_some(), "{error}");
    assert_eq!(hand.calls().len(), calls);
    let now = figures(&manager);
    assert_eq!((now.refused_by_count, now.refused_by_size, now.refused_by_system), (1, 1, 0));
    assert_eq!((now.count_max, now.bytes_max), (2, MIB));
}

#[test]
fn what_fails_is_not_counted() {
    let (manager, hand) = manager(PinnedConfig::DEFAULT.count_max(1), (LOCKABLE, ErrorKind::Driver));
    let error = pin(&manager, 9 * MIB).expect_err("more than can be locked");
    assert_eq!(error.kind(), ErrorKind::Driver);
    assert!(error.message().contains("WhenRefused::UseUnlocked"), "{error}");
    // Cleared when it is already listed.
    drop(pin(&manager, MIB).expect("there is room"));
    hand.fail(Call::Fill, ErrorKind::Driver);
    let error = manager.allocate_with(MIB, MemoryOptions::PINNED.zeroed(true)).expect_err("told to fail");
    assert_eq!(error.message(), "told to fail");
    hand.heal();
    let options = MemoryOptions::PINNED.alignment(3);
    assert_eq!(manager.allocate_with(1, options).expect_err("odd").kind(), ErrorKind::InvalidArgument);
    assert_eq!(pin(&manager, 0).expect_err("nothing").kind(), ErrorKind::InvalidArgument);
    let now = figures(&manager);
    assert_eq!((now.live_count, now.live_bytes, now.refused_by_system, now.refused_count()), (0, 0, 1, 1));
    pin(&manager, MIB).expect("the one that there may be");
}

#[test]
fn unlocked_memory_stands_in_where_the_configuration_says_so() {
    for refusal in [ErrorKind::OutOfMemory, ErrorKind::Driver, ErrorKind::Unsupported] {
        let (manager, hand) = manager(UNLOCKED.count_max(3), (LOCKABLE, refusal));
        let locked = pin(&manager, 8 * MIB).expect("there is room");
        let unlocked = [pin(&manager, 1000), pin(&manager, 2 * MIB)].map(|buffer| buffer.expect("unlocked"));
        assert!(unlocked.iter().all(|buffer| buffer.host_pointer().is_some()));
        assert_eq!(hand.locked_bytes(), LOCKABLE);
        let now = figures(&manager);
        assert_eq!((now.live_count, now.unlocked_count, now.unlocked_bytes), (3, 2, 2 * MIB + 1000));
        assert_eq!((now.live_bytes, now.refused_by_system), (10 * MIB + 1000, 2));
        assert!(pin(&manager, 1).is_err(), "they count");
        drop((locked, unlocked));
        let now = figures(&manager);
        assert_eq!((now.live_count, now.live_bytes, now.unlocked_count, now.unlocked_bytes), (0, 0, 0, 0));
        drop(pin(&manager, MIB).expect("there is room again"));
        assert_eq!(figures(&manager).unlocked_count, 0);
    }
}

#[test]
fn a_spent_budget_is_no_refusal_to_lock() {
    let device = Device::with_types(&types(), (LOCKABLE, ErrorKind::OutOfMemory));
    let config = Config { pinned: UNLOCKED, budget_bytes: Some(4 * MIB), ..Config::default() };
    let manager = MemoryManager::with_config(device, config).expect("the configuration is sound");
    let _held = pin(&manager, 4 * MIB).expect("there is room");
    let error = pin(&manager, 1).expect_err("the budget is spent");
    assert!(error.message().contains("the budget is spent"), "{error}");
    let error = pin(&manager, 5 * MIB).expect_err("more than the budget");
    assert_eq!(error.kind(), ErrorKind::CanNeverFit);
    assert_eq!(figures(&manager).refused_count(), 0);
}

#[test]
fn live_pinned_memory_is_found_by_its_address() {
    let (manager, _) = manager(UNLOCKED, (2 * MIB, ErrorKind::OutOfMemory));
    let find = |address, bytes| manager.owner.find_pinned(address, bytes);
    assert!(find(0x1000, 1).is_none());
    let buffers = [1000, 300, MIB].map(|bytes| pin(&manager, bytes).expect("there is room"));
    let address = |buffer: &Buffer<Device>| buffer.host_pointer().expect("the host sees it").addr().get();
    for buffer in &buffers {
        let (start, bytes) = (address(buffer), buffer.size_bytes() as usize);
        buffer.with_block(|block, first| {
            for (skipped, length) in [(0, bytes), (0, 1), (bytes - 1, 1), (100, bytes - 100)] {
                let (found, offset) = find(start + skipped, length).expect("it lies in the buffer");
                assert_eq!((found.number(), offset), (block.number(), first + skipped as u64));
            }
        });
        // Rounding is not the user's.
        for (from, length) in [(start, bytes + 1), (start + bytes, 1), (start - 1, 1), (start - 1, bytes)] {
            let is_found = |other: &Buffer<Device>| {
                let first = address(other);
                from >= first && from + length <= first + other.size_bytes() as usize
            };
            assert_eq!(find(from, length).is_some(), buffers.iter().any(is_found), "{from:#x} {length}");
        }
        assert!(find(start, 0).is_none() && find(start + 1, usize::MAX).is_none());
    }
    let unlocked = pin(&manager, MIB).expect("unlocked");
    assert_eq!(figures(&manager).unlocked_count, 1);
    assert!(find(address(&unlocked), 1).is_none(), "it is not locked");
    let starts = buffers.each_ref().map(address);
    drop(buffers);
    assert!(starts.iter().all(|&start| find(start, 1).is_none()));
}

#[test]
fn each_kind_is_made_in_its_memory_type() {
    let types = [LOCAL, pinned(), VISIBLE | LOCAL];
    let device = Device::with_types(&types, (LOCKABLE, ErrorKind::OutOfMemory));
    let hand = device.hand();
    let manager = MemoryManager::with_config(device, Config::default()).expect("the configuration is sound");
    let kinds = [MemoryKind::Device, MemoryKind::Pinned, MemoryKind::Unified];
    let memory_types = kinds.map(|kind| manager.owner.home_of(kind).expect("there is one").key.memory_type());
    assert_eq!(memory_types, [0, 1, 2]);
    let unified = manager.allocate_with(1000, MemoryOptions::UNIFIED).expect("there is room");
    assert_eq!(hand.calls(), [Call::Create { bytes: 2 * MIB, memory_type: 2, dedicated_to: None }]);
    assert!(unified.host_pointer().is_some());
    let start = unified.host_pointer();
    drop(unified);
    assert!(manager.statistics().cached_bytes > 0, "threads keep it");
    let again = manager.allocate_with(1000, MemoryOptions::UNIFIED.zeroed(true)).expect("there is room");
    assert_eq!((again.host_pointer(), again.as_slice::<u8>().expect("visible")), (start, &[0; 1000][..]));

    let (manager, hand) = super::plain_manager(10);
    for (options, what) in
        [(MemoryOptions::PINNED, "pinned memory"), (MemoryOptions::UNIFIED, "unified memory")]
    {
        let error = manager.allocate_with(1, options).expect_err("there is none");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().starts_with(what) && error.message().contains("{}, {}"), "{error}");
    }
    assert_eq!((hand.calls(), figures(&manager).refused_count()), (vec![], 0));
}
