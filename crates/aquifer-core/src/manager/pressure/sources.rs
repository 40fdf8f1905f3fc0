//! The sources that every manager has: its own books, and its device's budget.

use crate::raw::allocation::Keeper;
use aquifer_backend::{Backend, Error, PressureNotifier, PressureReading, PressureSource, PressureWake};
use std::fmt;
use std::time::Duration;

/// The live bytes of a heap against the manager's budget.
pub(super) struct LedgerSource<B: Backend> {
    keeper: Keeper<B>,
    heap_index: usize,
}

impl<B: Backend> LedgerSource<B> {
    pub(super) fn new(keeper: Keeper<B>, heap_index: usize) -> Self {
        Self { keeper, heap_index }
    }
}

impl<B: Backend> fmt::Debug for LedgerSource<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerSource").field("heap_index", &self.heap_index).finish_non_exhaustive()
    }
}

impl<B: Backend> PressureSource for LedgerSource<B>
where
    Keeper<B>: Send,
{
    fn name(&self) -> String {
        format!("ledger heap {}", self.heap_index)
    }

    fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        self.keeper.pressure.growth.add(notifier.clone());
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Notifies
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        Ok(PressureReading::Usage {
            used_bytes: self.keeper.live_bytes_of(self.heap_index),
            limit_bytes: self.keeper.ledgers[self.heap_index].budget_bytes(),
        })
    }
}

/// What is used of a heap, by whomever, against what this process may have of it.
///
/// What this manager holds for nobody is left out: as long as nobody else says that he wants it, it is of use. Others say so
/// through the system's own sources or a budget group.
pub(super) struct DeviceSource<B: Backend> {
    keeper: Keeper<B>,
    heap_index: usize,
    interval: Duration,
}

impl<B: Backend> DeviceSource<B> {
    pub(super) fn new(keeper: Keeper<B>, heap_index: usize) -> Self {
        let interval = keeper.config.pressure.device_interval;
        Self { keeper, heap_index, interval }
    }
}

impl<B: Backend> fmt::Debug for DeviceSource<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceSource").field("heap_index", &self.heap_index).finish_non_exhaustive()
    }
}

impl<B: Backend> PressureSource for DeviceSource<B>
where
    Keeper<B>: Send,
{
    fn name(&self) -> String {
        format!("device heap {}", self.heap_index)
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Interval(self.interval)
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        let budget = self.keeper.backend.budget(self.heap_index)?;
        // Where more is used than there should be, nothing is available, and only the process's own part tells how much more.
        let used_bytes = budget.budget_bytes.saturating_sub(budget.available_bytes);
        let used_bytes = used_bytes.max(budget.process_bytes.unwrap_or(0));
        Ok(PressureReading::Usage {
            used_bytes: used_bytes.saturating_sub(self.keeper.idle_bytes_of(self.heap_index)),
            limit_bytes: budget.budget_bytes,
        })
    }
}
