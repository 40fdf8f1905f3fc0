//! Virtual time: what takes how long, what waits for what, and in which order work ends.

mod common;

use aquifer_backend::{Backend, DefaultDevice, Ticket};
use aquifer_sim::{Access, Costs, Kernel, Lateness, Ran, Sim, SimDesc};
use common::*;
use std::sync::Arc;
use std::time::Duration;

const MS: Duration = Duration::from_millis(1);
const MS_NS: u64 = 1_000_000;

#[test]
fn queues_work_side_by_side_and_each_in_order() {
    let sim = free_sim();
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    spin(&sim, &one, 100);
    spin(&sim, &other, 30);
    spin(&sim, &other, 30);
    spin(&sim, &one, 10);
    sim.run_all();
    let history: Vec<_> =
        sim.history().iter().map(|ran| (ran.queue.0, ran.command, ran.start_ns, ran.end_ns)).collect();
    assert_eq!(history, [(2, 2, 0, 30), (2, 3, 30, 60), (1, 1, 0, 100), (1, 4, 100, 110)]);
    assert_eq!(sim.now_ns(), 110);
}

#[test]
fn values_come_when_all_before_them_has_run() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    assert_eq!(sim.completed(&queue).unwrap(), 0);
    spin(&sim, &queue, 100);
    signal(&sim, &queue, 1).unwrap();
    spin(&sim, &queue, 100);
    signal(&sim, &queue, 2).unwrap();
    signal(&sim, &queue, 3).unwrap();
    sim.advance(99);
    assert_eq!(sim.completed(&queue).unwrap(), 0);
    sim.advance(1);
    assert_eq!(sim.completed(&queue).unwrap(), 1);
    sim.advance(1000);
    assert_eq!(sim.completed(&queue).unwrap(), 3);
    sim.assert_no_violations();
}

#[test]
fn a_wait_ends_with_the_value_or_with_its_timeout() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    spin(&sim, &queue, 5 * MS_NS);
    signal(&sim, &queue, 1).unwrap();
    assert!(!sim.wait(&queue, 1, 2 * MS).unwrap());
    assert_eq!(sim.now_ns(), 2 * MS_NS, "by its timeout");
    assert!(!sim.wait(&queue, 1, Duration::ZERO).unwrap());
    assert!(sim.wait(&queue, 1, Duration::MAX).unwrap());
    assert_eq!(sim.now_ns(), 5 * MS_NS, "to the event");
    assert!(sim.wait(&queue, 0, Duration::ZERO).unwrap());
    assert!(!sim.wait(&queue, 2, MS).unwrap(), "nothing will come");
    assert_eq!(sim.now_ns(), 6 * MS_NS);
    assert_eq!(sim.books().waited_ns, 6 * MS_NS);
}

#[test]
fn a_wait_without_end_for_nothing_ends_all_the_same() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    assert!(!sim.wait(&queue, 1, Duration::MAX).unwrap());
    assert!(!sim.wait(&queue, 1, Duration::MAX).unwrap());
    spin(&sim, &queue, u64::MAX);
    signal(&sim, &queue, 1).unwrap();
    sim.advance(u64::MAX);
    sim.run_all();
}

#[test]
fn a_queue_waits_for_another() {
    let sim = free_sim();
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    spin(&sim, &one, 100);
    signal(&sim, &one, 1).unwrap();
    sim.wait_on_queue(&other, &one, 1).unwrap();
    spin(&sim, &other, 10);
    signal(&sim, &other, 1).unwrap();
    sim.wait_on_queue(&one, &other, 1).unwrap();
    spin(&sim, &one, 1);
    sim.wait_on_queue(&one, &one, 1).unwrap();
    sim.run_all();
    let times: Vec<_> = sim.history().iter().map(|ran| (ran.queue.0, ran.start_ns, ran.end_ns)).collect();
    assert_eq!(times, [(1, 0, 100), (2, 100, 110), (1, 110, 111)]);
    sim.assert_no_violations();
}

