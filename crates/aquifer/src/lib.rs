#![doc = include_str!("../../../README.md")]

pub mod bandwidth;
#[cfg(not(target_vendor = "apple"))]
mod cuda;
#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
mod metal;
pub mod pressure;
mod replay_devices;
mod virtual_copies;

pub use aquifer_core::*;
#[cfg(not(target_vendor = "apple"))]
pub use cuda::*;
#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
pub use metal::*;
pub use pressure::system_pressure_sources;
pub use replay_devices::{HostHold, HostReplay, SimReplay};
pub use virtual_copies::VirtualCopyThreads;

/// Host memory as a device, and its queues.
pub use aquifer_host::{Host, HostOptions, HostQueue, Near, numa};
/// A simulated device of any size, with no memory behind it.
pub use aquifer_sim as sim;

/// The manager of host memory.
pub type HostMemoryManager = MemoryManager<Host>;
