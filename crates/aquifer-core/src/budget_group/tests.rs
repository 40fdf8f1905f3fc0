//! One process alone with a group, and what can be done to its files. Several processes: `tests/budget_group.rs`.

use super::directory::Directory;
use super::record::{GroupRecord, MemberRecord, RECORD_BYTES, VERSION};
use super::{BudgetGroup, BudgetGroupDesc};
use aquifer_backend::ErrorKind;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const NO_TIME: Duration = Duration::ZERO;
const DESC: BudgetGroupDesc = BudgetGroupDesc::new(1000).quota_bytes(800);

fn group() -> (TempDir, BudgetGroup) {
    let directory = tempfile::tempdir().unwrap();
    let group = BudgetGroup::join(directory.path().join("group"), &DESC).unwrap();
    (directory, group)
}

/// This process's own file. To open it would end the membership.
fn own_file(group: &BudgetGroup) -> PathBuf {
    let is_member = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().starts_with("member-");
    let mut members =
        fs::read_dir(group.path()).unwrap().map(|entry| entry.unwrap().path()).filter(is_member);
    let own = members.next().expect("the group has a member");
    assert_eq!(members.next(), None, "and no other");
    own
}

fn leased(group: &BudgetGroup) -> u64 {
    group.status().unwrap().leased_bytes()
}

#[test]
fn a_process_is_a_member_once() {
    let (directory, group) = group();
    let path = directory.path().join("group");
    fs::create_dir(directory.path().join("other")).unwrap();
    let same = BudgetGroup::open(directory.path().join("other/../group")).unwrap();
    assert_eq!((same.budget_bytes(), same.quota_bytes()), (1000, 800));
    let lease = same.lease(300, NO_TIME).unwrap();
    let status = group.status().unwrap();
    assert_eq!((status.members.len(), status.leased_bytes(), status.members[0].is_own), (1, 300, true));
    assert_eq!(status.members[0].pid, std::process::id());
    let error = BudgetGroup::join(&path, &BudgetGroupDesc::new(2000)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.message().contains("2000") && error.message().contains("1000"), "{error}");
    drop((group, same));
    let again = BudgetGroup::join(&path, &DESC).unwrap();
    // A lease keeps the membership.
    assert_eq!(leased(&again), 300);
    drop((again, lease));
    let left: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["group"]);
    assert_eq!(leased(&BudgetGroup::open(&path).unwrap()), 0);
}

#[test]
fn what_cannot_be_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    for (budget, quota) in [(0, 0), (10, 0), (10, 11), (u64::MAX, 1)] {
        let desc = BudgetGroupDesc::new(budget).quota_bytes(quota);
        let error = BudgetGroup::join(directory.path(), &desc).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
    }
    let kind = |path: &Path| BudgetGroup::open(path).unwrap_err().kind();
    assert_eq!(kind(directory.path()), ErrorKind::Configuration);
    assert_eq!(kind(&directory.path().join("nowhere")), ErrorKind::Configuration);
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    assert_eq!(kind(&file), ErrorKind::Configuration);
    assert_eq!(BudgetGroup::join(&file, &DESC).unwrap_err().kind(), ErrorKind::Configuration);
    let group_file = directory.path().join("group");
    let newer = GroupRecord { version: VERSION + 1, budget_bytes: 10, quota_bytes: 10 };
    let huge = GroupRecord { version: VERSION, budget_bytes: u64::MAX, quota_bytes: 10 };
    for (content, expected) in [
        (&newer.encode()[..], ErrorKind::Configuration),
        (&huge.encode()[..], ErrorKind::Driver),
        (&MemberRecord::default().encode()[..], ErrorKind::Driver),
        (&[][..], ErrorKind::Driver),
        (&[7; 1000][..], ErrorKind::Driver),
    ] {
        fs::write(&group_file, content).unwrap();
        assert_eq!(kind(directory.path()), expected);
        assert_eq!(BudgetGroup::join(directory.path(), &DESC).unwrap_err().kind(), expected);
    }
}

#[test]
fn leases_and_blocks_share_what_is_leased() {
    let (_directory, group) = group();
    assert_eq!(group.lease(0, NO_TIME).unwrap_err().kind(), ErrorKind::InvalidArgument);
    assert_eq!(group.lease(801, NO_TIME).unwrap_err().kind(), ErrorKind::CanNeverFit);
    let lease = group.lease(500, NO_TIME).unwrap();
    assert!(group.charge(400));
    assert_eq!((leased(&group), lease.bytes()), (500, 500));
    assert!(group.charge(200));
    assert_eq!(leased(&group), 600);
    assert!(!group.charge(201), "that is above the quota");
    assert!(group.could_have(200) && !group.could_have(201));
    assert_eq!(group.lease(301, NO_TIME).unwrap_err().kind(), ErrorKind::CanNeverFit);
    let second = group.lease(300, NO_TIME).unwrap();
    assert_eq!(leased(&group), 800);
    drop(lease);
    assert_eq!(leased(&group), 600, "blocks have more than the lease that is left");
    group.refund(500);
    assert_eq!(leased(&group), 300);
    group.refund(100);
    drop(second);
    assert_eq!(leased(&group), 0);
}

/// Does something to a group's files while 300 bytes are leased: nothing more is, and what was goes back without a word.
fn after(damage: impl FnOnce(&BudgetGroup)) -> (TempDir, BudgetGroup) {
    let (directory, group) = group();
    let lease = group.lease(300, NO_TIME).unwrap();
    damage(&group);
    assert!(!group.charge(400), "nothing more than what was leased");
    assert!(group.charge(200), "but that is there still");
    let error = group.lease(100, Duration::from_secs(5)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Driver);
    assert!(error.message().contains("join anew"), "{error}");
    assert_eq!(group.check("allocate").unwrap_err().kind(), ErrorKind::Driver);
    assert_eq!(group.status().unwrap_err().kind(), ErrorKind::Driver);
    assert!(group.shortage(100).contains("join anew"));
    let mut source = group.pressure_source();
    assert_eq!(source.read().unwrap_err().kind(), ErrorKind::Driver);
    group.refund(200);
    drop(lease);
    (directory, group)
}