#[test]
fn queues_that_wait_for_each_other_by_turns_come_to_an_end() {
    let sim = free_sim();
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    spin(&sim, &one, 1);
    for value in 1..100_000 {
        signal(&sim, &one, value).unwrap();
        sim.wait_on_queue(&other, &one, value).unwrap();
        signal(&sim, &other, value).unwrap();
        sim.wait_on_queue(&one, &other, value).unwrap();
    }
    sim.run_all();
    assert_eq!(sim.completed(&one).unwrap(), 99_999);
    assert_eq!(sim.completed(&other).unwrap(), 99_999);
}

#[test]
fn calls_cost_what_the_driver_costs() {
    let sim = Sim::default_device().unwrap();
    let costs = Costs::H200;
    let mut now_ns = 0;
    let mut cost = |what: &str, expected_ns: u64| {
        let cost_ns = sim.now_ns() - now_ns;
        now_ns = sim.now_ns();
        assert_eq!(cost_ns, expected_ns, "{what}");
    };
    let block = create(&sim, 1 << 30);
    cost("create", 95_000);
    sim.budget(0).unwrap();
    cost("budget", 4_400);
    let queue = sim.create_queue().unwrap();
    cost("create_queue", 34_000);
    fill(&sim, &queue, range(&block, 0, 1 << 30));
    cost("enqueue", costs.enqueue_fill_ns);
    signal(&sim, &queue, 1).unwrap();
    cost("signal", costs.signal_ns);
    assert_eq!(sim.completed(&queue).unwrap(), 0);
    cost("completed", costs.completed_ns);
    assert!(sim.wait(&queue, 1, Duration::MAX).unwrap());
    // The fill began when it was enqueued, and has run since.
    let fill_ns = 1_600 + (1 << 30) * 1_000_000 / 4_553_000_000;
    cost("wait", fill_ns - costs.signal_ns - costs.completed_ns + costs.signal_seen_ns);
    // SAFETY: the range lies in the block, and nobody else uses it.
    unsafe { sim.fill(range(&block, 0, 1 << 30), 1) }.unwrap();
    cost("fill", costs.enqueue_fill_ns + fill_ns);
    spin(&sim, &queue, 60 * MS_NS);
    cost("launch", costs.launch_ns);
    destroy(&sim, block);
    cost("destroy, which waits for the kernel", 60 * MS_NS + 322_000);
    let books = sim.books();
    assert_eq!(books.driver_ns + books.waited_ns + costs.launch_ns, sim.now_ns());
    sim.assert_no_violations();
}

/// What a run of many commands on four queues gives, for a seed.
fn run(seed: u64) -> (Vec<Ran>, Vec<u64>) {
    let sim = Sim::new(SimDesc { seed, lateness: Lateness::WILD, keeps_history: true, ..SimDesc::default() });
    let block = create(&sim, 64 * MIB);
    let queues: Vec<_> = (0..4).map(|_| sim.create_queue().unwrap()).collect();
    let mut values = Vec::new();
    for number in 0..50 {
        for (index, queue) in queues.iter().enumerate() {
            let part = range(&block, index as u64 * MIB, MIB);
            fill(&sim, queue, part);
            sim.launch(queue, Kernel::new([Access::write(address(&sim, &block) + index as u64 * MIB, MIB)]))
                .unwrap();
            signal(&sim, queue, number + 1).unwrap();
            values.push(sim.completed(queue).unwrap());
        }
    }
    sim.run_all();
    values.push(sim.now_ns());
    (sim.history(), values)
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}

#[test]
fn work_ends_in_another_order_across_queues_but_not_within_one() {
    let mut reordered = 0;
    for seed in 0..20 {
        let (history, _) = run(seed);
        assert_eq!(history.len(), 400);
        reordered += history.windows(2).filter(|pair| pair[0].command > pair[1].command).count();
        for queue in 1..=4 {
            let own: Vec<_> = history.iter().filter(|ran| ran.queue.0 == queue).collect();
            assert!(own.windows(2).all(|pair| pair[0].command < pair[1].command), "seed {seed}");
            assert!(own.windows(2).all(|pair| pair[0].end_ns <= pair[1].start_ns), "seed {seed}");
        }
    }
    assert!(reordered > 100, "{reordered}");
}

