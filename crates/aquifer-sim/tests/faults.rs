//! Faults: calls and commands that fail, queues that hang, a device that is lost, and another process.

mod common;

use aquifer_backend::{Backend, BlockDesc, Command, Error, ErrorKind, Ticket};
use aquifer_sim::{Access, Call, Fault, FaultPlan, Kernel, Recurrence, Sim, SimBlock, SimDesc, SimQueue};
use common::*;
use std::sync::Arc;
use std::time::Duration;

fn plan(call: Option<Call>, number: u64, recurrence: Recurrence, fault: Fault) -> FaultPlan {
    FaultPlan { call, number, recurrence, fault }
}

fn try_fill(sim: &Sim, queue: &SimQueue, block: &SimBlock) -> Result<(), Error> {
    enqueue(sim, queue, Command::Fill { destination: range(block, 0, MIB), value: 0 }, &Arc::default())
}

#[test]
fn the_planned_call_fails_and_does_nothing() {
    let sim = free_sim();
    let desc = BlockDesc::new(2 * MIB, 0);
    sim.plan_fault(plan(Some(Call::Create), 1, Recurrence::Once, Fault::NoMemory));
    let block = create(&sim, 2 * MIB);
    let queue = sim.create_queue().unwrap();
    assert_eq!(sim.create_block(&desc).unwrap_err().kind(), ErrorKind::OutOfMemory);
    let other = create(&sim, 2 * MIB);
    assert_eq!((sim.books().live_blocks, sim.books().failed_calls), (2, 1));

    sim.plan_fault(plan(Some(Call::Destroy), 0, Recurrence::Once, Fault::Refuse));
    // SAFETY: nothing uses the block.
    let refused = unsafe { sim.destroy_block(block) }.unwrap_err();
    assert_eq!((refused.error.kind(), sim.books().live_blocks), (ErrorKind::Driver, 2));
    destroy(&sim, refused.block);
    assert_eq!(sim.books().live_blocks, 1);

    sim.plan_fault(plan(None, 1, Recurrence::FromThenOn, Fault::Refuse));
    try_fill(&sim, &queue, &other).unwrap();
    assert_eq!(try_fill(&sim, &queue, &other).unwrap_err().kind(), ErrorKind::Driver);
    assert_eq!(signal(&sim, &queue, 1).unwrap_err().kind(), ErrorKind::Driver);
    assert_eq!(sim.create_queue().unwrap_err().kind(), ErrorKind::Driver);
    assert_eq!(sim.completed(&queue).unwrap(), 0, "this call cannot fail so");
    sim.clear_faults();
    signal(&sim, &queue, 2).unwrap();
    assert_eq!(sim.completed(&queue).unwrap(), 2, "the value that was skipped is covered");
    assert_eq!(sim.books().calls_of(Call::Enqueue), 2);
    sim.run_all();
    assert_eq!(sim.history().len(), 1);
    sim.assert_no_violations();
}

#[test]
fn the_planned_command_runs_and_has_failed() {
    let sim = slow_sim();
    let block = create(&sim, 64 * MIB);
    let queue = sim.create_queue().unwrap();
    sim.plan_command_fault(1, Recurrence::Once);
    let tickets = [0, 1, 2].map(|_| fill(&sim, &queue, range(&block, 0, 8 * MIB)));
    sim.run_all();
    assert_eq!(tickets.each_ref().map(|ticket| ticket.done_bytes()), [8 * MIB, 0, 8 * MIB]);
    assert!(tickets[0].take_error().is_none() && tickets[2].take_error().is_none());
    assert_eq!(tickets[1].take_error().unwrap().kind(), ErrorKind::Driver);
    assert_eq!(sim.now_ns(), slow_ns(24 * MIB));
}

