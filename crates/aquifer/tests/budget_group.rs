//! Six processes that each want three quarters of one budget, and are killed at random points.
//!
//! Each has a file of its own, its *cell*, in which it keeps what it has reserved, past the group's records: written after a block was
//! made and before one goes, so never above the truth. Whoever has just made a block looks at all cells at one moment, and finds that
//! their sum is within the budget.
//!
//! `AQUIFER_TEST_RUNS` is how many runs there are, `AQUIFER_TEST_SEED` where they begin.
#![cfg(unix)]

use aquifer::{BudgetGroup, BudgetGroupDesc, ErrorKind, HostMemoryManager, PressureMonitor};
use rustix::fs::{FlockOperation, fcntl_lock};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const MIB: u64 = 1 << 20;
/// Host memory takes none where nobody touches it.
const BUDGET_BYTES: u64 = 1024 * MIB;
const DEMAND_BYTES: u64 = BUDGET_BYTES / 4 * 3;
const BLOCKS: u64 = 6;
const PROCESSES: u64 = 6;
const ROUNDS: u64 = 3;
/// A bound that only a hanging run meets.
const LONG: Duration = Duration::from_secs(60);
const DEFAULT_RUNS: u64 = 3;

const DIRECTORY: &str = "AQUIFER_TEST_GROUP_DIRECTORY";
const NUMBER: &str = "AQUIFER_TEST_GROUP_NUMBER";
const SEED: &str = "AQUIFER_TEST_GROUP_SEED";

/// Marsaglia's xorshift.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

fn now_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What all processes have reserved, as they say themselves.
struct Cells {
    own: File,
    own_number: u64,
    written: u64,
    others: Vec<File>,
}

impl Cells {
    fn path(directory: &Path, number: u64) -> PathBuf {
        directory.join(format!("cell-{number}"))
    }

    /// Opened before the group is joined: the kernel closes files in the order of their numbers, so the lock on a dead process's
    /// cell goes before that on its lease.
    fn open(directory: &Path, own_number: u64) -> Self {
        let open =
            |number| File::options().read(true).write(true).open(Self::path(directory, number)).unwrap();
        let own = open(own_number);
        fcntl_lock(&own, FlockOperation::NonBlockingLockExclusive).unwrap();
        let others = (0..PROCESSES).filter(|&number| number != own_number).map(open).collect();
        Self { own, own_number, written: 0, others }
    }

    fn set(&mut self, bytes: u64) {
        self.written += 1;
        let mut cell = [0; 16];
        cell[..8].copy_from_slice(&self.written.to_le_bytes());
        cell[8..].copy_from_slice(&bytes.to_le_bytes());
        self.own.write_all_at(&cell, 0).unwrap();
    }

    /// What the others have, and how often they have said so; nothing for the dead.
    fn read(&self) -> Vec<(u64, u64)> {
        let read = |cell: &File| {
            if fcntl_lock(cell, FlockOperation::NonBlockingLockShared).is_ok() {
                fcntl_lock(cell, FlockOperation::NonBlockingUnlock).unwrap();
                return (0, 0);
            }
            let mut words = [0; 16];
            cell.read_exact_at(&mut words, 0).unwrap();
            let (written, bytes) = words.split_at(8);
            let number = |word: &[u8]| u64::from_le_bytes(word.try_into().unwrap());
            (number(written), number(bytes))
        };
        self.others.iter().map(read).collect()
    }

    /// Looks at all cells until nothing changes between two looks, which is then what they were at one moment. (Nobody counts as dead
    /// and lives again.)
    fn check(&mut self, own_bytes: u64) {
        self.set(own_bytes);
        let mut last = self.read();
        loop {
            let next = self.read();
            if next == last {
                let sum = own_bytes + next.iter().map(|(_, bytes)| bytes).sum::<u64>();
                assert!(sum <= BUDGET_BYTES, "{sum} bytes are reserved: {own_bytes} here, {next:?}");
                return;
            }
            last = next;
        }
    }
}

