//! Who keeps what it does not use is ended by the kernel when it wants more; with a monitor it lives.

use crate::child::{Child, do_part, resident_bytes, say};
use crate::common::skipped;
use crate::groups::Group;
use crate::kernel::{has_swap, kills};
use crate::{MIB, from_environment, one_at_a_time};
use aquifer::pressure::{PressureOptions, system_sources};
use aquifer::{HostMemoryManager, PressureMonitor};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

const LIMIT_BYTES: u64 = 128 * MIB;
/// What the manager keeps when the other phase begins: too little for any threshold,
const IDLE_BYTES: u64 = 72 * MIB;
/// and what that phase takes: with the former too much, alone not.
const OTHER_BYTES: u64 = 96 * MIB;
const TEST: &str = "survival::a_monitor_is_what_it_takes";

/// What the child does: it uses much through the manager, and then much without it, as when another library has its turn.
fn use_much_twice(part: &str) {
    // In MiB a second: so fast that the last 15 % of the limit, where the monitor acts, last for some readings.
    let pause = Duration::from_secs(1) / from_environment("AQUIFER_TEST_GROWTH", 64) as u32;
    let manager = HostMemoryManager::builder().build().unwrap();
    let monitor = (part == "watched").then(|| {
        PressureMonitor::new(&manager, system_sources(&PressureOptions::default()).into_all()).unwrap()
    });
    for bytes in [MIB, 4 * MIB, 8 * MIB] {
        let count = IDLE_BYTES / 3 / bytes;
        let buffers: Vec<_> = (0..count).map(|_| manager.allocate(bytes).unwrap()).collect();
        buffers.into_iter().for_each(|mut buffer| buffer.fill(1).unwrap());
    }
    let start = Instant::now();
    let mut other: Vec<u8> = Vec::with_capacity(OTHER_BYTES as usize);
    while other.len() < other.capacity() {
        other.resize(other.len() + MIB as usize, 1);
        std::thread::sleep(pause);
    }
    let level = monitor.map(|monitor| monitor.level());
    let (resident, took) = (resident_bytes("self") / MIB, start.elapsed());
    say(format!("{} MiB in {took:.1?}, then {resident} MiB resident, {level:?}", OTHER_BYTES / MIB));
}

/// How it ends, the last that it says, and how many processes the kernel has ended.
fn outcome(part: &str) -> Result<(ExitStatus, Option<String>, u64), String> {
    let group = Group::version_1()?;
    std::fs::write(group.file("memory.limit_in_bytes"), LIMIT_BYTES.to_string()).unwrap();
    kills(&group)?;
    let mut child = Child::start(TEST, part, &[&group])?;
    let said = child.next_line();
    let status = child.wait();
    Ok((status, said, kills(&group)?))
}

#[test]
fn a_monitor_is_what_it_takes() {
    do_part(use_much_twice);
    let _turn = one_at_a_time();
    if has_swap() {
        return skipped("where there is swap memory is slow before it is short");
    }
    let (alone, watched) = std::thread::scope(|scope| {
        let alone = scope.spawn(|| outcome("alone"));
        (alone.join().unwrap(), outcome("watched"))
    });
    match (alone, watched) {
        (Ok((alone, said, alone_kills)), Ok((watched, watched_said, watched_kills))) => {
            assert_eq!((alone.signal(), said, alone_kills), (Some(9), None, 1), "{alone}");
            assert!(watched.success() && watched_kills == 0, "{watched}, {watched_kills} killed");
            println!("it survives: {}", watched_said.unwrap());
        }
        (alone, watched) => {
            let why = [alone.err(), watched.err()].into_iter().flatten().next();
            skipped(why.unwrap());
        }
    }
}
