//! Several threads that take turns.
//!
//! Runs of steps are numbered in the order of the trace, and a counter names the run whose turn it is. The thread that
//! owns it takes the table of buffers, takes the steps, puts the table back, moves the counter on and wakes the owner
//! of the next run. So at any time at most one thread works, and what one has done the next one sees.
//!
//! Who waits looks at the counter for a little while, if there is a processor for every thread, and then sleeps until
//! it is woken. Only the thread whose turn it is can end the replay early: it sets the counter to [`STOPPED`], which no
//! run has, and wakes everyone.

use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use aquifer_backend::{Backend, SyncBackend};
use parking_lot::Mutex;

use super::plan::Run;
use super::queued::Stage;
use super::{Player, ReplayDevice, Stop};
use crate::trace::Trace;

/// No run's turn yet: the threads are being started.
const CLOSED: usize = usize::MAX;
/// No run's turn any more.
const STOPPED: usize = usize::MAX - 1;

/// How often a thread looks at the counter before it sleeps: some microseconds, about as long as a run takes.
const LOOKS: usize = 1000;

/// Whose turn it is.
struct Turn {
    run_index: AtomicUsize,
    /// The threads, to be woken. Set before the first turn begins.
    threads: OnceLock<Vec<Thread>>,
    looks: usize,
}

impl Turn {
    fn new(threads: usize) -> Self {
        // Where threads must share processors, the one that waits keeps the one that works from working.
        let has_room = thread::available_parallelism().is_ok_and(|count| count.get() >= threads);
        Self {
            run_index: AtomicUsize::new(CLOSED),
            threads: OnceLock::new(),
            looks: if has_room { LOOKS } else { 0 },
        }
    }

    /// Waits for the turn of a run; false if the replay has stopped.
    fn wait_for(&self, run_index: usize) -> bool {
        let mut looks = 0;
        loop {
            match self.run_index.load(Ordering::Acquire) {
                current if current == run_index => return true,
                STOPPED => return false,
                _ if looks < self.looks => {
                    looks += 1;
                    std::hint::spin_loop();
                }
                // Whoever moves the counter wakes afterwards, and a wake before the sleep is not lost.
                _ => thread::park(),
            }
        }
    }

    /// Makes it the turn of `runs[run_index]`, if there is such a run.
    fn pass_to(&self, run_index: usize, runs: &[Run]) {
        self.run_index.store(run_index, Ordering::Release);
        if let (Some(run), Some(threads)) = (runs.get(run_index), self.threads.get()) {
            threads[run.thread].unpark();
        }
    }

    /// Ends the replay for all threads.
    fn stop(&self) {
        self.run_index.store(STOPPED, Ordering::Release);
        for thread in self.threads.get().into_iter().flatten() {
            thread.unpark();
        }
    }
}

/// Stops the replay if its thread panics, so that the others do not wait for ever and the panic comes out.
struct StopOnPanic<'a>(&'a Turn);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// What goes from thread to thread. The lock is held only to take the table and to put it back, and nobody waits for
/// it, since only the thread whose turn it is takes it.
struct Baton<B: Backend, H> {
    stage: Stage<B, H>,
    stop: Option<Stop>,
    end: Option<Instant>,
}

/// Takes all steps of the plan on `threads` threads. The outer error is of starting them; nothing was done then.
pub(super) fn play<B, D>(
    player: &Player<'_, B, D>,
    trace: &Trace,
    threads: usize,
    stage: &mut Stage<B, D::Hold>,
) -> io::Result<Result<Duration, Stop>>
where
    B: SyncBackend,
    D: ReplayDevice<B>,
{
    let runs = player.plan.deal(trace, threads);
    let mut own_runs = vec![Vec::new(); threads];
    for (run_index, run) in runs.iter().enumerate() {
        own_runs[run.thread].push(run_index);
    }
    let turn = Turn::new(threads);
    let baton = Mutex::new(Baton { stage: std::mem::take(stage), stop: None, end: None });
    let (turn, baton, runs) = (&turn, &baton, runs.as_slice());
    let start = thread::scope(|scope| {
        let mut handles = Vec::with_capacity(threads);
        for own_runs in own_runs {
            let work = move || run_thread(player, &own_runs, runs, turn, baton);
            match thread::Builder::new().name("aquifer-replay".into()).spawn_scoped(scope, work) {
                Ok(handle) => handles.push(handle.thread().clone()),
                Err(error) => {
                    turn.threads.get_or_init(|| handles);
                    turn.stop();
                    return Err(error);
                }
            }
        }
        turn.threads.get_or_init(|| handles);
        let start = Instant::now();
        turn.pass_to(0, runs);
        Ok(start)
    })?;
    let mut baton = baton.lock();
    *stage = std::mem::take(&mut baton.stage);
    Ok(match baton.stop.take() {
        Some(stop) => Err(stop),
        None => Ok(baton.end.expect("the last run notes its end").duration_since(start)),
    })
}

fn run_thread<B: Backend, D: ReplayDevice<B>>(
    player: &Player<'_, B, D>,
    own_runs: &[usize],
    runs: &[Run],
    turn: &Turn,
    baton: &Mutex<Baton<B, D::Hold>>,
) {
    let _stop_on_panic = StopOnPanic(turn);
    for &run_index in own_runs {
        if !turn.wait_for(run_index) {
            return;
        }
        let steps = &runs[run_index].steps;
        let mut stage = std::mem::take(&mut baton.lock().stage);
        let result = player.take_steps(steps.start, steps.end, &mut stage);
        let is_last = run_index + 1 == runs.len();
        {
            let mut baton = baton.lock();
            baton.stage = stage;
            baton.end = is_last.then(Instant::now);
            baton.stop = result.err();
            if baton.stop.is_some() {
                turn.stop();
                return;
            }
        }
        player.options.tell_progress(&player.plan, steps.end);
        turn.pass_to(run_index + 1, runs);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stops_those_who_wait() {
        for looks in [0, LOOKS] {
            let turn = Turn { looks, ..Turn::new(2) };
            thread::scope(|scope| {
                let waiting = scope.spawn(|| turn.wait_for(7));
                let panicking = scope.spawn(|| {
                    let _stop_on_panic = StopOnPanic(&turn);
                    assert!(turn.wait_for(3));
                    panic!("a broken invariant, for the test");
                });
                turn.threads.get_or_init(|| vec![waiting.thread().clone(), panicking.thread().clone()]);
                let runs = vec![Run { thread: 1, steps: 0..1 }; 8];
                turn.pass_to(3, &runs);
                assert!(panicking.join().is_err());
                assert!(!waiting.join().unwrap());
            });
        }
    }

    #[test]
    fn turns_come_in_order_also_with_more_threads_than_processors() {
        const THREADS: usize = 8;
        let runs: Vec<Run> =
            (0..4000).map(|index| Run { thread: index * 5 % THREADS, steps: index..index + 1 }).collect();
        let (turn, order) = (Turn::new(THREADS), Mutex::new(Vec::new()));
        thread::scope(|scope| {
            let work = |own| {
                let (turn, order, runs) = (&turn, &order, &runs);
                move || {
                    for index in (0..runs.len()).filter(|&index| runs[index].thread == own) {
                        assert!(turn.wait_for(index));
                        order.lock().push(index);
                        turn.pass_to(index + 1, runs);
                    }
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|own| scope.spawn(work(own)).thread().clone()).collect();
            turn.threads.get_or_init(|| threads);
            turn.pass_to(0, &runs);
        });
        assert_eq!(order.into_inner(), (0..runs.len()).collect::<Vec<_>>());
    }
}
