//! Sparse and physical blocks: what they cost, how many there may be, what is counted, and what fails.

mod common;

use aquifer_backend::{
    Backend, BlockDesc, Capabilities, Command, DefaultDevice, ErrorKind, MemoryFlags, Ticket,
};
use aquifer_sim::{Call, Costs, Fault, FaultPlan, Recurrence, Sim, SimDesc};
use common::*;
use std::sync::Arc;
use std::time::Duration;

const PAGE: u64 = 2 * MIB;

#[test]
fn devices_say_what_they_can_do() {
    let properties = |desc: SimDesc| Sim::new(desc).properties().clone();
    for desc in [SimDesc::default(), SimDesc::discrete()] {
        let properties = properties(desc);
        assert!(properties.capabilities.contains(Capabilities::SPARSE_BLOCKS));
        assert_eq!((properties.physical_page_bytes, properties.mapping_count_max), (PAGE, 1 << 32));
        let costs = properties.mapping_costs.unwrap();
        assert_eq!([costs.create_ns, costs.map_ns, costs.unmap_ns], [11_000, 27_000, 19_000]);
        assert_eq!(costs.destroy_ns, 11_000 + 288_000 / 512);
        for memory_type in properties.memory_types {
            let is_visible = memory_type.flags.contains(MemoryFlags::HOST_VISIBLE);
            assert_eq!(memory_type.flags.contains(MemoryFlags::SPARSE), !is_visible, "{memory_type:?}");
        }
    }
    let capabilities = Capabilities::QUEUES | Capabilities::SIMULATED;
    let told_not_to = SimDesc { capabilities, ..SimDesc::default() };
    let without_type =
        SimDesc { memory_types: SimDesc::integrated().memory_types[..1].to_vec(), ..SimDesc::discrete() };
    for desc in [SimDesc::integrated(), told_not_to, without_type] {
        let sim = Sim::new(desc);
        let properties = sim.properties();
        assert!(!properties.capabilities.contains(Capabilities::SPARSE_BLOCKS));
        assert_eq!((properties.physical_page_bytes, properties.mapping_count_max), (0, 0));
        assert_eq!(properties.mapping_costs, None);
        assert!(!properties.memory_types.iter().any(|one| one.flags.contains(MemoryFlags::SPARSE)));
        let block = create(&sim, PAGE);
        let desc = BlockDesc::new(PAGE, 0);
        let errors = [
            sim.create_sparse_block(&desc).err(),
            sim.create_physical_block(&desc).err(),
            try_map(&sim, range(&block, 0, PAGE), &block).err(),
            try_unmap(&sim, range(&block, 0, PAGE)).err(),
        ];
        assert!(errors.iter().all(|error| error.as_ref().unwrap().kind() == ErrorKind::Unsupported));
        destroy(&sim, block);
        sim.assert_no_violations();
    }
    let sim = Sim::new(SimDesc::discrete());
    let error = sim.create_physical_block(&BlockDesc::new(PAGE, PINNED)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "the host sees it where it is");
}

#[test]
#[should_panic(expected = "physical_page_bytes")]
fn a_physical_page_is_no_smaller_than_a_granule() {
    let _ = Sim::new(SimDesc { physical_page_bytes: 64 << 10, ..SimDesc::default() });
}

