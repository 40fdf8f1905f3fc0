//! What members of a budget group see of each other: processes that do as they are told, and end as they are told.
#![cfg(unix)]

use aquifer_core::{BudgetGroup, BudgetGroupDesc, ErrorKind, PressureLevel, PressureReading};
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const DIRECTORY: &str = "AQUIFER_TEST_GROUP_DIRECTORY";
const DESC: BudgetGroupDesc = BudgetGroupDesc::new(1000);
const NO_TIME: Duration = Duration::ZERO;
/// A bound that only a hanging test meets.
const LONG: Duration = Duration::from_secs(60);
/// Within this, what one gives back or leaves behind is there for others.
const SOON: Duration = Duration::from_secs(1);

/// The other process, if this one was started as one. It reads what to do, a line each, and says what came of it.
#[test]
fn puppet() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(std::path::PathBuf::from) else { return };
    let tell = |what: &str| {
        // The test harness has written half a line before.
        println!("\n@{what}");
        std::io::stdout().flush().unwrap();
    };
    let mut group = None;
    let (mut leases, mut files) = (Vec::new(), Vec::new());
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (what, argument) = line.split_once(' ').unwrap_or((&line, ""));
        match what {
            "join" => group = Some(BudgetGroup::join(&directory, &DESC).unwrap()),
            "lease" => match group.as_ref().unwrap().lease(argument.parse().unwrap(), LONG) {
                Ok(lease) => leases.push(lease),
                Err(error) => return tell(&error.to_string()),
            },
            "drop" => leases.clear(),
            // A member that follows no rule but that its file is locked.
            "forge" => {
                let name = directory.join(format!("member-{}-{argument}", std::process::id()));
                std::fs::write(&name, vec![0x5a; argument.parse().unwrap()]).unwrap();
                let file = std::fs::File::options().read(true).write(true).open(name).unwrap();
                rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::LockExclusive).unwrap();
                files.push(file);
            }
            other => panic!("{other}"),
        }
        tell(what);
    }
}

struct Puppet {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Puppet {
    fn new(directory: &TempDir) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "puppet", "--nocapture", "--test-threads=1"])
            .env(DIRECTORY, directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let orders = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, orders, answers }
    }

    fn begin(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    /// Waits for the end of what was begun.
    fn end(&mut self) {
        let answer = self.answers.find_map(|line| line.unwrap().strip_prefix('@').map(str::to_owned));
        let answer = answer.expect("it answers");
        assert!(["join", "lease", "drop", "forge"].contains(&&*answer), "{answer}");
    }

    fn does(&mut self, order: &str) {
        self.begin(order);
        self.end();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.child.id() as i32).unwrap(), signal).unwrap();
    }

    /// Stops it, and waits until it stands still: until then it may begin a claim, which it would keep up for as long.
    fn stop(&self) {
        self.signal(Signal::STOP);
        let pid = Pid::from_raw(self.child.id() as i32).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped(), "{status:?}");
    }

    fn leased(&self, group: &BudgetGroup) -> (u64, u64) {
        let status = group.status().unwrap();
        let own = status.members.iter().find(|member| member.pid == self.child.id());
        own.map(|own| (own.leased_bytes, own.wanted_bytes)).expect("it is a member")
    }

    /// Waits until it stands in the line.
    fn waits_for(&self, group: &BudgetGroup, bytes: u64) {
        let begun = Instant::now();
        while self.leased(group).1 != bytes {
            assert!(begun.elapsed() < LONG, "it does not wait");
            std::thread::yield_now();
        }
    }
}

