//! Idle memory that is left to the system: it comes back usable, and nothing live is ever touched.

use super::block_manager;
use super::owned::Owned;
use crate::{DriverCall, Faulty, Pattern, assert_balanced, config_with_budget};
use aquifer_backend::{Backend, Capabilities};
use aquifer_core::{Buffer, ErrorKind, MemoryManager, MemoryOptions};

/// Sizes that are served from slabs, from shared blocks and from blocks of their own.
const SIZES: [u64; 5] = [300, 70_000, 3 << 20, 9 << 20, 20 << 20];

/// Uses every byte of a buffer, and writes a pattern where the host sees it.
fn write<B: Backend>(pattern: Pattern, buffer: &mut Buffer<B>) {
    buffer.fill(0x33).expect("a fill");
    if buffer.host_pointer().is_some() {
        pattern.write(buffer);
    }
}

fn check<B: Backend>(pattern: Pattern, buffer: &Buffer<B>) {
    if buffer.host_pointer().is_some() {
        pattern.check(buffer);
    }
}

/// Buffers of all sizes, each with its pattern.
fn filled<B: Backend>(manager: &MemoryManager<B>, seed: u64) -> Vec<(Pattern, Buffer<B>)> {
    let filled = |(index, bytes)| {
        let pattern = Pattern::new(seed + index as u64);
        let mut buffer = manager.allocate(bytes).expect("there is room");
        write(pattern, &mut buffer);
        (pattern, buffer)
    };
    SIZES.into_iter().enumerate().map(filled).collect()
}

/// Memory can be made purgeable where the device says so, and nowhere else.
pub fn memory_is_purgeable_exactly_where_promised<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let block = Owned::new(&backend, 1);
    // SAFETY: nobody uses the block.
    let answer = unsafe { backend.make_purgeable(block.block()) };
    if backend.properties().capabilities.contains(Capabilities::PURGEABLE) {
        answer.expect("it was promised");
        backend.make_nonpurgeable(block.block()).expect("there is memory for one granule");
        return;
    }
    assert_eq!(answer.expect_err("it was not promised").kind(), ErrorKind::Unsupported);
    let error = backend.make_nonpurgeable(block.block()).expect_err("as above");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    drop(block);
    let manager = block_manager(backend);
    drop(manager.allocate(1000).expect("there is room"));
    assert_eq!((manager.mark_idle_purgeable(), manager.statistics().purgeable_bytes), (0, 0));
}

/// A block that was purgeable is as it was, or says that it is not; either way every byte can be used.
pub fn content_is_kept_or_reported_lost<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    let is_visible = backend.host_pointer(Owned::new(&backend, 1).block()).is_some();
    for round in 0..8 {
        let mut block = Owned::new(&backend, 1 + round % 3 * 16);
        let bytes = block.bytes;
        block.fill(0, bytes, round as u8);
        // SAFETY: nobody uses the block until it is nonpurgeable.
        unsafe { backend.make_purgeable(block.block()) }.expect("nothing uses it");
        let is_kept = backend.make_nonpurgeable(block.block()).expect("there is memory for a few granules");
        if is_visible && is_kept {
            assert!(block.content().iter().all(|&byte| byte == round as u8), "lost, and not reported");
        }
        block.fill(0, bytes, 0xc3);
        if is_visible {
            assert!(block.content().iter().all(|&byte| byte == 0xc3), "a byte cannot be written");
        }
    }
}

/// A block may be destroyed while it is purgeable.
pub fn purgeable_blocks_can_be_destroyed<B: Backend>(make: impl Fn() -> B) {
    let backend = make();
    for granules in [1, 40, 1, 40] {
        let block = Owned::new(&backend, granules);
        // SAFETY: nobody uses the block until it is destroyed.
        unsafe { backend.make_purgeable(block.block()) }.expect("nothing uses it");
    }
    let mut block = Owned::new(&backend, 40);
    let bytes = block.bytes;
    block.fill(0, bytes, 1);
}

