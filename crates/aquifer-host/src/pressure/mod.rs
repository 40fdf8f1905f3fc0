//! What the system says of how short memory is: [`PressureSource`]s for a monitor. [`system_sources`] makes all that there are.
//!
//! | source | what it tells | what wakes it |
//! | --- | --- | --- |
//! | [`PsiSource`] | how much of the time tasks wait for memory: of the machine, or of this process's control group | a trigger of the kernel's |
//! | [`CgroupV2Source`] | how full the control groups of version 2 are that bind this process | their events, and a timer |
//! | [`CgroupV1Source`] | the same of version 1 | thresholds of usage, and a timer |
//! | [`CgroupV1NoticeSource`] | that memory is taken back from groups of version 1, and how hard that is | the kernel's notices |
//! | [`MachineSource`] | how much of the machine's memory is used | nothing: it is read at an interval |
//!
//! All but the last are for Linux. Whatever is in a file is found below a root that tests replace.

#[cfg(target_os = "linux")]
mod cgroup_v1;
#[cfg(target_os = "linux")]
mod cgroup_v2;
#[cfg(target_os = "linux")]
mod files;
#[cfg(target_os = "linux")]
mod group_usage;
#[cfg(target_os = "linux")]
mod listening;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod machine;
mod options;
#[cfg(target_os = "linux")]
mod psi;
mod psi_options;
#[cfg(target_os = "linux")]
mod stall;
mod system;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub use machine::MachineSource;
#[cfg(target_os = "linux")]
pub use {
    cgroup_v1::{CgroupV1NoticeSource, CgroupV1Source},
    cgroup_v2::CgroupV2Source,
    psi::PsiSource,
};
pub use {
    options::PressureOptions,
    psi_options::{PsiOptions, PsiRule, PsiStall},
    system::{AbsentSource, SystemSources, system_sources},
};

#[cfg(doc)]
use aquifer_backend::PressureSource;

/// The operations that errors name.
#[cfg(any(target_os = "linux", target_os = "macos"))]
const START: &str = "PressureSource::start";
#[cfg(any(target_os = "linux", target_os = "macos"))]
const READ: &str = "PressureSource::read";
