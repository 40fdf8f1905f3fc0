//! The test's hand on a device: its clock, its faults, its books, and what users do without asking a manager.

use crate::faults::CALL_COUNT;
use crate::schedule::Submission;
use crate::sim::Sim;
use crate::{Call, FaultPlan, QueueId, Ran, Recurrence, Violation};
use aquifer_backend::Error;

/// Whether memory is read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Read.
    Read,
    /// Written.
    Write,
}

/// A range of device addresses and what is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// The first byte.
    pub address: u64,
    /// How many bytes.
    pub bytes: u64,
    /// Whether they are read or written.
    pub kind: AccessKind,
}

impl Access {
    /// Reads `bytes` bytes.
    #[must_use]
    pub const fn read(address: u64, bytes: u64) -> Self {
        Self { address, bytes, kind: AccessKind::Read }
    }

    /// Writes `bytes` bytes.
    #[must_use]
    pub const fn write(address: u64, bytes: u64) -> Self {
        Self { address, bytes, kind: AccessKind::Write }
    }
}

/// A program of the user's on the device. It does all it does for as long as it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// What it touches.
    pub accesses: Vec<Access>,
    /// How long it runs, in nanoseconds; `None`: the seed decides.
    pub duration_ns: Option<u64>,
}

impl Kernel {
    /// A kernel whose duration the seed decides.
    #[must_use]
    pub fn new(accesses: impl Into<Vec<Access>>) -> Self {
        Self { accesses: accesses.into(), duration_ns: None }
    }

    /// The same kernel, running for so many nanoseconds.
    #[must_use]
    pub fn lasting(mut self, duration_ns: u64) -> Self {
        self.duration_ns = Some(duration_ns);
        self
    }
}

/// What a user holds, as the checker knows it. Owners are numbered from 1 in the order in which they appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClaimId {
    pub(crate) owner: u64,
    pub(crate) address: u64,
}

impl ClaimId {
    /// The owner's number, as violations name it.
    #[must_use]
    pub fn owner(self) -> u64 {
        self.owner
    }
}

/// What a device has counted. Sizes in bytes, times in nanoseconds of the host's virtual time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Books {
    /// Blocks that exist, of any kind.
    pub live_blocks: u64,
    /// Their bytes that take memory: without what has been released or purged, and without addresses.
    pub live_bytes: u64,
    /// The same, by heap.
    pub live_bytes_by_heap: Vec<u64>,
    /// The most that the live bytes have been.
    pub live_bytes_peak: u64,
    /// Those bytes of blocks that are purgeable, purged ones too.
    pub purgeable_bytes: u64,
    /// Bytes of purgeable blocks whose memory the system has taken. They take no memory.
    pub purged_bytes: u64,
    /// Bytes of the sparse blocks that exist: addresses, which take no memory.
    pub sparse_bytes: u64,
    /// Physical blocks that have been made.
    pub physical_blocks_made: u64,
    /// Physical blocks that have been destroyed.
    pub physical_blocks_destroyed: u64,
    /// Mappings that have been made.
    pub mappings_made: u64,
    /// Mappings that have been removed, those among them that went with their sparse block.
    pub mappings_removed: u64,
    /// Mappings that exist.
    pub live_mappings: u64,
    /// The bytes of addresses behind which memory is mapped now.
    pub mapped_bytes: u64,
    /// Calls that failed because they were told to, or because the device had not enough.
    pub failed_calls: u64,
    /// Time spent in all calls but [`wait`](aquifer_backend::Backend::wait).
    pub driver_ns: u64,
    /// Time spent in [`wait`](aquifer_backend::Backend::wait).
    pub waited_ns: u64,
    pub(crate) calls: [u64; CALL_COUNT],
}

impl Books {
    /// How many calls of a kind there were, failed ones too.
    #[must_use]
    pub fn calls_of(&self, call: Call) -> u64 {
        self.calls[call as usize]
    }

    /// How many calls there were, failed ones too.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.iter().sum()
    }
}

/// The clock.
impl Sim {
    /// The host's virtual time, in nanoseconds since the device was made.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.state().schedule.now_ns()
    }

    /// Lets time pass for the host. Queues run meanwhile.
    pub fn advance(&self, ns: u64) {
        let mut state = self.state();
        let until_ns = state.schedule.now_ns().saturating_add(ns);
        state.schedule.drive_to(until_ns);
    }

    /// Lets time pass until something happens that was under way, or for `ns` at most; false if nothing has by then.
    pub fn advance_to_next(&self, ns: u64) -> bool {
        let mut state = self.state();
        let until_ns = state.schedule.now_ns().saturating_add(ns);
        let has_happened = state.schedule.run_next(until_ns);
        if !has_happened && ns < u64::MAX {
            state.schedule.drive_to(until_ns);
        }
        has_happened
    }

    /// Lets time pass until nothing more happens by itself: queues are idle, or hang, or wait for one that hangs.
    pub fn run_all(&self) {
        self.state().schedule.run_all();
    }

    /// What has run, in the order in which it ended. Empty unless [`keeps_history`](crate::SimDesc::keeps_history).
    #[must_use]
    pub fn history(&self) -> Vec<Ran> {
        self.state().schedule.history.clone().unwrap_or_default()
    }
}

