//! A queue's threads: one that does the work, and those that call handlers.

use crate::bell::Bell;
use crate::schedule::{Random, Schedule};
use crate::state::State;
use crate::work::{Failure, Job, Task};
use objc2::rc::autoreleasepool;
use objc2_metal::MTLCommandBufferError;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// After this time without progress the first job ends as timed out.
const STALL: Duration = Duration::from_secs(60);

/// How many threads call handlers where they may come in any order.
const HANDLER_THREADS: usize = 3;

/// A place in the queue; empty while its command buffer is enqueued but not committed.
struct Slot {
    ticket: u64,
    job: Option<Job>,
}

#[derive(Default)]
struct Inbox {
    slots: VecDeque<Slot>,
    tickets: u64,
    is_closed: bool,
}

/// One queue's work. Its threads end when it is closed and empty.
pub(crate) struct Lane {
    state: Arc<State>,
    bell: Arc<Bell>,
    inbox: Mutex<Inbox>,
    tasks: Mutex<VecDeque<Task>>,
    /// Threads that may still add tasks.
    workers: AtomicUsize,
}

impl Lane {
    /// A lane in order, or with a seed, in any order that Metal allows.
    pub(crate) fn start(state: &Arc<State>, seed: Option<u64>) -> Arc<Self> {
        let lane = Arc::new(Self {
            state: Arc::clone(state),
            bell: Arc::default(),
            inbox: Mutex::default(),
            tasks: Mutex::default(),
            workers: AtomicUsize::new(1),
        });
        state.faults.gates().attach(&lane.bell);
        spawn("metal-queue", &lane, move |lane| lane.work(seed));
        for nth in 0..if seed.is_some() { HANDLER_THREADS } else { 1 } {
            let random = seed.map(|seed| Random::new(seed ^ (nth as u64 + 1)));
            spawn("metal-handler", &lane, move |lane| lane.handle(random));
        }
        lane
    }

    /// Takes a place in the queue for a job that comes later.
    pub(crate) fn reserve(&self) -> u64 {
        let mut inbox = self.inbox.lock();
        inbox.tickets += 1;
        let ticket = inbox.tickets;
        inbox.slots.push_back(Slot { ticket, job: None });
        ticket
    }

    /// Puts a job into its reserved place or, without one, at the end.
    pub(crate) fn push(&self, reserved: Option<u64>, job: Job) {
        let ticket = reserved.unwrap_or_else(|| self.reserve());
        if let Some(slot) = self.inbox.lock().slots.iter_mut().find(|slot| slot.ticket == ticket) {
            slot.job = Some(job);
        }
        self.bell.ring();
    }

    /// Gives up a reserved place.
    pub(crate) fn cancel(&self, ticket: u64) {
        self.inbox.lock().slots.retain(|slot| slot.ticket != ticket);
        self.bell.ring();
    }

    /// No more jobs come.
    pub(crate) fn close(&self) {
        self.inbox.lock().is_closed = true;
        self.bell.ring();
    }

    /// The next job: the first in order, or any that is committed.
    fn next_job(&self, in_order: bool) -> Option<Job> {
        let mut inbox = self.inbox.lock();
        let at = inbox.slots.iter().position(|slot| in_order || slot.job.is_some())?;
        inbox.slots[at].job.as_ref()?;
        inbox.slots.remove(at)?.job
    }

    fn add_tasks(&self, tasks: impl IntoIterator<Item = Task>) {
        self.tasks.lock().extend(tasks);
        self.bell.ring();
    }

    /// The queue's thread.
    fn work(&self, seed: Option<u64>) {
        let mut schedule = Schedule::new(seed.map(Random::new));
        let mut pauses = seed.map(|seed| Random::new(!seed));
        let mut progressed = Instant::now();
        loop {
            let seen = self.bell.rings();
            match self.turn(&mut schedule, seed.is_none()) {
                Turn::Did => {
                    progressed = Instant::now();
                    if pauses.as_mut().is_some_and(|random| random.below(4) == 0) {
                        // A moment for the next commits to arrive, so that there is something to overlap with.
                        self.bell.wait(self.bell.rings(), Duration::from_micros(100));
                    }
                }
                Turn::Over => break,
                Turn::Held => progressed = Instant::now(),
                Turn::Idle if !schedule.is_empty() && progressed.elapsed() > STALL => {
                    let text = format!("the command buffer made no progress for {STALL:?}");
                    self.add_tasks(
                        schedule.fail_first(Failure { code: MTLCommandBufferError::Timeout, text }),
                    );
                }
                Turn::Idle => {
                    if schedule.is_empty() {
                        progressed = Instant::now();
                    }
                    self.bell.wait(seen, STALL);
                    continue;
                }
            }
            if self.state.faults.gates().execution_is_held() && !self.state.faults.is_removed() {
                self.bell.wait(seen, STALL);
            }
        }
        self.workers.fetch_sub(1, Ordering::SeqCst);
        self.bell.ring();
    }

    fn turn(&self, schedule: &mut Schedule, in_order: bool) -> Turn {
        let is_removed = self.state.faults.is_removed();
        if self.state.faults.gates().execution_is_held() && !is_removed {
            return Turn::Held;
        }
        let mut did = false;
        while (schedule.has_room() || is_removed)
            && let Some(job) = self.next_job(in_order)
        {
            self.add_tasks(schedule.add(job));
            did = true;
        }
        if is_removed {
            let text = "the device has been removed".into();
            let tasks = schedule.fail_all(&Failure { code: MTLCommandBufferError::DeviceRemoved, text });
            did |= !tasks.is_empty();
            self.add_tasks(tasks);
        } else if let Some(task) = autoreleasepool(|_| schedule.step(&self.bell)) {
            if let Some(task) = task {
                self.add_tasks([task]);
            }
            did = true;
        }
        if did {
            return Turn::Did;
        }
        let inbox = self.inbox.lock();
        if inbox.is_closed && inbox.slots.is_empty() && schedule.is_empty() { Turn::Over } else { Turn::Idle }
    }

    /// A thread that calls handlers.
    fn handle(&self, mut random: Option<Random>) {
        loop {
            let seen = self.bell.rings();
            let is_last = self.workers.load(Ordering::SeqCst) == 0;
            let task = if self.state.faults.gates().handlers_are_held() {
                None
            } else {
                self.next_task(random.as_mut())
            };
            match task {
                // A handler's panic has been printed; those who wait for its command buffer are not to wait for ever.
                Some(task) => drop(catch_unwind(AssertUnwindSafe(|| autoreleasepool(|_| task())))),
                None if is_last && self.tasks.lock().is_empty() => return,
                None => self.bell.wait(seen, STALL),
            }
        }
    }

    fn next_task(&self, random: Option<&mut Random>) -> Option<Task> {
        let mut tasks = self.tasks.lock();
        let at = random.filter(|_| !tasks.is_empty()).map_or(0, |random| random.below(tasks.len()));
        tasks.remove(at)
    }
}

/// What a turn of the queue's thread came to.
enum Turn {
    Did,
    Held,
    Idle,
    Over,
}

fn spawn(name: &str, lane: &Arc<Lane>, run: impl FnOnce(&Lane) + Send + 'static) {
    let lane = Arc::clone(lane);
    std::thread::Builder::new().name(name.into()).spawn(move || run(&lane)).expect("a thread for a queue");
}
