//! Running a program on a few threads, one at a time, and what comes of it.

use super::generate::THREADS;
use super::program::{Program, Step};
use super::scene::Scene;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::ops::Range;
use std::panic::{self, AssertUnwindSafe};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Once};
use std::thread;

/// How a program failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What tells this way of failing from others.
    pub class: String,
    /// What happened.
    pub message: String,
    /// At which step; as many as there are if at the end.
    pub step: usize,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {}: [{}] {}", self.step, self.class, self.message)
    }
}

/// What came of a program that did not fail: equal for equal programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Calls of the driver.
    pub calls: u64,
    /// The device's time when all was over, in nanoseconds.
    pub driver_ns: u64,
    /// The most that was reserved.
    pub reserved_peak: u64,
}

/// Takes the scene through some steps.
struct Job {
    scene: Box<Scene>,
    steps: Arc<[Step]>,
    range: Range<usize>,
}

type Done = (Box<Scene>, Result<(), Failure>);

struct Helper {
    jobs: SyncSender<Job>,
    done: Receiver<Done>,
}

/// Runs programs, on the calling thread and a few of its own, which live as long as it.
pub struct Runner {
    helpers: Vec<Helper>,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("threads", &(1 + self.helpers.len())).finish()
    }
}

impl Default for Runner {
    fn default() -> Self {
        Self::new()
    }
}

impl Runner {
    /// Starts the threads.
    ///
    /// # Panics
    ///
    /// If the system has no threads left.
    #[must_use]
    pub fn new() -> Self {
        note_panics();
        let helper = |number| {
            let (jobs, incoming) = sync_channel::<Job>(1);
            let (outgoing, done) = sync_channel(1);
            let help = move || {
                for Job { mut scene, steps, range } in incoming {
                    let outcome = guarded(0, || run_steps(&mut scene, &steps[range]));
                    let outcome = outcome.map_err(|failure| Failure { step: scene.step, ..failure });
                    if outgoing.send((scene, outcome)).is_err() {
                        break;
                    }
                }
            };
            let builder = thread::Builder::new().name(format!("simulation-{number}"));
            builder.spawn(help).expect("the system has threads");
            Helper { jobs, done }
        };
        Self { helpers: (1..THREADS).map(helper).collect() }
    }

    /// Runs a program to its end.
    ///
    /// # Errors
    ///
    /// If anything is not as it must be, or panics.
    ///
    /// # Panics
    ///
    /// If a thread of the runner's has gone.
    pub fn run(&mut self, program: &Program) -> Result<Summary, Failure> {
        let steps: Arc<[Step]> = program.steps.as_slice().into();
        let mut scene = None;
        guarded(0, || scene = Some(Box::new(Scene::new(&program.setup))))?;
        let mut scene = scene.expect("made, or it would have panicked");
        let mut start = 0;
        while start < steps.len() {
            let thread = usize::from(steps[start].thread);
            let length = steps[start..].iter().take_while(|step| usize::from(step.thread) == thread).count();
            let range = start..start + length;
            start = range.end;
            let outcome;
            if let Some(helper) = thread.checked_sub(1).and_then(|place| self.helpers.get(place)) {
                let job = Job { scene, steps: Arc::clone(&steps), range };
                helper.jobs.send(job).expect("the thread runs");
                (scene, outcome) = helper.done.recv().expect("the thread runs");
            } else {
                outcome = guarded(0, || run_steps(&mut scene, &steps[range]))
                    .map_err(|failure| Failure { step: scene.step, ..failure });
            }
            if let Err(failure) = outcome {
                // What it is like after a failure nobody knows; to drop it could fail again.
                std::mem::forget(scene);
                return Err(failure);
            }
        }
        let mut books = None;
        guarded(steps.len(), || books = Some(scene.end()))?;
        let books = books.expect("told, or it would have panicked");
        Ok(Summary {
            calls: books.calls(),
            driver_ns: books.driver_ns + books.waited_ns,
            reserved_peak: books.live_bytes_peak,
        })
    }
}

fn run_steps(scene: &mut Scene, steps: &[Step]) {
    for step in steps {
        scene.apply(step.action);
    }
}

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    static LAST_PANIC: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Notes where panics of guarded threads come from, and keeps them quiet.
fn note_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !IS_GUARDED.get() {
                return before(info);
            }
            let place = info
                .location()
                .map_or_else(String::new, |place| format!("{}:{}", place.file(), place.line()));
            let message = info.payload_as_str().unwrap_or("no message").to_owned();
            LAST_PANIC.with_borrow_mut(|last| *last = Some((place, message)));
        }));
    });
}

/// Runs something that may panic.
fn guarded(step: usize, work: impl FnOnce()) -> Result<(), Failure> {
    IS_GUARDED.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(work));
    IS_GUARDED.set(false);
    outcome.map_err(|panic| {
        // What was thrown may panic again when it is dropped.
        std::mem::forget(panic);
        let (place, message) = LAST_PANIC.take().unwrap_or_default();
        let first = message.split(':').next().unwrap_or_default();
        let class = if first.starts_with("violation ") { first.to_owned() } else { place };
        Failure { class, message, step }
    })
}
