//! Virtual time: when each queued command begins and ends.
//!
//! A discrete simulation. Every queue has a head, the command that it is at; what will happen to heads, and when, is a heap of
//! events. Time moves only in [`Schedule::drive_to`] and [`Schedule::run_next`], from event to event. At one moment all
//! that ends ends before anything begins, so that work which follows other work to the nanosecond does not overlap it.
//! What the seed decides (delays, the duration of kernels) is drawn when a command is enqueued: when the host looks changes nothing.

mod trouble;

use crate::check::{Checker, Who};
use crate::queue::{Head, Item, Queue, Run, Work};
use crate::random::Random;
use crate::violation::ViolationKind;
use crate::{Access, KernelTimes, Lateness, QueueId};
use aquifer_backend::{Error, ErrorKind, Ticket};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::mem;
use std::sync::Arc;

/// The end of time: far enough for anything, and no sum of two times overflows.
const END_NS: u64 = 1 << 62;

/// What happens at some time. The order among events of one time is that of their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A delayed command may begin, or one that runs ends.
    Head(QueueId),
    /// The host comes to see a queue's value.
    Seen(QueueId, u64),
    /// The driver loses patience with a queue that has hung since the hang with this number.
    Lose(QueueId, u64),
}

/// One command that has run, for [`Sim::history`](crate::Sim::history). Times are virtual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    /// The queue.
    pub queue: QueueId,
    /// The command's number. Commands are numbered from 1 over all queues as they are enqueued.
    pub command: u64,
    /// What it was: `copy`, `fill` or `kernel`.
    pub what: &'static str,
    /// When it began, in nanoseconds.
    pub start_ns: u64,
    /// When it ended, in nanoseconds.
    pub end_ns: u64,
    /// How many bytes it copied or filled; fewer than asked for if it was cancelled.
    pub done_bytes: u64,
}

/// A command to be enqueued.
pub(crate) struct Submission<'a> {
    pub(crate) what: &'static str,
    pub(crate) accesses: &'a [Access],
    /// `None`: drawn from the seed.
    pub(crate) duration_ns: Option<u64>,
    pub(crate) bytes: u64,
    pub(crate) ticket: Option<Arc<Ticket>>,
    pub(crate) fails: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Schedule {
    now_ns: u64,
    queues: Vec<Queue>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    next_event: u64,
    next_command: u64,
    /// Queues to be looked at now.
    ready: VecDeque<QueueId>,
    /// Queues whose head has an event to come.
    active: Vec<QueueId>,
    random: Random,
    lateness: Lateness,
    kernels: KernelTimes,
    signal_seen_ns: u64,
    is_lost: bool,
    pub(crate) checker: Checker,
    pub(crate) history: Option<Vec<Ran>>,
}

