//! When memory runs out, and after.

use super::{block_manager, manager, may_return_parts};
use crate::{Faults, Faulty, Pattern, Random, assert_balanced, config_with_blocks, config_with_budget};
use aquifer_backend::Backend;
use aquifer_core::{Buffer, Config, Error, ErrorKind, MemoryManager, MemoryOptions};

const BUDGET_BYTES: u64 = 32 << 20;

fn small_manager<B: Backend>(backend: B) -> MemoryManager<B> {
    MemoryManager::with_config(backend, config_with_budget(BUDGET_BYTES)).expect("the budget is given")
}

/// Allocates until there is no more; the buffers, and the error that ended it.
fn exhaust<B: Backend>(manager: &MemoryManager<B>, bytes: u64) -> (Vec<Buffer<B>>, Error) {
    let mut buffers = Vec::new();
    loop {
        match manager.allocate(bytes) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => return (buffers, error),
        }
        assert!(buffers.len() as u64 * bytes <= BUDGET_BYTES, "more than the budget was handed out");
    }
}

/// More than the budget is refused for good, as another error than "not now".
pub fn more_than_the_budget_can_never_fit<B: Backend>(make: impl Fn() -> B) {
    let manager = small_manager(make());
    for bytes in [BUDGET_BYTES + 1, 2 * BUDGET_BYTES, 300 << 20] {
        let error = manager.allocate(bytes).expect_err("more than the budget");
        assert_eq!(error.kind(), ErrorKind::CanNeverFit, "{error}");
        assert!(!error.is_retryable() && error.message().contains(&bytes.to_string()), "{error}");
    }
    assert_eq!(manager.statistics().driver_calls.count(), 0, "the driver was not asked");
    let all = manager.allocate(BUDGET_BYTES).expect("all of it fits");
    assert_eq!(manager.allocate(1).expect_err("nothing is left").kind(), ErrorKind::OutOfMemory);
    drop(all);
}

/// A spent budget is an error that tells what was there, and it changes nothing.
pub fn a_spent_budget_is_reported_truly<B: Backend>(make: impl Fn() -> B) {
    let manager = small_manager(make());
    let tag = manager.tag("large").expect("a tag");
    let large = manager.allocate_with(20 << 20, MemoryOptions::DEFAULT.tag(tag)).expect("there is room");
    let small = manager.allocate(4000).expect("there is room");
    let before = manager.statistics();
    let error = manager.allocate(16 << 20).expect_err("there is no room");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.is_retryable());
    let report = error.out_of_memory().expect("every such error has one");
    assert_eq!((report.requested_bytes, report.budget_bytes), (16 << 20, BUDGET_BYTES));
    assert_eq!(report.live_bytes, large.allocated_bytes() + small.allocated_bytes());
    assert_eq!(report.live_bytes + report.cached_bytes + report.free_bytes, report.reserved_bytes);
    assert!(report.largest_free_bytes <= report.free_bytes && report.largest_free_bytes < 16 << 20);
    let tags: Vec<_> =
        report.largest_tags.iter().map(|usage| (usage.tag.as_str(), usage.live_bytes)).collect();
    assert_eq!(tags, [("large", 20 << 20), ("untagged", 4000)]);
    let after = manager.statistics();
    assert_balanced(&after);
    assert_eq!((after.allocation_count, after.requested), (before.allocation_count, before.requested));
    assert_eq!((report.reserved_bytes, report.cached_bytes), (after.reserved.current, after.cached_bytes));
    assert_eq!((report.free_bytes, report.largest_free_bytes), (after.free_bytes, after.largest_free_bytes));
}

