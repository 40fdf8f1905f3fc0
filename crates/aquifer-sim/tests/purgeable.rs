//! Purgeable blocks: when the system takes their memory, and who must not touch them.

mod common;

use aquifer_backend::{Backend, ErrorKind};
use aquifer_sim::{Access, Kernel, Purging, Sim, SimBlock, SimDesc, SimQueue, ViolationKind};
use common::*;

fn write(sim: &Sim, queue: &SimQueue, address: u64, bytes: u64, ns: u64) {
    sim.launch(queue, Kernel::new([Access::write(address, bytes)]).lasting(ns)).unwrap();
}

fn make_purgeable(sim: &Sim, block: &SimBlock) {
    // SAFETY: no memory is behind the block; where a test uses it all the same it is to be found out.
    unsafe { sim.make_purgeable(block) }.unwrap();
}

#[test]
fn what_is_purgeable_must_not_be_used() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    let block = create(&sim, 2 * MIB);
    let start = address(&sim, &block);
    let claim = sim.claim(start, 10);
    make_purgeable(&sim, &block);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileClaimed]);
    sim.give_up(claim);
    sim.claim(start, 10);
    write(&sim, &queue, start, 10, 0);
    sim.host_access(Access::read(start, 10));
    assert_eq!(kinds(&sim)[1..], [ViolationKind::PurgeableMemoryUsed; 3]);
    sim.purge();
    sim.host_access(Access::read(start, 10));
    assert!(sim.violations()[4].to_string().contains("the system has taken"), "{:?}", sim.violations());
    make_purgeable(&sim, &block);
    assert_eq!(kinds(&sim)[5], ViolationKind::Contract);
    assert!(!sim.make_nonpurgeable(&block).unwrap());
    assert_eq!((sim.books().purgeable_bytes, sim.books().purged_bytes), (0, 0));
    sim.claim(start, 10);
    write(&sim, &queue, start, 10, 0);
    sim.run_all();
    assert_eq!(kinds(&sim).len(), 6, "it may be used again");
    assert!(sim.make_nonpurgeable(&block).is_ok());
    assert_eq!(kinds(&sim)[6], ViolationKind::Contract, "it is not purgeable");
}

#[test]
fn queued_work_keeps_a_block_from_being_made_purgeable() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    let block = create(&sim, 2 * MIB);
    write(&sim, &queue, address(&sim, &block), 10, 100);
    make_purgeable(&sim, &block);
    assert_eq!(kinds(&sim), [ViolationKind::GivenBackWhileUsed]);
}

#[test]
fn purged_memory_is_not_in_use() {
    let sim = Sim::new(SimDesc { memory_bytes: 16 * MIB, purging: Purging::NONE, ..free_desc() });
    let (one, other) = (create(&sim, 8 * MIB), create(&sim, 6 * MIB));
    let start = address(&sim, &one);
    make_purgeable(&sim, &one);
    let bytes = || (sim.books().live_bytes, sim.books().purgeable_bytes, sim.books().purged_bytes);
    assert_eq!(bytes(), (14 * MIB, 8 * MIB, 0));
    assert!(sim.make_nonpurgeable(&one).unwrap(), "nobody has needed it");
    make_purgeable(&sim, &one);
    let third = create(&sim, 4 * MIB);
    assert_eq!(bytes(), (10 * MIB, 8 * MIB, 8 * MIB), "it makes room");
    assert_eq!(sim.make_nonpurgeable(&one).unwrap_err().kind(), ErrorKind::OutOfMemory);
    destroy(&sim, third);
    assert!(!sim.make_nonpurgeable(&one).unwrap());
    assert_eq!(bytes(), (14 * MIB, 0, 0));
    sim.host_access(Access::write(start, 8 * MIB));
    for block in [&one, &other] {
        make_purgeable(&sim, block);
    }
    assert_eq!((sim.purge(), sim.purge()), (14 * MIB, 0));
    assert_eq!(bytes(), (0, 14 * MIB, 14 * MIB));
    destroy(&sim, one);
    destroy(&sim, other);
    assert_eq!(bytes(), (0, 0, 0));
    sim.assert_no_violations();
}

#[test]
fn the_seed_says_what_is_purged_and_when() {
    let purged = |seed, steps: u64| {
        let sim = Sim::new(SimDesc { seed, ..free_desc() });
        let blocks: Vec<_> = (0..40).map(|_| create(&sim, 2 * MIB)).collect();
        blocks.iter().for_each(|block| make_purgeable(&sim, block));
        let early = sim.books().purged_bytes;
        for _ in 0..steps {
            sim.advance(60_000_000 / steps);
        }
        (early, blocks.iter().map(|block| sim.make_nonpurgeable(block).unwrap()).collect::<Vec<_>>())
    };
    let (early, kept) = purged(1, 1);
    assert_eq!((early, &kept), (0, &purged(1, 7).1), "however often the host looks");
    assert_ne!(kept, purged(2, 1).1);
    let kept_count = kept.iter().filter(|&&is_kept| is_kept).count();
    assert!((8..32).contains(&kept_count), "{kept_count} of 40 are kept");
}
