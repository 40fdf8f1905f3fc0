//! Queues that hang, and the end of a device.

use super::{Event, Schedule};
use crate::QueueId;
use crate::queue::{Head, Item};
use aquifer_backend::{Error, ErrorKind};
use std::cmp::Reverse;
use std::mem;

impl Schedule {
    /// Stops a queue where it is, until it is resumed, or the device is lost after so long.
    pub(crate) fn hang(&mut self, queue: QueueId, lost_after_ns: Option<u64>) {
        if self.is_lost(self.queue(queue).device) {
            return;
        }
        self.drive_to(self.now_ns);
        self.deactivate(queue);
        self.give_up_way(queue);
        let now_ns = self.now_ns;
        let place = self.queue_mut(queue);
        place.hung_ns.get_or_insert(now_ns);
        place.hang_number += 1;
        let hang_number = place.hang_number;
        if let Some(after_ns) = lost_after_ns {
            self.add_event(now_ns.saturating_add(after_ns), Event::Lose(queue, hang_number));
        }
        // Whoever was next on its way.
        self.run_ready();
    }

    /// Lets a queue that hangs go on where it was.
    pub(crate) fn resume(&mut self, queue: QueueId) {
        self.drive_to(self.now_ns);
        let now_ns = self.now_ns;
        let place = self.queue_mut(queue);
        let Some(hung_ns) = place.hung_ns.take() else { return };
        let hung_for_ns = now_ns - hung_ns;
        let mut head = mem::take(&mut place.head);
        let time_ns = match &mut head {
            Head::Delayed { until_ns, .. } => until_ns,
            Head::Running(run) => &mut run.end_ns,
            Head::Idle | Head::Blocked | Head::InLine(_) => {
                place.head = head;
                self.step_out_of_line(queue);
                return self.run_ready();
            }
        };
        *time_ns = time_ns.saturating_add(hung_for_ns);
        let time_ns = *time_ns;
        self.set_head(queue, head, time_ns);
    }

    /// Loses a device: nothing that is queued on it runs any more. What waits for its queues elsewhere waits no longer.
    pub(crate) fn lose(&mut self, device: usize, reason: &str) {
        self.end_device(device, reason);
        self.run_ready();
    }

    /// As [`Schedule::lose`], in the middle of what happens at a time.
    pub(super) fn end_device(&mut self, device: usize, reason: &str) {
        let place = &mut self.devices[device];
        place.is_lost = true;
        place.link = None;
        let queues = &self.queues;
        let is_other = |queue: QueueId| queues[queue.index()].device != device;
        self.events.retain(|&Reverse((.., event))| match event {
            Event::Head(queue) | Event::Seen(queue, _) | Event::Lose(queue, _) => is_other(queue),
        });
        self.ready.retain(|&queue| is_other(queue));
        self.active.retain(|&queue| is_other(queue));
        for index in 0..self.queues.len() {
            if self.queues[index].device == device {
                self.end_queue(index, reason);
            } else {
                let mut waiters = mem::take(&mut self.queues[index].waiters);
                waiters.retain(|&(waiter, _)| self.queue(waiter).device != device);
                self.queues[index].waiters = waiters;
            }
        }
    }

    fn end_queue(&mut self, index: usize, reason: &str) {
        let queue = &mut self.queues[index];
        let device = queue.device;
        let head = match mem::take(&mut queue.head) {
            Head::Delayed { work, .. } | Head::InLine(work) => Some(work),
            Head::Running(run) => {
                // SAFETY: who enqueued it has vouched for its memory until the device is lost, which nobody can have seen yet.
                unsafe { run.work.motion.move_bytes(run.noted_bytes) };
                Some(run.work)
            }
            Head::Idle | Head::Blocked => None,
        };
        let pending = mem::take(&mut queue.pending).into_iter().filter_map(|item| match item {
            Item::Work(work) => Some(work),
            Item::Marker(_) | Item::WaitFor { .. } => None,
        });
        (queue.hung_ns, queue.event_number) = (None, 0);
        let waiters = mem::take(&mut queue.waiters);
        for work in head.into_iter().chain(pending) {
            work.touches.iter().for_each(|&touch| self.checker.end(touch));
            if let Some(ticket) = &work.ticket {
                ticket.fail(Error::new(ErrorKind::DeviceLost, work.who.what, reason));
            }
        }
        for (waiter, _) in waiters {
            let waiting = self.queue_mut(waiter);
            if waiting.device != device {
                waiting.head = Head::Idle;
                self.ready.push_back(waiter);
            }
        }
    }
}