/// Tells the parent. The test harness has written half a line before.
fn tell(what: &str, number: u64) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n@{what} {number}").unwrap();
    out.flush().unwrap();
}

/// One of the six. Those with an even number know what they will need, and lease it before they allocate block by block. The others
/// wait for it as one allocation.
#[test]
fn member() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let number: u64 = std::env::var(NUMBER).unwrap().parse().unwrap();
    let mut random = Random(std::env::var(SEED).unwrap().parse().unwrap());
    let mut cells = Cells::open(&directory, number);
    let group = BudgetGroup::join(directory.join("group"), &BudgetGroupDesc::new(BUDGET_BYTES)).unwrap();
    let manager = HostMemoryManager::builder()
        .budget_bytes(BUDGET_BYTES)
        .budget_group(&group)
        .build()
        .expect("there is host memory");
    for _ in 0..ROUNDS {
        if cells.own_number.is_multiple_of(2) {
            let lease = group.lease(DEMAND_BYTES, LONG).unwrap();
            tell("turn", now_ns());
            let mut buffers = Vec::new();
            for _ in 0..BLOCKS {
                buffers.push(manager.allocate(DEMAND_BYTES / BLOCKS).unwrap());
                cells.check(manager.statistics().reserved.current);
            }
            std::thread::sleep(Duration::from_micros(random.below(3000)));
            cells.set(0);
            drop(buffers);
            manager.trim();
            drop(lease);
        } else {
            let buffer = manager.allocate_async(DEMAND_BYTES).timeout(LONG).wait().unwrap();
            tell("turn", now_ns());
            cells.check(manager.statistics().reserved.current);
            std::thread::sleep(Duration::from_micros(random.below(3000)));
            cells.set(0);
            drop(buffer);
            manager.trim();
        }
        assert_eq!(manager.statistics().reserved.current, 0);
    }
    tell("done", now_ns());
}

fn start(directory: &Path, number: u64, seed: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "member", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory)
        .env(NUMBER, number.to_string())
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The longest time from a kill to the next turn of another process, if any waited.
fn run(seed: u64) -> Duration {
    let mut random = Random(seed);
    let directory =
        tempfile::tempdir_in(if Path::new("/dev/shm").is_dir() { "/dev/shm" } else { "/tmp" }).unwrap();
    for number in 0..PROCESSES {
        std::fs::write(Cells::path(directory.path(), number), [0; 16]).unwrap();
    }
    let mut children: Vec<Child> = (0..PROCESSES)
        .map(|number| start(directory.path(), number, seed ^ (number + 1).wrapping_mul(0x9e37_79b9)))
        .collect();
    let mut kills = Vec::new();
    for _ in 0..1 + random.below(2) {
        std::thread::sleep(Duration::from_micros(random.below(150_000)));
        let victim = random.below(PROCESSES) as usize;
        kills.push((victim, now_ns()));
        children[victim].kill().unwrap();
    }
    let mut turns = Vec::new();
    for (number, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().unwrap();
        let (text, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let is_victim = kills.iter().any(|&(victim, _)| victim == number);
        assert!(is_victim || output.status.success(), "seed {seed}, process {number}: {text}\n{errors}");
        // One that is killed may have panicked before, which a kill must not hide.
        assert!(!errors.contains("panicked"), "seed {seed}, process {number}: {text}\n{errors}");
        let own = text.lines().filter_map(|line| line.strip_prefix("@turn "));
        turns.extend(own.map(|turn| (number, turn.parse::<u64>().unwrap())));
        assert!(is_victim || text.contains("@done "), "seed {seed}, process {number}: {text}");
    }
    let group = directory.path().join("group");
    let left = BudgetGroup::open(&group).unwrap();
    assert_eq!(left.status().unwrap().leased_bytes(), 0, "seed {seed}: what the dead had is free");
    let longest = kills.iter().filter_map(|&(victim, killed_ns)| {
        let later = turns.iter().filter(|&&(number, turn_ns)| number != victim && turn_ns > killed_ns);
        later.map(|&(_, turn_ns)| turn_ns - killed_ns).min()
    });
    Duration::from_nanos(longest.max().unwrap_or(0))
}

#[test]
fn six_processes_share_a_budget_whoever_dies() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let runs = number("AQUIFER_TEST_RUNS").unwrap_or(DEFAULT_RUNS);
    let first = number("AQUIFER_TEST_SEED").unwrap_or_else(|| now_ns() | 1);
    println!("AQUIFER_TEST_SEED={first}");
    let begun = Instant::now();
    let longest = (0..runs).map(|index| run(first.wrapping_add(2 * index))).max().unwrap_or_default();
    println!("{runs} runs in {:?}; the next turn came within {longest:?} of each kill", begun.elapsed());
    assert!(longest < Duration::from_secs(1), "AQUIFER_TEST_SEED={first}: {longest:?}");
}

