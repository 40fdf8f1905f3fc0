//! What a group's members have, for a process that is none of them.

use super::directory::{Directory, FileId, broken};
use super::group::group_in;
use super::peers::{OwnFile, Peers};
use super::{GroupStatus, MemberStatus};
use aquifer_backend::Error;

/// Reads all members' records. This process must not be a member, nor become one meanwhile: to close its own file would end its
/// lock.
pub(super) fn from_outside(operation: &'static str, directory: &Directory) -> Result<GroupStatus, Error> {
    let (file, group) = group_in(operation, directory)?;
    // None of the members' files is this process's own. The group's, which is no member's, stands in its place.
    let id = FileId::of(&file).map_err(|errno| broken(operation, errno.to_string()))?;
    let none = OwnFile { name: c"group".to_owned(), id };
    let mut peers = Peers::default();
    let mut seen = peers.look(operation, directory, &none, 0, &group)?;
    if peers.remove_dead(directory) {
        seen = peers.look(operation, directory, &none, 0, &group)?;
    }
    let members = seen.into_iter().map(|seen| MemberStatus {
        pid: seen.process,
        leased_bytes: seen.standing.leased_bytes,
        wanted_bytes: seen.standing.wanted_bytes,
        is_own: false,
    });
    Ok(GroupStatus { budget_bytes: group.budget_bytes, members: members.collect() })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::budget_group::record::MemberRecord;
    use crate::{BudgetGroup, BudgetGroupDesc};
    use aquifer_backend::ErrorKind;
    use std::time::Duration;

    #[test]
    fn a_folder_without_a_group_is_told() {
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), &folder.path().join("none")] {
            let error = BudgetGroup::look(path).unwrap_err();
            assert_eq!((error.kind(), error.operation()), (ErrorKind::Configuration, "BudgetGroup::look"));
            assert!(error.message().contains(path.to_str().unwrap()), "{error}");
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_member_that_looks_stays_one() {
        let folder = tempfile::tempdir().unwrap();
        let group = BudgetGroup::join(folder.path(), &BudgetGroupDesc::new(1000)).unwrap();
        let _lease = group.lease(300, Duration::ZERO).unwrap();
        let status = BudgetGroup::look(folder.path()).unwrap();
        assert_eq!(status, group.status().unwrap());
        assert_eq!((status.leased_bytes(), status.members.len(), status.members[0].is_own), (300, 1, true));
    }

    #[test]
    fn nobody_joins_by_looking_and_the_dead_are_not_members() {
        let folder = tempfile::tempdir().unwrap();
        drop(BudgetGroup::join(folder.path(), &BudgetGroupDesc::new(1000)).unwrap());
        let record = MemberRecord { sequence: 1, leased_bytes: 5, ..MemberRecord::default() };
        // Nobody holds its lock.
        std::fs::write(folder.path().join("member-1-00"), record.encode()).unwrap();
        let status = BudgetGroup::look(folder.path()).unwrap();
        assert_eq!((status.budget_bytes, status.members), (1000, Vec::new()));
        let names: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["group"]);
    }
}
