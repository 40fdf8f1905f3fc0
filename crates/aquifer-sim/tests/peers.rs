//! Two devices on one clock.

mod common;

use aquifer_backend::{Backend, ErrorKind};
use aquifer_sim::{
    Access, Call, Costs, Fault, FaultPlan, Kernel, QueueId, Recurrence, Sim, SimBlock, SimDesc, SimQueue,
    ViolationKind,
};
use common::*;
use std::time::Duration;

fn two(reads_peers: bool) -> [Sim; 2] {
    let desc = SimDesc { reads_peers, ..linked_desc() };
    let sim = Sim::new(desc.clone());
    let peer = sim.peer(SimDesc { name: "the other".to_owned(), memory_bytes: 64 * MIB, ..desc });
    [sim, peer]
}

#[test]
fn peers_share_the_clock_and_nothing_else() {
    let [sim, peer] = two(false);
    let (block, other) = (create(&sim, 2 * MIB), create(&peer, 4 * MIB));
    assert_ne!(address(&sim, &block), address(&peer, &other));
    let queues = [&sim, &peer, &sim].map(|sim| sim.create_queue().unwrap());
    // 0 is the first driver's own, 1 the peer's.
    assert_eq!(queues.each_ref().map(|queue| queue.id().0), [2, 3, 4]);
    spin(&sim, &queues[0], 100);
    spin(&peer, &queues[1], 100);
    peer.advance(100);
    assert_eq!((sim.now_ns(), sim.history().len(), peer.history().len()), (100, 2, 2));
    assert_eq!([&sim, &peer].map(|sim| sim.books().live_bytes), [2 * MIB, 4 * MIB]);
    assert_eq!([&sim, &peer].map(|sim| sim.properties().heaps[0].size_bytes), [4 << 30, 64 * MIB]);
    peer.plan_fault(FaultPlan {
        call: Some(Call::Budget),
        number: 0,
        recurrence: Recurrence::Once,
        fault: Fault::Refuse,
    });
    assert!(sim.budget(0).is_ok() && peer.budget(0).is_err());
    assert_eq!([&sim, &peer].map(|sim| sim.books().failed_calls), [0, 1]);
    // SAFETY: the range lies in its block, and nobody else uses it.
    unsafe { peer.fill(range(&other, 0, MIB), 1) }.unwrap();
    assert_eq!(sim.history()[2].queue, QueueId(1));
    destroy(&peer, other);
    assert_eq!([&sim, &peer].map(|sim| sim.books().live_blocks), [1, 0]);
    sim.assert_no_violations();
}

#[test]
fn a_device_draws_from_its_own_seed() {
    let run = |has_peer: bool| {
        let sim = Sim::new(SimDesc { keeps_history: true, ..SimDesc::default() });
        let peer = has_peer.then(|| sim.peer(SimDesc { seed: 5, ..SimDesc::default() }));
        let queue = sim.create_queue().unwrap();
        for _ in 0..20 {
            if let Some(peer) = &peer {
                peer.launch(QueueId(1), Kernel::new([])).unwrap();
            }
            sim.launch(&queue, Kernel::new([])).unwrap();
        }
        sim.run_all();
        let own = sim.history().into_iter().filter(|ran| ran.queue == queue.id());
        own.map(|ran| ran.end_ns - ran.start_ns).collect::<Vec<_>>()
    };
    assert_eq!(run(false), run(true));
}