impl Schedule {
    pub(crate) fn new(desc: &crate::SimDesc) -> Self {
        Self {
            now_ns: 0,
            // The driver's own.
            queues: vec![Queue::default()],
            events: BinaryHeap::new(),
            next_event: 1,
            next_command: 1,
            ready: VecDeque::new(),
            active: Vec::new(),
            random: Random::new(desc.seed),
            lateness: desc.lateness,
            kernels: desc.kernels,
            signal_seen_ns: desc.costs.signal_seen_ns,
            is_lost: false,
            checker: Checker::default(),
            history: desc.keeps_history.then(Vec::new),
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.is_lost
    }

    pub(crate) fn queue(&self, queue: QueueId) -> &Queue {
        self.queues.get(queue.index()).unwrap_or_else(|| panic!("the device has no {queue}"))
    }

    fn queue_mut(&mut self, queue: QueueId) -> &mut Queue {
        self.queues.get_mut(queue.index()).unwrap_or_else(|| panic!("the device has no {queue}"))
    }

    /// Notes a breach that is not about memory.
    pub(crate) fn breach(&mut self, message: String) {
        self.checker.report(ViolationKind::Contract, self.now_ns, (0, 0), message);
    }

    pub(crate) fn add_queue(&mut self) -> QueueId {
        self.queues.push(Queue::default());
        QueueId(u32::try_from(self.queues.len() - 1).expect("fewer than 2^32 queues"))
    }

    // What is put into queues.

    fn push(&mut self, queue: QueueId, item: Item) {
        self.queue_mut(queue).pending.push_back(item);
        self.ready.push_back(queue);
        self.run_ready();
    }

    /// Puts a command at the end of a queue: its number.
    pub(crate) fn submit(&mut self, queue: QueueId, submission: Submission<'_>) -> u64 {
        let Submission { what, accesses, duration_ns, bytes, ticket, fails } = submission;
        let command = self.next_command;
        self.next_command += 1;
        let who = Who { queue: Some(queue), command, what };
        let mut touches = Vec::with_capacity(accesses.len());
        for &access in accesses {
            self.checker.enqueue(self.now_ns, who, access, &mut touches);
        }
        let duration_ns = duration_ns.unwrap_or_else(|| self.draw_duration_ns());
        // The host waits for the driver's own queue: lateness would hide nothing there.
        let is_late = queue != QueueId::DRIVER && self.random.hits(self.lateness.per_mille);
        let delay_ns = if is_late { self.random.up_to(self.lateness.delay_ns_max) } else { 0 };
        let work =
            Work { who, touches, delay_ns, duration_ns: duration_ns.min(END_NS), bytes, ticket, fails };
        self.push(queue, Item::Work(work));
        command
    }

    fn draw_duration_ns(&mut self) -> u64 {
        let is_long = self.random.hits(self.kernels.long_per_mille);
        let max_ns = if is_long { self.kernels.long_ns_max } else { self.kernels.short_ns_max };
        self.random.up_to(max_ns)
    }

    /// Notes that a value is to be signalled, whether or not the driver takes it.
    pub(crate) fn ask_value(&mut self, queue: QueueId, value: u64) {
        let asked_value = mem::replace(&mut self.queue_mut(queue).asked_value, value);
        if value != asked_value + 1 {
            self.breach(format!("signal of {value} on {queue} after {asked_value}: not the next value"));
        }
    }

    pub(crate) fn signal(&mut self, queue: QueueId, value: u64) {
        self.push(queue, Item::Marker(value));
    }

    pub(crate) fn wait_on_queue(&mut self, queue: QueueId, other: QueueId, value: u64) {
        let asked_value = self.queue(other).asked_value;
        if value > asked_value {
            self.breach(format!(
                "{queue} is to wait for {value} of {other}, where no marker after {asked_value} is"
            ));
        }
        self.push(queue, Item::WaitFor { other, value });
    }

    // Time.

    /// When the next thing happens.
    fn next_ns(&mut self) -> Option<u64> {
        while let Some(&Reverse((time_ns, number, event))) = self.events.peek() {
            let is_good = match event {
                Event::Head(queue) => self.queues[queue.index()].event_number == number,
                Event::Seen(..) => true,
                Event::Lose(queue, hang_number) => {
                    let queue = &self.queues[queue.index()];
                    queue.hung_ns.is_some() && queue.hang_number == hang_number
                }
            };
            if is_good {
                return Some(time_ns);
            }
            self.events.pop();
        }
        None
    }

    /// Goes on to the next time at which something happens, if that is not after `deadline_ns`; whether it was so.
    pub(crate) fn run_next(&mut self, deadline_ns: u64) -> bool {
        let Some(time_ns) = self.next_ns().filter(|&time_ns| time_ns <= deadline_ns) else { return false };
        self.now_ns = time_ns;
        while self.next_ns() == Some(time_ns) {
            if let Some(Reverse((_, _, event))) = self.events.pop() {
                self.happen(event);
            }
        }
        self.run_ready();
        true
    }

    /// Goes on to a time, if it is to come. Cancelled commands are noticed now, in any case.
    pub(crate) fn drive_to(&mut self, time_ns: u64) {
        self.stop_cancelled();
        let time_ns = time_ns.min(END_NS);
        while self.run_next(time_ns) {}
        self.now_ns = self.now_ns.max(time_ns);
        self.note_progress();
    }

    /// Goes on until the host sees a queue's value, or `timeout_ns` is over.
    pub(crate) fn wait(&mut self, queue: QueueId, value: u64, timeout_ns: u64) -> bool {
        let deadline_ns = self.now_ns.saturating_add(timeout_ns).min(END_NS);
        self.drive_to(self.now_ns);
        while self.queue(queue).seen_value < value && !self.is_lost && self.run_next(deadline_ns) {}
        let is_reached = self.queue(queue).seen_value >= value;
        if !is_reached && !self.is_lost {
            self.now_ns = deadline_ns.max(self.now_ns);
        }
        self.note_progress();
        is_reached
    }

    /// Goes on until a queue is idle, which does not hang.
    pub(crate) fn finish(&mut self, queue: QueueId) {
        self.drive_to(self.now_ns);
        while !self.queue(queue).is_idle() && self.run_next(END_NS) {}
        self.note_progress();
    }

    /// Goes on until no queue has anything to do, but for those that hang and those that wait for them.
    pub(crate) fn finish_all(&mut self) {
        self.drive_to(self.now_ns);
        while !self.active.is_empty() && self.run_next(END_NS) {}
        self.note_progress();
    }

    /// As [`Schedule::finish_all`], and until the host has seen all values, and hangs have ended that end by losing the device.
    pub(crate) fn run_all(&mut self) {
        self.drive_to(self.now_ns);
        while self.run_next(END_NS) {}
        self.note_progress();
    }

    fn add_event(&mut self, time_ns: u64, event: Event) -> u64 {
        let number = self.next_event;
        self.next_event += 1;
        self.events.push(Reverse((time_ns.min(END_NS), number, event)));
        number
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Head(queue) => self.turn_head(queue),
            Event::Seen(queue, value) => {
                let seen_value = &mut self.queue_mut(queue).seen_value;
                *seen_value = value.max(*seen_value);
            }
            Event::Lose(queue, _) => self.lose(&format!("the driver gave {queue} up, which hung")),
        }
    }

