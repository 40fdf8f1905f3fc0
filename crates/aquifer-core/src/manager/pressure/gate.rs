//! Which new requests are kept back while memory is short.

use super::super::observers::Observers;
use crate::hooks;
use crate::pressure::Admission;
use crate::sync::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use crate::transfer::Priority;
use aquifer_backend::{Error, ErrorKind};
use parking_lot::{Condvar, Mutex};
use std::task::Waker;
use std::time::{Duration, Instant};

/// One [`Admission`] for each priority, and who waits for another.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    admissions: [AtomicU8; 3],
    /// Whether somebody opens it again while a thread blocks.
    has_keeper: AtomicBool,
    refused: AtomicU64,
    queued: AtomicU64,
    waiting: Mutex<Vec<Waker>>,
    opened: Condvar,
}

impl Gate {
    /// Sets what becomes of each priority. Who waits looks again.
    pub(super) fn set(&self, observers: &Observers, admissions: [Admission; 3]) {
        for (cell, admission) in self.admissions.iter().zip(admissions) {
            cell.store(admission as u8, Ordering::Release);
        }
        observers.set_gated(admissions != [Admission::Accept; 3]);
        self.wake_waiting();
    }

    pub(super) fn set_keeper(&self, has_keeper: bool) {
        self.has_keeper.store(has_keeper, Ordering::Release);
    }

    /// Has who waits look again, whether time is up or the gate open.
    pub(super) fn wake_waiting(&self) {
        let mut waiting = self.waiting.lock();
        self.opened.notify_all();
        let wakers = std::mem::take(&mut *waiting);
        drop(waiting);
        crate::calls::wake_all(wakers);
    }

    /// What becomes of a request now. In a callback everything is accepted: it is there to bring memory back, and may need a little
    /// for that.
    fn admission_of(&self, priority: Priority) -> Admission {
        if hooks::is_in_hook() {
            return Admission::Accept;
        }
        match self.admissions[priority as usize].load(Ordering::Acquire) {
            0 => Admission::Accept,
            1 => Admission::Queue,
            _ => Admission::Refuse,
        }
    }

    /// Lets a request pass, blocks it for up to `patience`, or refuses it.
    pub(in super::super) fn pass(&self, priority: Priority, patience: Duration) -> Result<(), Error> {
        match self.admission_of(priority) {
            Admission::Accept => Ok(()),
            Admission::Refuse => Err(self.refusal(priority)),
            Admission::Queue => self.wait(priority, patience),
        }
    }

    fn wait(&self, priority: Priority, patience: Duration) -> Result<(), Error> {
        self.queued.fetch_add(1, Ordering::Relaxed);
        // A time too long for the clock is as good as for ever.
        let deadline = Instant::now().checked_add(patience);
        let mut waiting = self.waiting.lock();
        loop {
            match self.admission_of(priority) {
                Admission::Accept => return Ok(()),
                Admission::Refuse => return Err(self.refusal(priority)),
                Admission::Queue => {}
            }
            let is_late = !self.has_keeper.load(Ordering::Acquire)
                || match deadline {
                    Some(deadline) => self.opened.wait_until(&mut waiting, deadline).timed_out(),
                    None => {
                        self.opened.wait(&mut waiting);
                        false
                    }
                };
            if is_late && self.admission_of(priority) == Admission::Queue {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let message = format!("{} requests still have to wait after {patience:?}", name(priority));
                return Err(under_pressure(&message));
            }
        }
    }

    /// As [`Gate::pass`] for who does not block: `Ok(false)` if it must wait, and will be woken to look again.
    pub(in super::super) fn poll(
        &self,
        priority: Priority,
        waker: &Waker,
        is_queued: &mut bool,
    ) -> Result<bool, Error> {
        let answer = |admission| match admission {
            Admission::Accept => Some(Ok(true)),
            Admission::Refuse => Some(Err(self.refusal(priority))),
            Admission::Queue => None,
        };
        if let Some(answer) = answer(self.admission_of(priority)) {
            return answer;
        }
        // To clone and drop it is the user's code, so not under the lock.
        let waker = waker.clone();
        let mut waiting = self.waiting.lock();
        // Once more, since who opens it takes the lock after.
        if let Some(answer) = answer(self.admission_of(priority)) {
            drop(waiting);
            return answer;
        }
        let extra = if waiting.iter().any(|other| other.will_wake(&waker)) {
            Some(waker)
        } else {
            waiting.push(waker);
            None
        };
        drop((waiting, extra));
        if !std::mem::replace(is_queued, true) {
            self.queued.fetch_add(1, Ordering::Relaxed);
        }
        Ok(false)
    }

    fn refusal(&self, priority: Priority) -> Error {
        self.refused.fetch_add(1, Ordering::Relaxed);
        under_pressure(&format!("{} requests are refused now", name(priority)))
    }

    /// How many requests were refused, and how many had to wait.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.refused.load(Ordering::Relaxed), self.queued.load(Ordering::Relaxed))
    }
}

fn name(priority: Priority) -> &'static str {
    match priority {
        Priority::Low => "low-priority",
        Priority::Normal => "normal-priority",
        Priority::High => "high-priority",
    }
}

fn under_pressure(what: &str) -> Error {
    let message =
        format!("memory is short, and {what}; free something, try later, or ask with a higher priority");
    Error::new(ErrorKind::UnderPressure, "allocate", message)
}
