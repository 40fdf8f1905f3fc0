//! The link: how long copies take that go over it, and who takes turns.

mod common;

use aquifer_backend::Backend;
use aquifer_sim::{Costs, Sim, SimDesc, SimQueue};
use common::*;

/// When what has run began and ended, by queue, in the order in which it ended; in milliseconds of [`linked_desc`].
fn times(sim: &Sim) -> Vec<(u32, u64, u64)> {
    let ms = |ns: u64| ns / slow_ns(MIB);
    sim.history().iter().map(|ran| (ran.queue.0, ms(ran.start_ns), ms(ran.end_ns))).collect()
}

fn queues<const COUNT: usize>(sim: &Sim) -> [SimQueue; COUNT] {
    [(); COUNT].map(|()| sim.create_queue().unwrap())
}

#[test]
fn two_queues_get_half_the_link_each() {
    for (has_shared_link, total) in [(true, 16), (false, 8)] {
        let sim = Sim::new(SimDesc { has_shared_link, ..linked_desc() });
        let (own, pinned) = (create(&sim, 16 * MIB), create_pinned(&sim, 16 * MIB));
        let [one, other] = queues(&sim);
        for index in 0..8 {
            for (queue, start) in [(&one, 0), (&other, 8 * MIB)] {
                let offset = start + index * MIB;
                copy(&sim, queue, range(&pinned, offset, MIB), range(&own, offset, MIB));
            }
        }
        sim.run_all();
        assert_eq!(sim.now_ns(), total * slow_ns(MIB), "{has_shared_link}");
        let of_one = sim.history().iter().filter(|ran| ran.queue.0 == 1).map(|ran| ran.end_ns).max();
        assert_eq!(of_one, Some((total - u64::from(has_shared_link)) * slow_ns(MIB)), "they take turns");
    }
}

#[test]
fn each_direction_is_a_way_of_its_own() {
    let sim = linked_sim();
    let (own, pinned) = (create(&sim, 16 * MIB), create_pinned(&sim, 16 * MIB));
    let [up, down, inner] = queues(&sim);
    copy(&sim, &up, range(&pinned, 0, 4 * MIB), range(&own, 0, 4 * MIB));
    copy(&sim, &down, range(&own, 8 * MIB, 4 * MIB), range(&pinned, 8 * MIB, 4 * MIB));
    copy(&sim, &inner, range(&own, 12 * MIB, 2 * MIB), range(&own, 14 * MIB, 2 * MIB));
    fill(&sim, &inner, range(&own, 12 * MIB, 2 * MIB));
    sim.run_all();
    assert_eq!(times(&sim), [(3, 0, 0), (3, 0, 0), (1, 0, 4), (2, 0, 4)]);
    // A fill of pinned memory goes down.
    copy(&sim, &down, range(&own, 8 * MIB, MIB), range(&pinned, 8 * MIB, MIB));
    fill(&sim, &inner, range(&pinned, 0, MIB));
    sim.run_all();
    assert_eq!(times(&sim)[4..], [(2, 4, 5), (3, 5, 6)]);
}

#[test]
fn who_comes_first_is_served_first_and_the_cancelled_let_others_pass() {
    let sim = linked_sim();
    let (own, pinned) = (create(&sim, 16 * MIB), create_pinned(&sim, 16 * MIB));
    let queues: [SimQueue; 4] = queues(&sim);
    spin(&sim, &queues[0], 10);
    let order = [1, 3, 2, 0];
    let tickets = order.map(|index| {
        let offset = index as u64 * MIB;
        copy(&sim, &queues[index], range(&pinned, offset, MIB), range(&own, offset, MIB))
    });
    tickets[1].cancel();
    sim.run_all();
    assert_eq!(times(&sim)[1..], [(2, 0, 1), (4, 1, 1), (3, 1, 2), (1, 2, 3)]);
    assert_eq!(tickets.map(|ticket| ticket.done_bytes()), [MIB, 0, MIB, MIB]);
    sim.assert_no_violations();
}

