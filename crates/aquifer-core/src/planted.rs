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

    pub(crate) fn forgets(offset: u64) -> bool {
        is_planted(Bug::Leak) && (offset / crate::GRANULE_BYTES) % 16 == 4
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{Bug, plant};
#[cfg(feature = "planted-bugs")]
pub(crate) use switch::{binds_early, forgets};

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
