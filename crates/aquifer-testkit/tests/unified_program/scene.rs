//! One device, for tests that say what happens when.

use crate::common::{quiet_config, sim_manager};
use aquifer_core::{MemoryManager, MemoryOptions, Queue, UnifiedBuffer};
use aquifer_sim::{Costs, Kernel, KernelTimes, Sim, SimDesc};
use std::time::Duration;

/// A device where nothing takes time but what a test says, its manager and two queues.
pub(crate) struct Scene {
    pub(crate) sim: Sim,
    pub(crate) manager: MemoryManager<Sim>,
    pub(crate) queues: [Queue<Sim>; 2],
}

impl Scene {
    pub(crate) fn new(desc: SimDesc) -> Self {
        let sim =
            Sim::new(SimDesc { costs: Costs::FREE, kernels: KernelTimes::ZERO, keeps_history: true, ..desc });
        let mut config = quiet_config(1 << 30);
        config.in_flight_wait = Duration::from_secs(10);
        let manager = sim_manager(&sim, config);
        let queues = [(); 2].map(|()| manager.queue().expect("a queue"));
        Self { sim, manager, queues }
    }

    /// The devices of the two kinds.
    pub(crate) fn both() -> [Self; 2] {
        [Self::new(SimDesc::discrete()), Self::new(SimDesc::integrated())]
    }

    pub(crate) fn zeroed(&self, size: u64) -> UnifiedBuffer<Sim> {
        self.manager.unified_with(size, MemoryOptions::ZEROED).expect("there is room")
    }

    /// The sizes of the copies that have been made since there were so many commands.
    pub(crate) fn copies_since(&self, count: usize) -> Vec<u64> {
        self.sim.run_all();
        let history = self.sim.history();
        history[count..].iter().filter(|ran| ran.what == "copy").map(|ran| ran.done_bytes).collect()
    }

    pub(crate) fn commands(&self) -> usize {
        self.sim.run_all();
        self.sim.history().len()
    }

    /// Work that has nothing to do with any buffer and lasts long.
    pub(crate) fn occupy(&self, queue: &Queue<Sim>, ns: u64) {
        self.sim.launch(queue.raw(), Kernel::new([]).lasting(ns)).expect("the device is there");
    }
}
