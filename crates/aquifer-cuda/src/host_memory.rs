//! What the system says of the host's memory.

use sysinfo::{MemoryRefreshKind, System};

fn system() -> Option<System> {
    let mut system = System::new().ok()?;
    system.refresh_memory_specifics(MemoryRefreshKind::nothing().with_ram());
    Some(system)
}

/// How much there is, in bytes; 0 if the system does not say.
pub(crate) fn total_bytes() -> u64 {
    system().map_or(0, |system| system.total_memory())
}

/// How much could be had without swapping, in bytes; 0 if the system does not say.
pub(crate) fn available_bytes() -> u64 {
    system().map_or(0, |system| system.available_memory())
}

/// The system's page, in bytes: page-locking goes by it.
pub(crate) fn page_bytes() -> u64 {
    #[cfg(unix)]
    return rustix::param::page_size() as u64;
    #[cfg(not(unix))]
    return 4 << 10;
}
