//! Queues and the user's own work on them.

use super::program::Action;
use super::scene::{Held, Scene};
use aquifer_core::{Error, ErrorKind, Queue};
use aquifer_sim::{Access, Kernel, Sim};
use std::time::Duration;

impl Scene {
    pub(super) fn use_queues(&mut self, action: Action) {
        match action {
            Action::HomeKernel { buffer, lasts_us } => {
                let Some(place) = self.buffer(buffer) else { return };
                let home = self.buffers[place].note.home;
                let queue = self.queues.iter().find(|queue| Some(queue.raw().id()) == home);
                let queue = queue.or_else(|| self.queues.first()).cloned();
                if let Some(queue) = queue {
                    self.launch(&queue, &[place], lasts_us);
                }
            }
            Action::Kernel { queue, first, second, lasts_us } => {
                let (Some(queue), Some(first)) = (self.queue(queue), self.buffer(first)) else { return };
                let second = second.and_then(|second| self.buffer(second)).filter(|&second| second != first);
                let places: Vec<usize> = [first].into_iter().chain(second).collect();
                self.launch(&queue, &places, lasts_us);
            }
            Action::Record { queue, buffer } => {
                let (Some(queue), Some(place)) = (self.queue(queue), self.buffer(buffer)) else { return };
                self.buffers[place].buffer.record_use(&queue).expect("one manager");
            }
            Action::Synchronize { queue, timeout_us } => {
                let Some(queue) = self.queue(queue) else { return };
                match queue.synchronize(Duration::from_micros(timeout_us.into())) {
                    Err(error) if error.kind() != ErrorKind::TimedOut => {
                        self.check_error("synchronize", &error)
                    }
                    _ => {}
                }
            }
            Action::Signal { queue } => {
                let Some(queue) = self.queue(queue) else { return };
                match queue.signal() {
                    Ok(value) => match queue.completed() {
                        Ok(completed) => assert!(completed <= value, "{completed} reached of {value}"),
                        Err(error) => self.check_error("completed", &error),
                    },
                    Err(error) => self.check_error("signal", &error),
                }
            }
            Action::WaitOn { queue, other } => {
                let (Some(queue), Some(other)) = (self.queue(queue), self.queue(other)) else { return };
                self.order(&queue, &other);
            }
            Action::NewQueue => match self.manager.queue() {
                Ok(queue) => self.queues.push(queue),
                Err(error) => self.check_error("queue", &error),
            },
            Action::DropQueue { queue } => {
                if let Some(place) = Self::place(queue, self.queues.len()) {
                    self.queues.swap_remove(place);
                }
            }
            _ => unreachable!("not about queues: {action:?}"),
        }
    }

    fn order(&self, queue: &Queue<Sim>, after: &Queue<Sim>) {
        if let Err(error) = queue.wait_on(after) {
            self.check_error("wait_on", &error);
        }
    }

    fn launch(&mut self, queue: &Queue<Sim>, places: &[usize], lasts_us: Option<u32>) {
        let mut accesses: Vec<Access> = Vec::with_capacity(places.len());
        for &place in places {
            match prepare(&self.queues, queue, &mut self.buffers[place]) {
                Ok(true) => accesses.push(self.buffers[place].access()),
                Ok(false) => {}
                Err(error) => self.check_error("wait_on", &error),
            }
        }
        if accesses.is_empty() {
            return;
        }
        let kernel = Kernel { accesses, duration_ns: lasts_us.map(|us| u64::from(us) * 1000) };
        if let Err(error) = self.sim.launch(queue.raw(), kernel) {
            self.check_error("launch", &error);
        }
    }
}

/// Does what a user must before a queue uses a buffer; false if that cannot be had, since nobody holds its home any more.
fn prepare(queues: &[Queue<Sim>], queue: &Queue<Sim>, held: &mut Held) -> Result<bool, Error> {
    let (id, note) = (queue.raw().id(), &mut held.note);
    if note.home == Some(id) || note.touched.contains(&id) {
        return Ok(true);
    }
    if note.home.is_some() {
        let Some(home) = queues.iter().find(|queue| Some(queue.raw().id()) == note.home) else {
            return Ok(false);
        };
        queue.wait_on(home)?;
    }
    held.buffer.record_use(queue)?;
    note.touched.push(id);
    Ok(true)
}
