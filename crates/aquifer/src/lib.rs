#![doc = include_str!("../../../README.md")]

pub use aquifer_core::*;

/// Host memory as a device.
pub use aquifer_host::Host;

/// The manager of host memory.
pub type HostMemoryManager = MemoryManager<Host>;
