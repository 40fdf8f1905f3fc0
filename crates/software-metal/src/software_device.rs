//! The test's hand on a device, and the process's default devices.

use crate::classes::{self, Device, Proto};
use crate::desc::DeviceDesc;
use crate::faults::Faults;
use crate::residency::ResidencyCounts;
use crate::state::State;
use objc2::rc::Retained;
use objc2_metal::MTLDevice;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How long [`SoftwareDevice::wait_until_returned`] waits.
const RETURN_LIMIT: Duration = Duration::from_secs(10);

/// The test's hand on one device. Clones are hands on the same device; the device stays usable without any.
#[derive(Clone, Debug)]
pub struct SoftwareDevice {
    state: Arc<State>,
}

impl SoftwareDevice {
    /// A new device, with no objects.
    pub fn new(desc: DeviceDesc) -> Self {
        Self { state: Arc::new(State::new(desc)) }
    }

    /// The device's object. While one lives it is the same each time.
    pub fn metal_device(&self) -> Retained<Proto<dyn MTLDevice>> {
        Proto::from_retained(Device::of(&self.state))
    }

    /// How many objects are live, by protocol. The device is among them.
    pub fn live_objects(&self) -> BTreeMap<&'static str, u64> {
        self.state.census.live()
    }

    /// How many objects were ever made, by protocol.
    pub fn made_objects(&self) -> BTreeMap<&'static str, u64> {
        self.state.census.made()
    }

    /// The most objects that were live at once, by protocol.
    pub fn peak_objects(&self) -> BTreeMap<&'static str, u64> {
        self.state.census.peak()
    }

    /// The most heaps and buffers not on heaps that were live at once.
    pub fn memory_objects_peak(&self) -> u64 {
        self.state.census.memory_objects_peak()
    }

    /// The most heaps and buffers that were live at once.
    pub fn resources_peak(&self) -> u64 {
        self.state.census.resources_peak()
    }

    /// What `currentAllocatedSize` answers, in bytes, without those of others ([`Faults::set_foreign_bytes`]).
    pub fn allocated_bytes(&self) -> u64 {
        self.state.account.bytes()
    }

    /// What the device's residency sets have done.
    pub fn residency(&self) -> ResidencyCounts {
        self.state.residency.counts()
    }

    /// Waits up to 10 seconds until no object is live, except perhaps the device: what a queue's threads still hold is let go a
    /// moment after the work has ended.
    ///
    /// # Errors
    /// Says what is still live.
    pub fn wait_until_returned(&self) -> Result<(), String> {
        self.state.census.wait_until_returned(RETURN_LIMIT)
    }

    /// What may be done to the device.
    pub fn faults(&self) -> &Faults {
        &self.state.faults
    }
}

/// The default devices; `None` until they are first asked for.
static DEFAULT_DEVICES: Mutex<Option<Vec<SoftwareDevice>>> = Mutex::new(None);

/// Sets what `MTLCreateSystemDefaultDevice` answers (the first, or nil) and `MTLCopyAllDevices`, in the whole process.
///
/// Without this, the environment variable `SOFTWARE_METAL_DEVICES` says how many default devices there are: 1 if it is
/// not set; 0 for a system without a device; several are peers of each other.
pub fn set_default_devices(devices: Vec<SoftwareDevice>) {
    *DEFAULT_DEVICES.lock() = Some(devices);
}

/// The process's default devices.
pub(crate) fn default_devices() -> Vec<SoftwareDevice> {
    classes::register();
    DEFAULT_DEVICES.lock().get_or_insert_with(from_environment).clone()
}

fn from_environment() -> Vec<SoftwareDevice> {
    let wanted = std::env::var("SOFTWARE_METAL_DEVICES").ok();
    let count: u32 = match &wanted {
        None => 1,
        Some(text) => {
            text.parse().unwrap_or_else(|_| panic!("SOFTWARE_METAL_DEVICES is {text:?}, not a number"))
        }
    };
    let peers = if count > 1 { count } else { 0 };
    let desc = |nth| DeviceDesc {
        registry_id: u64::from(nth) + 1,
        peer_group_id: u64::from(peers > 0),
        peer_index: nth,
        peer_count: peers,
        ..DeviceDesc::default()
    };
    (0..count).map(|nth| SoftwareDevice::new(desc(nth))).collect()
}
