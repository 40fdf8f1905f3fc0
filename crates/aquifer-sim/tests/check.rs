//! Each rule of the checker, broken on purpose, beside the same thing done right.

mod common;

use aquifer_backend::{Backend, BlockDesc, Capabilities};
use aquifer_sim::{Access, ClaimId, Costs, Kernel, Lateness, Sim, SimDesc, SimQueue, ViolationKind};
use aquifer_testkit::Random;
use common::*;

fn write(sim: &Sim, queue: &SimQueue, address: u64, bytes: u64, ns: u64) {
    sim.launch(queue, Kernel::new([Access::write(address, bytes)]).lasting(ns)).unwrap();
}

/// A user works with 4 KiB for 1000 ns and frees them; after `pause_ns` another gets some of the bytes and uses them.
fn reuse(other_queue: bool, pause_ns: u64, is_ordered: bool, offset: u64) -> Sim {
    let sim = free_sim();
    let block = create(&sim, 2 * MIB);
    let start = address(&sim, &block);
    let queues = [sim.create_queue().unwrap(), sim.create_queue().unwrap()];
    let first = sim.claim(start, 4096);
    write(&sim, &queues[0], start, 4096, 1000);
    signal(&sim, &queues[0], 1).unwrap();
    sim.give_up(first);
    sim.advance(pause_ns);
    let second = sim.claim(start + offset, 4096);
    let queue = &queues[usize::from(other_queue)];
    if is_ordered {
        sim.wait_on_queue(queue, &queues[0], 1).unwrap();
    }
    write(&sim, queue, start + offset, 4096, 10);
    sim.run_all();
    sim.give_up(second);
    destroy(&sim, block);
    sim
}

#[test]
fn memory_reused_too_early_is_found() {
    for (pause_ns, offset) in [(0, 0), (999, 0), (500, 4095)] {
        let sim = reuse(true, pause_ns, false, offset);
        assert_eq!(kinds(&sim), [ViolationKind::ReusedWhileUsed], "{pause_ns} {offset}");
        let violation = &sim.violations()[0];
        assert_eq!(violation.at_ns, pause_ns);
        let words = violation.to_string();
        for part in ["queue 1", "queue 2", "owner 1", "owner 2", "reused while still used"] {
            assert!(words.contains(part), "{words}");
        }
    }
}

#[test]
fn memory_reused_in_order_is_not_reported() {
    reuse(false, 0, false, 0).assert_no_violations();
    reuse(true, 0, true, 0).assert_no_violations();
    reuse(true, 1000, false, 0).assert_no_violations();
    reuse(true, 0, false, 4096).assert_no_violations();
}

#[test]
fn work_that_comes_after_the_next_owners_is_found() {
    let sim = free_sim();
    let block = create(&sim, 2 * MIB);
    let start = address(&sim, &block);
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    let first = sim.claim(start, 4096);
    spin(&sim, &one, 1000);
    write(&sim, &one, start + 100, 1, 10);
    sim.give_up(first);
    sim.claim(start, 4096);
    write(&sim, &other, start, 4096, 10);
    sim.run_all();
    assert_eq!(kinds(&sim), [ViolationKind::ReusedWhileUsed]);
    assert_eq!((sim.violations()[0].at_ns, sim.violations()[0].address), (1000, start + 100));
}

#[test]
fn clearing_before_handing_out_counts_as_use() {
    let sim = slow_sim();
    let block = create(&sim, 2 * MIB);
    let start = address(&sim, &block);
    let queue = sim.create_queue().unwrap();
    let first = sim.claim(start, MIB);
    write(&sim, &queue, start, MIB, 1000);
    sim.give_up(first);
    // SAFETY: no memory is behind the range.
    unsafe { sim.fill(range(&block, 0, MIB), 0) }.unwrap();
    assert_eq!(kinds(&sim), [ViolationKind::ReusedWhileUsed]);
}