#[test]
fn a_peer_is_read_where_that_is_possible() {
    let [sim, peer] = two(true);
    assert!(sim.reads_peer(&peer, 0) && peer.reads_peer(&sim, 1));
    assert!(!sim.reads_peer(&sim, 0) && !sim.reads_peer(&peer, 2) && !sim.reads_peer(&linked_sim(), 0));
    let (block, other) = (create(&sim, 4 * MIB), create(&peer, 4 * MIB));
    let pinned = create_pinned(&peer, 4 * MIB);
    let queues = [(); 3].map(|()| sim.create_queue().unwrap());
    host_fill(&peer, &pinned, MIB, 9);
    // SAFETY: the range lies in its block, and nobody else uses it.
    unsafe { peer.fill(range(&other, 0, 4 * MIB), 7) }.unwrap();
    let start_ns = sim.now_ns();
    // Half the time of the link, and one after the other; what is pinned goes over the link, beside them.
    copy(&sim, &queues[0], range(&other, 0, MIB), range(&block, 0, MIB));
    copy(&sim, &queues[1], range(&other, 0, MIB), range(&block, MIB, MIB));
    copy(&sim, &queues[2], range(&pinned, 0, MIB), range(&block, 2 * MIB, MIB));
    sim.run_all();
    let ends: Vec<_> = sim.history()[1..].iter().map(|ran| (ran.queue, ran.end_ns - start_ns)).collect();
    let [one, two, three] = queues.each_ref().map(SimQueue::id);
    assert_eq!(ends[0], (one, slow_ns(MIB) / 2));
    assert!(ends[1..].contains(&(two, slow_ns(MIB))) && ends[1..].contains(&(three, slow_ns(MIB))));
    let found = content(&sim, &block, 3 * MIB);
    assert!(found[..2 << 20].iter().all(|&byte| byte == 7) && found[2 << 20..].iter().all(|&byte| byte == 9));
    sim.launch(&queues[0], Kernel::new([Access::read(address(&peer, &other), 10)])).unwrap();
    sim.assert_no_violations();
    assert_eq!(Costs::H200.peer_copy_bytes_per_second, 396_000_000_000);
}

#[test]
fn other_peers_memory_is_out_of_reach() {
    let [sim, peer] = two(false);
    assert!(!sim.reads_peer(&peer, 0) && !sim.reads_peer(&peer, 1));
    let (block, other) = (create(&sim, 2 * MIB), create(&peer, 2 * MIB));
    let queue = sim.create_queue().unwrap();
    copy(&sim, &queue, range(&other, 0, 10), range(&block, 0, 10));
    sim.launch(&queue, Kernel::new([Access::read(address(&peer, &other), 10)])).unwrap();
    assert_eq!(kinds(&sim), [ViolationKind::Contract; 2]);
    // Nobody writes there.
    let [sim, peer] = two(true);
    let (block, other) = (create(&sim, 2 * MIB), create(&peer, 2 * MIB));
    let queue = sim.create_queue().unwrap();
    copy(&sim, &queue, range(&block, 0, 10), range(&other, 0, 10));
    fill(&sim, &queue, range(&other, 0, 10));
    assert_eq!(kinds(&peer), [ViolationKind::Contract; 2]);
}

/// Brings `chunks` MiB from one device to the other through a ring of pinned chunks: how many milliseconds it takes.
fn stage(chunks: u64, ring: u64, is_ordered: bool) -> (u64, Vec<ViolationKind>) {
    let [sim, peer] = two(false);
    let (source, destination) = (create(&sim, chunks * MIB * 2), create(&peer, chunks * MIB * 2));
    let pinned = create_pinned(&sim, 4 * MIB);
    let content: Vec<u8> = (0..chunks * MIB).map(|index| (index % 251 + index / MIB) as u8).collect();
    let mut sent = content.clone();
    let (down, up) = (sim.create_queue().unwrap(), peer.create_queue().unwrap());
    copy_ends(&sim, &down, host_end(&mut sent), block_end(&source, 0), chunks * MIB);
    sim.run_all();
    let start_ns = sim.now_ns();
    let _owner = sim.claim(address(&sim, &pinned), 4 * MIB);
    for index in 0..chunks {
        let place = index % ring * MIB;
        if is_ordered && index >= ring {
            sim.wait_on_queue(&down, &up, index + 1 - ring).unwrap();
        }
        copy(&sim, &down, range(&source, index * MIB, MIB), range(&pinned, place, MIB));
        signal(&sim, &down, index + 1).unwrap();
        peer.wait_on_queue(&up, &down, index + 1).unwrap();
        // The peer knows the first device's pinned memory as memory of the host.
        let from = host_part(&sim, &pinned, place);
        copy_ends(&peer, &up, from, block_end(&destination, index * MIB), MIB);
        signal(&peer, &up, index + 1).unwrap();
    }
    assert!(peer.wait(&up, chunks, Duration::MAX).unwrap());
    let ms = (sim.now_ns() - start_ns) / slow_ns(MIB);
    expect(&peer, &up, &destination, content);
    (ms, kinds(&peer))
}