/// The user's own work.
impl Sim {
    /// Puts a kernel at the end of a queue, and answers the command's number. Does not count as a call of the manager's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::DeviceLost`](aquifer_backend::ErrorKind::DeviceLost).
    ///
    /// # Panics
    ///
    /// If the device has no such queue.
    pub fn launch(&self, queue: impl Into<QueueId>, kernel: Kernel) -> Result<u64, Error> {
        let mut state = self.state();
        state.enter_launch("launch")?;
        state.check_accesses(&kernel.accesses);
        let submission =
            Submission { duration_ns: kernel.duration_ns, ..Submission::new("kernel", &kernel.accesses) };
        Ok(state.schedule.submit(queue.into(), submission))
    }

    /// The host touches memory now, if it could: a violation if queued work on it has not ended. A read beside queued
    /// reads of the same owner is none.
    pub fn host_access(&self, access: Access) {
        let mut state = self.state();
        let now_ns = state.schedule.now_ns();
        state.schedule.drive_to(now_ns);
        state.schedule.checker.host_access(now_ns, access);
    }
}

/// The checker.
impl Sim {
    /// Says that a user holds a range from now on: to be called when the manager has handed it out. A violation if a live claim overlaps it, or if it lies in no block.
    pub fn claim(&self, address: u64, bytes: u64) -> ClaimId {
        let mut state = self.state();
        let now_ns = state.schedule.now_ns();
        state.schedule.checker.claim(now_ns, address, bytes)
    }

    /// Says that the user frees it: to be called before the manager is told. What it has queued may still run; what it queues later is nobody's. Of a claim that
    /// was refused with a violation nothing more is said.
    pub fn give_up(&self, claim: ClaimId) {
        let mut state = self.state();
        let now_ns = state.schedule.now_ns();
        state.schedule.checker.give_up(now_ns, claim);
    }

    /// All violations so far, in the order in which they were found.
    #[must_use]
    pub fn violations(&self) -> Vec<Violation> {
        self.state().schedule.checker.violations.clone()
    }

    /// Fails if there was a violation.
    ///
    /// # Panics
    ///
    /// With all violations in words, if there are any.
    #[track_caller]
    pub fn assert_no_violations(&self) {
        let violations = self.violations();
        let lines: Vec<String> = violations.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "{} violations:\n{}", lines.len(), lines.join("\n"));
    }

    /// What has been counted.
    #[must_use]
    pub fn books(&self) -> Books {
        let mut state = self.state();
        state.catch_up();
        state.own().books.clone()
    }
}

/// Faults.
impl Sim {
    /// Plans a fault of a call. Several may be planned.
    pub fn plan_fault(&self, plan: FaultPlan) {
        self.state().own_mut().faults.plan(plan);
    }

    /// Plans that a queued copy or fill runs as long as ever, but has failed when it ends: the one with this number, counted
    /// from 0 over those enqueued from now on; and all after it, if so asked.
    pub fn plan_command_fault(&self, number: u64, recurrence: Recurrence) {
        self.state().own_mut().faults.plan_command(number, recurrence);
    }

    /// Forgets all planned faults. What has happened stays: a lost device, queues that hang, commands already enqueued.
    pub fn clear_faults(&self) {
        self.state().own_mut().faults.clear();
    }

    /// Loses the device now.
    pub fn lose_device(&self) {
        let mut state = self.state();
        let now_ns = state.schedule.now_ns();
        state.schedule.drive_to(now_ns);
        state.lose("the device was told to be lost");
    }

    /// Whether the device is lost.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.state().is_lost()
    }

    /// Lets a queue hang: what it runs does not end, and nothing after it begins, nor what waits for it on other queues,
    /// until [`Sim::resume`], or until the driver gives it up `lost_after_ns` nanoseconds later and loses the device.
    ///
    /// # Panics
    ///
    /// If the device has no such queue, or for a driver's own, for which the host would wait for ever.
    pub fn hang(&self, queue: impl Into<QueueId>, lost_after_ns: Option<u64>) {
        let queue = queue.into();
        let mut state = self.state();
        let drivers = state.schedule.driver_queue(state.schedule.queue(queue).device);
        assert!(queue != drivers, "the driver's own queue cannot hang");
        state.schedule.hang(queue, lost_after_ns);
    }

    /// Lets a queue that hangs go on from where it was.
    ///
    /// # Panics
    ///
    /// If the device has no such queue.
    pub fn resume(&self, queue: impl Into<QueueId>) {
        self.state().schedule.resume(queue.into());
    }

    /// Says how many bytes of the first heap another process holds. What is more than it has left it does not get.
    pub fn set_other_process_bytes(&self, bytes: u64) {
        self.state().own_mut().other_process_bytes = bytes;
    }
}