/// All that is idle becomes purgeable, stays reserved, and serves again without a new block.
pub fn idle_memory_becomes_purgeable_and_comes_back<B: Backend>(make: impl Fn() -> B) {
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = block_manager(backend);
    for round in 0..3 {
        let buffers = filled(&manager, round * 10);
        buffers.iter().for_each(|(pattern, buffer)| check(*pattern, buffer));
        drop(buffers);
        let before = manager.statistics();
        let creates = faults.calls_of(DriverCall::Create);
        assert_eq!(manager.mark_idle_purgeable(), before.reserved.current);
        let marked = manager.statistics();
        assert_balanced(&marked);
        assert_eq!(marked.reserved.current, before.reserved.current);
        assert_eq!((marked.purgeable_bytes, marked.cached_bytes), (marked.free_bytes, 0));
        assert_eq!(faults.purgeable_blocks(), faults.live_blocks());
        assert_eq!(manager.mark_idle_purgeable(), 0, "it is already");
        let again = filled(&manager, 1000 + round * 10);
        again.iter().for_each(|(pattern, buffer)| check(*pattern, buffer));
        assert_eq!(faults.calls_of(DriverCall::Create), creates, "nothing new is needed");
        let after = manager.statistics();
        assert_balanced(&after);
        assert!(after.recovered_block_count > marked.recovered_block_count);
        assert_eq!(after.purgeable_bytes > 0, faults.purgeable_blocks() > 0);
    }
    let reserved = manager.statistics().reserved.current;
    manager.mark_idle_purgeable();
    assert_eq!(manager.trim(), reserved, "trim gives purgeable blocks back");
    assert_eq!((faults.live_blocks(), manager.statistics().purgeable_bytes), (0, 0));
    drop(filled(&manager, 2000));
    manager.mark_idle_purgeable();
    drop(manager);
    assert_eq!(faults.live_blocks(), 0, "purgeable blocks go with the manager");
}

/// A block that holds anything live is left alone.
pub fn live_memory_is_never_purgeable<B: Backend>(make: impl Fn() -> B) {
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = block_manager(backend);
    let mut live = filled(&manager, 0);
    for round in 1..6 {
        let more = filled(&manager, round * 10);
        // Every second one of both goes, so that blocks are partly used.
        let is_kept = |index: usize| (index as u64 + round).is_multiple_of(2);
        let all = live.into_iter().chain(more).enumerate();
        live = all.filter(|&(index, _)| is_kept(index)).map(|(_, buffer)| buffer).collect();
        manager.mark_idle_purgeable();
        let statistics = manager.statistics();
        assert_balanced(&statistics);
        assert!(faults.purgeable_blocks() < faults.live_blocks(), "something is live");
        for (pattern, buffer) in &mut live {
            check(*pattern, buffer);
            write(*pattern, buffer);
        }
    }
    assert!(manager.statistics().driver_calls.purge > 0, "the case leaves nothing idle");
}

/// What comes back is zero if it must be, whatever it held.
pub fn purgeable_memory_comes_back_zeroed<B: Backend>(make: impl Fn() -> B) {
    let manager = block_manager(make());
    for round in 0..4 {
        drop(filled(&manager, round));
        assert!(manager.mark_idle_purgeable() > 0);
        for bytes in SIZES {
            let buffer = manager.allocate_with(bytes, MemoryOptions::ZEROED).expect("there is room");
            if buffer.host_pointer().is_some() {
                assert!(buffer.as_slice::<u8>().expect("visible").iter().all(|&byte| byte == 0), "{bytes}");
            }
        }
        assert!(manager.statistics().recovered_block_count > round);
    }
}

/// Purgeable blocks are in nobody's way: they go before a request fails, and the budget holds.
pub fn purgeable_blocks_make_room<B: Backend>(make: impl Fn() -> B) {
    const SMALL_BYTES: u64 = 32 << 20;
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = MemoryManager::with_config(backend, config_with_budget(SMALL_BYTES)).expect("a budget");
    for bytes in [5 << 20, SMALL_BYTES, 9 << 20, 1 << 20, SMALL_BYTES, 300] {
        let count = SMALL_BYTES / bytes;
        let buffers: Vec<_> = (0..count.min(40)).map_while(|_| manager.allocate(bytes).ok()).collect();
        assert!(!buffers.is_empty(), "{bytes} bytes do not fit an idle budget");
        assert!(buffers.len() as u64 * bytes >= SMALL_BYTES / 2 || count > 40, "{bytes}");
        assert_balanced(&manager.statistics());
        drop(buffers);
        manager.mark_idle_purgeable();
        assert_balanced(&manager.statistics());
    }
    assert!(faults.live_bytes_peak() <= SMALL_BYTES);
}