#[test]
fn staging_through_pinned_memory_takes_what_its_pipeline_takes() {
    assert_eq!(stage(8, 1, true), (16, vec![]), "one chunk: down and up by turns");
    assert_eq!(stage(8, 2, true), (9, vec![]), "two: side by side");
    assert_eq!(stage(8, 4, true), (9, vec![]), "more do not help");
}

#[test]
fn staging_that_uses_its_chunks_too_early_brings_the_wrong_bytes() {
    let (ms, kinds) = stage(8, 1, false);
    assert_eq!((ms, kinds), (9, vec![ViolationKind::StaleRead]));
}

/// A copy of 8 MiB under way on the first device, of a block of the second, and one on the second.
fn busy() -> ([Sim; 2], [SimQueue; 2], [SimBlock; 3]) {
    let [sim, peer] = two(true);
    let blocks = [create(&sim, 8 * MIB), create(&peer, 8 * MIB), create_pinned(&peer, 8 * MIB)];
    let queues = [&sim, &peer].map(|sim| sim.create_queue().unwrap());
    ([sim, peer], queues, blocks)
}

#[test]
fn a_device_is_lost_alone() {
    let ([sim, peer], [queue, lost], [block, other, pinned]) = busy();
    let ticket = copy(&peer, &lost, range(&pinned, 0, 8 * MIB), range(&other, 0, 8 * MIB));
    signal(&peer, &lost, 1).unwrap();
    sim.wait_on_queue(&queue, &lost, 1).unwrap();
    fill(&sim, &queue, range(&block, 0, MIB));
    signal(&sim, &queue, 1).unwrap();
    peer.wait_on_queue(&lost, &queue, 1).unwrap();
    sim.advance(slow_ns(MIB));
    assert_eq!(sim.completed(&queue).unwrap(), 0);
    peer.lose_device();
    assert_eq!((sim.is_lost(), peer.is_lost()), (false, true));
    assert_eq!(ticket.take_error().unwrap().kind(), ErrorKind::DeviceLost);
    assert_eq!(peer.completed(&lost).unwrap_err().kind(), ErrorKind::DeviceLost);
    assert_eq!(sim.completed(&queue).unwrap(), 1, "what waited for the lost one waits no longer");
    sim.wait_on_queue(&queue, &lost, 1).unwrap();
    signal(&sim, &queue, 2).unwrap();
    assert_eq!(sim.completed(&queue).unwrap(), 2);
    destroy(&peer, other);
    destroy(&peer, pinned);
    sim.assert_no_violations();
}

#[test]
fn a_copy_from_a_lost_peer_fails() {
    let ([sim, peer], [queue, _lost], [block, other, _pinned]) = busy();
    let ticket = copy(&sim, &queue, range(&other, 0, 8 * MIB), range(&block, 0, 8 * MIB));
    signal(&sim, &queue, 1).unwrap();
    sim.advance(slow_ns(MIB));
    assert_eq!(ticket.done_bytes(), 2 * MIB);
    peer.lose_device();
    assert!(sim.wait(&queue, 1, Duration::MAX).unwrap());
    assert_eq!((ticket.done_bytes(), ticket.take_error().unwrap().kind()), (2 * MIB, ErrorKind::Driver));
}

#[test]
fn destroying_waits_for_the_devices_own_queues() {
    let desc = linked_desc();
    let costs = Costs { destroy_waits_for_all_queues: true, ..desc.costs };
    let sim = Sim::new(SimDesc { costs, ..desc.clone() });
    let peer = sim.peer(SimDesc { costs, ..desc });
    let queues = [&sim, &peer].map(|sim| sim.create_queue().unwrap());
    spin(&sim, &queues[0], 100);
    spin(&peer, &queues[1], 1000);
    destroy(&sim, create(&sim, 2 * MIB));
    assert_eq!(sim.now_ns(), 100);
    signal(&peer, &queues[1], 1).unwrap();
    sim.wait_on_queue(&queues[0], &queues[1], 1).unwrap();
    destroy(&sim, create(&sim, 2 * MIB));
    assert_eq!(sim.now_ns(), 1000, "and for what they wait for");
}
