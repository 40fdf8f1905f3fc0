//! Facade
pub use aquifer_core::*;
pub use aquifer_host::Host;

/// The manager of host memory.
pub type HostMemoryManager = MemoryManager<Host>;
