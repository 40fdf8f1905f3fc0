//! What users have of a group.

use super::directory::{Directory, broken};
use super::lease::Lease;
use super::membership::{Membership, Refusal, Waiting};
use super::record::{GroupRecord, VERSION};
use super::state::Demand;
use super::{BudgetGroupDesc, GroupStatus, MemberStatus, look, registry, source};
use crate::manager::BUDGET_BYTES_MAX;
use aquifer_backend::{Error, ErrorKind, PressureSource};
use std::fmt::Write;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const JOIN: &str = "BudgetGroup::join";
const LOOK: &str = "BudgetGroup::look";
const LEASE: &str = "BudgetGroup::lease";
const CHARGE: &str = "allocate";

/// How often one who waits looks again: soon at first, then less often.
const LOOK_AGAIN_MIN: Duration = Duration::from_millis(1);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(8);
/// How many members a message names.
const NAMED_MEMBERS: usize = 8;

/// This process's membership of a group of processes that share one memory budget.
///
/// A handle: clones mean the same membership, and joining again gives the same one. Give it to managers with
/// [`MemoryManagerBuilder::budget_group`](crate::MemoryManagerBuilder::budget_group); all together then reserve no more from their
/// first heaps than the group grants this process. The membership ends with the last handle, manager and [`Lease`], or with the
/// process, however that ends.
///
/// Only on Unix systems. See [`BudgetGroup::join`].
#[derive(Debug, Clone)]
pub struct BudgetGroup(Arc<Membership>);

impl BudgetGroup {
    /// Joins the group in the directory `path`, for which `/dev/shm/` is a good place; makes directory and group if there are none
    /// (but no directories above). All who share the budget name the same directory. Makes some system calls; does not wait for
    /// other members.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`] for a budget or a quota out of range.
    /// - [`ErrorKind::Configuration`] if the directory cannot be made or opened, or the group in it has another budget or quota or is
    ///   of another version of this library.
    /// - [`ErrorKind::Driver`] if a file of the group is garbled, or the system refuses to make, lock or write one; also if the files
    ///   of the group were removed while this process had a part of the budget, and it still has.
    /// - [`ErrorKind::Unsupported`] on systems that are no Unix.
    pub fn join(path: impl AsRef<Path>, desc: &BudgetGroupDesc) -> Result<Self, Error> {
        let BudgetGroupDesc { budget_bytes, quota_bytes } = *desc;
        let wanted = GroupRecord { version: VERSION, budget_bytes, quota_bytes };
        if !is_possible(&wanted) {
            let message = format!(
                "a budget of {budget_bytes} and a quota of {quota_bytes} bytes asked for; both must be at least 1, the budget at most \
                 {BUDGET_BYTES_MAX}, and the quota no more than the budget"
            );
            return Err(Error::new(ErrorKind::InvalidArgument, JOIN, message));
        }
        let directory = Directory::open(JOIN, path.as_ref(), true)?;
        let joined = registry::membership(directory, |directory| {
            if directory.open_group(JOIN)?.is_none() {
                directory.create_group(JOIN, &wanted)?;
            }
            Self::enter(JOIN, directory)
        })?;
        let there = joined.group;
        if there != wanted {
            let message = format!(
                "a budget of {budget_bytes} bytes with a quota of {quota_bytes} asked for, but the group {} has {} with a quota of {}; \
                 ask for the same, or use another directory",
                joined.directory.path().display(),
                there.budget_bytes,
                there.quota_bytes
            );
            return Err(Error::new(ErrorKind::Configuration, JOIN, message));
        }
        Ok(Self(joined))
    }

