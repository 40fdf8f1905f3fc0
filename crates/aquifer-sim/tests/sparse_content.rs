//! What is read and written through sparse blocks on a device with content: the bytes that are mapped there when a command runs.

mod common;

use aquifer_backend::{Backend, Capabilities};
use aquifer_sim::{Access, Kernel, Sim, SimBlock, SimDesc, SimQueue, ViolationKind};
use common::*;

const PAGE: u64 = 64 << 10;

fn content_desc() -> SimDesc {
    SimDesc { physical_page_bytes: PAGE, block_granularity_bytes: PAGE, ..linked_desc() }
}

/// Sets bytes by a queue, after all that the queue has to do.
fn set(sim: &Sim, queue: &SimQueue, block: &SimBlock, place: (u64, u64), value: u8) {
    let (offset, bytes) = place;
    let start = address(sim, block) + offset;
    let kernel = Kernel::new([Access::write(start, bytes)]).lasting(0);
    let program = move |memory: &mut aquifer_sim::KernelMemory| {
        memory.write(start, &vec![value; bytes as usize]);
    };
    // SAFETY: the tests' host writes no block that a kernel still uses.
    unsafe { sim.launch_program(queue, kernel, program) }.unwrap();
}

/// What is behind a part of a block now.
fn found(sim: &Sim, block: &SimBlock, offset: u64, bytes: u64) -> Vec<u8> {
    let queue = sim.create_queue().unwrap();
    let pinned = create_pinned(sim, bytes.next_multiple_of(PAGE));
    copy(sim, &queue, range(block, offset, bytes), range(&pinned, 0, bytes));
    sim.run_all();
    let found = host_bytes(sim, &pinned, bytes);
    destroy(sim, pinned);
    found
}

#[test]
fn one_memory_is_seen_through_all_its_addresses() {
    let sim = Sim::new(content_desc());
    let queue = sim.create_queue().unwrap();
    let (one, other) = (create_sparse(&sim, 64 * PAGE), create_sparse(&sim, 1 << 40));
    let (long, short) = (create_physical(&sim, 3 * PAGE), create_physical(&sim, PAGE));
    map(&sim, &one, 10 * PAGE, &long, 3 * PAGE);
    map(&sim, &one, 9 * PAGE, &short, PAGE);
    map(&sim, &one, 13 * PAGE, &short, PAGE);
    map(&sim, &other, 1 << 39, &long, 3 * PAGE);
    assert!(found(&sim, &one, 9 * PAGE, 5 * PAGE).iter().all(|&byte| byte == 0), "as new as a block");
    set(&sim, &queue, &other, ((1 << 39) + PAGE / 2, PAGE), 7);
    let ticket = fill(&sim, &queue, range(&one, 13 * PAGE - 5, 10));
    sim.run_all();
    assert_eq!(ticket.done_bytes(), 10);
    set(&sim, &queue, &one, (13 * PAGE - 2, 4), 8);
    let seen = found(&sim, &one, 9 * PAGE, 5 * PAGE);
    let mut expected = vec![0; 5 * PAGE as usize];
    let page = PAGE as usize;
    expected[page + page / 2..2 * page + page / 2].fill(7);
    expected[4 * page - 2..4 * page + 2].fill(8);
    expected[..2].fill(8);
    assert!(seen == expected);
    assert!(found(&sim, &other, 1 << 39, 3 * PAGE) == expected[page..4 * page]);
    sim.assert_no_violations();
}

#[test]
fn memory_keeps_what_it_holds_wherever_it_goes() {
    let sim = Sim::new(content_desc());
    let queue = sim.create_queue().unwrap();
    let sparse = create_sparse(&sim, 8 * PAGE);
    let physical = [1, 2].map(|value| {
        let physical = create_physical(&sim, 2 * PAGE);
        map(&sim, &sparse, 0, &physical, 2 * PAGE);
        set(&sim, &queue, &sparse, (0, 2 * PAGE), value);
        unmap(&sim, &sparse, 0, 2 * PAGE);
        physical
    });
    map(&sim, &sparse, 3 * PAGE, &physical[0], 2 * PAGE);
    map(&sim, &sparse, PAGE, &physical[1], 2 * PAGE);
    expect_bytes(&sim, &queue, &sparse, PAGE, &[2, 2, 1, 1]);
    destroy(&sim, sparse);
    let again = create_sparse(&sim, 8 * PAGE);
    map(&sim, &again, 0, &physical[0], 2 * PAGE);
    expect_bytes(&sim, &queue, &again, 0, &[1, 1]);
    unmap(&sim, &again, 0, 2 * PAGE);
    let [first, _] = physical;
    destroy(&sim, first);
    map(&sim, &again, 0, &create_physical(&sim, 2 * PAGE), 2 * PAGE);
    expect_bytes(&sim, &queue, &again, 0, &[0, 0]);
    sim.assert_no_violations();
}

