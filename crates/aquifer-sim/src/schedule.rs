//! Virtual time: when each queued command begins and ends.
//!
//! A discrete simulation. Every queue has a head, the command that it is at; what will happen to heads, and when, is a heap of
//! events. Time moves only in [`Schedule::drive_to`] and [`Schedule::run_next`], from event to event. At one moment all
//! that ends ends before anything begins, so that work which follows other work to the nanosecond does not overlap it.
//! What the seed decides (delays, the duration of kernels) is drawn when a command is enqueued: when the host looks changes nothing.
//! Bytes move when a command ends. Several devices may share a schedule, each with its queues, its seed and its own end.

mod devices;
mod heads;
mod link;
mod trouble;

use crate::check::{Checker, Who};
use crate::content::Motion;
use crate::queue::{Item, Queue, Work};
use crate::violation::ViolationKind;
use crate::{Access, QueueId};
use aquifer_backend::Ticket;
use devices::DeviceSchedule;
pub(crate) use link::Direction;
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
    /// The way that it goes over, if it does.
    pub(crate) direction: Option<Direction>,
    /// The index of the other device whose memory it reads.
    pub(crate) peer: Option<usize>,
    pub(crate) motion: Motion,
}

impl<'a> Submission<'a> {
    /// One that moves nothing, for a time that is drawn from the seed.
    pub(crate) fn new(what: &'static str, accesses: &'a [Access]) -> Self {
        Self {
            what,
            accesses,
            duration_ns: None,
            bytes: 0,
            ticket: None,
            fails: false,
            direction: None,
            peer: None,
            motion: Motion::None,
        }
    }
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
    devices: Vec<DeviceSchedule>,
    pub(crate) checker: Checker,
    pub(crate) history: Option<Vec<Ran>>,
}

impl Schedule {
    pub(crate) fn new() -> Self {
        Self {
            now_ns: 0,
            queues: Vec::new(),
            events: BinaryHeap::new(),
            next_event: 1,
            next_command: 1,
            ready: VecDeque::new(),
            active: Vec::new(),
            devices: Vec::new(),
            checker: Checker::default(),
            history: None,
        }
    }

    pub(crate) fn now_ns(&self) -> u64 {
        self.now_ns
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

    // What is put into queues.

    fn push(&mut self, queue: QueueId, item: Item) {
        self.queue_mut(queue).pending.push_back(item);
        self.ready.push_back(queue);
        self.run_ready();
    }

    /// Puts a command at the end of a queue: its number.
    pub(crate) fn submit(&mut self, queue: QueueId, submission: Submission<'_>) -> u64 {
        let Submission { what, accesses, duration_ns, bytes, ticket, fails, direction, peer, motion } =
            submission;
        let command = self.next_command;
        self.next_command += 1;
        let who = Who { queue: Some(queue), command, what };
        let mut touches = Vec::with_capacity(accesses.len());
        for &access in accesses {
            self.checker.enqueue(self.now_ns, who, access, &mut touches);
        }
        let device = self.queue(queue).device;
        let device = &mut self.devices[device];
        let duration_ns = duration_ns.unwrap_or_else(|| device.draw_duration_ns());
        let duration_ns = duration_ns.min(END_NS);
        let delay_ns = device.draw_delay_ns(queue);
        let work =
            Work { who, touches, delay_ns, duration_ns, bytes, ticket, fails, direction, peer, motion };
        self.push(queue, Item::Work(work));
        command
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
        let device = self.queue(queue).device;
        while self.queue(queue).seen_value < value && !self.is_lost(device) && self.run_next(deadline_ns) {}
        let is_reached = self.queue(queue).seen_value >= value;
        if !is_reached && !self.is_lost(device) {
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

    /// Goes on until no queue of a device has anything to do, but for those that hang and those that wait for them.
    pub(crate) fn finish_all(&mut self, device: usize) {
        self.drive_to(self.now_ns);
        while self.may_go_on(device) && self.run_next(END_NS) {}
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
            Event::Lose(queue, _) => {
                let device = self.queue(queue).device;
                self.end_device(device, &format!("the driver gave {queue} up, which hung"));
            }
        }
    }
}