#[test]
fn how_often_the_host_looks_changes_nothing() {
    let run = |step_ns: u64| {
        let sim = Sim::new(SimDesc { lateness: Lateness::WILD, ..free_desc() });
        let queues: Vec<_> = (0..3).map(|_| sim.create_queue().unwrap()).collect();
        for number in 0..60 {
            spin(&sim, &queues[number % 3], 1 + number as u64 * 1000);
        }
        while sim.now_ns() < 100 * MS_NS {
            sim.advance(step_ns);
        }
        sim.run_all();
        sim.history()
    };
    assert_eq!(run(100 * MS_NS), run(7_777));
}

#[test]
fn progress_and_cancellation_follow_the_clock() {
    let sim = slow_sim();
    let block = create(&sim, 64 * MIB);
    let queue = sim.create_queue().unwrap();
    let first = fill(&sim, &queue, range(&block, 0, 8 * MIB));
    let second = fill(&sim, &queue, range(&block, 0, 8 * MIB));
    let third = fill(&sim, &queue, range(&block, 0, 8 * MIB));
    signal(&sim, &queue, 1).unwrap();
    sim.advance(slow_ns(5 * MIB / 2));
    assert_eq!(first.done_bytes(), 2 * MIB);
    first.cancel();
    second.cancel();
    sim.advance(0);
    assert_eq!(first.done_bytes(), 2 * MIB, "it stops at the end of a chunk, which is to come");
    assert!(sim.wait(&queue, 1, Duration::MAX).unwrap());
    assert_eq!([&first, &second, &third].map(|ticket| ticket.done_bytes()), [3 * MIB, 0, 8 * MIB]);
    assert_eq!(sim.now_ns(), slow_ns(3 * MIB) + slow_ns(8 * MIB), "and what follows begins at once");
    assert!([first, second, third].iter().all(|ticket| ticket.take_error().is_none()));
    sim.assert_no_violations();
}

#[test]
fn what_is_cancelled_late_arrives_whole() {
    let sim = slow_sim();
    let block = create(&sim, 64 * MIB);
    let queue = sim.create_queue().unwrap();
    let bytes = 3 * MIB + 5;
    let ticket: Arc<Ticket> = fill(&sim, &queue, range(&block, 0, bytes));
    sim.advance(slow_ns(3 * MIB) + 2);
    ticket.cancel();
    sim.run_all();
    assert_eq!(ticket.done_bytes(), bytes);
    ticket.cancel();
    sim.run_all();
    assert_eq!((ticket.done_bytes(), sim.now_ns()), (bytes, slow_ns(bytes)));
}

#[test]
fn clones_are_the_same_device_on_any_thread() {
    fn is_shared<T: Send + Sync>() {}
    is_shared::<Sim>();
    is_shared::<aquifer_sim::SimBlock>();
    is_shared::<aquifer_sim::SimQueue>();
    let sim = slow_sim();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let sim = sim.clone();
            scope.spawn(move || {
                let queue = sim.create_queue().unwrap();
                let block = create(&sim, 64 * MIB);
                for value in 1..=50 {
                    let ticket = fill(&sim, &queue, range(&block, 0, MIB));
                    signal(&sim, &queue, value).unwrap();
                    assert!(sim.wait(&queue, value, Duration::MAX).unwrap());
                    assert_eq!(ticket.done_bytes(), MIB);
                }
                destroy(&sim, block);
            });
        }
    });
    assert!(sim.now_ns() >= 50 * slow_ns(MIB));
    assert_eq!((sim.books().live_blocks, sim.history().len()), (0, 200));
    sim.assert_no_violations();
}