/// What is freed can be had again, as any other size, as often as one likes.
pub fn freeing_makes_room_again<B: Backend>(make: impl Fn() -> B) {
    let manager = small_manager(make());
    for round in 0..60 {
        for bytes in [256 << 10, BUDGET_BYTES, 1 << 20, BUDGET_BYTES / 2, 30_000, BUDGET_BYTES] {
            let (buffers, error) = exhaust(&manager, bytes);
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
            let had = buffers.len() as u64 * bytes;
            assert!(had >= BUDGET_BYTES / 8 * 7, "round {round}: only {had} bytes as {bytes}: {error}");
            assert_balanced(&manager.statistics());
        }
    }
}

/// An allocation fails only if giving back everything that is not live would not have helped.
pub fn caches_hide_no_memory<B: Backend>(make: impl Fn() -> B) {
    let manager = small_manager(make());
    let mut random = Random::new(17);
    let mut buffers: Vec<Buffer<B>> = Vec::new();
    let mut refused = 0;
    for round in 0..1500 {
        let bytes = random.size(3 << 20);
        match manager.allocate(bytes) {
            Ok(buffer) => buffers.push(buffer),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
                refused += 1;
                manager.trim();
                assert!(
                    manager.allocate(bytes).is_err(),
                    "round {round}: after trim {bytes} bytes fit: {error}"
                );
                for _ in 0..=buffers.len() / 2 {
                    buffers.swap_remove(random.below(buffers.len() as u64) as usize);
                }
            }
        }
        if random.below(4) == 0 && !buffers.is_empty() {
            buffers.swap_remove(random.below(buffers.len() as u64) as usize);
        }
    }
    assert!(refused > 10, "the case asks for too little: {refused} were refused");
}

/// However much is asked for, the driver never gives more than the budget.
pub fn the_budget_is_never_exceeded<B: Backend>(make: impl Fn() -> B) {
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = small_manager(backend);
    let mut random = Random::new(5);
    let mut buffers: Vec<Buffer<_>> = Vec::new();
    for _ in 0..400 {
        match manager.allocate(random.size(BUDGET_BYTES)) {
            Ok(buffer) => buffers.push(buffer),
            Err(_) => {
                buffers.drain(..buffers.len() / 2);
            }
        }
        assert!(manager.statistics().reserved.current <= BUDGET_BYTES);
        assert!(faults.live_bytes() <= BUDGET_BYTES || may_return_parts(&manager));
    }
    assert!(faults.live_bytes_peak() <= BUDGET_BYTES || may_return_parts(&manager));
    assert!(faults.live_bytes_peak() > BUDGET_BYTES / 2, "the case asks for too little");
    if !may_return_parts(&manager) {
        assert_eq!(manager.statistics().reserved.peak, faults.live_bytes_peak());
    }
    drop(buffers);
    drop(manager);
    assert_eq!(faults.live_blocks(), 0);
}

/// After running out and freeing, trim gives back the last byte.
pub fn trim_gives_everything_back<B: Backend>(make: impl Fn() -> B) {
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = small_manager(backend);
    for bytes in [100, 5000, 200_000, 3 << 20] {
        let (buffers, _) = exhaust(&manager, bytes);
        drop(buffers);
        let reserved = manager.statistics().reserved.current;
        assert_eq!(manager.trim(), reserved);
        assert_eq!((manager.statistics().reserved.current, faults.live_blocks()), (0, 0));
        assert_eq!(manager.trim(), 0);
    }
}

/// Trimming to an amount keeps at least as much, if there was as much, and what is live anyway.
pub fn trim_to_stops_in_time<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let kept = manager.allocate(9 << 20).expect("there is room");
    let buffers: Vec<_> = (0..5).map(|_| manager.allocate(10 << 20).expect("there is room")).collect();
    drop(buffers);
    let before = manager.statistics().reserved.current;
    let released = manager.trim_to(30 << 20);
    let after = manager.statistics().reserved.current;
    assert_eq!(before - after, released);
    assert!(released > 0 && after <= 30 << 20, "{after} bytes are reserved");
    assert!(after > 19 << 20, "a block less would have been too few: {after}");
    manager.trim_to(0);
    assert!(manager.statistics().reserved.current >= 9 << 20);
    assert_eq!(manager.trim_to(u64::MAX), 0);
    drop(kept);
}

