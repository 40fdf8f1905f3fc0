//! Each rule of the checker about memory behind sparse blocks, broken on purpose, beside the same thing done right.

mod common;

use aquifer_backend::{Backend, Capabilities};
use aquifer_sim::{Access, Sim, SimDesc, ViolationKind};
use common::aliased::*;
use common::*;

#[test]
fn two_owners_of_one_byte_by_two_addresses_are_found() {
    let device = aliased();
    let sim = &device.sim;
    sim.claim(device.at(0, 0), 4096);
    sim.claim(device.at(1, 4096), 4096);
    sim.assert_no_violations();
    let refused = sim.claim(device.at(1, 0), 4097);
    assert_eq!(kinds(sim), [ViolationKind::ClaimsOverlap]);
    let words = sim.violations()[0].to_string();
    assert!(words.contains(&format!("{:#x}", device.at(0, 0))), "by the address of the other: {words}");
    assert!(words.contains(&format!("{:#x}", device.at(1, 0))), "and its own: {words}");
    sim.give_up(refused);
    // The same by two addresses of one claim.
    let physical = create_physical(sim, PAGE);
    map(sim, &device.sparse[0], 0, &physical, PAGE);
    map(sim, &device.sparse[0], PAGE, &physical, PAGE);
    let start = address(sim, &device.sparse[0]);
    sim.claim(start, PAGE + 1);
    assert_eq!(kinds(sim), [ViolationKind::ClaimsOverlap; 2]);
    sim.claim(start + 100, PAGE - 100);
    sim.claim(start + PAGE, 100);
    assert_eq!(sim.violations().len(), 2);
}

/// A user works with memory by some addresses for 1000 ns and frees it; after `pause_ns` another gets it by others.
fn reuse(other_queue: usize, pause_ns: u64, is_ordered: bool, offset: u64) -> (Sim, u64) {
    let device = aliased();
    let sim = &device.sim;
    let first = sim.claim(device.at(0, 0), 4096);
    device.write(0, device.at(0, 0), 4096, 1000);
    signal(sim, &device.queues[0], 1).unwrap();
    sim.give_up(first);
    sim.advance(pause_ns);
    sim.claim(device.at(1, offset), 4096);
    if is_ordered {
        sim.wait_on_queue(&device.queues[other_queue], &device.queues[0], 1).unwrap();
    }
    device.write(other_queue, device.at(1, offset), 4096, 10);
    sim.run_all();
    let second = device.at(1, offset);
    (device.sim, second)
}

#[test]
fn memory_reused_too_early_by_other_addresses_is_found() {
    for (pause_ns, offset) in [(0, 0), (999, 0), (500, 4095)] {
        let (sim, address) = reuse(1, pause_ns, false, offset);
        assert_eq!(kinds(&sim), [ViolationKind::ReusedWhileUsed], "{pause_ns} {offset}");
        assert_eq!((sim.violations()[0].at_ns, sim.violations()[0].address), (pause_ns, address));
    }
}

#[test]
fn memory_reused_in_order_by_other_addresses_is_not_reported() {
    for (queue, pause_ns, is_ordered, offset) in
        [(0, 0, false, 0), (1, 0, true, 0), (1, 1000, false, 0), (1, 0, false, 4096)]
    {
        reuse(queue, pause_ns, is_ordered, offset).0.assert_no_violations();
    }
}

#[test]
fn work_of_an_old_owner_after_the_new_ones_is_found_when_the_old_addresses_are_gone() {
    let device = aliased();
    let sim = &device.sim;
    let first = sim.claim(device.at(0, 0), PAGE);
    spin(sim, &device.queues[0], 1000);
    device.write(0, device.at(0, 5), 1, 10);
    sim.give_up(first);
    sim.claim(device.at(1, 0), PAGE);
    device.write(1, device.at(1, 0), PAGE, 10);
    sim.run_all();
    assert_eq!(kinds(sim), [ViolationKind::ReusedWhileUsed]);
    assert_eq!((sim.violations()[0].at_ns, sim.violations()[0].address), (1000, device.at(0, 5)));
}