/// A kernel looks for a value in each page.
fn expect_bytes(sim: &Sim, queue: &SimQueue, block: &SimBlock, offset: u64, values: &[u8]) {
    let start = address(sim, block) + offset;
    let expected: Vec<u8> = values.iter().flat_map(|&value| vec![value; PAGE as usize]).collect();
    let kernel = Kernel::new([Access::read(start, expected.len() as u64)]).lasting(0);
    let program = move |memory: &mut aquifer_sim::KernelMemory| _ = memory.expect(start, &expected);
    // SAFETY: the tests' host writes no block that a kernel still reads.
    unsafe { sim.launch_program(queue, kernel, program) }.unwrap();
}

#[test]
fn copies_go_between_blocks_of_all_kinds() {
    let sim = Sim::new(content_desc());
    let queue = sim.create_queue().unwrap();
    let (from, to) = (create_sparse(&sim, 8 * PAGE), create_sparse(&sim, 8 * PAGE));
    let parts = [1, 2, 1, 3, 1].map(|pages| (pages * PAGE, create_physical(&sim, pages * PAGE)));
    let [one, two, three, four, five] = &parts;
    let mut offset = 0;
    for (bytes, physical) in [one, two, three] {
        map(&sim, &from, offset, physical, *bytes);
        offset += bytes;
    }
    map(&sim, &to, 0, &four.1, four.0);
    map(&sim, &to, four.0, &five.1, five.0);
    let (ordinary, pinned) = (create(&sim, 4 * PAGE), create_pinned(&sim, 4 * PAGE));
    let bytes = 4 * PAGE - 3;
    let pattern: Vec<u8> = (0..bytes).map(|index| (index % 251) as u8).collect();
    let start = sim.host_pointer(&pinned).unwrap();
    // SAFETY: the block is so long, and no queue has anything to do.
    unsafe { start.copy_from_nonoverlapping(std::ptr::NonNull::from(&*pattern).cast(), bytes as usize) };
    copy(&sim, &queue, range(&pinned, 0, bytes), range(&from, 1, bytes));
    copy(&sim, &queue, range(&from, 1, bytes), range(&to, 2, bytes));
    copy(&sim, &queue, range(&to, 2, bytes), range(&ordinary, 3, bytes));
    copy(&sim, &queue, range(&ordinary, 3, bytes), range(&from, 0, bytes));
    sim.run_all();
    assert!(found(&sim, &to, 2, bytes) == pattern);
    assert!(found(&sim, &from, 0, bytes) == pattern);
    // SAFETY: the ranges lie in the blocks, and nobody else uses them.
    unsafe { sim.copy(range(&from, 0, bytes), range(&to, 0, bytes)) }.unwrap();
    assert!(found(&sim, &to, 0, bytes) == pattern);
    sim.assert_no_violations();
}

#[test]
fn a_command_finds_what_is_mapped_when_it_runs() {
    let sim = Sim::new(content_desc());
    let queue = sim.create_queue().unwrap();
    let sparse = create_sparse(&sim, 8 * PAGE);
    let (old, new) = (create_physical(&sim, PAGE), create_physical(&sim, PAGE));
    map(&sim, &sparse, 0, &old, PAGE);
    map(&sim, &sparse, PAGE, &new, PAGE);
    spin(&sim, &queue, 1000);
    set(&sim, &queue, &sparse, (0, PAGE), 9);
    set(&sim, &queue, &sparse, (PAGE, PAGE), 5);
    // Not waiting for it is a mistake, and the wrong memory is written.
    unmap(&sim, &sparse, 0, PAGE);
    unmap(&sim, &sparse, PAGE, PAGE);
    map(&sim, &sparse, 0, &new, PAGE);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed; 2]);
    sim.run_all();
    map(&sim, &sparse, 2 * PAGE, &old, PAGE);
    let other = sim.create_queue().unwrap();
    expect_bytes(&sim, &other, &sparse, 0, &[9]);
    expect_bytes(&sim, &other, &sparse, 2 * PAGE, &[0]);
    assert_eq!(sim.violations().len(), 2, "{:?}", sim.violations());
    expect_bytes(&sim, &other, &sparse, 2 * PAGE, &[9]);
    assert_eq!(kinds(&sim)[2..], [ViolationKind::StaleRead]);
}

