//! NVIDIA's management library, for what the driver API does not say: how much memory this process has.

use std::fmt;

use nvml_wrapper::enums::device::UsedGpuMemory;

/// The library, if it is there.
pub(crate) struct Nvml(Option<nvml_wrapper::Nvml>);

impl fmt::Debug for Nvml {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Nvml").field(&self.0.is_some()).finish()
    }
}

impl Nvml {
    /// Loads and starts it, which takes some milliseconds.
    pub(crate) fn load() -> Self {
        Self(nvml_wrapper::Nvml::init().ok())
    }

    /// How many bytes of a device's memory this process has by NVML's count; `None` where it does not tell, such as where processes
    /// have other numbers outside (containers) or the driver keeps no accounts.
    pub(crate) fn process_bytes(&self, pci_bus_id: &str) -> Option<u64> {
        let device = self.0.as_ref()?.device_by_pci_bus_id(pci_bus_id).ok()?;
        let processes = device.running_compute_processes().ok()?;
        let ours = processes.into_iter().find(|one| one.pid == std::process::id())?;
        match ours.used_gpu_memory {
            UsedGpuMemory::Used(bytes) => Some(bytes),
            UsedGpuMemory::Unavailable => None,
        }
    }
}
