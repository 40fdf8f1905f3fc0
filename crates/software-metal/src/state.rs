//! What a device is behind its object.

use crate::census::Census;
use crate::classes::Device;
use crate::desc::DeviceDesc;
use crate::faults::Faults;
use crate::memory::Account;
use crate::residency::ResidencyBooks;
use objc2::rc::Weak;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

/// One device's state. It outlives the device's object, which Metal's rules let go with its last user.
pub(crate) struct State {
    pub(crate) desc: DeviceDesc,
    pub(crate) census: Census,
    pub(crate) faults: Faults,
    pub(crate) account: Account,
    pub(crate) residency: ResidencyBooks,
    /// The device's object while there is one.
    pub(crate) object: Mutex<Weak<Device>>,
    queues_made: AtomicU64,
}

impl State {
    pub(crate) fn new(desc: DeviceDesc) -> Self {
        Self {
            faults: Faults::new(&desc),
            desc,
            census: Census::default(),
            account: Account::default(),
            residency: ResidencyBooks::default(),
            object: Mutex::default(),
            queues_made: AtomicU64::new(0),
        }
    }

    /// The seed of the next queue, if the device has one.
    pub(crate) fn next_queue_seed(&self) -> Option<u64> {
        let nth = self.queues_made.fetch_add(1, Ordering::Relaxed);
        self.desc.overlap_seed.map(|seed| seed ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("desc", &self.desc)
            .field("census", &self.census)
            .finish_non_exhaustive()
    }
}
