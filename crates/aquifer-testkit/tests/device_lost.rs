//! The device is lost at each driver call in turn: everything that was under way or waited for ends, with an error where it must,
//! everything can be dropped, and the books come to nothing.

mod common;

use aquifer_core::{
    AllocateAsync, Buffer, CopyDesc, Error, ErrorKind, MemoryManager, Operation, OperationError, Queue,
};
use aquifer_sim::{Fault, FaultPlan, Kernel, Recurrence, Sim};
use common::{LONG, MIB, block_on, poll_once, quiet_config, sim, sim_manager};
use std::future::Future;
use std::task::Poll;
use std::thread;
use std::time::Duration;

const BUDGET_BYTES: u64 = 32 * MIB;

type Copy = Operation<Sim, (Buffer<Sim>, Buffer<Sim>)>;

/// A program in progress, some of whose calls find the device lost.
struct Program {
    sim: Sim,
    manager: MemoryManager<Sim>,
    buffers: Vec<Buffer<Sim>>,
    operations: Vec<Operation<Sim, Buffer<Sim>>>,
    copies: Vec<Copy>,
    waiting: Vec<AllocateAsync<Sim>>,
    lost_count: u64,
}

/// Plans that the device is lost at a call, counted from now.
fn lose_at(sim: &Sim, number: u64) {
    sim.plan_fault(FaultPlan { call: None, number, recurrence: Recurrence::Once, fault: Fault::LoseDevice });
}

impl Program {
    /// What has failed has failed since the device is lost.
    fn expect<T>(&mut self, answer: Result<T, impl Into<Error>>) -> Option<T> {
        let error: Error = match answer {
            Ok(value) => return Some(value),
            Err(error) => error.into(),
        };
        assert_eq!(error.kind(), ErrorKind::DeviceLost, "{error}");
        assert!(self.sim.is_lost(), "{error}");
        self.lost_count += 1;
        None
    }

    /// As [`Program::expect`]; what comes back with the error is kept.
    fn expect_or_keep<T, P>(
        &mut self,
        answer: Result<T, OperationError<P>>,
        keep: impl FnOnce(&mut Self, P),
    ) -> Option<T> {
        match answer {
            Ok(value) => Some(value),
            Err(error) => {
                assert_eq!(error.error().kind(), ErrorKind::DeviceLost, "{error}");
                assert!(self.sim.is_lost(), "{error}");
                self.lost_count += 1;
                keep(self, error.into_parts().expect("on a lost device all comes back"));
                None
            }
        }
    }

    fn allocate(&mut self, queue: Option<&Queue<Sim>>, bytes: u64) {
        let answer = match queue {
            Some(queue) => queue.allocate(bytes),
            None => self.manager.allocate(bytes),
        };
        let buffer = self.expect(answer);
        self.buffers.extend(buffer);
    }

    fn launch(&mut self, queue: &Queue<Sim>) {
        let launched = self.sim.launch(queue.raw(), Kernel::new([]).lasting(1_000_000));
        self.expect(launched);
    }

    fn fill(&mut self, queue: &Queue<Sim>) {
        let Some(buffer) = self.buffers.pop() else { return };
        let operation =
            self.expect_or_keep(queue.fill(buffer, 1), |program, buffer| program.buffers.push(buffer));
        self.operations.extend(operation);
    }

    fn copy(&mut self, queue: &Queue<Sim>) {
        if self.buffers.len() < 2 {
            return;
        }
        let (one, other) = (self.buffers.pop().expect("two"), self.buffers.pop().expect("two"));
        let desc = CopyDesc { source_offset: 0, destination_offset: 0, bytes: 100 };
        let copy = self.expect_or_keep(queue.copy(one, other, desc), |program, (one, other)| {
            program.buffers.extend([one, other]);
        });
        self.copies.extend(copy);
    }

    fn wait_in_line(&mut self, bytes: u64, polls: u64) {
        let mut waiting = self.manager.allocate_async(bytes);
        for _ in 0..polls {
            match poll_once(&mut waiting) {
                Poll::Pending => {}
                Poll::Ready(answer) => {
                    let buffer = self.expect(answer);
                    return self.buffers.extend(buffer);
                }
            }
        }
        self.waiting.push(waiting);
    }

    /// The script: queues, all kinds of work and of frees, and more memory than there is.
    fn run(&mut self) {
        let queues: Vec<_> = (0..2)
            .filter_map(|_| {
                let queue = self.manager.queue();
                self.expect(queue)
            })
            .collect();
        for bytes in [100, 5000, 3 * MIB, MIB] {
            self.allocate(None, bytes);
            queues.iter().for_each(|queue| self.allocate(Some(queue), bytes));
        }
        for queue in &queues {
            self.launch(queue);
            self.fill(queue);
            self.fill(queue);
            for buffer in self.buffers.iter().take(4) {
                buffer.record_use(queue).expect("a queue of its manager");
            }
            let signalled = queue.signal();
            self.expect(signalled);
        }
        if let [one, other] = &queues[..] {
            let ordered = one.wait_on(other);
            self.expect(ordered);
            self.copy(one);
            self.copy(other);
        }
        self.wait_in_line(BUDGET_BYTES, 2);
        self.wait_in_line(MIB, 1);
        self.buffers.truncate(3);
        self.manager.settle();
        // One operation goes on without its future.
        self.operations.truncate(3);
        if let Some(buffer) = self.buffers.last_mut() {
            let filled = buffer.fill(3);
            self.expect(filled);
        }
        self.manager.trim();
        self.sim.advance(1_500_000);
        self.allocate(None, 2 * MIB);
        for queue in &queues {
            let waited = queue.synchronize(LONG);
            self.expect(waited);
        }
        self.allocate(queues.first(), 9 * MIB);
    }