#[test]
fn a_cancelled_command_ends_early_for_the_checker_too() {
    let sim = slow_sim();
    let block = create(&sim, 64 * MIB);
    let start = address(&sim, &block);
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    let first = sim.claim(start, 64 * MIB);
    let ticket = fill(&sim, &one, range(&block, 0, 64 * MIB));
    sim.give_up(first);
    sim.advance(slow_ns(MIB));
    ticket.cancel();
    sim.advance(slow_ns(MIB));
    assert_eq!(ticket.done_bytes(), MIB);
    sim.claim(start, MIB);
    write(&sim, &other, start, MIB, 10);
    sim.run_all();
    sim.assert_no_violations();
}

#[test]
fn claims_must_not_overlap_and_must_lie_in_a_block() {
    let sim = free_sim();
    let block = create(&sim, 2 * MIB);
    let start = address(&sim, &block);
    let first = sim.claim(start + 4096, 4096);
    let before = sim.claim(start, 4096);
    sim.claim(start + 8192, 4096);
    let empty = sim.claim(start + 5000, 0);
    sim.give_up(empty);
    sim.assert_no_violations();
    let overlapping = [(start + 8191, 2), (start + 5000, 1), (start, 2 * MIB)];
    for (index, (address, bytes)) in overlapping.into_iter().enumerate() {
        let claim = sim.claim(address, bytes);
        assert_eq!(kinds(&sim), [ViolationKind::ClaimsOverlap].repeat(index + 1));
        sim.give_up(claim);
    }
    sim.give_up(first);
    sim.give_up(sim.claim(start + 4096, 4096));
    assert_eq!(sim.violations().len(), overlapping.len());
    for (address, bytes) in [(start - 1, 1), (start + 2 * MIB - 1, 2), (start, u64::MAX), (7, 0)] {
        sim.claim(address, bytes);
        assert_eq!(kinds(&sim).last(), Some(&ViolationKind::OutOfBlock), "{address:#x} {bytes}");
    }
    sim.give_up(before);
    sim.give_up(before);
    assert_eq!(kinds(&sim).last(), Some(&ViolationKind::NotClaimed));
}

#[test]
fn accesses_must_lie_in_a_block() {
    let sim = free_sim();
    let blocks = [create(&sim, 2 * MIB), create(&sim, 2 * MIB)];
    let start = address(&sim, &blocks[0]);
    let queue = sim.create_queue().unwrap();
    let both = address(&sim, &blocks[1]) + 1 - start;
    for (address, bytes) in [(start - 1, 1), (start, both), (0, 1), (start + 1, u64::MAX)] {
        sim.launch(&queue, Kernel::new([Access::read(address, bytes)])).unwrap();
        assert_eq!(kinds(&sim).last(), Some(&ViolationKind::OutOfBlock), "{address:#x} {bytes}");
    }
    let count = sim.violations().len();
    sim.launch(&queue, Kernel::new([Access::read(start, 2 * MIB)])).unwrap();
    fill(&sim, &queue, range(&blocks[0], 2 * MIB, 0));
    assert_eq!(sim.violations().len(), count);
    fill(&sim, &queue, range(&blocks[0], 2 * MIB, 1));
    assert_eq!(sim.violations().len(), count + 1);
}

#[test]
fn blocks_destroyed_too_early_are_found() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    let block = create(&sim, 2 * MIB);
    write(&sim, &queue, address(&sim, &block) + 5, 5, 100);
    write(&sim, &queue, address(&sim, &block) + 5, 5, 100);
    sim.advance(199);
    destroy(&sim, block);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed]);
    let block = create(&sim, 2 * MIB);
    let claim = sim.claim(address(&sim, &block), 10);
    sim.advance(1);
    write(&sim, &queue, address(&sim, &block) + 5, 5, 100);
    sim.advance(100);
    destroy(&sim, block);
    assert_eq!(kinds(&sim)[1..], [ViolationKind::GivenBackWhileClaimed]);
    sim.give_up(claim);
    assert_eq!(kinds(&sim)[2..], [ViolationKind::NotClaimed]);
    // Work that a driver waits for when it destroys a block is work on the block all the same.
    let costs = Costs { destroy_waits_for_all_queues: true, ..Costs::FREE };
    let sim = Sim::new(SimDesc { costs, ..free_desc() });
    let queue = sim.create_queue().unwrap();
    let block = create(&sim, 2 * MIB);
    write(&sim, &queue, address(&sim, &block), 1, 100);
    destroy(&sim, block);
    assert_eq!((kinds(&sim), sim.now_ns()), (vec![ViolationKind::GivenBackWhileUsed], 100));
}

