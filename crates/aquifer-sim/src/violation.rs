//! What the checker has found.

use std::fmt;

/// What rule was broken.
#[non_exhaustive]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ViolationKind {
    /// Work of an older owner used memory at the same time as, or after, work of a newer one.
    ReusedWhileUsed,
    /// Two live claims overlap: the same memory was handed out twice.
    ClaimsOverlap,
    /// A claim or an access outside of every block.
    OutOfBlock,
    /// A claim or an access in a sparse block where nothing is mapped.
    UnmappedMemoryUsed,
    /// A claim or an access where the physical memory has been released.
    ReleasedMemoryUsed,
    /// A claim or an access in a block that is purgeable, whether or not the system has taken its memory.
    PurgeableMemoryUsed,
    /// A block was destroyed or made purgeable, or a part of it released or unmapped, before queued work on it had ended.
    GivenBackWhileUsed,
    /// A block was destroyed or made purgeable, or a part of it released or unmapped, under a live claim.
    GivenBackWhileClaimed,
    /// A physical block was destroyed that is still behind addresses.
    GivenBackWhileMapped,
    /// The host touched memory before queued work on it had ended.
    HostTouchedQueued,
    /// A claim was given up twice, or was gone with its block.
    NotClaimed,
    /// The device or the host saw other bytes than those that ought to have been there.
    StaleRead,
    /// A duty of the contract was not kept: a senseless argument, values out of order, a queue dropped at work.
    Contract,
}

impl ViolationKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::ReusedWhileUsed => "memory reused while still used",
            Self::ClaimsOverlap => "two live ranges overlap",
            Self::OutOfBlock => "outside of every block",
            Self::UnmappedMemoryUsed => "addresses with no memory behind them used",
            Self::ReleasedMemoryUsed => "released memory used",
            Self::PurgeableMemoryUsed => "purgeable memory used",
            Self::GivenBackWhileUsed => "memory given back while still used",
            Self::GivenBackWhileClaimed => "memory given back while held by a user",
            Self::GivenBackWhileMapped => "memory given back while mapped",
            Self::HostTouchedQueued => "the host touched what queued work still uses",
            Self::NotClaimed => "given up what nobody holds",
            Self::StaleRead => "bytes that are out of date were read",
            Self::Contract => "contract broken",
        }
    }
}

/// One breach of a rule. `Display` says it in words: what, when, where, and who with which queues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub kind: ViolationKind,
    /// When it was found, in nanoseconds of virtual time.
    pub at_ns: u64,
    /// The first byte concerned; 0 where it is not about memory.
    pub address: u64,
    /// How many bytes are concerned; 0 where it is not about memory.
    pub bytes: u64,
    /// Who did what.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ns", self.kind.as_str(), self.at_ns)?;
        if self.address != 0 {
            write!(f, ", {} bytes at {:#x}", self.bytes, self.address)?;
        }
        write!(f, ": {}", self.message)
    }
}
