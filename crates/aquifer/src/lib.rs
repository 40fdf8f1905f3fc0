#![doc = include_str!("../../../README.md")]

mod replay_devices;

pub use aquifer_core::*;
pub use replay_devices::{HostHold, HostReplay, SimReplay};

/// Host memory as a device, and its queues.
pub use aquifer_host::{Host, HostQueue};
/// A simulated device of any size, with no memory behind it.
pub use aquifer_sim as sim;

/// The manager of host memory.
pub type HostMemoryManager = MemoryManager<Host>;
