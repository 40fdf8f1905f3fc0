//! The suite that every backend must pass, on two simulated devices: one where nothing takes time, and one that is as slow as
//! a real one and late on top.

use aquifer_sim::{Costs, Lateness, Sim, SimDesc};

mod free {
    use super::*;

    aquifer_testkit::conformance!(Sim::new(SimDesc {
        memory_bytes: 1 << 40,
        costs: Costs::FREE,
        ..SimDesc::default()
    }));
}

mod late {
    use super::*;

    aquifer_testkit::conformance!(Sim::new(SimDesc { lateness: Lateness::WILD, ..SimDesc::default() }));
}
