#![doc = include_str!("../../../README.md")]

pub mod bandwidth;
#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
mod metal;
mod replay_devices;
mod virtual_copies;

pub use aquifer_core::*;
#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
pub use metal::*;
pub use replay_devices::{HostHold, HostReplay, SimReplay};
pub use virtual_copies::VirtualCopyThreads;

/// What the system says of how short memory is: sources for a [`PressureMonitor`].
pub use aquifer_host::pressure;
/// Host memory as a device, and its queues.
pub use aquifer_host::{Host, HostOptions, HostQueue, Near, numa};
/// A simulated device of any size, with no memory behind it.
pub use aquifer_sim as sim;

/// The manager of host memory.
pub type HostMemoryManager = MemoryManager<Host>;
