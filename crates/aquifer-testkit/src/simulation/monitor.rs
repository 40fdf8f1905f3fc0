//! A pressure monitor without a thread, and what the system tells it.

use super::scene::Scene;
use aquifer_core::{
    Error, MemoryManager, PressureLevel, PressureMonitor, PressureNotifier, PressureReading, PressureSource,
    PressureWake,
};
use aquifer_sim::Sim;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// What the system says, as the place of a level; and what it calls when that has changed.
#[derive(Debug, Default, Clone)]
struct System(Arc<AtomicUsize>, Arc<OnceLock<PressureNotifier>>);

impl System {
    fn level(&self) -> PressureLevel {
        PressureLevel::ALL[self.0.load(Ordering::Relaxed)]
    }
}

impl PressureSource for System {
    fn name(&self) -> String {
        "the program".into()
    }

    fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        // It never fails, so it is started once.
        self.1.get_or_init(|| notifier.clone());
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Notifies
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        Ok(PressureReading::Level(self.level()))
    }
}

/// The monitor of a program that has one.
#[derive(Debug)]
pub(super) struct Watching {
    monitor: PressureMonitor<Sim>,
    system: System,
}

impl Watching {
    pub(super) fn new(manager: &MemoryManager<Sim>) -> Self {
        let system = System::default();
        let monitor = PressureMonitor::new(manager, vec![Box::new(system.clone())]).expect("the first");
        Self { monitor, system }
    }

    /// The system says something else from now on.
    pub(super) fn tell(&self, level: u8) {
        self.system.0.store(usize::from(level) % PressureLevel::ALL.len(), Ordering::Relaxed);
        if let Some(notifier) = self.system.1.get() {
            notifier.notify();
        }
    }

    /// Has it look, at what is due.
    pub(super) fn look(&self) {
        self.monitor.poll();
    }
}

impl Scene {
    /// What the monitor has counted is what it did.
    pub(super) fn check_pressure(&self, statistics: &aquifer_core::PressureStatistics) {
        let Some(watching) = &self.watching else { return };
        assert_eq!(statistics.level, watching.monitor.level());
        let sum_of_histogram = statistics.resolution_counts.iter().map(|&(_, count)| count).sum::<u64>();
        assert!(sum_of_histogram <= statistics.fall_count, "{statistics:?}");
        assert!(statistics.fall_count <= 4 * statistics.rise_count, "{statistics:?}");
    }
}
