//! Time, and what goes wrong with it.

use super::program::Action;
use super::scene::Scene;
use aquifer_sim::{Call, Fault, FaultPlan, Recurrence};

/// The device's memory in bytes that another process can take most of.
const MEMORY_BYTES: u64 = 1 << 30;

impl Scene {
    pub(super) fn make_trouble(&mut self, action: Action) {
        match action {
            Action::Advance { us } => self.sim.advance(u64::from(us) * 1000),
            Action::RunAll => self.run_all(),
            Action::Fault { call, number, is_memory } => {
                let fault = if is_memory { Fault::NoMemory } else { Fault::Refuse };
                self.plan(call, number.into(), Recurrence::Once, fault);
            }
            Action::RefuseBlocks => {
                self.plan(Some(Call::Create), 0, Recurrence::FromThenOn, Fault::NoMemory);
            }
            Action::CommandFault { number } => {
                self.has_faults = true;
                self.sim.plan_command_fault(number.into(), Recurrence::Once);
            }
            Action::ClearFaults => self.clear_faults(),
            Action::LoseDevice => {
                self.may_be_lost = true;
                self.sim.lose_device();
            }
            Action::LoseLater { number } => {
                self.may_be_lost = true;
                self.plan(None, number.into(), Recurrence::Once, Fault::LoseDevice);
            }
            Action::Hang { queue, lost_after_ms } => self.hang(queue, lost_after_ms),
            Action::Resume => self.resume(),
            Action::Purge => {
                self.sim.purge();
            }
            Action::Pressure { left_mib } => {
                self.has_pressure = true;
                let left_bytes = u64::from(left_mib) << 20;
                self.sim.set_other_process_bytes(MEMORY_BYTES.saturating_sub(left_bytes));
            }
            _ => unreachable!("no trouble: {action:?}"),
        }
    }

    /// Lets everything run that is queued. Then every operation is over for who asks.
    fn run_all(&mut self) {
        self.sim.run_all();
        while !self.has_faults && self.hung.is_empty() && !self.operations.is_empty() {
            assert!(self.poll_operation(0), "a queue has passed an operation, and its future is pending");
        }
    }

    fn plan(&mut self, call: Option<Call>, number: u64, recurrence: Recurrence, fault: Fault) {
        self.has_faults = true;
        self.sim.plan_fault(FaultPlan { call, number, recurrence, fault });
    }

    fn hang(&mut self, queue: u8, lost_after_ms: Option<u16>) {
        let Some(queue) = self.queue(queue) else { return };
        let id = queue.raw().id();
        // Every allocation would wait for ever.
        let lost_after_ms = lost_after_ms.or(self.setup.clears_always.then_some(100));
        match lost_after_ms {
            Some(_) => self.may_be_lost = true,
            None if !self.hung.contains(&id) => self.hung.push(id),
            None => {}
        }
        self.sim.hang(id, lost_after_ms.map(|ms| u64::from(ms) * 1_000_000));
    }

    /// Lets everything go on that hangs until then.
    pub(super) fn resume(&mut self) {
        for queue in std::mem::take(&mut self.hung) {
            self.sim.resume(queue);
        }
    }
}
