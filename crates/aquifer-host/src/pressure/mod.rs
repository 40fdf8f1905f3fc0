//! What the system says of how short memory is: [`PressureSource`]s for a monitor.
//!
//! | source | what it tells | what wakes it |
//! | --- | --- | --- |
//! | [`PsiSource`] | how much of the time tasks wait for memory: of the machine, or of this process's control group | a trigger of the kernel's |
//!
//! All are for Linux. Whatever is in a file is found below a root that tests replace.

#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod psi;
#[cfg(target_os = "linux")]
mod psi_options;
#[cfg(target_os = "linux")]
mod stall;

#[cfg(target_os = "linux")]
pub use {
    psi::PsiSource,
    psi_options::{PsiOptions, PsiRule, PsiStall},
};

#[cfg(doc)]
use aquifer_backend::PressureSource;

/// The operations that errors name.
#[cfg(target_os = "linux")]
const START: &str = "PressureSource::start";
#[cfg(target_os = "linux")]
const READ: &str = "PressureSource::read";
