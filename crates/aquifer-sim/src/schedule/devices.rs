//! What each device of a schedule has for itself.

use super::Schedule;
use super::link::Link;
use crate::queue::{Head, Queue};
use crate::random::Random;
use crate::{KernelTimes, Lateness, QueueId, SimDesc};

/// See the module.
#[derive(Debug)]
pub(super) struct DeviceSchedule {
    random: Random,
    lateness: Lateness,
    kernels: KernelTimes,
    pub(super) signal_seen_ns: u64,
    pub(super) is_lost: bool,
    /// `None`: any number of copies go over it at once.
    pub(super) link: Option<Link>,
    /// On which copies and fills run that are waited for.
    driver_queue: QueueId,
}

impl DeviceSchedule {
    pub(super) fn draw_duration_ns(&mut self) -> u64 {
        let is_long = self.random.hits(self.kernels.long_per_mille);
        let max_ns = if is_long { self.kernels.long_ns_max } else { self.kernels.short_ns_max };
        self.random.up_to(max_ns)
    }

    pub(super) fn draw_delay_ns(&mut self, queue: QueueId) -> u64 {
        // The host waits for the driver's own queue: lateness would hide nothing there.
        let is_late = queue != self.driver_queue && self.random.hits(self.lateness.per_mille);
        if is_late { self.random.up_to(self.lateness.delay_ns_max) } else { 0 }
    }
}

impl Schedule {
    /// Adds a device, with its driver's own queue.
    pub(crate) fn add_device(&mut self, desc: &SimDesc) {
        let device = self.devices.len();
        let driver_queue = self.add_queue(device);
        self.devices.push(DeviceSchedule {
            random: Random::new(desc.seed),
            lateness: desc.lateness,
            kernels: desc.kernels,
            signal_seen_ns: desc.costs.signal_seen_ns,
            is_lost: false,
            link: desc.has_shared_link.then(Link::default),
            driver_queue,
        });
        if desc.keeps_history {
            self.history.get_or_insert_default();
        }
    }

    pub(crate) fn add_queue(&mut self, device: usize) -> QueueId {
        self.queues.push(Queue { device, ..Queue::default() });
        QueueId(u32::try_from(self.queues.len() - 1).expect("fewer than 2^32 queues"))
    }

    pub(crate) fn driver_queue(&self, device: usize) -> QueueId {
        self.devices[device].driver_queue
    }

    pub(crate) fn is_lost(&self, device: usize) -> bool {
        self.devices[device].is_lost
    }

    /// Whether something may still happen on queues of a device that are not hung, without the host.
    pub(super) fn may_go_on(&self, device: usize) -> bool {
        let is_own = |queue: &QueueId| self.queues[queue.index()].device == device;
        let waits = |queue: &Queue| {
            queue.device == device && queue.hung_ns.is_none() && matches!(queue.head, Head::Blocked)
        };
        // What waits may wait for another device.
        self.active.iter().any(is_own) || (!self.active.is_empty() && self.queues.iter().any(waits))
    }
}