#[test]
fn calls_cost_what_the_driver_costs_and_wait_for_nothing() {
    let sim = Sim::default_device().unwrap();
    let mut now_ns = 0;
    let mut cost = |what: &str, expected_ns: u64| {
        let cost_ns = sim.now_ns() - now_ns;
        now_ns = sim.now_ns();
        assert_eq!(cost_ns, expected_ns, "{what}");
    };
    let sparse = create_sparse(&sim, 300 << 30);
    cost("reserve", 2_000);
    let (small, large) = (create_physical(&sim, PAGE), create_physical(&sim, 128 * MIB));
    cost("create two", 2 * 11_000);
    map(&sim, &sparse, 0, &small, PAGE);
    map(&sim, &sparse, 1 << 30, &large, 128 * MIB);
    map(&sim, &sparse, 2 << 30, &large, 128 * MIB);
    cost("map three", 3 * 27_000);
    let queue = sim.create_queue().unwrap();
    cost("create_queue", 34_000);
    spin(&sim, &queue, 60_000_000);
    cost("launch", 3_600);
    unmap(&sim, &sparse, 1 << 30, 128 * MIB);
    unmap(&sim, &sparse, 0, PAGE);
    cost("unmap two beside a kernel", 2 * 19_000);
    destroy(&sim, small);
    cost("destroy 2 MiB beside a kernel", 11_562);
    destroy(&sim, sparse);
    cost("unmap the third and give the addresses back beside a kernel", 19_000 + 2_000);
    destroy(&sim, large);
    cost("destroy 128 MiB beside a kernel", 47_000);
    assert_eq!(sim.books().driver_ns + Costs::H200.launch_ns, sim.now_ns());
    sim.assert_no_violations();
}

#[test]
fn the_device_sees_a_mapping_when_the_call_returns() {
    let costs = Costs { map_ns: 100, unmap_ns: 100, ..Costs::FREE };
    let sim = Sim::new(SimDesc { costs, ..free_desc() });
    let (sparse, physical) = (create_sparse(&sim, PAGE), create_physical(&sim, PAGE));
    map(&sim, &sparse, 0, &physical, PAGE);
    let queue = sim.create_queue().unwrap();
    fill(&sim, &queue, range(&sparse, 0, PAGE));
    assert_eq!((sim.now_ns(), sim.history().len()), (100, 1));
    sim.assert_no_violations();
}

#[test]
fn books_tell_memory_from_addresses() {
    let sim = free_sim();
    let sparse = create_sparse(&sim, 500 << 30);
    let books = sim.books();
    assert_eq!((books.live_blocks, books.live_bytes, books.sparse_bytes), (1, 0, 500 << 30));
    let (one, other) = (create_physical(&sim, 6 * MIB), create_physical(&sim, PAGE));
    map(&sim, &sparse, 0, &one, 6 * MIB);
    map(&sim, &sparse, 64 * MIB, &one, 6 * MIB);
    map(&sim, &sparse, 32 * MIB, &other, PAGE);
    unmap(&sim, &sparse, 0, 6 * MIB);
    let books = sim.books();
    assert_eq!((books.live_blocks, books.live_bytes, books.live_bytes_by_heap[0]), (3, 8 * MIB, 8 * MIB));
    assert_eq!((books.mappings_made, books.mappings_removed, books.live_mappings), (3, 1, 2));
    assert_eq!((books.mapped_bytes, books.physical_blocks_made), (8 * MIB, 2));
    assert_eq!((books.calls_of(Call::Map), books.calls_of(Call::Unmap)), (3, 1));
    assert_eq!((books.calls_of(Call::CreatePhysical), books.calls_of(Call::CreateSparse)), (2, 1));
    destroy(&sim, sparse);
    let books = sim.books();
    assert_eq!((books.mappings_made, books.mappings_removed, books.live_mappings), (3, 3, 0));
    assert_eq!((books.mapped_bytes, books.sparse_bytes, books.live_bytes), (0, 0, 8 * MIB));
    destroy(&sim, one);
    destroy(&sim, other);
    let books = sim.books();
    assert_eq!((books.live_blocks, books.live_bytes, books.physical_blocks_destroyed), (0, 0, 2));
    assert_eq!(books.live_bytes_peak, 8 * MIB);
    sim.assert_no_violations();
}

