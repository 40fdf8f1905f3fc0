//! One memory budget for several processes of a machine.
//!
//! A group is a directory with a file for the group and one for each member. Each process *leases* bytes of the budget before its
//! managers reserve them, and gives its lease back with the memory. There is no daemon and no lock that one could hold and die.
//!
//! # A member lives as long as it holds its lock
//!
//! Each member keeps a POSIX record lock (`fcntl`, `F_WRLCK`) on its own file. The kernel drops it when the process ends, however it
//! ends, and a forked child does not inherit it. Others find out by trying for a *shared* lock of the same file: as shared locks do
//! not refuse each other, neither askers nor one that was stopped while it asked keep the answer from anybody. Whoever gets the lock
//! removes the file, and with it the lease. This removes no other's: a file's name has a random part and is never used again. The one
//! moment in which a living member has no lock is just after it has made its file; it looks afterwards whether the file still has a
//! name, and begins anew if not.
//!
//! When the lock goes, the memory has gone: Linux gives a dying process's memory back (`exit_mm` in `do_exit`, kernel/exit.c)
//! before its files (`exit_files`). A device's memory that hangs on a driver's file goes with that file, at the same time as the
//! lock; then the driver may refuse for a moment what the group grants, and the manager deals with that as ever.
//!
//! To close *any* descriptor of a file ends all of the process's locks on it, and a process's locks do not refuse itself. So a process
//! has one membership of a group, which all its managers share (found by the directory's device and inode), and never opens its own
//! file a second time. What a forked child still sees of its parent's memory is counted as long as the parent lives. Two copies of this library in one process must not join one group.
//!
//! # Two claims are never both granted above the budget
//!
//! Each member writes only its own record. To grow, it writes the lease that it would then have (it *announces*), passes a full
//! fence, and reads what all others have announced; if the sum is within the budget the claim is granted, else it writes the old value
//! back. To shrink it writes the smaller value after the memory has gone.
//!
//! Say that at some moment members have been granted `g1, g2, ...`. For each, take the moment at which what it has announced rose to
//! its `g` or more for the last time, and of all of them take the member for which that was last. What it read after announcing was,
//! for each of the others, at least their `g`, and it was granted: so the sum of all `g` was within the budget. Whoever joined later
//! than it listed the directory has announced later too. (`rules.rs` has a model of it under random interleavings.)
//! One that is stopped after announcing keeps the bytes from others as if it had them, until it goes on or ends.
//!
//! Reads and writes are `pread` and `pwrite` of 64 bytes with a checksum: a mapping of a file that somebody cuts short would kill
//! whoever looks. A record that makes no sense is read again, and then counts as its owner's whole quota. So do numbers above the
//! quota. That is as much as the owner could take rightly, so nobody gains by writing nonsense.
//!
//! A lease is exactly what is reserved, not rounded up. A claim among six members takes a few tens of microseconds, less than most
//! drivers take for a block; bytes kept in hand by a member that has nothing to do would be lost to all others, since nobody can take
//! them away from it.
//!
//! # Turns
//!
//! A member whose claim is refused, and that waits, writes how many bytes it wants and since when. Whoever has waited longest is
//! first, and others may grow only as far as the first can still have what it wants. So bytes that come free one by one gather for it.
//! If all its bytes are there and it does not take them for half a second, as one that is stopped or hostile, it is passed over. While
//! they are not all there they gather for half a second, then others may have what is free for half a second, and so on: one that wants
//! what nobody will give back slows the others down, but does not keep them out. Nobody is believed to have waited for more than a
//! quarter of a second longer than it was seen to wait, so that to lie about it gains little.
//!
//! The clock is the machine's monotonic one. Processes in different time namespaces do not agree on it: then the line is not in order,
//! but it moves.
//!
//! # What others can do
//!
//! Whoever may write to the directory can use up the budget (each process may have the quota, and may come as many), or remove the
//! files. It cannot make an honest member exceed the budget as far as that is known to it, or crash. Join only groups whose
//! directory belongs to you; [`BudgetGroup::join`] makes it for this user alone. If a process finds its own file or the group's removed
//! or changed, it keeps what it has and leases nothing more: [`ErrorKind::Driver`](crate::ErrorKind::Driver) says so. Content that was
//! changed in its own file it puts right. The directory must be on a local file system, such as `/dev/shm`, that has record
//! locks and hard links.

#[cfg(target_os = "linux")]
mod bell;
#[cfg(unix)]
mod directory;
#[cfg(unix)]
mod group;
#[cfg(not(unix))]
#[path = "unsupported.rs"]
mod group;
mod lease;
#[cfg(unix)]
mod look;
#[cfg(unix)]
mod membership;
#[cfg(unix)]
mod peers;
#[cfg(unix)]
mod record;
#[cfg(unix)]
mod registry;
#[cfg(unix)]
mod rules;
#[cfg(unix)]
mod source;
#[cfg(unix)]
mod state;

#[cfg(all(test, unix, not(loom)))]
mod tests;

pub use group::BudgetGroup;
pub(crate) use group::GroupWait;
pub use lease::Lease;

/// What a budget group is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BudgetGroupDesc {
    /// The most bytes that all members together may have reserved; at least 1, at most
    /// [`BUDGET_BYTES_MAX`](crate::BUDGET_BYTES_MAX).
    pub budget_bytes: u64,
    /// The most that one member may have; at least 1, at most the budget.
    pub quota_bytes: u64,
}

impl BudgetGroupDesc {
    /// A group in which each member may have all of the budget.
    #[must_use]
    pub const fn new(budget_bytes: u64) -> Self {
        Self { budget_bytes, quota_bytes: budget_bytes }
    }

    /// The same with another quota.
    #[must_use]
    pub const fn quota_bytes(self, quota_bytes: u64) -> Self {
        Self { quota_bytes, ..self }
    }
}

/// What a budget group's members have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupStatus {
    /// The most bytes that all together may have reserved.
    pub budget_bytes: u64,
    /// One entry for each process, this one first.
    pub members: Vec<MemberStatus>,
}

/// What one process has of a budget group, as it says itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The process's number; as the process itself saw it, if it is in a container.
    pub pid: u32,
    /// Its lease: the bytes that it may have reserved now. Its quota, if its record makes no sense.
    pub leased_bytes: u64,
    /// How many bytes more it waits for.
    pub wanted_bytes: u64,
    /// Whether it is this process.
    pub is_own: bool,
}

impl GroupStatus {
    /// The sum of all leases.
    #[must_use]
    pub fn leased_bytes(&self) -> u64 {
        self.members.iter().fold(0, |sum, member| sum.saturating_add(member.leased_bytes))
    }
}
