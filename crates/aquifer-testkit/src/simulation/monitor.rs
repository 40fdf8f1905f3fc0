//! A pressure monitor without a thread, and what the system tells it.

use super::scene::Scene;
use aquifer_core::{
    Error, MemoryManager, PressureLevel, PressureMonitor, PressureReading, PressureSource, PressureWake,
};
use aquifer_sim::Sim;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the system says, as the place of a level.
#[derive(Debug, Default, Clone)]
struct System(Arc<AtomicUsize>);

impl System {
    fn level(&self) -> PressureLevel {
        PressureLevel::ALL[self.0.load(Ordering::Relaxed)]
    }
}

impl PressureSource for System {
    fn name(&self) -> String {
        "the program".into()
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
    }

    /// Has it look. A level is never below what the system says.
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
