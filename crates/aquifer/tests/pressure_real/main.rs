//! The pressure monitor on this machine: memory that the kernel finds short, processes that it ends, signals, forks, idleness.
//!
//! Whatever is measured is in a process of its own, which is this program once more ([`child`]): resident memory, signal handlers
//! and the kernel's verdict are a process's, and the tests of one program share theirs. `AQUIFER_TEST_RUNS` (how often a reaction
//! is measured) and `AQUIFER_TEST_PEAK_MIB` (the peak before the idle time) make the tests longer; with `--nocapture` they say what
//! they have measured.

#![cfg(target_os = "linux")]

mod child;
#[path = "../../../aquifer-host/tests/common/mod.rs"]
mod common;
mod fork;
#[path = "../../../aquifer-host/tests/pressure/groups.rs"]
#[allow(dead_code, reason = "version 2's are of use to some tests only")]
mod groups;
mod idle;
mod kernel;
mod reaction;
mod scripted;
mod signals;
mod survival;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

// The system's sources are Apple's, too, with this feature, and the device in software comes with the program that links it.
#[cfg(feature = "software-metal")]
use software_metal as _;

const MIB: u64 = 1 << 20;

/// One test at a time makes memory short: stalls in one group are the machine's too, which all are told of.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number from the environment.
fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// The least, the median and the greatest.
fn spread(mut times: Vec<Duration>) -> String {
    times.sort();
    let (count, middle) = (times.len(), times[times.len() / 2]);
    format!("{count} runs: {:.1?} at least, {middle:.1?} median, {:.1?} at most", times[0], times[count - 1])
}
