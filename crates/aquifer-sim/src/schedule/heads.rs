//! What queues are at: commands that begin, run and end.

use super::{Event, Ran, Schedule};
use crate::QueueId;
use crate::check::Who;
use crate::content::Motion;
use crate::queue::{Head, Item, Run, Work};
use aquifer_backend::{Error, ErrorKind};
use std::mem;

impl Schedule {
    pub(super) fn set_head(&mut self, queue: QueueId, head: Head, time_ns: u64) {
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

    pub(super) fn deactivate(&mut self, queue: QueueId) {
        self.queue_mut(queue).event_number = 0;
        if let Some(index) = self.active.iter().position(|&active| active == queue) {
            self.active.swap_remove(index);
        }
    }

    /// The time of a head has come. What begins does so when all that ends now has ended.
    pub(super) fn turn_head(&mut self, queue: QueueId) {
        match self.take_head(queue) {
            Head::Delayed { mut work, .. } => {
                work.delay_ns = 0;
                self.queue_mut(queue).pending.push_front(Item::Work(work));
            }
            Head::Running(run) => self.complete(run),
            Head::Idle | Head::Blocked | Head::InLine(_) => unreachable!("only these two have events"),
        }
        self.ready.push_back(queue);
    }

    pub(super) fn run_ready(&mut self) {
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
                let awaited = self.queue(other);
                if awaited.value < value && !self.is_lost(awaited.device) {
                    self.queue_mut(other).waiters.push((queue, value));
                    self.queue_mut(queue).head = Head::Blocked;
                }
            }
            Item::Work(work) if work.delay_ns > 0 => {
                let until_ns = self.now_ns.saturating_add(work.delay_ns);
                self.set_head(queue, Head::Delayed { work, until_ns }, until_ns);
            }
            Item::Work(work) => {
                if self.takes_way(queue, &work) {
                    self.begin(queue, work);
                } else {
                    self.queue_mut(queue).head = Head::InLine(work);
                }
            }
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
        let seen_ns = self.devices[self.queue(queue).device].signal_seen_ns;
        if seen_ns == 0 {
            self.happen(Event::Seen(queue, value));
        } else {
            self.add_event(self.now_ns + seen_ns, Event::Seen(queue, value));
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
        let Work { who, touches, ticket, fails, direction, peer, motion, .. } = work;
        let queue = who.queue.expect("commands run on queues");
        for &touch in &touches {
            self.checker.end(touch);
        }
        let lost_peer = peer.filter(|&device| self.is_lost(device));
        // What has been told as arrived has; of a command that was told to fail nothing is.
        let done_bytes = if fails || lost_peer.is_some() { noted_bytes } else { goal_bytes };
        self.carry_out(who, motion, done_bytes);
        if let Some(ticket) = &ticket {
            ticket.add_done(done_bytes - noted_bytes);
            let reason = match lost_peer {
                _ if fails => Some("was told to fail"),
                Some(_) => Some("read the memory of a peer that is lost"),
                None => None,
            };
            if let Some(reason) = reason {
                ticket.fail(Error::new(ErrorKind::Driver, who.what, format!("{who} {reason}")));
            }
        }
        if let Some(history) = &mut self.history {
            let Who { command, what, .. } = who;
            history.push(Ran { queue, command, what, start_ns, end_ns: self.now_ns, done_bytes });
        }
        self.leave_way(queue, direction);
    }

    /// Does to bytes what a command that ends does.
    fn carry_out(&mut self, who: Who, motion: Motion, done_bytes: u64) {
        let Motion::Program(program) = motion else {
            // SAFETY: who enqueued the command has vouched for its memory until the queue's value shows that it has run, which is
            // after this, or the device is lost, and then it does not come here. Commands do not race: the schedule is locked.
            return unsafe { motion.move_bytes(done_bytes) };
        };
        // SAFETY: as above; who launched the kernel has vouched for it.
        let findings = unsafe { program.run(who) };
        for finding in findings {
            self.checker.report(finding.kind, self.now_ns, finding.place, finding.message);
        }
    }

    pub(super) fn stop_cancelled(&mut self) {
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

    pub(super) fn note_progress(&mut self) {
        for &queue in &self.active {
            if let Head::Running(run) = &mut self.queues[queue.index()].head {
                run.note_progress(self.now_ns);
            }
        }
    }
}