    /// Joins the group that is in the directory `path`, whatever its budget.
    ///
    /// # Errors
    ///
    /// As [`BudgetGroup::join`]; [`ErrorKind::Configuration`] if there is none.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let directory = Directory::open("BudgetGroup::open", path.as_ref(), false)?;
        registry::membership(directory, |directory| Self::enter("BudgetGroup::open", directory)).map(Self)
    }

    /// What the members of the group in the directory `path` have and wait for now, as they say themselves, without joining it: for
    /// programs that show it. In a process that is a member it is what [`BudgetGroup::status`] says. Those that have died are removed,
    /// as members do.
    ///
    /// # Errors
    ///
    /// As [`BudgetGroup::open`] and [`BudgetGroup::status`].
    pub fn look(path: impl AsRef<Path>) -> Result<GroupStatus, Error> {
        let directory = Directory::open(LOOK, path.as_ref(), false)?;
        registry::beside(&directory, |own| match own {
            Some(own) => Self(own).status(),
            None => look::from_outside(LOOK, &directory),
        })
    }

    fn enter(operation: &'static str, directory: Directory) -> Result<Membership, Error> {
        let (file, record) = group_in(operation, &directory)?;
        Membership::new(directory, file, record)
    }

    /// The most bytes that all members together may have reserved.
    #[must_use]
    pub fn budget_bytes(&self) -> u64 {
        self.0.group.budget_bytes
    }

    /// The most that one member may have.
    #[must_use]
    pub fn quota_bytes(&self) -> u64 {
        self.0.group.quota_bytes
    }

    /// The group's directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.0.directory.path()
    }

    /// What each member has and waits for now, as it says itself. Those that have died are not among them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if somebody has removed or garbled files of the group, or the system refuses to read them;
    /// [`ErrorKind::Forked`].
    pub fn status(&self) -> Result<GroupStatus, Error> {
        let (others, own) = self.0.seen("BudgetGroup::status")?;
        let own = MemberStatus {
            pid: std::process::id(),
            leased_bytes: own.leased_bytes,
            wanted_bytes: own.wanted_bytes,
            is_own: true,
        };
        let others = others.into_iter().map(|seen| MemberStatus {
            pid: seen.process,
            leased_bytes: seen.standing.leased_bytes,
            wanted_bytes: seen.standing.wanted_bytes,
            is_own: false,
        });
        let members = std::iter::once(own).chain(others).collect();
        Ok(GroupStatus { budget_bytes: self.budget_bytes(), members })
    }

    /// Leases `bytes` bytes at once, waiting in line with everybody else's, first come first served, for no longer than `timeout`
    /// (not at all if it is zero). Blocks.
    ///
    /// For programs that know what they will need: one that holds memory while it asks for more can keep another from going on that
    /// does the same, until one of them gives up. One that leases all it needs before it reserves anything, and holds no other lease,
    /// never waits for somebody who waits for it.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`] for 0 bytes.
    /// - [`ErrorKind::CanNeverFit`] if this process would have more than the quota.
    /// - [`ErrorKind::TimedOut`], with who has how much in the message.
    /// - [`ErrorKind::Driver`] if somebody has removed or garbled files of the group; join anew.
    /// - [`ErrorKind::Forked`].
    pub fn lease(&self, bytes: u64, timeout: Duration) -> Result<Lease, Error> {
        let refuse = |kind, message| Err(Error::new(kind, LEASE, message));
        if bytes == 0 {
            return refuse(ErrorKind::InvalidArgument, "0 bytes asked for; ask for 1 or more".into());
        }
        self.0.check(LEASE)?;
        let demand = Demand::Lease(bytes);
        if !self.0.could_have(demand) {
            let quota = self.quota_bytes();
            let message =
                format!("{bytes} bytes asked for beyond what this process has leased; the quota is {quota}");
            return refuse(ErrorKind::CanNeverFit, message);
        }
        let leased = |answer| match answer {
            Ok(()) => Some(Ok(Lease::new(LeaseHold(Arc::clone(&self.0)), bytes))),
            Err(Refusal::Failed(error)) => Some(Err(error)),
            Err(Refusal::Short) => None,
        };
        if let Some(answer) = leased(self.0.take_at_once(LEASE, demand)) {
            return answer;
        }
        let deadline = Instant::now().checked_add(timeout);
        let mut wait = None;
        let mut nap = LOOK_AGAIN_MIN;
        loop {
            let left = deadline.map_or(nap, |deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return refuse(ErrorKind::TimedOut, self.shortage(bytes));
            }
            let wait: &mut Waiting = wait.get_or_insert_with(|| self.0.wait(demand));
            wait.remind();
            self.0.tell();
            if let Some(answer) = leased(self.0.take_in_turn(LEASE, wait.id)) {
                return answer;
            }
            std::thread::sleep(nap.min(left));
            nap = (2 * nap).min(LOOK_AGAIN_MAX);
        }
    }

    /// A source for a pressure monitor, so that this process gives back what it does not use when others need it. It is woken when a
    /// member begins to wait (on Linux; elsewhere it is read four times a second), and answers
    ///
    /// - `Normal` while nobody waits;
    /// - while this process has no more than its fair share (the budget divided by the members): `Warning` if others want more than is
    ///   free, so that what is kept for later goes, and no more; else `Normal`;
    /// - else how much of the budget is leased or wanted.
    ///
    /// The monitor of a manager of the group ([`Config::budget_group`](crate::Config::budget_group)) has it already. Without a monitor a process gives back what it does not use only when it allocates and is refused, or trims.
    #[must_use]
    pub fn pressure_source(&self) -> Box<dyn PressureSource> {
        Box::new(source::GroupPressure::new(self.clone()))
    }

    #[cfg(target_os = "linux")]
    pub(super) fn directory(&self) -> &Directory {
        &self.0.directory
    }

    /// For ledgers: leases `bytes` bytes more, if that can be at once.
    pub(crate) fn charge(&self, bytes: u64) -> bool {
        self.0.take(CHARGE, Demand::Blocks(bytes)).is_ok()
    }

    /// Writes to the log what there is for it. To be called under no lock.
    pub(crate) fn tell(&self) {
        self.0.tell();
    }

    /// For ledgers: gives them back.
    pub(crate) fn refund(&self, bytes: u64) {
        self.0.give_back(Demand::Blocks(bytes));
    }

    /// Whether the group is as it was when it was joined.
    pub(crate) fn check(&self, operation: &'static str) -> Result<(), Error> {
        self.0.check(operation)
    }

    /// Whether waiting could bring `bytes` bytes of blocks: they are within the quota.
    pub(crate) fn could_have(&self, bytes: u64) -> bool {
        self.0.could_have(Demand::Blocks(bytes))
    }

    /// Gets in line for `bytes` bytes of blocks.
    pub(crate) fn wait_for(&self, bytes: u64) -> GroupWait {
        GroupWait {
            group: self.clone(),
            bytes,
            nap: LOOK_AGAIN_MIN,
            place: self.0.wait(Demand::Blocks(bytes)),
        }
    }

    /// Who has how much, for messages.
    pub(crate) fn shortage(&self, bytes: u64) -> String {
        let mut text = format!(
            "the budget group {} has not {bytes} bytes more for this process; of its {} bytes",
            self.path().display(),
            self.budget_bytes()
        );
        match self.status() {
            Ok(status) => {
                let mut members = status.members;
                members.sort_by_key(|member| std::cmp::Reverse(member.leased_bytes));
                for member in members.iter().take(NAMED_MEMBERS) {
                    let own = if member.is_own { " (this one)" } else { "" };
                    let _ = write!(text, " process {}{own} has {},", member.pid, member.leased_bytes);
                }
                if members.len() > NAMED_MEMBERS {
                    let _ = write!(text, " {} others have less,", members.len() - NAMED_MEMBERS);
                }
                let _ = write!(text, " and one process may have {}", self.quota_bytes());
            }
            Err(error) => {
                let _ = write!(text, " nobody can tell who has them: {error}");
            }
        }
        text
    }
}