#[test]
fn addresses_come_again_without_their_past() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    let block = create(&sim, 4 * MIB);
    let start = address(&sim, &block);
    let claim = sim.claim(start, MIB);
    write(&sim, &queue, start, MIB, 100);
    sim.run_all();
    sim.give_up(claim);
    destroy(&sim, block);
    let smaller = create(&sim, 2 * MIB);
    let block = create(&sim, 4 * MIB);
    assert_ne!(address(&sim, &smaller), start);
    assert_eq!(address(&sim, &block), start);
    sim.claim(start, MIB);
    write(&sim, &queue, start, 4 * MIB, 100);
    sim.run_all();
    sim.assert_no_violations();
}

#[test]
fn released_parts_are_gone() {
    let sim = Sim::new(SimDesc { capabilities: Capabilities::RELEASE_RANGE, ..free_desc() });
    let queue = sim.create_queue().unwrap();
    let block = create(&sim, 8 * MIB);
    let start = address(&sim, &block);
    let release = |offset, bytes| {
        // SAFETY: no memory is behind the range.
        unsafe { sim.release_range(range(&block, offset, bytes)) }
    };
    write(&sim, &queue, start, 2 * MIB, 10);
    let claim = sim.claim(start + 6 * MIB, 1);
    release(2 * MIB, 4 * MIB).unwrap();
    assert_eq!(sim.books().live_bytes, 4 * MIB);
    write(&sim, &queue, start + 6 * MIB, 2 * MIB, 10);
    sim.assert_no_violations();
    release(0, 2 * MIB).unwrap();
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed]);
    sim.run_all();
    release(6 * MIB, 2 * MIB).unwrap();
    assert_eq!(kinds(&sim)[1..], [ViolationKind::GivenBackWhileClaimed]);
    write(&sim, &queue, start + 3 * MIB, 1, 1);
    sim.claim(start + 4 * MIB, 1);
    assert_eq!(kinds(&sim)[2..], [ViolationKind::ReleasedMemoryUsed; 2]);
    release(4 * MIB, 2 * MIB).unwrap();
    release(1, 2 * MIB).unwrap_err();
    sim.give_up(claim);
    assert_eq!(kinds(&sim)[4..], [ViolationKind::Contract; 2]);
    sim.run_all();
    assert_eq!(sim.books().live_bytes, 0);
    destroy(&sim, block);
    assert_eq!((sim.books().live_bytes, sim.books().live_blocks), (0, 0));
}

#[test]
fn the_host_waits_for_queued_work() {
    let sim = free_sim();
    let block = create(&sim, 2 * MIB);
    let start = address(&sim, &block);
    let queue = sim.create_queue().unwrap();
    let claim = sim.claim(start, 4096);
    sim.launch(&queue, Kernel::new([Access::read(start, 100)]).lasting(10)).unwrap();
    sim.host_access(Access::read(start, 4096));
    sim.host_access(Access::write(start + 100, 10));
    sim.assert_no_violations();
    sim.host_access(Access::write(start + 99, 10));
    assert_eq!(kinds(&sim), [ViolationKind::HostTouchedQueued]);
    sim.give_up(claim);
    sim.claim(start, 4096);
    sim.host_access(Access::read(start + 99, 10));
    assert_eq!(kinds(&sim)[1..], [ViolationKind::HostTouchedQueued], "the next owner may not even read");
    sim.advance(10);
    sim.host_access(Access::write(start, 4096));
    assert_eq!(sim.violations().len(), 2);
}