#[test]
fn a_copy_that_is_waited_for_waits_for_the_link_too() {
    let sim = linked_sim();
    let (own, pinned) = (create(&sim, 4 * MIB), create_pinned(&sim, 4 * MIB));
    let [queue] = queues(&sim);
    copy(&sim, &queue, range(&pinned, 0, 2 * MIB), range(&own, 0, 2 * MIB));
    // SAFETY: the ranges lie in their blocks, and nobody else uses them.
    unsafe { sim.copy(range(&pinned, 2 * MIB, MIB), range(&own, 2 * MIB, MIB)) }.unwrap();
    assert_eq!(sim.now_ns(), slow_ns(3 * MIB));
}

#[test]
fn a_queue_that_hangs_leaves_the_link_to_others() {
    let sim = linked_sim();
    let (own, pinned) = (create(&sim, 16 * MIB), create_pinned(&sim, 16 * MIB));
    let queues: [SimQueue; 3] = queues(&sim);
    for (index, queue) in queues.iter().enumerate() {
        let offset = index as u64 * 4 * MIB;
        copy(&sim, queue, range(&pinned, offset, 4 * MIB), range(&own, offset, 4 * MIB));
    }
    sim.advance(slow_ns(MIB));
    // One that is in line, and the one that is on it.
    sim.hang(&queues[1], None);
    sim.hang(&queues[0], None);
    sim.run_all();
    assert_eq!(times(&sim), [(3, 1, 5)]);
    sim.resume(&queues[1]);
    sim.run_all();
    sim.resume(&queues[0]);
    sim.run_all();
    assert_eq!(times(&sim), [(3, 1, 5), (2, 5, 9), (1, 0, 12)], "each goes on where it was");
}

#[test]
fn pageable_memory_is_slower_where_that_is_asked_for() {
    let rates = [None, Some(100 * MIB)];
    for (up, down) in [(rates[0], rates[0]), (rates[1], rates[0]), (rates[0], rates[1])] {
        let costs = Costs {
            pageable_upload_bytes_per_second: up,
            pageable_download_bytes_per_second: down,
            ..linked_desc().costs
        };
        let sim = Sim::new(SimDesc { costs, ..linked_desc() });
        let (own, pinned) = (create(&sim, 2 * MIB), create_pinned(&sim, 2 * MIB));
        let [queue] = queues(&sim);
        let mut plain = vec![0; 1 << 20];
        copy_ends(&sim, &queue, host_end(&mut plain), block_end(&own, 0), MIB);
        copy_ends(&sim, &queue, block_end(&own, 0), host_end(&mut plain), MIB);
        copy_ends(&sim, &queue, host_part(&sim, &pinned, 0), block_end(&own, 0), MIB);
        copy_ends(&sim, &queue, block_end(&own, 0), host_part(&sim, &pinned, 0), MIB);
        sim.run_all();
        let ms: Vec<_> = times(&sim).iter().map(|(_, start, end)| end - start).collect();
        let of = |rate: Option<u64>| if rate.is_some() { 10 } else { 1 };
        assert_eq!(ms, [of(up), of(down), 1, 1], "{up:?} {down:?}");
    }
    let ns = |rate: Option<u64>| rate.map(|rate| (1_u64 << 30) * 1000 / rate);
    let costs = SimDesc::discrete().costs;
    let seconds = [costs.pageable_upload_bytes_per_second, costs.pageable_download_bytes_per_second].map(ns);
    assert_eq!(seconds, [Some(137), Some(70)], "milliseconds for a GiB on an H200");
}

#[test]
fn unified_memory_is_on_the_devices_side() {
    let costs = linked_desc().costs;
    let sim = Sim::new(SimDesc { costs, keeps_history: true, ..SimDesc::integrated() });
    let [queue] = queues(&sim);
    let unified = create(&sim, 2 * MIB);
    let invisible = sim.create_block(&aquifer_backend::BlockDesc::new(2 * MIB, 1)).unwrap();
    host_fill(&sim, &unified, MIB, 3);
    copy(&sim, &queue, range(&unified, 0, MIB), range(&invisible, 0, MIB));
    copy_ends(&sim, &queue, host_part(&sim, &unified, 0), block_end(&invisible, MIB), 10);
    assert_eq!((sim.now_ns(), content(&sim, &invisible, MIB)), (0, vec![3; 1 << 20]), "at no cost here");
    let mut plain = vec![0; 1 << 20];
    copy_ends(&sim, &queue, block_end(&unified, 0), host_end(&mut plain), MIB);
    sim.run_all();
    assert_eq!((sim.now_ns(), plain[5]), (slow_ns(MIB), 3));
}
