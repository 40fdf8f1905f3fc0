//! The suite that every backend must pass, on a simulated device where nothing takes time.

use aquifer_sim::{Costs, Sim, SimDesc};

aquifer_testkit::conformance!(Sim::new(SimDesc {
    memory_bytes: 1 << 40,
    costs: Costs::FREE,
    ..SimDesc::default()
}));