#[test]
fn breaches_of_the_contract_are_noted() {
    let sim = slow_sim();
    let block = create(&sim, 64 * MIB);
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    signal(&sim, &one, 1).unwrap();
    sim.wait_on_queue(&other, &one, 1).unwrap();
    copy(&sim, &one, range(&block, 0, 10), range(&block, 10, 10));
    sim.assert_no_violations();
    signal(&sim, &one, 3).unwrap();
    sim.wait_on_queue(&other, &one, 4).unwrap();
    copy(&sim, &one, range(&block, 0, 10), range(&block, 9, 10));
    drop(other);
    for bytes in [0, 1, MIB, 1 << 50] {
        let desc = BlockDesc::new(bytes, 0);
        sim.create_block(&desc).unwrap_err();
    }
    assert_eq!(kinds(&sim), [ViolationKind::Contract; 8]);
    let words: Vec<_> = sim.violations().iter().map(ToString::to_string).collect();
    assert!(words[0].contains("signal of 3 on queue 1 after 1"), "{words:#?}");
    assert!(words[3].contains("queue 2 was dropped"), "{words:#?}");
}

/// An access of a random run, for the naive check.
struct Used {
    owner: u64,
    start: u64,
    end: u64,
}

/// The checker finds something exactly if there are two accesses of one byte of which the older owner's did not end before the
/// newer's began.
#[test]
fn agrees_with_a_naive_check_of_all_pairs() {
    let mut found = 0;
    for seed in 0..300 {
        let mut random = Random::new(seed);
        let sim = Sim::new(SimDesc {
            seed,
            lateness: Lateness { per_mille: 200, delay_ns_max: 500 },
            ..free_desc()
        });
        let block = create(&sim, 2 * MIB);
        let base = address(&sim, &block);
        let queues: Vec<_> = (0..3).map(|_| sim.create_queue().unwrap()).collect();
        let mut used: Vec<Used> = Vec::new();
        let mut claims: Vec<(ClaimId, u64)> = Vec::new();
        for _ in 0..30 {
            if claims.len() > 3 || (!claims.is_empty() && random.below(3) == 0) {
                let (claim, _) = claims.swap_remove(random.below(claims.len() as u64) as usize);
                sim.give_up(claim);
            }
            let start = base + random.below(8) * 4;
            if claims.iter().all(|&(_, other)| other + 4 <= start || start + 4 <= other) {
                claims.push((sim.claim(start, 4), start));
            }
            let (claim, start) = claims[random.below(claims.len() as u64) as usize];
            let first = start + random.below(4);
            let access = Access::write(first, 1 + random.below(start + 4 - first));
            let queue = &queues[random.below(3) as usize];
            let kernel = Kernel::new([access]).lasting(1 + random.below(50));
            let command = sim.launch(queue, kernel).unwrap();
            used.push(Used {
                owner: claim.owner(),
                start: access.address,
                end: access.address + access.bytes,
            });
            assert_eq!(used.len() as u64, command);
            sim.advance(random.below(40));
        }
        sim.run_all();
        let history = sim.history();
        let is_broken = history.iter().any(|a| {
            history.iter().any(|b| {
                let (older, newer) = (&used[a.command as usize - 1], &used[b.command as usize - 1]);
                older.owner < newer.owner
                    && older.start < newer.end
                    && newer.start < older.end
                    && a.end_ns > b.start_ns
            })
        });
        found += u32::from(is_broken);
        assert_eq!(!kinds(&sim).is_empty(), is_broken, "seed {seed}: {:?}", sim.violations());
        assert!(kinds(&sim).iter().all(|&kind| kind == ViolationKind::ReusedWhileUsed), "seed {seed}");
    }
    assert!((50..250).contains(&found), "{found} of 300 runs are broken: the test is one-sided");
}
