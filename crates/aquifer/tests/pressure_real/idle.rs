//! A program that uses its memory no more: it gives it back, and its monitor sleeps.

use crate::child::{Child, await_line, do_part, resident_bytes, say};
use crate::common::skipped;
use crate::groups::{Group, LONG};
use crate::kernel::{monitor_threads, thread_status};
use crate::scripted::until;
use crate::{MIB, from_environment};
use aquifer::pressure::{PressureOptions, system_sources};
use aquifer::{Buffer, Config, Host, HostMemoryManager, PressureMonitor};
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

const DECAY: Duration = Duration::from_millis(300);
/// The large buffers, so many of each that they are 7/8 of the peak.
const LARGE: [u64; 5] = [32 * MIB, 15 * MIB, 6 * MIB, 2 * MIB, MIB];
/// The small ones are of so many threads.
const THREADS: u64 = 4;
/// Of so many small buffers one stays.
const STAYS_OF: usize = 512;
/// What may be left of it, in bytes: where a page of a block holds something, lists, stacks.
const LEFT_BYTES_MAX: u64 = 64 * MIB;

fn touched(manager: &HostMemoryManager, bytes: u64) -> Buffer<Host> {
    let mut buffer = manager.allocate(bytes).unwrap();
    buffer.fill(0x5a).unwrap();
    buffer
}

/// Small buffers of all sizes that a thread keeps for itself when they are freed.
fn small_buffers(manager: &HostMemoryManager, bytes: u64) -> Vec<Buffer<Host>> {
    let mut left_bytes = bytes;
    let sizes = [1 << 10, 4 << 10, 16 << 10, 64 << 10, 3000].into_iter().cycle();
    let sizes = sizes.take_while(|&size| {
        let is_wanted = left_bytes > 0;
        left_bytes = left_bytes.saturating_sub(size);
        is_wanted
    });
    sizes.map(|size| touched(manager, size)).collect()
}

/// A few of them, from everywhere.
fn thin_out(buffers: Vec<Buffer<Host>>) -> Vec<Buffer<Host>> {
    buffers.into_iter().enumerate().filter(|(place, _)| place % STAYS_OF == 0).map(|(_, one)| one).collect()
}

/// Peaks, goes idle, and says how long it took until the memory had been given back.
fn peak_and_rest(_part: &str) {
    let peak_bytes = from_environment("AQUIFER_TEST_PEAK_MIB", 512) * MIB;
    let start_bytes = resident_bytes("self");
    let manager = HostMemoryManager::builder().idle_decay(DECAY).build().unwrap();
    let _monitor = PressureMonitor::new(&manager, Vec::new()).unwrap();
    let step = Barrier::new(THREADS as usize + 1);
    thread::scope(|scope| {
        for _ in 0..THREADS {
            // The threads live on, with what they keep for themselves.
            scope.spawn(|| {
                let buffers = small_buffers(&manager, peak_bytes / 8 / THREADS);
                step.wait();
                step.wait();
                let stay = thin_out(buffers);
                step.wait();
                step.wait();
                let is_whole =
                    |buffer: &Buffer<Host>| buffer.as_slice::<u8>().unwrap().iter().all(|&byte| byte == 0x5a);
                assert!(stay.iter().all(is_whole));
            });
        }
        let mut large = Vec::new();
        for _ in 0..peak_bytes / 8 * 7 / LARGE.iter().sum::<u64>() {
            large.extend(LARGE.map(|bytes| touched(&manager, bytes)));
        }
        step.wait();
        let peak = resident_bytes("self");
        assert!(peak > peak_bytes / 16 * 15, "{peak}");
        step.wait();
        drop(large);
        step.wait();
        let idle = Instant::now();
        while resident_bytes("self") > start_bytes + LEFT_BYTES_MAX {
            assert!(idle.elapsed() < LONG, "{} MiB stay", resident_bytes("self") / MIB);
            thread::sleep(Duration::from_millis(1));
        }
        let took = idle.elapsed();
        let left = resident_bytes("self").saturating_sub(start_bytes) / MIB;
        let live = manager.statistics().live_count();
        let peak_mib = peak / MIB;
        say(format!("peak {peak_mib} MiB; {took:.1?} later {left} MiB above the start, with {live} buffers"));
        assert!(live >= THREADS, "{live} buffers stay");
        // Half as long again, a tick, and what the machine itself takes to unmap it and to run the threads.
        let tick = manager.config().pressure.tick;
        assert!(took < DECAY * 3 / 2 + tick + Duration::from_secs(1), "{took:?}");
        step.wait();
    });
}

#[test]
fn memory_goes_back_after_its_time() {
    do_part(peak_and_rest);
    let child = Child::start("idle::memory_goes_back_after_its_time", "it", &[]).unwrap();
    assert!(child.wait().success());
}

/// Says how often the monitor's thread has slept, and whether memory was short meanwhile.
fn be_still(_part: &str) {
    let manager = HostMemoryManager::with_config(Host::new().unwrap(), Config::default()).unwrap();
    let sources = system_sources(&PressureOptions::default()).into_all();
    let _monitor = PressureMonitor::new(&manager, sources).unwrap();
    drop(touched(&manager, 16 * MIB));
    // It names itself when it begins to run.
    until("its thread", || monitor_threads().len() == 1);
    let thread = monitor_threads()[0];
    let switches = || thread_status(thread, "voluntary_ctxt_switches");
    let before = switches();
    thread::sleep(Duration::from_secs(2));
    let after = switches();
    say(format!("{} {}", after - before, manager.statistics().pressure.rise_count));
    await_line();
}

#[test]
fn a_monitor_sleeps_when_nothing_happens() {
    do_part(be_still);
    // With a limit there are more sources.
    let group = Group::version_1().map_err(|why| skipped(format!("a limit: {why}"))).ok();
    let test = "idle::a_monitor_sleeps_when_nothing_happens";
    let started = Child::start(test, "it", &group.iter().collect::<Vec<_>>());
    let mut child = match started {
        Ok(child) => child,
        Err(why) => return skipped(why),
    };
    let said = child.hear();
    let (wakes, rises) = said.split_once(' ').unwrap();
    println!("{wakes} wake-ups in 2 s, short {rises} times");
    // While memory is short, because of others, it reads ten times a second.
    let wakes_max = if rises == "0" { 20 } else { 60 };
    assert!(wakes.parse::<u64>().unwrap() < wakes_max, "{said}");
}
