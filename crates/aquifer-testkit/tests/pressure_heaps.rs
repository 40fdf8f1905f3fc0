//! Pressure on a device with memory of its own: what the machine says is about the machine's memory.

use aquifer_core::{
    Clock, Config, Error, MemoryManager, MemoryOptions, PressureLevel, PressureMonitor, PressureNotifier,
    PressureReading, PressureSource, PressureWake,
};
use aquifer_sim::{Sim, SimDesc};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const MIB: u64 = 1 << 20;

/// What the machine says, as the place of a level.
#[derive(Debug, Default)]
struct Machine {
    level: AtomicUsize,
    notifier: Mutex<Option<PressureNotifier>>,
}

impl Machine {
    fn says(&self, level: PressureLevel) {
        self.level.store(level as usize, Ordering::Relaxed);
        if let Some(notifier) = &*self.notifier.lock().unwrap_or_else(PoisonError::into_inner) {
            notifier.notify();
        }
    }
}

#[derive(Debug)]
struct Source(Arc<Machine>);

impl PressureSource for Source {
    fn name(&self) -> String {
        "the machine".into()
    }

    fn start(&mut self, notifier: &PressureNotifier) -> Result<(), Error> {
        *self.0.notifier.lock().unwrap_or_else(PoisonError::into_inner) = Some(notifier.clone());
        Ok(())
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Notifies
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        Ok(PressureReading::Level(PressureLevel::ALL[self.0.level.load(Ordering::Relaxed)]))
    }
}

#[test]
fn the_machines_pressure_leaves_the_devices_own_memory_alone() {
    let sim = Sim::new(SimDesc::discrete());
    let mut config = Config::default();
    config.budget_bytes = Some(1 << 30);
    config.reaper = false;
    config.pressure.thread = false;
    let clock = sim.clone();
    config.clock = Clock::from_fn(move || Duration::from_nanos(clock.now_ns()));
    let manager = MemoryManager::with_config(sim.clone(), config).unwrap();
    let machine = Arc::new(Machine::default());
    let monitor = PressureMonitor::new(&manager, vec![Box::new(Source(Arc::clone(&machine)))]).unwrap();
    let held = || (sim.books().live_bytes_by_heap[0] / MIB, sim.books().live_bytes_by_heap[1] / MIB);
    drop(manager.allocate(40 * MIB).unwrap());
    drop(manager.allocate_with(20 * MIB, MemoryOptions::PINNED).unwrap());
    monitor.poll();
    assert_eq!(held(), (40, 20));
    sim.advance(1_000_000_000);
    machine.says(PressureLevel::Emergency);
    monitor.poll();
    assert_eq!(monitor.level(), PressureLevel::Emergency);
    assert_eq!(held(), (40, 0), "the machine gets nothing of what is the device's own");
    // What is the device's own is not held to the machine's row later either: it has its usual time.
    sim.advance(1_000_000_000);
    monitor.poll();
    assert_eq!(held(), (40, 0));
    // The device itself is another matter.
    sim.set_other_process_bytes((4 << 30) - 42 * MIB);
    let live = manager.allocate(40 * MIB).unwrap();
    sim.advance(2_000_000_000);
    monitor.poll();
    let sources = manager.statistics().pressure.sources;
    let device = sources.iter().find(|source| &*source.name == "device heap 0").unwrap();
    assert_eq!(device.level, PressureLevel::Critical);
    drop(live);
    sim.advance(2_000_000_000);
    monitor.poll();
    assert_eq!(held(), (0, 0));
}