#[test]
fn memory_that_moves_to_other_addresses_in_order_is_not_reported() {
    let device = aliased();
    let sim = &device.sim;
    device.unmap(1);
    let start = address(sim, &device.sparse[1]);
    for round in 0..4 {
        let place = round % 2 * 4 * PAGE;
        map(sim, &device.sparse[1], place, &device.physical, 2 * PAGE);
        let held = sim.claim(start + place, 2 * PAGE);
        device.write(1, start + place, 2 * PAGE, 100);
        sim.give_up(held);
        sim.run_all();
        unmap(sim, &device.sparse[1], place, 2 * PAGE);
    }
    sim.assert_no_violations();
}

#[test]
fn what_spans_blocks_is_checked_in_each() {
    let device = aliased();
    let sim = &device.sim;
    let beside = create_physical(sim, PAGE);
    map(sim, &device.sparse[0], PLACES[0] + 2 * PAGE, &beside, PAGE);
    map(sim, &device.sparse[1], 0, &beside, PAGE);
    let both = sim.claim(device.at(0, PAGE), 2 * PAGE);
    device.write(0, device.at(0, PAGE), 2 * PAGE, 1000);
    sim.assert_no_violations();
    let start = address(sim, &device.sparse[1]);
    for (bytes, address) in [(10, start + PAGE - 10), (10, device.at(1, PAGE))] {
        let count = sim.violations().len();
        sim.claim(address, bytes);
        assert_eq!(sim.violations().len(), count + 1);
        sim.host_access(Access::read(address, bytes));
        assert_eq!(kinds(sim)[count..], [ViolationKind::ClaimsOverlap, ViolationKind::HostTouchedQueued]);
    }
    let count = sim.violations().len();
    sim.host_access(Access::write(start, PAGE - 1));
    assert_eq!(kinds(sim)[count..], [ViolationKind::HostTouchedQueued]);
    sim.host_access(Access::write(device.at(1, 0), PAGE));
    assert_eq!(sim.violations().len(), count + 1, "what lies before it is nobody's");
    sim.run_all();
    sim.give_up(both);
    sim.give_up(both);
    assert_eq!(kinds(sim)[count + 1..], [ViolationKind::NotClaimed]);
    sim.claim(device.at(1, PAGE), PAGE);
    sim.claim(start, PAGE);
    assert_eq!(sim.violations().len(), count + 2, "it was given up in both");
}

#[test]
fn addresses_with_nothing_behind_them_must_not_be_used() {
    let device = aliased();
    let sim = &device.sim;
    let start = address(sim, &device.sparse[0]);
    let (end, mapped) = (start + 16 * PAGE, device.at(0, 0));
    for (address, bytes, hole) in [
        (start, 1, start),
        (mapped - 1, 2, mapped - 1),
        (mapped + 2 * PAGE - 1, 2, mapped + 2 * PAGE),
        (end - 1, 1, end - 1),
        (start, 16 * PAGE, start),
    ] {
        let count = sim.violations().len();
        write(sim, &device.queues[0], address, bytes, 1);
        sim.give_up(sim.claim(address, bytes));
        assert_eq!(kinds(sim)[count..], [ViolationKind::UnmappedMemoryUsed; 2], "{address:#x} {bytes}");
        assert!(sim.violations()[count].message.contains(&format!("{hole:#x}")));
    }
    let count = sim.violations().len();
    for (address, bytes) in [(end, 1), (start - 1, 1), (end - 1, 2), (start, u64::MAX), (1 << 63, 1)] {
        write(sim, &device.queues[0], address, bytes, 1);
        assert_eq!(kinds(sim).last(), Some(&ViolationKind::OutOfBlock), "{address:#x} {bytes}");
    }
    assert_eq!(sim.violations().len(), count + 5);
    device.write(0, mapped, 2 * PAGE, 1);
    sim.run_all();
    device.unmap(0);
    assert_eq!(sim.violations().len(), count + 5);
    device.write(0, mapped, 1, 1);
    assert_eq!(kinds(sim).last(), Some(&ViolationKind::UnmappedMemoryUsed));
    device.write(0, device.at(1, 0), 1, 1);
    assert_eq!(sim.violations().len(), count + 6, "the other addresses are as good as before");
}

