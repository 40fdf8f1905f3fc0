//! Which groups this process is a member of, so that it is a member of each only once.

use super::directory::{Directory, FileId, broken};
use super::membership::Membership;
use crate::raw::fork::Process;
use crate::sync::StaticMutex;
use aquifer_backend::Error;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// In a forked process a thread may seem to hold the lock that is not there.
const LOCK_WAIT: Duration = Duration::from_secs(5);

static MEMBERSHIPS: StaticMutex<Vec<(FileId, Process, Weak<Membership>)>> = StaticMutex::new(Vec::new());

/// This process's membership of the group in `directory`; `make` makes it if there is none.
pub(super) fn membership(
    directory: Directory,
    make: impl FnOnce(Directory) -> Result<Membership, Error>,
) -> Result<Arc<Membership>, Error> {
    let (id, process) = (directory.id()?, Process::current());
    let Some(mut memberships) = MEMBERSHIPS.try_lock_for(LOCK_WAIT) else {
        let message = "this process was forked while another thread joined a budget group; join before forking, or start the process otherwise";
        return Err(broken("BudgetGroup::join", message));
    };
    memberships.retain(|(_, _, membership)| membership.strong_count() > 0);
    let known = memberships.iter().find(|known| known.0 == id && known.1 == process);
    if let Some(membership) = known.and_then(|(_, _, membership)| membership.upgrade())
        && !membership.is_abandoned()
    {
        return Ok(membership);
    }
    // The directory may hold another group by now, or be another one, in which what the old one has granted would not be counted.
    let is_in_the_way = |known: &FileId, membership: &Membership| {
        (*known == id || membership.directory.path() == directory.path())
            && membership.is_abandoned()
            && membership.leased_bytes() > 0
    };
    let mut own = memberships.iter().filter(|known| known.1 == process);
    if own.any(|known| known.2.upgrade().is_some_and(|membership| is_in_the_way(&known.0, &membership))) {
        let message = format!(
            "somebody has removed files of the budget group {}, of which this process still has a part; drop all its managers \
             and leases before joining anew",
            directory.path().display()
        );
        return Err(broken("BudgetGroup::join", message));
    }
    let membership = Arc::new(make(directory)?);
    memberships.retain(|known| known.0 != id || known.1 != process);
    memberships.push((id, process, Arc::downgrade(&membership)));
    Ok(membership)
}

/// Calls `look` with this process's membership of the group in `directory`, if there is one. Nothing of this process joins a group
/// meanwhile.
pub(super) fn beside<T>(
    directory: &Directory,
    look: impl FnOnce(Option<Arc<Membership>>) -> Result<T, Error>,
) -> Result<T, Error> {
    let (id, process) = (directory.id()?, Process::current());
    let Some(memberships) = MEMBERSHIPS.try_lock_for(LOCK_WAIT) else {
        let message =
            "this process was forked while another thread joined a budget group; start the process otherwise";
        return Err(broken("BudgetGroup::look", message));
    };
    let known = memberships.iter().find(|known| known.0 == id && known.1 == process);
    look(known.and_then(|(_, _, membership)| membership.upgrade()))
}
