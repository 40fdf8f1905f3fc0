//! Steps on queues, and in a device's time.
//!
//! Each group of late completions has a queue of its own while it is outstanding, a *helper*, which the device holds. A helper
//! is used again only after everything freed for its last group has had its marker and the helper has passed it: else that
//! memory would wait for the next group too.

use std::collections::BTreeMap;

use aquifer_backend::{Backend, Error, ErrorKind};

use super::plan::Step;
use super::{Player, ReplayDevice, Stop};
use crate::manager::{Buffer, Queue};

/// So much of the trace's time passes before the manager looks how far the queues are, after a free and again.
const SETTLE_US: u64 = 1000;

/// How often it does after a free: the first time puts markers into queues, and the next time they have passed them.
const SETTLES_AFTER_FREE: u32 = 2;

/// How long the end of a replay waits for a queue that was let go.
const END_WAIT: std::time::Duration = std::time::Duration::from_secs(10);

/// What a replay has in hand.
pub(super) struct Stage<B: Backend, H> {
    /// The live buffers, each in its slot.
    pub(super) buffers: Vec<Option<Buffer<B>>>,
    /// Allocations that had to wait for a completion, and how long.
    pub(super) stall_count: usize,
    pub(super) stalled_us: u64,
    /// By number, and so in the order of their completions.
    outstanding: BTreeMap<u32, Group<B, H>>,
    unused_helpers: Vec<Queue<B>>,
    /// The trace's time, since its first event.
    now_us: u64,
    next_settle_us: u64,
    settles_due: u32,
}

/// Frees that are waited for together.
struct Group<B: Backend, H> {
    helper: Queue<B>,
    holds: Vec<H>,
    /// Whether everything freed so far has its marker.
    is_marked: bool,
}

impl<B: Backend, H> Default for Stage<B, H> {
    fn default() -> Self {
        Self::new(0, Vec::new())
    }
}

impl<B: Backend, H> Stage<B, H> {
    pub(super) fn new(slot_count: usize, helpers: Vec<Queue<B>>) -> Self {
        let mut buffers = Vec::new();
        buffers.resize_with(slot_count, || None);
        Self {
            buffers,
            stall_count: 0,
            stalled_us: 0,
            outstanding: BTreeMap::new(),
            unused_helpers: helpers,
            now_us: 0,
            next_settle_us: 0,
            settles_due: 0,
        }
    }
}