#[test]
fn a_queue_that_hangs_holds_what_waits_for_it() {
    let sim = free_sim();
    let queues = [0, 1, 2].map(|_| sim.create_queue().unwrap());
    let [one, other, free] = &queues;
    for queue in &queues {
        spin(&sim, queue, 100);
        signal(&sim, queue, 1).unwrap();
    }
    sim.advance(40);
    sim.hang(one, None);
    sim.wait_on_queue(other, one, 1).unwrap();
    spin(&sim, other, 100);
    signal(&sim, other, 2).unwrap();
    assert!(!sim.wait(one, 1, Duration::from_secs(10)).unwrap());
    assert!(sim.wait(free, 1, Duration::ZERO).unwrap());
    assert_eq!(sim.completed(other).unwrap(), 1);
    assert!(!sim.wait(other, 2, Duration::from_secs(10)).unwrap());
    sim.run_all();
    let resumed_ns = sim.now_ns();
    sim.resume(one);
    assert!(sim.wait(other, 2, Duration::MAX).unwrap());
    assert_eq!(sim.now_ns(), resumed_ns + 60 + 100, "each runs for as long as it would have");
    sim.assert_no_violations();
}

#[test]
fn a_queue_may_hang_before_it_has_anything_to_do() {
    let sim = free_sim();
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    sim.hang(&one, None);
    signal(&sim, &one, 1).unwrap();
    spin(&sim, &other, 5);
    signal(&sim, &other, 1).unwrap();
    sim.wait_on_queue(&one, &other, 1).unwrap();
    spin(&sim, &one, 10);
    signal(&sim, &one, 2).unwrap();
    sim.run_all();
    assert_eq!((sim.completed(&one).unwrap(), sim.now_ns()), (0, 5));
    sim.resume(&one);
    sim.resume(&other);
    assert_eq!(sim.completed(&one).unwrap(), 1);
    sim.run_all();
    assert_eq!((sim.completed(&one).unwrap(), sim.now_ns()), (2, 15));
}

#[test]
fn work_that_hangs_still_uses_its_memory() {
    let sim = free_sim();
    let block = create(&sim, 2 * MIB);
    let start = address(&sim, &block);
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    let first = sim.claim(start, 10);
    sim.launch(&one, Kernel::new([Access::write(start, 10)]).lasting(10)).unwrap();
    sim.hang(&one, None);
    sim.give_up(first);
    sim.advance(1000);
    sim.claim(start, 10);
    sim.launch(&other, Kernel::new([Access::write(start, 10)]).lasting(10)).unwrap();
    assert_eq!(sim.violations().len(), 1);
}

#[test]
fn the_driver_gives_up_what_hangs_too_long() {
    let sim = free_sim();
    let queue = sim.create_queue().unwrap();
    spin(&sim, &queue, 100);
    signal(&sim, &queue, 1).unwrap();
    sim.hang(&queue, Some(50));
    sim.advance(40);
    sim.resume(&queue);
    assert!(sim.wait(&queue, 1, Duration::MAX).unwrap(), "in time");
    spin(&sim, &queue, 100);
    signal(&sim, &queue, 2).unwrap();
    sim.hang(&queue, Some(50));
    assert!(!sim.wait(&queue, 2, Duration::from_nanos(49)).unwrap());
    let error = sim.wait(&queue, 2, Duration::MAX).unwrap_err();
    assert_eq!((error.kind(), sim.is_lost()), (ErrorKind::DeviceLost, true));
    assert_eq!(sim.now_ns(), 140 + 50);
}

