//! The link between host and device, and the one to peers: ways that one copy goes over at a time.

use super::Schedule;
use crate::QueueId;
use crate::queue::{Head, Item, Work};
use std::collections::VecDeque;
use std::mem;

/// Which way a copy goes that leaves or enters a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the host's memory to the device's.
    Up,
    /// From the device's memory to the host's.
    Down,
    /// From a peer's memory.
    FromPeer,
}

const DIRECTION_COUNT: usize = Direction::FromPeer as usize + 1;

/// One direction.
#[derive(Debug, Default)]
struct Way {
    /// The queue whose copy is on it, or is the next to be.
    holder: Option<QueueId>,
    /// Who wants it then, first come first served.
    waiting: VecDeque<QueueId>,
}

/// The ways of one device.
#[derive(Debug, Default)]
pub(super) struct Link([Way; DIRECTION_COUNT]);

impl Schedule {
    fn way_mut(&mut self, queue: QueueId, direction: Direction) -> Option<&mut Way> {
        let device = self.queue(queue).device;
        self.devices[device].link.as_mut().map(|link| &mut link.0[direction as usize])
    }

    /// Whether a command may begin: it needs no way, or has it now. If not, its queue is in line.
    pub(super) fn takes_way(&mut self, queue: QueueId, work: &Work) -> bool {
        // What is cancelled moves nothing.
        let Some(direction) = work.direction.filter(|_| !work.is_cancelled()) else { return true };
        let Some(way) = self.way_mut(queue, direction) else { return true };
        let is_free = way.holder.is_none_or(|holder| holder == queue);
        if is_free {
            way.holder = Some(queue);
        } else {
            way.waiting.push_back(queue);
        }
        is_free
    }

    /// Lets the next one onto a way, if it was this queue's.
    pub(super) fn leave_way(&mut self, queue: QueueId, direction: Option<Direction>) {
        let Some(way) = direction.and_then(|direction| self.way_mut(queue, direction)) else { return };
        if way.holder != Some(queue) {
            return;
        }
        let next = way.waiting.pop_front();
        way.holder = next;
        if let Some(next) = next {
            self.step_out_of_line(next);
        }
    }

    /// A queue in line goes on, with the command that it was in line for.
    pub(super) fn step_out_of_line(&mut self, queue: QueueId) {
        let place = self.queue_mut(queue);
        match mem::take(&mut place.head) {
            Head::InLine(work) => place.pending.push_front(Item::Work(work)),
            other => place.head = other,
        }
        self.ready.push_back(queue);
    }

    /// A queue hangs: it gives up its way, or its place in line.
    pub(super) fn give_up_way(&mut self, queue: QueueId) {
        let (direction, is_in_line) = match &self.queue(queue).head {
            Head::Running(run) => (run.work.direction, false),
            Head::InLine(work) => (work.direction, true),
            Head::Idle | Head::Blocked | Head::Delayed { .. } => return,
        };
        if !is_in_line {
            return self.leave_way(queue, direction);
        }
        if let Some(way) = direction.and_then(|direction| self.way_mut(queue, direction)) {
            way.waiting.retain(|&waiting| waiting != queue);
        }
    }
}