#[test]
fn memory_addresses_and_mappings_run_out() {
    let sim = Sim::new(SimDesc {
        memory_bytes: 8 * MIB,
        block_bytes_max: 8 * MIB,
        sparse_bytes_max: 64 * MIB,
        mapping_count_max: 2,
        ..free_desc()
    });
    let kind = |result: Result<_, aquifer_backend::Error>| result.err().map(|error| error.kind());
    let no_memory = Some(ErrorKind::OutOfMemory);
    let sparse = create_sparse(&sim, 48 * MIB);
    let no_sparse = |bytes| kind(sim.create_sparse_block(&BlockDesc::new(bytes, 0)).map(|_| ()));
    assert_eq!(no_sparse(18 * MIB), no_memory);
    assert_eq!(no_sparse(16 * MIB), None);
    assert_eq!(no_sparse(PAGE), no_memory);
    let physical = create_physical(&sim, 6 * MIB);
    let no_physical = |bytes| kind(sim.create_physical_block(&BlockDesc::new(bytes, 0)).map(|_| ()));
    assert_eq!(no_physical(4 * MIB), no_memory);
    assert_eq!(kind(sim.create_block(&BlockDesc::new(4 * MIB, 0)).map(|_| ())), no_memory);
    sim.set_other_process_bytes(2 * MIB);
    assert_eq!(no_physical(PAGE), no_memory);
    sim.set_other_process_bytes(0);
    let other = create_physical(&sim, PAGE);
    map(&sim, &sparse, 0, &physical, 6 * MIB);
    map(&sim, &sparse, 6 * MIB, &other, PAGE);
    assert_eq!(kind(try_map(&sim, range(&sparse, 8 * MIB, PAGE), &other)), no_memory);
    unmap(&sim, &sparse, 0, 6 * MIB);
    map(&sim, &sparse, 8 * MIB, &other, PAGE);
    assert_eq!(sim.books().failed_calls, 6);
    sim.assert_no_violations();
}

#[test]
fn addresses_come_again_and_are_no_memorys() {
    let sim = free_sim();
    let physical = create_physical(&sim, PAGE);
    assert_eq!((sim.device_address(&physical), sim.host_pointer(&physical)), (None, None));
    let sparse = create_sparse(&sim, 64 * MIB);
    let start = address(&sim, &sparse);
    let block = create(&sim, 64 * MIB);
    assert_ne!(address(&sim, &block), start);
    destroy(&sim, sparse);
    let sparse = create_sparse(&sim, 64 * MIB);
    assert_eq!(address(&sim, &sparse), start);
    map(&sim, &sparse, 0, &physical, PAGE);
    sim.assert_no_violations();
}

#[test]
fn the_planned_call_fails_and_does_nothing() {
    let plan = |call, fault| FaultPlan { call: Some(call), number: 0, recurrence: Recurrence::Once, fault };
    let sim = free_sim();
    let desc = BlockDesc::new(PAGE, 0);
    let (sparse, physical) = (create_sparse(&sim, 4 * PAGE), create_physical(&sim, PAGE));
    for (fault, kind) in [(Fault::Refuse, ErrorKind::Driver), (Fault::NoMemory, ErrorKind::OutOfMemory)] {
        for call in [Call::CreateSparse, Call::CreatePhysical, Call::Map] {
            sim.plan_fault(plan(call, fault));
        }
        assert_eq!(sim.create_sparse_block(&desc).unwrap_err().kind(), kind);
        assert_eq!(sim.create_physical_block(&desc).unwrap_err().kind(), kind);
        assert_eq!(try_map(&sim, range(&sparse, 0, PAGE), &physical).unwrap_err().kind(), kind);
        assert_eq!((sim.books().live_blocks, sim.books().live_mappings), (2, 0));
        map(&sim, &sparse, 0, &physical, PAGE);
        sim.plan_fault(plan(Call::Unmap, fault));
        let error = try_unmap(&sim, range(&sparse, 0, PAGE)).unwrap_err();
        assert_eq!((error.kind(), sim.books().live_mappings), (ErrorKind::Driver, 1));
        unmap(&sim, &sparse, 0, PAGE);
    }
    map(&sim, &sparse, 0, &physical, PAGE);
    for block in [sparse, physical] {
        sim.plan_fault(plan(Call::Destroy, Fault::Refuse));
        // SAFETY: nothing uses the block.
        let refused = unsafe { sim.destroy_block(block) }.unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Driver);
        let live_mappings = sim.books().live_mappings;
        assert_eq!(
            live_mappings,
            u64::from(sim.device_address(&refused.block).is_some()),
            "all is as before"
        );
        destroy(&sim, refused.block);
    }
    assert_eq!((sim.books().live_blocks, sim.books().failed_calls), (0, 10));
    sim.assert_no_violations();
}