/// A manager with few live bytes that hold many blocks.
struct Sparse<B: Backend> {
    manager: MemoryManager<Faulty<B>>,
    faults: Faults,
    buffers: Vec<(Pattern, Buffer<Faulty<B>>)>,
}

/// What is left of many small buffers when all but every twentieth are freed.
fn sparse<B: Backend>(make: impl Fn() -> B, config: Config) -> Sparse<B> {
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = MemoryManager::with_config(backend, config).expect("the budget is given");
    let mut buffers: Vec<_> = (0..24 * 16)
        .map(|number| {
            let mut buffer = manager.allocate(60_000).expect("there is room");
            let pattern = Pattern::new(number);
            pattern.write(&mut buffer);
            (pattern, buffer)
        })
        .collect();
    let mut number = 0;
    buffers.retain(|_| {
        number += 1;
        number % 20 == 0
    });
    Sparse { manager, faults, buffers }
}

/// What trim cannot give back as whole blocks it gives back in parts; what is live stays as it was, the books balance,
/// and the memory can be had again.
pub fn trim_gives_free_parts_of_blocks_back<B: Backend>(make: impl Fn() -> B) {
    let Sparse { manager, faults, buffers } = sparse(make, config_with_blocks(BUDGET_BYTES));
    let before = manager.statistics();
    let released = manager.trim();
    let after = manager.statistics();
    assert_eq!(before.reserved.current - after.reserved.current, released);
    assert_eq!(after.reserved.current, faults.live_bytes());
    assert!(after.driver_calls.release > 0, "the case leaves no block partly used");
    assert!(
        after.reserved.current < 4 * after.allocated.current,
        "{} bytes are reserved for {} live",
        after.reserved.current,
        after.allocated.current
    );
    assert_balanced(&after);
    let more: Vec<_> = (0..20).map(|_| manager.allocate(1 << 20).expect("there is room again")).collect();
    buffers.iter().for_each(|(pattern, buffer)| pattern.check(buffer));
    drop((more, buffers));
    manager.trim();
    assert_eq!((manager.statistics().reserved.current, faults.live_blocks()), (0, 0));
}

/// Before a request fails, free parts of used blocks make room for it.
pub fn a_full_budget_takes_free_parts_of_blocks<B: Backend>(make: impl Fn() -> B) {
    let Sparse { manager, faults, buffers } = sparse(make, config_with_budget(BUDGET_BYTES));
    let large = manager.allocate(BUDGET_BYTES - (8 << 20)).expect("little is live");
    assert!(faults.live_bytes_peak() <= BUDGET_BYTES);
    buffers.iter().for_each(|(pattern, buffer)| pattern.check(buffer));
    assert_balanced(&manager.statistics());
    drop((large, buffers, manager));
    assert_eq!(faults.live_blocks(), 0);
}

/// A device that makes few blocks is asked for no more; what is idle makes room for others.
pub fn the_number_of_blocks_is_limited<B: Backend>(make: impl Fn() -> B) {
    let backend = Faulty::with_properties(make(), |properties| properties.block_count_max = 3);
    let faults = backend.faults();
    let manager = block_manager(backend);
    // From 8 MiB up each gets a block of its own.
    let mut buffers: Vec<_> = (0..3).map(|_| manager.allocate(9 << 20).expect("three blocks")).collect();
    let error = manager.allocate(9 << 20).expect_err("a fourth block");
    assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
    assert!(error.message().contains("no more than 3"), "{error}");
    buffers.pop();
    buffers.push(manager.allocate(12 << 20).expect("the idle block goes for another"));
    assert_eq!((faults.live_blocks(), manager.statistics().driver_calls.failed), (3, 0));
    assert_balanced(&manager.statistics());
}