    // Heads.

    fn set_head(&mut self, queue: QueueId, head: Head, time_ns: u64) {
        let number = self.add_event(time_ns, Event::Head(queue));
        let place = self.queue_mut(queue);
        place.head = head;
        place.event_number = number;
        self.active.push(queue);
    }

    fn take_head(&mut self, queue: QueueId) -> Head {
        self.deactivate(queue);
        mem::take(&mut self.queue_mut(queue).head)
    }

    fn deactivate(&mut self, queue: QueueId) {
        self.queue_mut(queue).event_number = 0;
        if let Some(index) = self.active.iter().position(|&active| active == queue) {
            self.active.swap_remove(index);
        }
    }

    /// The time of a head has come. What begins does so when all that ends now has ended.
    fn turn_head(&mut self, queue: QueueId) {
        match self.take_head(queue) {
            Head::Delayed { mut work, .. } => {
                work.delay_ns = 0;
                self.queue_mut(queue).pending.push_front(Item::Work(work));
            }
            Head::Running(run) => self.complete(run),
            Head::Idle | Head::Blocked => unreachable!("only these two have events"),
        }
        self.ready.push_back(queue);
    }

    fn run_ready(&mut self) {
        while let Some(queue) = self.ready.pop_front() {
            while self.step(queue) {}
        }
    }

    /// Lets an idle queue go on by one item; whether it may go on further.
    fn step(&mut self, queue: QueueId) -> bool {
        let place = self.queue_mut(queue);
        if place.hung_ns.is_some() || !matches!(place.head, Head::Idle) {
            return false;
        }
        let Some(item) = place.pending.pop_front() else { return false };
        match item {
            Item::Marker(value) => self.pass_marker(queue, value),
            Item::WaitFor { other, value } => {
                if self.queue(other).value < value {
                    self.queue_mut(other).waiters.push((queue, value));
                    self.queue_mut(queue).head = Head::Blocked;
                }
            }
            Item::Work(work) if work.delay_ns > 0 => {
                let until_ns = self.now_ns.saturating_add(work.delay_ns);
                self.set_head(queue, Head::Delayed { work, until_ns }, until_ns);
            }
            Item::Work(work) => self.begin(queue, work),
        }
        true
    }

    fn pass_marker(&mut self, queue: QueueId, value: u64) {
        let place = self.queue_mut(queue);
        place.value = place.value.max(value);
        let mut waiters = mem::take(&mut place.waiters);
        waiters.retain(|&(waiter, awaited)| {
            if awaited <= value {
                self.queue_mut(waiter).head = Head::Idle;
                self.ready.push_back(waiter);
            }
            awaited > value
        });
        self.queue_mut(queue).waiters = waiters;
        if self.signal_seen_ns == 0 {
            self.happen(Event::Seen(queue, value));
        } else {
            self.add_event(self.now_ns + self.signal_seen_ns, Event::Seen(queue, value));
        }
    }

    fn begin(&mut self, queue: QueueId, work: Work) {
        if work.is_cancelled() {
            let mut run = Run::new(work, self.now_ns);
            (run.end_ns, run.goal_bytes) = (self.now_ns, 0);
            return self.complete(run);
        }
        for &touch in &work.touches {
            self.checker.begin(self.now_ns, work.who, touch);
        }
        let run = Run::new(work, self.now_ns);
        if run.end_ns == self.now_ns {
            return self.complete(run);
        }
        let end_ns = run.end_ns;
        self.set_head(queue, Head::Running(run), end_ns);
    }

    fn complete(&mut self, run: Run) {
        let Run { work, start_ns, goal_bytes, noted_bytes, .. } = run;
        for &touch in &work.touches {
            self.checker.end(touch);
        }
        if let Some(ticket) = &work.ticket {
            if work.fails {
                let message = format!("{} was told to fail", work.who);
                ticket.fail(Error::new(ErrorKind::Driver, work.who.what, message));
            } else {
                ticket.add_done(goal_bytes - noted_bytes);
            }
        }
        if let Some(history) = &mut self.history {
            let Who { queue, command, what } = work.who;
            let queue = queue.expect("commands run on queues");
            let done_bytes = if work.fails { 0 } else { goal_bytes };
            history.push(Ran { queue, command, what, start_ns, end_ns: self.now_ns, done_bytes });
        }
    }

    fn stop_cancelled(&mut self) {
        for index in 0..self.active.len() {
            let queue = self.active[index];
            let now_ns = self.now_ns;
            if let Head::Running(run) = &mut self.queue_mut(queue).head
                && run.stop(now_ns)
            {
                let end_ns = run.end_ns;
                let number = self.add_event(end_ns, Event::Head(queue));
                self.queue_mut(queue).event_number = number;
            }
        }
    }

    fn note_progress(&mut self) {
        for &queue in &self.active {
            if let Head::Running(run) = &mut self.queues[queue.index()].head {
                run.note_progress(self.now_ns);
            }
        }
    }
}