/// A process that keeps three quarters of the budget, idle. If it is told to listen, it has a monitor, which
/// gives them back when others need them.
#[test]
fn keeper() {
    let Some(directory) = std::env::var_os(DIRECTORY).map(PathBuf::from) else { return };
    let listens = std::env::var(NUMBER).unwrap() == "listens";
    let group = BudgetGroup::open(directory).unwrap();
    let manager = HostMemoryManager::builder()
        .budget_bytes(BUDGET_BYTES)
        .budget_group(&group)
        .build()
        .expect("there is host memory");
    drop(manager.allocate(DEMAND_BYTES).unwrap());
    assert_eq!(group.status().unwrap().members[0].leased_bytes, DEMAND_BYTES);
    // It has the group's own source.
    let _monitor = listens.then(|| PressureMonitor::new(&manager, Vec::new()).unwrap());
    tell("ready", 0);
    loop {
        std::thread::park();
    }
}

/// Starts [`keeper`] beside a manager of the same group.
fn beside_a_keeper(how: &str) -> (tempfile::TempDir, Killed, HostMemoryManager) {
    let directory = tempfile::tempdir().unwrap();
    let group = BudgetGroup::join(directory.path(), &BudgetGroupDesc::new(BUDGET_BYTES)).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "keeper", "--nocapture", "--test-threads=1"])
        .env(DIRECTORY, directory.path())
        .env(NUMBER, how)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = Killed(child);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().starts_with("@ready")), "the keeper is ready");
    let manager = HostMemoryManager::builder().budget_bytes(BUDGET_BYTES).budget_group(&group);
    (directory, child, manager.build().expect("there is host memory"))
}

/// A child that is killed at the end, whatever comes.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_one_does_not_use_flows_to_who_needs_it() {
    let (_directory, _keeper, manager) = beside_a_keeper("listens");
    let buffer = manager.allocate(DEMAND_BYTES).expect("the other gives back what is idle, within a second");
    assert_eq!(buffer.size_bytes(), DEMAND_BYTES);
}

#[test]
fn who_gets_nothing_is_told_who_has_it() {
    let (_directory, mut keeper, manager) = beside_a_keeper("does not listen");
    let error = manager.allocate(DEMAND_BYTES).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    let (message, keepers) = (error.message(), format!("process {} has {DEMAND_BYTES}", keeper.0.id()));
    assert!(message.contains(&keepers) && message.contains("budget group"), "{message}");
    assert!(error.out_of_memory().is_some());
    // What is free is there for it all the same, and so is the rest when the other dies.
    drop(manager.allocate(BUDGET_BYTES - DEMAND_BYTES).unwrap());
    keeper.0.kill().unwrap();
    drop(manager.allocate(DEMAND_BYTES).expect("a dead process has nothing"));
    assert_eq!(manager.config().budget_group.as_ref().unwrap().status().unwrap().members.len(), 1);
}