    /// Everything ends, now that the device is lost or all work is over.
    fn end(mut self) -> u64 {
        self.buffers.clear();
        self.manager.settle();
        for operation in std::mem::take(&mut self.operations) {
            let outcome = ready(operation);
            let buffer = self.expect_or_keep(outcome, |program, buffer| program.buffers.push(buffer));
            self.buffers.extend(buffer);
        }
        for copy in std::mem::take(&mut self.copies) {
            let outcome = ready(copy);
            self.expect_or_keep(outcome, |program, (one, other)| program.buffers.extend([one, other]));
        }
        self.buffers.clear();
        self.manager.settle();
        for waiting in std::mem::take(&mut self.waiting) {
            let answer = ready(waiting);
            self.expect(answer);
        }
        self.manager.settle();
        let statistics = self.manager.statistics();
        assert_eq!((statistics.live_count(), statistics.quarantined_bytes), (0, 0));
        self.manager.trim();
        assert_eq!(self.manager.statistics().reserved.current, 0);
        drop(self.manager);
        assert_eq!((self.sim.books().live_blocks, self.sim.books().live_bytes), (0, 0));
        self.sim.assert_no_violations();
        self.lost_count
    }
}

/// The answer of a future that has one.
#[track_caller]
fn ready<F: Future + Unpin>(mut future: F) -> F::Output {
    match poll_once(&mut future) {
        Poll::Ready(answer) => answer,
        Poll::Pending => panic!("it never comes to an end"),
    }
}

fn program(has_reaper: bool) -> Program {
    let sim = sim();
    let mut config = quiet_config(BUDGET_BYTES);
    config.reaper = has_reaper;
    let manager = sim_manager(&sim, config);
    Program {
        sim,
        manager,
        buffers: Vec::new(),
        operations: Vec::new(),
        copies: Vec::new(),
        waiting: Vec::new(),
        lost_count: 0,
    }
}

#[test]
fn at_each_call_in_turn() {
    for number in 0.. {
        let mut program = program(false);
        let sim = program.sim.clone();
        lose_at(&sim, number);
        program.run();
        let lost_count = program.end();
        if !sim.is_lost() {
            assert!(number > 40, "the script makes only {number} calls");
            assert_eq!(lost_count, 0);
            return;
        }
    }
}

/// The manager goes while everything is under way; then the device is lost.
#[test]
fn at_each_call_of_dropping_everything() {
    for number in 0.. {
        let mut program = program(false);
        let sim = program.sim.clone();
        program.run();
        lose_at(&sim, number);
        drop(program);
        assert_eq!((sim.books().live_blocks, sim.books().live_bytes), (0, 0), "call {number}");
        sim.assert_no_violations();
        if !sim.is_lost() {
            assert!(number > 3, "dropping makes only {number} calls");
            return;
        }
    }
}

/// With a reaper and threads that wait: each is told.
#[test]
fn under_waiting_threads() {
    for number in 0..60 {
        let Program { sim, manager, .. } = program(true);
        let queue = manager.queue().expect("a queue");
        sim.launch(queue.raw(), Kernel::new([]).lasting(1000)).expect("the device is there");
        sim.hang(queue.raw(), None);
        let keep = manager.allocate(20 * MIB).expect("there is room");
        lose_at(&sim, number);
        let threads: Vec<_> = (0..4)
            .map(|index| {
                let (manager, queue) = (manager.clone(), queue.clone());
                thread::spawn(move || match index {
                    0 => manager.allocate_async(BUDGET_BYTES).wait().map(drop).map_err(|error| error.kind()),
                    1 => {
                        block_on(manager.allocate_async(BUDGET_BYTES)).map(drop).map_err(|error| error.kind())
                    }
                    _ => {
                        let buffer = manager.allocate(1000).map_err(|error| error.kind())?;
                        let begun = queue.fill(buffer, 1).map_err(|error| error.error().kind())?;
                        let over = if index == 2 { block_on(begun) } else { begun.wait() };
                        over.map(drop).map_err(|error| error.error().kind())
                    }
                })
            })
            .collect();
        for thread in threads {
            // The reaper looks all the time, so that the call comes.
            assert_eq!(thread.join().expect("no thread panics"), Err(ErrorKind::DeviceLost), "call {number}");
        }
        drop((keep, queue));
        common::until("all is settled", || {
            manager.settle();
            let statistics = manager.statistics();
            (statistics.live_count(), statistics.quarantined_bytes) == (0, 0)
        });
        drop(manager);
        common::until("the driver has all back", || sim.books().live_blocks == 0);
    }
}

/// A queue that never goes on costs its manager's memory, and not the program: to drop it waits for a time and ends.
#[test]
fn a_hung_queue_costs_its_memory() {
    let Program { sim, manager, .. } = program(false);
    let queue = manager.queue().expect("a queue");
    let buffer = queue.allocate(MIB).expect("there is room");
    drop(queue.fill(buffer, 1).expect("it is begun"));
    sim.hang(queue.raw(), None);
    sim.launch(queue.raw(), Kernel::new([])).expect("the device is there");
    let kept = queue.allocate(MIB).expect("there is room");
    drop((queue, manager));
    thread::sleep(Duration::from_millis(1));
    drop(kept);
    assert!(sim.books().live_blocks > 0, "the device may still write there");
    sim.assert_no_violations();
}
