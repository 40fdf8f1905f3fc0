//! What a manager counts.

use super::{BUDGET_BYTES, manager, may_return_parts};
use crate::{DriverCall, Faulty, Oracle, Random, assert_balanced, config_with_budget};
use aquifer_backend::Backend;
use aquifer_core::{Buffer, MemoryManager, MemoryOptions, Tracking};

/// Live, cached and free bytes are what is reserved, in all and class by class, after each phase of a program's life.
pub fn everything_adds_up_after_each_phase<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let check = || assert_balanced(&manager.statistics());
    check();
    let mut random = Random::new(21);
    let mut buffers: Vec<_> =
        (0..300).map(|_| manager.allocate(random.size(1 << 20)).expect("there is room")).collect();
    check();
    buffers.retain(|buffer| buffer.size_bytes() % 3 > 0);
    check();
    buffers.extend((0..5).map(|index| manager.allocate((index + 1) << 21).expect("there is room")));
    check();
    manager.trim();
    check();
    assert_eq!(manager.statistics().cached_bytes, 0);
    drop(buffers);
    check();
    let statistics = manager.statistics();
    assert_eq!((statistics.live_count(), statistics.requested.current), (0, 0));
    assert!(statistics.cached_bytes > 0, "small buffers are kept ready");
    manager.release_idle();
    check();
    manager.trim();
    check();
    let statistics = manager.statistics();
    assert_eq!((statistics.reserved.current, statistics.cached_bytes, statistics.block_count), (0, 0, 0));
    let text = manager.report().to_string();
    assert!(text.contains(manager.properties().backend) && text.contains("305 allocations"), "{text}");
}

/// Every count, total and tag is what an oracle counted, at every step.
pub fn counts_match_an_oracle<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut oracle = Oracle::new();
    let tags = ["", "a", "b"].map(|name| {
        let tag = manager.tag(if name.is_empty() { "untagged" } else { name }).expect("few tags");
        oracle.name_tag(tag, name);
        tag
    });
    let mut random = Random::new(4);
    let mut buffers: Vec<Buffer<B>> = Vec::new();
    for round in 0..600 {
        if random.below(3) < 2 && buffers.len() < 60 {
            let bytes = if round % 50 == 49 { 3 << 20 } else { random.size(200_000) };
            let options = MemoryOptions::DEFAULT.tag(tags[random.below(3) as usize]);
            let buffer = manager.allocate_with(bytes, options).expect("there is room");
            oracle.allocated(&buffer, bytes, 1);
            buffers.push(buffer);
        } else if !buffers.is_empty() {
            oracle.freed(&buffers.swap_remove(random.below(buffers.len() as u64) as usize));
        }
        if round % 10 == 0 {
            oracle.check(&manager.statistics());
        }
    }
    drop(manager.clone());
    oracle.check(&manager.statistics());
}

/// On one thread peaks are exact, in whatever order small and large buffers, which are counted in different ways, come.
pub fn peaks_are_exact<B: Backend>(make: impl Fn() -> B) {
    let sizes: [u64; 2] = [200 << 10, 9 << 20];
    for order in 0..64 {
        let manager = manager(make());
        let mut oracle = Oracle::new();
        let mut buffers = [const { Vec::new() }; 2];
        for step in 0..6 {
            let which = usize::from(order >> step & 1 == 1);
            let batch = if which == 0 { 10 } else { 1 };
            // The second half frees in the order in which the first allocated.
            if step < 3 {
                for _ in 0..batch {
                    let buffer = manager.allocate(sizes[which]).expect("there is room");
                    oracle.allocated(&buffer, sizes[which], 1);
                    buffers[which].push(buffer);
                }
            } else {
                let kept = buffers[which].len().saturating_sub(batch);
                for buffer in buffers[which].drain(kept..) {
                    oracle.freed(&buffer);
                }
            }
            oracle.check(&manager.statistics());
        }
        let other = usize::from(order & 1 == 0);
        let buffer = manager.allocate(sizes[other]).expect("there is room");
        oracle.allocated(&buffer, sizes[other], 1);
        oracle.check(&manager.statistics());
    }
}

/// What is reserved, and the calls that are counted, are what the driver saw.
pub fn reserved_is_what_the_driver_gave<B: Backend>(make: impl Fn() -> B) {
    let backend = Faulty::new(make());
    let faults = backend.faults();
    let manager = manager(backend);
    let mut random = Random::new(8);
    let mut buffers = Vec::new();
    for round in 0..200 {
        buffers.push(manager.allocate(random.size(8 << 20)).expect("there is room"));
        if buffers.len() > 20 {
            buffers.swap_remove(random.below(20) as usize);
        }
        if round % 40 == 0 {
            manager.trim();
        }
        let statistics = manager.statistics();
        if may_return_parts(&manager) {
            assert!(statistics.reserved.current <= faults.live_bytes());
        } else {
            assert_eq!(statistics.reserved.current, faults.live_bytes());
            assert_eq!(statistics.reserved.peak, faults.live_bytes_peak());
        }
        let calls = statistics.driver_calls;
        assert_eq!(statistics.block_count + calls.reserve - calls.unreserve, faults.live_blocks());
        let created = faults.calls_of(DriverCall::Create) + faults.calls_of(DriverCall::CreatePhysical);
        assert_eq!(calls.create, created);
        assert_eq!(calls.destroy + calls.unreserve, faults.calls_of(DriverCall::Destroy));
        assert_eq!(calls.reserve, faults.calls_of(DriverCall::CreateSparse));
        assert_eq!(calls.map, faults.calls_of(DriverCall::Map));
        assert_eq!(calls.unmap, faults.calls_of(DriverCall::Unmap));
    }
}

/// A tracking manager lists each live buffer with its size, tag and source line.
pub fn live_allocations_are_listed<B: Backend>(make: impl Fn() -> B) {
    let mut config = config_with_budget(BUDGET_BYTES);
    config.tracking = Tracking::Places;
    let manager = MemoryManager::with_config(make(), config).expect("the budget is given");
    let tag = manager.tag("kept").expect("a tag");
    let kept = manager.allocate_with(700, MemoryOptions::DEFAULT.tag(tag)).expect("there is room");
    let line = line!() - 1;
    drop(manager.allocate(5000).expect("there is room"));
    let large = manager.allocate(2 << 20).expect("there is room");
    let report = manager.live_allocations();
    assert_eq!((report.live_count, report.live_bytes), (2, (2 << 20) + 700));
    let listed = report.allocations.as_ref().expect("they are tracked");
    let sizes: Vec<u64> = listed.iter().map(|allocation| allocation.bytes).collect();
    assert_eq!(sizes, [2 << 20, 700], "largest first");
    assert_eq!((listed[1].tag.as_str(), listed[1].location.line()), ("kept", line));
    assert_eq!(listed[1].location.file(), file!());
    assert!(report.to_string().contains("tag kept: 700 B"), "{report}");
    drop((kept, large));
    let report = manager.live_allocations();
    assert_eq!((report.live_count, report.allocations.map(|listed| listed.len())), (0, Some(0)));
    assert!(super::manager(make()).live_allocations().allocations.is_none(), "not unless it is asked for");
}