impl<B: Backend, D: ReplayDevice<B>> Player<'_, B, D> {
    /// Takes the steps from `start` to before `end`, on queues if the plan has any.
    pub(super) fn take_queued_steps(
        &self,
        start: usize,
        end: usize,
        stage: &mut Stage<B, D::Hold>,
    ) -> Result<(), Stop> {
        for step_index in start..end {
            let stop = |error| Stop { step_index, error };
            let event = self.plan.event_indices[step_index];
            self.advance(stage, self.time_us(event));
            match self.plan.steps[step_index] {
                Step::Allocate { queue, slot, bytes } => {
                    let buffer = self.allocate(stage, queue, bytes).map_err(stop)?;
                    stage.buffers[slot as usize] = Some(buffer);
                }
                Step::Free { slot } => {
                    stage.buffers[slot as usize] = None;
                    self.expect_settles(stage);
                }
                Step::FreeLater { slot, group } => {
                    if let Some(buffer) = stage.buffers[slot as usize].take() {
                        self.free_later(stage, buffer, group).map_err(stop)?;
                    }
                }
                Step::Release { group } => {
                    // It may have been let go before its time.
                    if let Some(group) = stage.outstanding.remove(&group) {
                        self.let_go(stage, group);
                    }
                }
            }
        }
        Ok(())
    }

    /// An event's time since the first one.
    fn time_us(&self, event: u32) -> u64 {
        self.events[event as usize].time_us - self.events[0].time_us
    }

    fn release_us(&self, group: u32) -> u64 {
        self.time_us(self.plan.completions.release_events[group as usize])
    }

    /// Lets time pass, and the manager look how far the queues are, as its reaper would do.
    fn advance(&self, stage: &mut Stage<B, D::Hold>, time_us: u64) {
        while stage.settles_due > 0 && stage.next_settle_us <= time_us {
            self.advance_device(stage, stage.next_settle_us);
            self.settle(stage);
            stage.settles_due -= 1;
            stage.next_settle_us = stage.next_settle_us.saturating_add(SETTLE_US);
        }
        self.advance_device(stage, time_us);
    }

    fn advance_device(&self, stage: &mut Stage<B, D::Hold>, time_us: u64) {
        stage.now_us = stage.now_us.max(time_us);
        if let Some(device) = self.device {
            device.advance(stage.now_us);
        }
    }

    fn expect_settles(&self, stage: &mut Stage<B, D::Hold>) {
        if self.queues.is_empty() {
            return;
        }
        if stage.settles_due == 0 {
            stage.next_settle_us = stage.now_us.saturating_add(SETTLE_US);
        }
        stage.settles_due = SETTLES_AFTER_FREE;
    }

    fn settle(&self, stage: &mut Stage<B, D::Hold>) {
        self.manager.settle();
        stage.outstanding.values_mut().for_each(|group| group.is_marked = true);
    }

    /// Allocates, if need be after bringing completions forward.
    fn allocate(&self, stage: &mut Stage<B, D::Hold>, queue: u16, bytes: u64) -> Result<Buffer<B>, Error> {
        loop {
            let answer = match self.queues.get(usize::from(queue)) {
                Some(queue) => queue.allocate_with(bytes, self.tagged),
                None => self.manager.allocate_with(bytes, self.tagged),
            };
            match answer {
                Err(error) if error.kind() == ErrorKind::OutOfMemory => {
                    let Some((number, group)) = stage.outstanding.pop_first() else { return Err(error) };
                    let release_us = self.release_us(number);
                    stage.stall_count += 1;
                    stage.stalled_us += release_us.saturating_sub(stage.now_us);
                    self.advance(stage, release_us);
                    self.let_go(stage, group);
                }
                answer => return answer,
            }
        }
    }

    /// Frees a buffer that another queue uses until the group's end.
    fn free_later(&self, stage: &mut Stage<B, D::Hold>, buffer: Buffer<B>, number: u32) -> Result<(), Error> {
        // A plan with such a step was made for a device.
        let Some(device) = self.device else { return Ok(()) };
        let group = stage.outstanding.entry(number).or_insert_with(|| Group {
            helper: stage.unused_helpers.pop().expect("the plan has counted how many are needed at once"),
            holds: Vec::new(),
            is_marked: true,
        });
        let hold = device.hold(&group.helper, &buffer, self.release_us(number))?;
        group.holds.push(hold);
        group.is_marked = false;
        buffer.record_use(&group.helper)?;
        drop(buffer);
        self.expect_settles(stage);
        Ok(())
    }

    /// Completes a group whose time has come, and frees its memory.
    fn let_go(&self, stage: &mut Stage<B, D::Hold>, group: Group<B, D::Hold>) {
        let Some(device) = self.device else { return };
        if !group.is_marked {
            self.settle(stage);
        }
        device.release(&group.helper, group.holds);
        stage.unused_helpers.push(group.helper);
        self.settle(stage);
        // The memory is now its home's alone, until that has passed a marker too.
        self.expect_settles(stage);
    }

    /// Lets go whatever is held, also after a step that failed, and leaves nothing under way.
    pub(super) fn finish(&self, stage: &mut Stage<B, D::Hold>) {
        while let Some((number, group)) = stage.outstanding.pop_first() {
            self.advance(stage, self.release_us(number));
            self.let_go(stage, group);
        }
        self.pass_queues(stage);
    }

    /// Gives back what can go, also what is free for one queue only until that has passed a marker.
    pub(super) fn trim(&self, stage: &Stage<B, D::Hold>) -> u64 {
        let bytes = self.manager.trim();
        if self.queues.is_empty() {
            return bytes;
        }
        self.pass_queues(stage);
        bytes + self.manager.trim()
    }

    /// Waits until all queues have passed all that has been freed so far.
    fn pass_queues(&self, stage: &Stage<B, D::Hold>) {
        if self.queues.is_empty() {
            return;
        }
        self.manager.settle();
        for queue in self.queues.iter().chain(&stage.unused_helpers) {
            // If it cannot be waited for, the device is lost, and nothing is under way either.
            let _ = queue.synchronize(END_WAIT);
        }
        self.manager.settle();
    }
}