#[test]
fn nothing_is_behind_addresses_that_are_given_back() {
    let sim = Sim::new(content_desc());
    let queue = sim.create_queue().unwrap();
    let (sparse, next) = (create_sparse(&sim, 8 * PAGE), create_sparse(&sim, 8 * PAGE));
    let physical = create_physical(&sim, PAGE);
    map(&sim, &sparse, 0, &physical, PAGE);
    spin(&sim, &queue, 1000);
    set(&sim, &queue, &sparse, (0, PAGE), 4);
    destroy(&sim, sparse);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed]);
    sim.run_all();
    map(&sim, &next, 0, &physical, PAGE);
    expect_bytes(&sim, &queue, &next, 0, &[0]);
    assert_eq!(sim.violations().len(), 1, "what ran too late found no memory");
}

#[test]
fn where_nothing_is_mapped_nothing_is_kept() {
    let sim = Sim::new(content_desc());
    let queue = sim.create_queue().unwrap();
    let (sparse, physical) = (create_sparse(&sim, 4 * PAGE), create_physical(&sim, PAGE));
    map(&sim, &sparse, PAGE, &physical, PAGE);
    set(&sim, &queue, &sparse, (0, 3 * PAGE), 6);
    assert_eq!(kinds(&sim), [ViolationKind::UnmappedMemoryUsed]);
    let found = found(&sim, &sparse, 0, 3 * PAGE);
    let (page, values) = (PAGE as usize, [0xdd, 6, 0xdd]);
    assert!(found.chunks(page).zip(values).all(|(found, value)| found.iter().all(|&byte| byte == value)));
}

#[test]
fn a_kernel_that_uses_reused_memory_by_other_addresses_sees_it() {
    let sim = Sim::new(content_desc());
    let queues = [sim.create_queue().unwrap(), sim.create_queue().unwrap()];
    let (sparse, physical) = (create_sparse(&sim, 4 * PAGE), create_physical(&sim, PAGE));
    map(&sim, &sparse, 0, &physical, PAGE);
    map(&sim, &sparse, PAGE, &physical, PAGE);
    let start = address(&sim, &sparse);
    let first = sim.claim(start, PAGE);
    set(&sim, &queues[0], &sparse, (0, PAGE), 1);
    sim.give_up(first);
    spin(&sim, &queues[0], 1000);
    sim.claim(start + PAGE, PAGE);
    set(&sim, &queues[1], &sparse, (PAGE, PAGE), 2);
    expect_bytes(&sim, &queues[1], &sparse, PAGE, &[2]);
    sim.assert_no_violations();
    expect_bytes(&sim, &queues[0], &sparse, 0, &[1]);
    sim.run_all();
    assert_eq!(kinds(&sim), [ViolationKind::StaleRead], "its work is nobody's by then, and newer");
}

#[test]
fn released_memory_is_zero_when_it_comes_again() {
    let desc = content_desc();
    let capabilities = desc.capabilities | Capabilities::RELEASE_RANGE;
    let sim = Sim::new(SimDesc { capabilities, ..desc });
    let queue = sim.create_queue().unwrap();
    let (sparse, physical) = (create_sparse(&sim, 8 * PAGE), create_physical(&sim, 3 * PAGE));
    map(&sim, &sparse, 0, &physical, 3 * PAGE);
    map(&sim, &sparse, 4 * PAGE, &physical, 3 * PAGE);
    set(&sim, &queue, &sparse, (0, 3 * PAGE), 3);
    // SAFETY: the range is behind one mapping, and nobody uses it.
    unsafe { sim.release_range(range(&sparse, 5 * PAGE, PAGE)) }.unwrap();
    assert_eq!(sim.books().live_bytes, 2 * PAGE);
    expect_bytes(&sim, &queue, &sparse, 0, &[3, 0, 3]);
    assert_eq!(sim.books().live_bytes, 3 * PAGE);
    sim.assert_no_violations();
}
