//! Memory behind two addresses.

use super::{MIB, address, create_physical, create_sparse, free_sim, map, unmap};
use aquifer_backend::Backend;
use aquifer_sim::{Access, Kernel, Sim, SimBlock, SimQueue};

pub(crate) const PAGE: u64 = 2 * MIB;

/// A device with addresses in two sparse blocks and a physical block of two pages behind each, the same one: `at` names an offset
/// in it by the addresses of the one or the other.
pub(crate) struct Aliased {
    pub(crate) sim: Sim,
    pub(crate) sparse: [SimBlock; 2],
    pub(crate) physical: SimBlock,
    pub(crate) queues: [SimQueue; 2],
}

/// Where in each sparse block the physical one is.
pub(crate) const PLACES: [u64; 2] = [3 * PAGE, 5 * PAGE];

pub(crate) fn aliased() -> Aliased {
    let sim = free_sim();
    let sparse = [create_sparse(&sim, 16 * PAGE), create_sparse(&sim, 16 * PAGE)];
    let physical = create_physical(&sim, 2 * PAGE);
    for (sparse, offset) in sparse.iter().zip(PLACES) {
        map(&sim, sparse, offset, &physical, 2 * PAGE);
    }
    let queues = [sim.create_queue().unwrap(), sim.create_queue().unwrap()];
    Aliased { sim, sparse, physical, queues }
}

impl Aliased {
    pub(crate) fn at(&self, which: usize, offset: u64) -> u64 {
        address(&self.sim, &self.sparse[which]) + PLACES[which] + offset
    }

    pub(crate) fn write(&self, queue: usize, address: u64, bytes: u64, ns: u64) {
        write(&self.sim, &self.queues[queue], address, bytes, ns);
    }

    pub(crate) fn unmap(&self, which: usize) {
        unmap(&self.sim, &self.sparse[which], PLACES[which], 2 * PAGE);
    }
}

pub(crate) fn write(sim: &Sim, queue: &SimQueue, address: u64, bytes: u64, ns: u64) {
    sim.launch(queue, Kernel::new([Access::write(address, bytes)]).lasting(ns)).unwrap();
}
