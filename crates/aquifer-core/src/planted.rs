//! Bugs, planted to see that the tests find them. Without the feature `planted-bugs` there are none, and nothing is left of
//! this.

#[cfg(feature = "planted-bugs")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    /// A bug to plant.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum Bug {
        /// What is freed on a queue is bound to the last marker that was asked for, instead of the next one.
        Reuse = 1,
        /// One place in sixteen that leaves the quarantine is forgotten.
        Leak = 2,
        /// What the device has newer is taken for brought to the host, and is not.
        BringOver = 3,
        /// What the host has newer is taken for brought to the device, and is not.
        BringOverToDevice = 4,
        /// The host does not wait for what queues do with a unified buffer.
        HostWait = 5,
        /// Queues that use the same bytes of a unified buffer are not ordered.
        QueueOrder = 6,
    }

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants a bug in every manager of this process, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.store(bug.map_or(0, |bug| bug as u8), Ordering::Relaxed);
    }

    fn is_planted(bug: Bug) -> bool {
        PLANTED.load(Ordering::Relaxed) == bug as u8
    }

    pub(crate) fn binds_early() -> bool {
        is_planted(Bug::Reuse)
    }

    pub(crate) fn forgets_bring_over() -> bool {
        is_planted(Bug::BringOver)
    }

    pub(crate) fn forgets_bring_over_to_device() -> bool {
        is_planted(Bug::BringOverToDevice)
    }

    pub(crate) fn forgets_host_wait() -> bool {
        is_planted(Bug::HostWait)
    }

    pub(crate) fn forgets_queue_order() -> bool {
        is_planted(Bug::QueueOrder)
    }

    pub(crate) fn forgets(offset: u64) -> bool {
        is_planted(Bug::Leak) && (offset / crate::GRANULE_BYTES) % 16 == 4
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{Bug, plant};
#[cfg(feature = "planted-bugs")]
pub(crate) use switch::{
    binds_early, forgets, forgets_bring_over, forgets_bring_over_to_device, forgets_host_wait,
    forgets_queue_order,
};

/// Whether what is freed on a queue is bound too early.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn binds_early() -> bool {
    false
}

/// Whether a place at this offset is forgotten when it leaves the quarantine.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn forgets(_: u64) -> bool {
    false
}

/// Whether what the device has newer is not brought to the host.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn forgets_bring_over() -> bool {
    false
}

/// Whether what the host has newer is not brought to the device.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn forgets_bring_over_to_device() -> bool {
    false
}

/// Whether the host does not wait for what queues do with a unified buffer.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn forgets_host_wait() -> bool {
    false
}

/// Whether queues that use the same bytes of a unified buffer are not ordered.
#[cfg(not(feature = "planted-bugs"))]
pub(crate) const fn forgets_queue_order() -> bool {
    false
}
