//! Queues that hang, and the end of a device.

use super::{Event, Schedule};
use crate::QueueId;
use crate::queue::{Head, Item};
use aquifer_backend::{Error, ErrorKind};
use std::mem;

impl Schedule {
    /// Stops a queue where it is, until it is resumed, or the device is lost after so long.
    pub(crate) fn hang(&mut self, queue: QueueId, lost_after_ns: Option<u64>) {
        if self.is_lost {
            return;
        }
        self.drive_to(self.now_ns);
        self.deactivate(queue);
        let now_ns = self.now_ns;
        let place = self.queue_mut(queue);
        place.hung_ns.get_or_insert(now_ns);
        place.hang_number += 1;
        let hang_number = place.hang_number;
        if let Some(after_ns) = lost_after_ns {
            self.add_event(now_ns.saturating_add(after_ns), Event::Lose(queue, hang_number));
        }
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
            Head::Idle | Head::Blocked => {
                place.head = head;
                self.ready.push_back(queue);
                return self.run_ready();
            }
        };
        *time_ns = time_ns.saturating_add(hung_for_ns);
        let time_ns = *time_ns;
        self.set_head(queue, head, time_ns);
    }

    /// Loses the device: nothing that is queued runs any more.
    pub(crate) fn lose(&mut self, reason: &str) {
        self.is_lost = true;
        self.events.clear();
        self.ready.clear();
        self.active.clear();
        for index in 0..self.queues.len() {
            let queue = &mut self.queues[index];
            let head = match mem::take(&mut queue.head) {
                Head::Delayed { work, .. } => Some(work),
                Head::Running(run) => Some(run.work),
                Head::Idle | Head::Blocked => None,
            };
            let pending = mem::take(&mut queue.pending).into_iter().filter_map(|item| match item {
                Item::Work(work) => Some(work),
                Item::Marker(_) | Item::WaitFor { .. } => None,
            });
            queue.waiters.clear();
            (queue.hung_ns, queue.event_number) = (None, 0);
            for work in head.into_iter().chain(pending) {
                work.touches.iter().for_each(|&touch| self.checker.end(touch));
                if let Some(ticket) = &work.ticket {
                    ticket.fail(Error::new(ErrorKind::DeviceLost, work.who.what, reason));
                }
            }
        }
    }
}
