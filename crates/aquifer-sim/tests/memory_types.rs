//! Memory types: what the host sees, whose limits count, and what each can do.

mod common;

use aquifer_backend::{Backend, BlockDesc, Capabilities, ErrorKind, MemoryFlags};
use aquifer_sim::{Access, Sim, SimDesc, ViolationKind};
use common::*;
use std::panic::catch_unwind;

#[test]
fn the_host_sees_what_the_flags_say() {
    for desc in [SimDesc::discrete(), SimDesc::integrated(), SimDesc::default()] {
        let sim = Sim::new(desc);
        let properties = sim.properties().clone();
        for (index, memory_type) in properties.memory_types.iter().enumerate() {
            let bytes = properties.block_granularity_bytes;
            let block = sim.create_block(&BlockDesc::new(bytes, index)).unwrap();
            let is_visible = memory_type.flags.contains(MemoryFlags::HOST_VISIBLE);
            assert_eq!(sim.host_pointer(&block).is_some(), is_visible, "{memory_type:?}");
            if is_visible {
                let start = sim.host_pointer(&block).unwrap().addr().get() as u64;
                assert!(start.is_multiple_of(properties.alignment_bytes_min));
                assert!(host_bytes(&sim, &block, bytes).iter().all(|&byte| byte == 0));
                host_fill(&sim, &block, bytes, 1);
                assert!(host_bytes(&sim, &block, bytes).iter().all(|&byte| byte == 1));
            }
            destroy(&sim, block);
        }
        assert_eq!(sim.books().live_bytes, 0);
    }
    let has = |sim: &Sim, flags| sim.properties().memory_types.iter().any(|one| one.flags.contains(flags));
    let (discrete, integrated) = (Sim::new(SimDesc::discrete()), Sim::new(SimDesc::integrated()));
    let unified = MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL;
    assert_eq!([&discrete, &integrated].map(|sim| has(sim, unified)), [false, true]);
    assert_eq!([&discrete, &integrated].map(|sim| has(sim, MemoryFlags::PINNED)), [true, true]);
}

#[test]
fn each_heap_has_its_own_limit() {
    let (memory_bytes, host_memory_bytes) = (8 * MIB, 4 * MIB);
    let sim = Sim::new(SimDesc { memory_bytes, host_memory_bytes, ..linked_desc() });
    let kind = |bytes, index| {
        let made = sim.create_block(&BlockDesc::new(bytes, index));
        made.map(drop).map_err(|error| error.kind())
    };
    let pinned = create_pinned(&sim, 4 * MIB);
    assert_eq!(kind(2 * MIB, PINNED), Err(ErrorKind::OutOfMemory));
    assert_eq!(kind(8 * MIB, 0), Ok(()));
    assert_eq!(kind(2 * MIB, 0), Err(ErrorKind::OutOfMemory));
    assert_eq!(sim.books().live_bytes_by_heap, [8 * MIB, 4 * MIB]);
    assert_eq!((sim.books().live_bytes, sim.books().live_bytes_peak), (12 * MIB, 12 * MIB));
    sim.set_other_process_bytes(6 * MIB);
    let left =
        [0, 1].map(|heap| sim.budget(heap).unwrap()).map(|heap| (heap.budget_bytes, heap.available_bytes));
    assert_eq!(left, [(2 * MIB, 0), (4 * MIB, 0)]);
    destroy(&sim, pinned);
    assert_eq!(sim.books().live_bytes_by_heap, [8 * MIB, 0]);
    assert_eq!(sim.budget(1).unwrap().available_bytes, 4 * MIB);
    assert_eq!(kind(4 * MIB, PINNED), Ok(()));
}

#[test]
fn purgeable_memory_makes_room_in_its_own_heap_only() {
    let sim = Sim::new(SimDesc { memory_bytes: 4 * MIB, host_memory_bytes: 4 * MIB, ..linked_desc() });
    let block = create(&sim, 4 * MIB);
    let _pinned = create_pinned(&sim, 4 * MIB);
    // SAFETY: nobody uses the block.
    unsafe { sim.make_purgeable(&block) }.unwrap();
    let error = sim.create_block(&BlockDesc::new(2 * MIB, PINNED)).unwrap_err();
    assert_eq!((error.kind(), sim.books().purged_bytes), (ErrorKind::OutOfMemory, 0));
    let _next = create(&sim, 4 * MIB);
    assert_eq!(sim.books().purged_bytes, 4 * MIB);
    assert_eq!(sim.books().live_bytes_by_heap, [4 * MIB, 4 * MIB]);
}

#[test]
fn pinned_memory_is_given_back_as_a_whole() {
    let capabilities = Capabilities::PURGEABLE | Capabilities::RELEASE_RANGE;
    let sim = Sim::new(SimDesc { capabilities, ..linked_desc() });
    let (own, pinned) = (create(&sim, 4 * MIB), create_pinned(&sim, 4 * MIB));
    // SAFETY: nobody uses the range.
    let error = unsafe { sim.release_range(range(&pinned, 0, 2 * MIB)) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Driver);
    // SAFETY: nobody uses the block.
    let error = unsafe { sim.make_purgeable(&pinned) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Driver);
    sim.host_access(Access::write(address(&sim, &pinned), 4 * MIB));
    assert_eq!(sim.books().live_bytes, 8 * MIB, "nothing has changed");
    // SAFETY: nobody uses the range.
    unsafe { sim.release_range(range(&own, 0, 2 * MIB)) }.unwrap();
    // SAFETY: nobody uses the block.
    unsafe { sim.make_purgeable(&own) }.unwrap();
    assert_eq!(sim.books().live_bytes_by_heap, [2 * MIB, 4 * MIB]);
    destroy(&sim, own);
    destroy(&sim, pinned);
    assert_eq!(sim.books().live_bytes_by_heap, [0, 0]);
    sim.assert_no_violations();
}

#[test]
fn the_checker_knows_a_block_by_its_host_pointer_too() {
    let sim = linked_sim();
    let (own, pinned) = (create(&sim, 2 * MIB), create_pinned(&sim, 2 * MIB));
    let queue = sim.create_queue().unwrap();
    copy_ends(&sim, &queue, host_part(&sim, &pinned, 100), block_end(&own, 0), 100);
    sim.host_access(Access::write(address(&sim, &pinned), 100));
    sim.host_access(Access::write(address(&sim, &pinned) + 200, 100));
    sim.assert_no_violations();
    sim.host_access(Access::write(address(&sim, &pinned) + 199, 1));
    assert_eq!(kinds(&sim), [ViolationKind::HostTouchedQueued]);
    destroy(&sim, pinned);
    assert_eq!(kinds(&sim)[1..], [ViolationKind::GivenBackWhileUsed]);
}

#[test]
fn senseless_memory_types_are_refused() {
    let desc = SimDesc::discrete();
    let mut no_heap = desc.clone();
    no_heap.memory_types[1].heap_index = 2;
    let mut invisible = desc.clone();
    invisible.memory_types[1].flags = MemoryFlags::PINNED;
    let bad = [
        SimDesc { has_content: false, ..desc.clone() },
        SimDesc { memory_types: Vec::new(), ..desc.clone() },
        SimDesc { host_memory_bytes: 0, ..desc },
        no_heap,
        invisible,
    ];
    for desc in bad {
        assert!(catch_unwind(|| Sim::new(desc)).is_err());
    }
}
