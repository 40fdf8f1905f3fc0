//! Purgeable blocks: nobody may use them until they are not any more.

use super::Checker;

/// Whether the system may take a block's memory, or has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purge {
    No,
    Purgeable,
    Purged,
}

impl Purge {
    /// What is wrong with using the block, in words.
    pub(super) fn obstacle(self) -> Option<&'static str> {
        match self {
            Self::No => None,
            Self::Purgeable => Some(" in a purgeable block"),
            Self::Purged => Some(" in a purgeable block whose memory the system has taken"),
        }
    }
}

impl Checker {
    /// Notes that a block must not be used from now on, after a look at whether it is.
    pub(crate) fn make_purgeable(&mut self, at_ns: u64, address: u64) {
        let Some(block) = self.blocks.get_mut(&address) else { return };
        let end = block.end;
        block.purge = Purge::Purgeable;
        self.check_given_back(at_ns, address, (address, end), None, "make_purgeable");
    }

    /// Notes that the system has taken a block's memory.
    pub(crate) fn purge(&mut self, address: u64) {
        self.blocks.entry(address).and_modify(|block| block.purge = Purge::Purged);
    }

    /// Notes that a block may be used again.
    pub(crate) fn make_nonpurgeable(&mut self, address: u64) {
        self.blocks.entry(address).and_modify(|block| block.purge = Purge::No);
    }
}