/// The group's own file, and what it says.
pub(super) fn group_in(operation: &'static str, directory: &Directory) -> Result<(File, GroupRecord), Error> {
    let path = directory.path().display();
    let Some((file, record)) = directory.open_group(operation)? else {
        let message =
            format!("there is no budget group in {path}; the first process makes one with BudgetGroup::join");
        return Err(Error::new(ErrorKind::Configuration, operation, message));
    };
    if !is_possible(&record) {
        return Err(broken(operation, format!("the budget group {path} has a budget that cannot be")));
    }
    Ok((file, record))
}

fn is_possible(record: &GroupRecord) -> bool {
    (1..=BUDGET_BYTES_MAX).contains(&record.budget_bytes)
        && (1..=record.budget_bytes).contains(&record.quota_bytes)
}

/// What an explicit lease keeps.
#[derive(Debug)]
pub(super) struct LeaseHold(Arc<Membership>);

impl LeaseHold {
    pub(super) fn give_back(&self, bytes: u64) {
        self.0.give_back(Demand::Lease(bytes));
    }
}

/// An allocation's place in the group's line, until it is dropped.
#[derive(Debug)]
pub(crate) struct GroupWait {
    group: BudgetGroup,
    bytes: u64,
    nap: Duration,
    place: Waiting,
}

impl GroupWait {
    /// Wakes the other processes again, now and then.
    pub(crate) fn remind(&mut self) {
        self.place.remind();
    }

    /// Waits until the bytes may be had; false if `deadline` comes first.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.remind();
            std::thread::sleep(self.nap.min(left));
            self.nap = (2 * self.nap).min(LOOK_AGAIN_MAX);
            if self.group.0.would_grant(CHARGE, Demand::Blocks(self.bytes)) {
                return true;
            }
        }
    }
}
