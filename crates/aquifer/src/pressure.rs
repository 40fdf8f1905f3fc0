//! What the system says of how short memory is: sources for a [`PressureMonitor`](crate::PressureMonitor).
//!
//! [`system_pressure_sources`] is all of it, made as most programs want it; [`system_sources`] takes options, and tells what there is
//! not.

pub use aquifer_host::pressure::*;

use aquifer_core::PressureSource;

/// All that this system offers, for [`PressureMonitor::new`](crate::PressureMonitor::new), as the options are by default. What it does
/// not offer is among them, never starts, and the monitor's statistics say why.
///
/// Blocks for some tens of system calls on files of the kernel's.
#[must_use]
pub fn system_pressure_sources() -> Vec<Box<dyn PressureSource>> {
    system_sources(&PressureOptions::default()).into_all()
}

/// Everything that this system offers to this process, and for each source that it does not offer, why.
///
/// On Apple's systems first the system's own judgement, `SystemPressureSource`; then, everywhere, what
/// `aquifer_host` has: control groups and stall information on Linux, and the machine's memory.
///
/// Blocks for some tens of system calls on files of the kernel's.
#[must_use]
pub fn system_sources(options: &PressureOptions) -> SystemSources {
    #[cfg_attr(
        not(any(target_vendor = "apple", feature = "software-metal")),
        expect(unused_mut, reason = "nothing is added there")
    )]
    let mut found = aquifer_host::pressure::system_sources(options);
    #[cfg(any(target_vendor = "apple", feature = "software-metal"))]
    found.sources.insert(0, Box::new(crate::SystemPressureSource::new()));
    found
}
