//! What a process's managers and leases need of a group, and what it waits for. Numbers only.

use super::directory::monotonic_ns;
use super::peers::Peers;
use super::record::MemberRecord;

/// What a growing lease is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Demand {
    /// So many bytes more of blocks.
    Blocks(u64),
    /// So many bytes more of explicit leases, which blocks may then use.
    Lease(u64),
}

#[derive(Debug)]
pub(super) struct OwnWant {
    pub(super) id: u64,
    pub(super) demand: Demand,
    pub(super) since_ns: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// As it was written last.
    pub(super) record: MemberRecord,
    /// What the process's managers have charged.
    pub(super) block_bytes: u64,
    /// The sum of its explicit leases.
    pub(super) explicit_bytes: u64,
    /// Oldest first; that one is in the record.
    pub(super) wants: Vec<OwnWant>,
    pub(super) want_count: u64,
    /// For the log, when no lock is held.
    pub(super) notices: Vec<String>,
    pub(super) peers: Peers,
}

impl State {
    /// The lease that it takes to meet what is there and one demand more.
    pub(super) fn need_with(&self, demand: Demand) -> u64 {
        match demand {
            Demand::Blocks(bytes) => self.block_bytes.saturating_add(bytes).max(self.explicit_bytes),
            Demand::Lease(bytes) => self.block_bytes.max(self.explicit_bytes.saturating_add(bytes)),
        }
    }

    /// The lease that it takes to meet what is there.
    pub(super) fn need(&self) -> u64 {
        self.block_bytes.max(self.explicit_bytes)
    }

    pub(super) fn take(&mut self, demand: Demand) {
        match demand {
            Demand::Blocks(bytes) => self.block_bytes += bytes,
            Demand::Lease(bytes) => self.explicit_bytes += bytes,
        }
    }

    /// After a growth by `bytes`: a want that this has met goes to the end of the line.
    pub(super) fn end_turn(&mut self, bytes: u64) {
        let is_met = |want: &mut OwnWant| match want.demand {
            Demand::Blocks(wanted) | Demand::Lease(wanted) => wanted <= bytes,
        };
        if self.wants.first_mut().is_some_and(is_met) {
            let want = self.wants.remove(0);
            self.wants.push(OwnWant { since_ns: monotonic_ns(), ..want });
        }
    }
}
