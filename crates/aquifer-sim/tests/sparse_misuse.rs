//! Senseless calls for sparse and physical blocks: each is refused, and a breach of the contract.

mod common;

use aquifer_backend::{Backend, BlockDesc, ErrorKind, MemoryFlags, MemoryType};
use aquifer_sim::{Sim, SimDesc, ViolationKind};
use common::aliased::*;
use common::*;

/// Whether a senseless call was refused, and a breach of the contract.
#[track_caller]
fn assert_refused(sim: &Sim, result: Result<(), aquifer_backend::Error>) {
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Driver);
    assert_eq!(kinds(sim).last(), Some(&ViolationKind::Contract));
}

#[test]
fn only_whole_blocks_are_mapped_behind_free_pages() {
    let device = aliased();
    let sim = &device.sim;
    let (sparse, page) = (&device.sparse[0], create_physical(sim, PAGE));
    let ordinary = create(sim, PAGE);
    let senseless = [
        (range(sparse, PLACES[0], PAGE), &page),
        (range(sparse, PLACES[0] - PAGE, 2 * PAGE), &device.physical),
        (range(sparse, PLACES[0] + PAGE, 2 * PAGE), &device.physical),
        (range(sparse, 0, PAGE), &device.physical),
        (range(sparse, 0, 2 * PAGE), &page),
        (range(sparse, 0, 0), &page),
        (range(sparse, PAGE / 2, PAGE), &page),
        (range(sparse, 16 * PAGE, PAGE), &page),
        (range(sparse, u64::MAX - PAGE + 1, PAGE), &page),
        (range(sparse, 0, PAGE), &ordinary),
        (range(&ordinary, 0, PAGE), &page),
        (range(&page, 0, PAGE), &page),
        (range(sparse, 0, 16 * PAGE), sparse),
    ];
    let count = senseless.len();
    for (sparse, physical) in senseless {
        assert_refused(sim, try_map(sim, sparse, physical));
    }
    assert_eq!((sim.violations().len(), sim.books().live_mappings), (count, 2));
    map(sim, sparse, PLACES[0] + 2 * PAGE, &page, PAGE);
    map(sim, sparse, PLACES[0] - PAGE, &page, PAGE);
    map(sim, sparse, 15 * PAGE, &page, PAGE);
    assert_eq!(sim.violations().len(), count);
}

#[test]
fn only_whole_mappings_are_unmapped() {
    let device = aliased();
    let sim = &device.sim;
    let (sparse, start) = (&device.sparse[0], PLACES[0]);
    let senseless = [
        (start, PAGE),
        (start + PAGE, PAGE),
        (start, 3 * PAGE),
        (start - PAGE, 3 * PAGE),
        (0, 2 * PAGE),
        (start, 0),
        (16 * PAGE, PAGE),
        (u64::MAX, 2 * PAGE),
    ];
    for (offset, bytes) in senseless {
        assert_refused(sim, try_unmap(sim, range(sparse, offset, bytes)));
    }
    assert_refused(sim, try_unmap(sim, range(&device.physical, 0, 2 * PAGE)));
    assert_eq!((sim.violations().len(), sim.books().live_mappings), (senseless.len() + 1, 2));
    device.unmap(0);
    assert_refused(sim, try_unmap(sim, range(sparse, start, 2 * PAGE)));
}

#[test]
fn memory_of_another_device_or_type_is_not_mapped() {
    let types = [0, 0].map(|heap_index| MemoryType { heap_index, flags: MemoryFlags::DEVICE_LOCAL });
    let desc = SimDesc { memory_types: types.to_vec(), ..free_desc() };
    let sim = Sim::new(desc.clone());
    let peer = sim.peer(desc);
    let sparse = create_sparse(&sim, 4 * PAGE);
    let foreign = create_physical(&peer, PAGE);
    assert_refused(&sim, try_map(&sim, range(&sparse, 0, PAGE), &foreign));
    assert_refused(&sim, try_map(&peer, range(&sparse, 0, PAGE), &foreign));
    let other = sim.create_physical_block(&BlockDesc::new(PAGE, 1)).unwrap();
    assert_refused(&sim, try_map(&sim, range(&sparse, 0, PAGE), &other));
    assert_eq!(sim.violations().len(), 3);
}

#[test]
fn senseless_sizes_are_refused() {
    let sim = Sim::new(SimDesc { physical_page_bytes: 4 * MIB, ..free_desc() });
    for bytes in [0, 2 * MIB, 4 * MIB + 1, 1 << 40] {
        assert_refused(&sim, sim.create_physical_block(&BlockDesc::new(bytes, 0)).map(|_| ()));
    }
    for bytes in [0, 2 * MIB, 4 * MIB + 1] {
        assert_refused(&sim, sim.create_sparse_block(&BlockDesc::new(bytes, 0)).map(|_| ()));
    }
    assert_refused(&sim, sim.create_sparse_block(&BlockDesc::new(4 * MIB, 1)).map(|_| ()));
    assert_eq!(sim.violations().len(), 8);
    create_sparse(&sim, 1 << 40);
    create(&sim, 2 * MIB);
    assert_eq!((sim.violations().len(), sim.books().live_blocks), (8, 2));
}

#[test]
fn only_ordinary_blocks_are_made_purgeable() {
    let device = aliased();
    for block in [&device.sparse[0], &device.physical] {
        // SAFETY: no memory is behind the block.
        let result = unsafe { device.sim.make_purgeable(block) };
        assert_refused(&device.sim, result);
    }
}