#[test]
fn a_lost_device_maps_nothing_and_takes_its_blocks_back() {
    let sim = slow_sim();
    let (sparse, physical) = (create_sparse(&sim, 4 * PAGE), create_physical(&sim, PAGE));
    map(&sim, &sparse, 0, &physical, PAGE);
    let queue = sim.create_queue().unwrap();
    fill(&sim, &queue, range(&sparse, 0, PAGE));
    let plan = FaultPlan {
        call: Some(Call::Map),
        number: 0,
        recurrence: Recurrence::Once,
        fault: Fault::LoseDevice,
    };
    sim.plan_fault(plan);
    let desc = BlockDesc::new(PAGE, 0);
    let ticket: Arc<Ticket> = Arc::default();
    let command = Command::Fill { destination: range(&sparse, 0, 1), value: 0 };
    let errors = [
        try_map(&sim, range(&sparse, PAGE, PAGE), &physical).err(),
        try_unmap(&sim, range(&sparse, 0, PAGE)).err(),
        sim.create_sparse_block(&desc).err(),
        sim.create_physical_block(&desc).err(),
        enqueue(&sim, &queue, command, &ticket).err(),
        sim.wait(&queue, 0, Duration::MAX).err(),
    ];
    assert!(errors.iter().all(|error| error.as_ref().unwrap().kind() == ErrorKind::DeviceLost), "{errors:?}");
    destroy(&sim, sparse);
    destroy(&sim, physical);
    let books = sim.books();
    assert_eq!((books.live_blocks, books.live_bytes, books.live_mappings), (0, 0, 0));
    sim.assert_no_violations();
}

#[test]
fn released_memory_comes_again_when_it_is_touched() {
    let capabilities = SimDesc::default().capabilities | Capabilities::RELEASE_RANGE;
    let sim = Sim::new(SimDesc { capabilities, ..free_desc() });
    let (sparse, physical) = (create_sparse(&sim, 64 * MIB), create_physical(&sim, 16 * MIB));
    map(&sim, &sparse, 0, &physical, 16 * MIB);
    map(&sim, &sparse, 32 * MIB, &physical, 16 * MIB);
    let release = |offset, bytes| {
        // SAFETY: no memory is behind the range.
        unsafe { sim.release_range(range(&sparse, offset, bytes)) }
    };
    release(4 * MIB, 8 * MIB).unwrap();
    release(32 * MIB + 8 * MIB, 8 * MIB).unwrap();
    assert_eq!(sim.books().live_bytes, 4 * MIB);
    let queue = sim.create_queue().unwrap();
    fill(&sim, &queue, range(&sparse, 32 * MIB + 5 * MIB, 1));
    assert_eq!(sim.books().live_bytes, 6 * MIB, "one granule, by whatever addresses");
    fill(&sim, &queue, range(&sparse, 0, 16 * MIB));
    assert_eq!(sim.books().live_bytes, 16 * MIB);
    release(0, 2 * MIB).unwrap();
    sim.assert_no_violations();
    assert_eq!(release(14 * MIB, 4 * MIB).unwrap_err().kind(), ErrorKind::Driver, "more than is mapped");
    assert_eq!(kinds(&sim), [aquifer_sim::ViolationKind::Contract]);
    destroy(&sim, sparse);
    destroy(&sim, physical);
    assert_eq!(sim.books().live_bytes, 0);
}