#[test]
fn what_is_used_or_held_must_not_be_unmapped() {
    let device = aliased();
    let sim = &device.sim;
    let held = sim.claim(device.at(1, 0), PAGE);
    device.write(0, device.at(1, PAGE), PAGE, 100);
    device.unmap(0);
    sim.assert_no_violations();
    device.unmap(1);
    assert_eq!(kinds(sim), [ViolationKind::GivenBackWhileUsed, ViolationKind::GivenBackWhileClaimed]);
    let places = sim.violations().iter().map(|one| (one.address, one.bytes)).collect::<Vec<_>>();
    assert_eq!(places, [(device.at(1, PAGE), PAGE), (device.at(1, 0), PAGE)]);
    sim.give_up(held);
    assert_eq!(sim.violations().len(), 2, "the user may free what it has not got any more");
    // Work that has not begun counts too, and so does a sparse block that goes with what is mapped there.
    let Aliased { sim, sparse: [one, other], physical, queues } = aliased();
    let start = address(&sim, &one) + PLACES[0];
    spin(&sim, &queues[0], 100);
    write(&sim, &queues[0], start, 1, 0);
    destroy(&sim, other);
    sim.assert_no_violations();
    destroy(&sim, one);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed]);
    assert_eq!((sim.violations()[0].address, sim.violations()[0].bytes), (start, 1));
    sim.run_all();
    destroy(&sim, physical);
    assert_eq!(sim.violations().len(), 1);
}

#[test]
fn what_is_mapped_or_used_must_not_be_destroyed() {
    let Aliased { sim, sparse, physical, queues } = aliased();
    let start = address(&sim, &sparse[1]) + PLACES[1];
    unmap(&sim, &sparse[0], PLACES[0], 2 * PAGE);
    write(&sim, &queues[0], start, 1, 100);
    destroy(&sim, physical);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileMapped, ViolationKind::GivenBackWhileUsed]);
    assert_eq!((sim.violations()[0].address, sim.violations()[0].bytes), (start, 2 * PAGE));
    // What has its name next is not behind the old addresses.
    let next = create_physical(&sim, 2 * PAGE);
    write(&sim, &queues[0], start, 1, 100);
    assert_eq!(kinds(&sim)[2..], [ViolationKind::UnmappedMemoryUsed]);
    unmap(&sim, &sparse[1], PLACES[1], 2 * PAGE);
    map(&sim, &sparse[1], PLACES[1], &next, 2 * PAGE);
    write(&sim, &queues[0], start, 1, 100);
    sim.run_all();
    unmap(&sim, &sparse[1], PLACES[1], 2 * PAGE);
    destroy(&sim, next);
    assert_eq!(sim.violations().len(), 3);
}

#[test]
fn copies_between_two_addresses_of_one_byte_are_found() {
    let device = aliased();
    let sim = &device.sim;
    let [one, other] = [0, 1].map(|which| &device.sparse[which]);
    let (from, to) = (PLACES[0], PLACES[1]);
    sim.claim(device.at(0, 0), 2 * PAGE);
    copy(sim, &device.queues[0], range(one, from, PAGE), range(other, to + PAGE, PAGE));
    sim.assert_no_violations();
    copy(sim, &device.queues[0], range(one, from + PAGE - 1, PAGE), range(other, to, PAGE));
    assert_eq!(kinds(sim), [ViolationKind::Contract]);
    assert!(sim.violations()[0].message.contains("overlap"));
}

#[test]
fn memory_released_while_it_is_used_or_held_by_any_address_is_found() {
    let capabilities = SimDesc::default().capabilities | Capabilities::RELEASE_RANGE;
    let sim = Sim::new(SimDesc { capabilities, ..free_desc() });
    let (sparse, physical) = (create_sparse(&sim, 4 * PAGE), create_physical(&sim, 2 * PAGE));
    map(&sim, &sparse, 0, &physical, 2 * PAGE);
    map(&sim, &sparse, 2 * PAGE, &physical, 2 * PAGE);
    let (queue, start) = (sim.create_queue().unwrap(), address(&sim, &sparse));
    let release = |offset| {
        // SAFETY: no memory is behind the range.
        unsafe { sim.release_range(range(&sparse, offset, PAGE)) }.unwrap();
    };
    write(&sim, &queue, start + 3 * PAGE, 1, 100);
    release(0);
    sim.assert_no_violations();
    release(PAGE);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed]);
    sim.run_all();
    sim.claim(start + PAGE, 1);
    release(3 * PAGE);
    assert_eq!(kinds(&sim)[1..], [ViolationKind::GivenBackWhileClaimed]);
}