#[test]
fn a_removed_directory_is_not_joined_anew_while_a_part_of_it_is_held() {
    let (_directory, group) = group();
    let path = group.path().to_owned();
    let lease = group.lease(600, NO_TIME).unwrap();
    fs::remove_dir_all(&path).unwrap();
    let error = BudgetGroup::join(&path, &DESC).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Driver, "{error}");
    drop((lease, group));
    let _lease = BudgetGroup::join(&path, &DESC).unwrap().lease(800, NO_TIME).unwrap();
}

#[test]
fn removed_files_end_growth_and_joining_anew_helps() {
    after(|group| fs::remove_file(own_file(group)).unwrap());
    let (directory, old) = after(|group| {
        fs::remove_file(group.path().join("group")).unwrap();
        let error = BudgetGroup::join(group.path(), &DESC).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Driver, "not while it has leases");
    });
    let new = BudgetGroup::join(directory.path().join("group"), &DESC).unwrap();
    drop(new.lease(800, NO_TIME).unwrap());
    assert_eq!(old.lease(1, NO_TIME).unwrap_err().kind(), ErrorKind::Driver);
    let (directory, old) = after(|group| fs::remove_dir_all(group.path()).unwrap());
    let new = BudgetGroup::join(directory.path().join("group"), &BudgetGroupDesc::new(50)).unwrap();
    assert_eq!((leased(&new), new.budget_bytes(), old.budget_bytes()), (0, 50, 1000));
    drop(new.lease(50, NO_TIME).unwrap());
}

#[test]
fn a_changed_group_ends_growth() {
    let overwrite =
        |content: Vec<u8>| move |group: &BudgetGroup| fs::write(group.path().join("group"), content).unwrap();
    after(overwrite(Vec::new()));
    after(overwrite(vec![0xff; RECORD_BYTES]));
    after(overwrite(GroupRecord { version: VERSION, budget_bytes: 9999, quota_bytes: 9999 }.encode().into()));
}

#[test]
fn an_own_record_that_was_changed_is_put_right() {
    let (_directory, group) = group();
    let _lease = group.lease(300, NO_TIME).unwrap();
    let forged = MemberRecord { sequence: 1 << 40, ..MemberRecord::default() };
    for content in [vec![], vec![1; 10], vec![2; 1000], forged.encode().into()] {
        // Through another process, since to close the file here would end the membership.
        let scratch = group.path().join("scratch");
        fs::write(&scratch, &content).unwrap();
        let copied = std::process::Command::new("cp").arg(&scratch).arg(own_file(&group)).status().unwrap();
        assert!(copied.success());
        drop(group.lease(100, NO_TIME).expect("there is room"));
        assert_eq!(leased(&group), 300);
        let copied = std::process::Command::new("cp").arg(own_file(&group)).arg(&scratch).status().unwrap();
        assert!(copied.success());
        let record = MemberRecord::decode(&fs::read(&scratch).unwrap()).expect("it is whole again");
        assert_eq!((record.leased_bytes, record.announced_bytes), (300, 300));
    }
}

#[test]
fn what_the_dead_and_strangers_leave_is_no_member() {
    let (_directory, group) = group();
    let own = own_file(&group);
    // As a process would that died between making its file and locking it, or after; and one that died making the group.
    let dead = Directory::open("test", group.path(), false).unwrap();
    let record =
        MemberRecord { sequence: 9, leased_bytes: 800, announced_bytes: 800, ..MemberRecord::default() };
    drop(dead.create_member(&record.encode()).unwrap());
    fs::write(group.path().join("member-1-0"), "").unwrap();
    fs::write(group.path().join("new-group-1-0"), "").unwrap();
    // No member makes these, and none must be hung by them.
    fs::create_dir(group.path().join("member-2-0")).unwrap();
    std::os::unix::fs::symlink("/dev/zero", group.path().join("member-3-0")).unwrap();
    std::os::unix::net::UnixListener::bind(group.path().join("member-4-0")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(group.path().join("member-5-0")).status().unwrap();
    assert!(pipe.success());
    fs::hard_link(own, group.path().join("member-6-0")).unwrap();
    drop(group.lease(800, NO_TIME).unwrap());
    assert_eq!(group.status().unwrap().members.len(), 1);
    let mut left: Vec<_> = fs::read_dir(group.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(&format!("member-{}-", std::process::id())))
        .collect();
    left.sort();
    assert_eq!(left, ["group", "member-2-0", "member-3-0", "member-4-0", "member-5-0", "member-6-0"]);
}

#[test]
fn the_bell_wakes_and_may_be_lost() {
    let (_directory, group) = group();
    let mut source = group.pressure_source();
    assert!(source.name().contains(&group.path().display().to_string()));
    source.start(&aquifer_backend::PressureNotifier::new(|| {})).unwrap();
    assert_eq!(source.read().unwrap(), aquifer_backend::PressureReading::Level(Default::default()));
    if cfg!(target_os = "linux") {
        fs::remove_file(group.path().join("bell")).unwrap();
        assert_eq!(source.read().unwrap_err().kind(), ErrorKind::Driver);
        source.start(&aquifer_backend::PressureNotifier::new(|| {})).unwrap();
        source.read().unwrap();
    }
}
