//! A trace whose frees complete later, more at a time than a device runs streams.

#![cfg(target_os = "linux")]

mod common;

use aquifer_core::trace::{ReplayDevice, ReplayOptions, Trace, replay_on};
use aquifer_core::{Buffer, Config, Error, MemoryManager, Queue};
use aquifer_cuda::{Cuda, ValueHold};
use software_cuda::Settings;
use std::fmt::Write;
use std::time::Duration;

/// How many frees are outstanding at once.
const COUNT: usize = 24;
/// What real devices run at a time.
const CONNECTIONS: u32 = 8;

/// As the facade's replays on CUDA are: values are held, not streams.
struct HeldValues;

impl ReplayDevice<Cuda> for HeldValues {
    type Hold = ValueHold;

    fn hold(&self, queue: &Queue<Cuda>, _buffer: &Buffer<Cuda>, _until_us: u64) -> Result<ValueHold, Error> {
        Ok(queue.raw().hold_value())
    }

    fn release(&self, queue: &Queue<Cuda>, holds: Vec<ValueHold>) {
        drop(holds);
        queue.raw().wait_idle();
    }
}

#[test]
fn more_queues_are_busy_than_the_device_runs_streams() {
    if !common::is_real() {
        let settings = Settings { connections: CONNECTIONS, ..Settings::default() };
        assert!(software_cuda::configure(&settings));
    }
    let mut lines = String::from("t_us,op,id,bytes,stream\n");
    (0..COUNT).for_each(|id| writeln!(lines, "{id},a,{id},65536,0").expect("strings take all"));
    (0..COUNT).for_each(|id| writeln!(lines, "{},f,{id},0,0", 1000 + id).expect("strings take all"));
    // The last one is let go first: were its stream behind one that is held, it would never come.
    for (at, id) in (0..COUNT).rev().enumerate() {
        writeln!(lines, "{},c,{id},0,0", 10_000 + 1000 * at).expect("strings take all");
        // Completions with nothing between would share a queue.
        writeln!(lines, "{},a,{},4096,1", 10_000 + 1000 * at, COUNT + at).expect("strings take all");
    }
    let trace = Trace::read("test", lines.as_bytes()).unwrap();
    let mut config = Config::default();
    config.budget_bytes = Some(256 << 20);
    config.reaper = false;
    config.in_flight_wait = Duration::ZERO;
    let manager = MemoryManager::with_config(common::cuda(), config).unwrap();
    let outcome = replay_on(&manager, &trace, &ReplayOptions::default(), &HeldValues).unwrap();
    assert_eq!(outcome.statistics.deallocation_count, COUNT as u64);
    manager.settle();
    assert_eq!(manager.statistics().quarantined_bytes, 0);
}