#[test]
fn a_lost_device_runs_nothing_and_takes_its_blocks_back() {
    let sim = slow_sim();
    let block = create(&sim, 64 * MIB);
    let (one, other) = (sim.create_queue().unwrap(), sim.create_queue().unwrap());
    let running = fill(&sim, &one, range(&block, 0, 8 * MIB));
    let queued = fill(&sim, &one, range(&block, 0, 8 * MIB));
    signal(&sim, &one, 1).unwrap();
    sim.wait_on_queue(&other, &one, 1).unwrap();
    sim.advance(slow_ns(2 * MIB));
    sim.lose_device();
    assert_eq!((running.done_bytes(), queued.done_bytes()), (2 * MIB, 0));
    for ticket in [running, queued] {
        assert_eq!(ticket.take_error().unwrap().kind(), ErrorKind::DeviceLost);
    }
    let desc = BlockDesc::new(2 * MIB, 0);
    let ticket: Arc<Ticket> = Arc::default();
    let command = Command::Fill { destination: range(&block, 0, 1), value: 0 };
    let errors = [
        sim.budget(0).err(),
        sim.create_block(&desc).err(),
        sim.create_queue().err(),
        enqueue(&sim, &one, command, &ticket).err(),
        signal(&sim, &one, 2).err(),
        sim.completed(&one).err(),
        sim.wait(&one, 0, Duration::MAX).err(),
        sim.wait_on_queue(&one, &other, 1).err(),
        // SAFETY: no memory is behind the range.
        unsafe { sim.fill(range(&block, 0, 1), 0) }.err(),
        // SAFETY: as above.
        unsafe { sim.copy(range(&block, 0, 1), range(&block, 1, 1)) }.err(),
        sim.launch(&one, Kernel::new([])).err(),
    ];
    assert!(errors.iter().all(|error| error.as_ref().unwrap().kind() == ErrorKind::DeviceLost), "{errors:?}");
    destroy(&sim, block);
    assert_eq!((sim.books().live_blocks, sim.books().live_bytes), (0, 0));
    drop((one, other));
    sim.run_all();
    assert_eq!(sim.history(), []);
    sim.assert_no_violations();
}

#[test]
fn the_device_is_lost_at_any_call() {
    for number in 0..7 {
        let sim = slow_sim();
        sim.plan_fault(plan(None, number, Recurrence::Once, Fault::LoseDevice));
        let result = (|| {
            let queue = sim.create_queue()?;
            let block = sim.create_block(&BlockDesc::new(2 * MIB, 0))?;
            let outcome = (|| {
                try_fill(&sim, &queue, &block)?;
                signal(&sim, &queue, 1)?;
                sim.completed(&queue)?;
                sim.wait(&queue, 1, Duration::MAX)
            })();
            destroy(&sim, block);
            outcome
        })();
        assert!(sim.is_lost());
        assert_eq!(result.err().map(|error| error.kind()), (number < 6).then_some(ErrorKind::DeviceLost));
        assert_eq!(sim.books().live_blocks, 0);
        sim.assert_no_violations();
    }
}

#[test]
fn memory_and_blocks_run_out() {
    let sim = Sim::new(SimDesc {
        memory_bytes: 16 * MIB,
        block_bytes_max: 16 * MIB,
        block_count_max: 3,
        ..free_desc()
    });
    let kind = |bytes| sim.create_block(&BlockDesc::new(bytes, 0)).map(|_| ()).map_err(|error| error.kind());
    sim.set_other_process_bytes(4 * MIB);
    let budget = sim.budget(0).unwrap();
    assert_eq!((budget.budget_bytes, budget.available_bytes), (12 * MIB, 12 * MIB));
    assert_eq!(kind(14 * MIB), Err(ErrorKind::OutOfMemory));
    let block = create(&sim, 10 * MIB);
    assert_eq!(sim.budget(0).unwrap().available_bytes, 2 * MIB);
    sim.set_other_process_bytes(16 * MIB);
    assert_eq!(sim.budget(0).unwrap().available_bytes, 0);
    assert_eq!(kind(2 * MIB), Err(ErrorKind::OutOfMemory));
    sim.set_other_process_bytes(0);
    assert_eq!([kind(2 * MIB), kind(2 * MIB), kind(2 * MIB)], [Ok(()), Ok(()), Err(ErrorKind::OutOfMemory)]);
    destroy(&sim, block);
    assert_eq!(sim.books().live_bytes_peak, 14 * MIB);
    assert_eq!(kind(2 * MIB), Ok(()));
    sim.assert_no_violations();
}
