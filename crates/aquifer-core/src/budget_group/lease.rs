//! Explicit leases.

use super::group::LeaseHold;
use std::fmt;

/// Bytes of a group's budget that this process may reserve without asking, until this is dropped; from
/// [`BudgetGroup::lease`](super::BudgetGroup::lease).
///
/// Blocks that the process's managers have, and those that they make later, count against its leases first: with a lease of
/// 3 GiB the managers together may reserve 3 GiB, and ask the group only for more. To drop a lease does not take memory away: what
/// managers have reserved beyond the leases that are left goes on being counted until they give it back.
#[must_use = "dropping a lease gives it back"]
pub struct Lease {
    hold: LeaseHold,
    bytes: u64,
}

impl Lease {
    #[cfg(unix)]
    pub(super) fn new(hold: LeaseHold, bytes: u64) -> Self {
        Self { hold, bytes }
    }

    /// How many bytes it is.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.hold.give_back(self.bytes);
    }
}