impl Drop for Puppet {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn group() -> (TempDir, BudgetGroup) {
    let directory = tempfile::tempdir().unwrap();
    let group = BudgetGroup::join(directory.path(), &DESC).unwrap();
    (directory, group)
}

fn member(directory: &TempDir) -> Puppet {
    let mut puppet = Puppet::new(directory);
    puppet.does("join");
    puppet
}

#[test]
fn what_one_has_the_other_has_not() {
    let (directory, group) = group();
    let mut other = member(&directory);
    other.does("lease 700");
    let error = group.lease(301, NO_TIME).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert!(error.message().contains(&format!("process {} has 700", other.child.id())), "{error}");
    let lease = group.lease(300, NO_TIME).unwrap();
    assert_eq!((group.status().unwrap().leased_bytes(), other.leased(&group)), (1000, (700, 0)));
    other.begin("lease 300");
    other.waits_for(&group, 300);
    drop(lease);
    other.end();
    assert_eq!(other.leased(&group), (1000, 0));
    other.does("drop");
    drop(group.lease(1000, NO_TIME).unwrap());
}

#[test]
fn what_the_killed_had_is_there_for_others() {
    let (directory, group) = group();
    let (mut holder, mut waiter) = (member(&directory), member(&directory));
    holder.does("lease 750");
    waiter.begin("lease 750");
    waiter.waits_for(&group, 750);
    // Both the lease and the place in the line go.
    holder.signal(Signal::KILL);
    waiter.signal(Signal::KILL);
    let begun = Instant::now();
    let lease = group.lease(1000, LONG).unwrap();
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!((lease.bytes(), group.status().unwrap().members.len()), (1000, 1));
}

#[test]
fn who_is_stopped_while_it_waits_is_passed_over() {
    let (directory, group) = group();
    let (mut holder, mut waiter) = (member(&directory), member(&directory));
    holder.does("lease 750");
    waiter.begin("lease 750");
    waiter.waits_for(&group, 750);
    waiter.stop();
    holder.does("drop");
    drop(group.lease(1000, LONG).unwrap());
    waiter.signal(Signal::CONT);
    waiter.end();
    assert_eq!(waiter.leased(&group), (750, 0));
}

#[test]
fn nonsense_counts_as_a_quota_for_as_long_as_its_owner_lives() {
    for bytes in ["0", "64", "65", "9999"] {
        let directory = tempfile::tempdir().unwrap();
        let group = BudgetGroup::join(directory.path(), &DESC.quota_bytes(400)).unwrap();
        let mut stranger = Puppet::new(&directory);
        stranger.does(&format!("forge {bytes}"));
        let lease = group.lease(400, NO_TIME).unwrap();
        assert_eq!(group.status().unwrap().leased_bytes(), 800);
        let mut second = Puppet::new(&directory);
        second.does(&format!("forge {bytes}"));
        drop(lease);
        assert_eq!(group.lease(201, NO_TIME).unwrap_err().kind(), ErrorKind::TimedOut);
        drop(group.lease(200, NO_TIME).unwrap());
        drop((stranger, second));
        drop(group.lease(400, NO_TIME).unwrap());
        assert_eq!(group.status().unwrap().members.len(), 1, "their files are gone");
    }
}

#[test]
fn who_has_more_than_its_share_is_told_when_another_waits() {
    let (directory, group) = group();
    let (mut small, mut waiter) = (member(&directory), member(&directory));
    let mut source = group.pressure_source();
    source.start(&aquifer_core::PressureNotifier::new(|| {})).unwrap();
    small.does("lease 100");
    let lease = group.lease(700, NO_TIME).unwrap();
    assert_eq!(source.read().unwrap(), PressureReading::Level(PressureLevel::Normal), "nobody waits");
    waiter.begin("lease 500");
    waiter.waits_for(&group, 500);
    assert_eq!(source.read().unwrap(), PressureReading::Usage { used_bytes: 1000, limit_bytes: 1000 });
    drop(lease);
    waiter.end();
    let _lease = group.lease(300, NO_TIME).unwrap();
    assert_eq!(source.read().unwrap(), PressureReading::Level(PressureLevel::Normal));
    small.begin("lease 200");
    small.waits_for(&group, 200);
    assert_eq!(source.read().unwrap(), PressureReading::Level(PressureLevel::Warning));
}

/// The child must not touch what is its parent's; its parent goes on as if there had been none.
#[test]
fn a_forked_process_is_no_member() {
    let (directory, group) = group();
    let lease = group.lease(600, NO_TIME).unwrap();
    // SAFETY: the child uses no lock that another thread of this process could hold: a membership in a forked process answers
    // before it takes any, and it ends without running anything else of this process's.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let is_refused = group.lease(1, NO_TIME).is_err_and(|error| error.kind() == ErrorKind::Forked);
        drop((lease, group));
        // SAFETY: ends the process, whatever the state of its memory.
        unsafe { libc::_exit(if is_refused { 0 } else { 1 }) };
    }
    let child = Pid::from_raw(child).expect("the system can fork");
    let (_, status) = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())
        .unwrap()
        .expect("the child ends");
    assert_eq!(status.exit_status(), Some(0));
    let mut other = member(&directory);
    assert_eq!(group.status().unwrap().leased_bytes(), 600);
    other.begin("lease 401");
    other.waits_for(&group, 401);
    drop(lease);
    other.end();
}
