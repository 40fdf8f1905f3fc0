//! How many Metal objects recorded traces need: no more than the driver's blocks.
//!
//! With the variable `AQUIFER_TRACES`, the traces (`*.csv.gz`) of that folder are replayed too. Prints a row for each:
//! `cargo test --release -p aquifer-metal --test replay -- --nocapture`.
#![cfg(not(target_vendor = "apple"))]

mod common;
#[path = "common/watched.rs"]
mod watched;

use aquifer_core::trace::{ReplayDevice, ReplayError, ReplayOptions, ReplayOutcome, Trace, replay_on};
use aquifer_core::{Buffer, Config, Error, ErrorKind, MemoryManager, Queue};
use aquifer_metal::{MetalOptions, QueueHold};
use common::assert_nothing_is_left;
use software_metal::{DeviceDesc, SoftwareDevice};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use watched::{BlockCounts, Watched};

const GIB: u64 = 1 << 30;

/// Queues are held back by the host until they are let go.
struct HeldQueues;

impl ReplayDevice<Watched> for HeldQueues {
    type Hold = QueueHold;

    fn hold(
        &self,
        queue: &Queue<Watched>,
        _buffer: &Buffer<Watched>,
        _until_us: u64,
    ) -> Result<QueueHold, Error> {
        queue.raw().hold()
    }

    fn release(&self, queue: &Queue<Watched>, holds: Vec<QueueHold>) {
        drop(holds);
        queue.raw().wait_idle();
    }
}

/// A device with more memory than any trace needs; only what is touched is really there.
fn large_device() -> SoftwareDevice {
    common::device(DeviceDesc {
        working_set_bytes: 256 * GIB,
        memory_bytes: 256 * GIB,
        max_buffer_bytes: 64 * GIB,
        ..DeviceDesc::default()
    })
}

/// A manager on a device whose objects are watched.
struct Scene {
    device: SoftwareDevice,
    watched: Watched,
    manager: MemoryManager<Watched>,
    resource_count_max: u64,
}

impl Scene {
    fn new(resource_count_max: u64) -> Self {
        let device = large_device();
        let most = NonZeroU64::new(resource_count_max).expect("it is not zero");
        let metal = common::metal_with(&device, MetalOptions::default().resource_count_max(most));
        let watched = Watched::new(metal, &device);
        let mut config = Config::default();
        config.budget_bytes = Some(256 * GIB);
        config.reaper = false;
        config.in_flight_wait = Duration::ZERO;
        let manager = MemoryManager::with_config(watched.clone(), config).expect("a budget");
        Self { device, watched, manager, resource_count_max }
    }

    fn replay(&self, trace: &Trace) -> Result<ReplayOutcome, ReplayError> {
        replay_on(&self.manager, trace, &ReplayOptions::default(), &HeldQueues)
    }

    /// Checks what the device had at most, and that nothing of it stays.
    fn end(self) -> (BlockCounts, SoftwareDevice) {
        let Self { device, watched, manager, resource_count_max } = self;
        // All of the trace is free, and the queues have passed it.
        for _ in 0..2 {
            manager.trim();
            manager.settle();
        }
        manager.trim();
        let counts = watched.counts();
        assert_eq!((manager.statistics().reserved.current, counts.live), (0, 0));
        assert_eq!((device.allocated_bytes(), device.live_objects().get("MTLBuffer")), (0, None));
        assert_eq!(counts.created, manager.statistics().driver_calls.create, "nobody else makes blocks");

        let BlockCounts { live_peak, created, .. } = counts;
        assert!(device.memory_objects_peak() <= live_peak, "heaps, and buffers that are not on heaps");
        assert!(device.peak_objects()["MTLBuffer"] <= live_peak);
        assert!(device.resources_peak() <= 2 * live_peak);
        assert!(device.resources_peak() <= resource_count_max);
        let made = device.made_objects();
        assert_eq!(made["MTLBuffer"], created, "one buffer a block");
        assert!(made.get("MTLHeap").is_none_or(|&heaps| heaps <= created));
        drop((manager, watched));
        assert_nothing_is_left();
        (counts, device)
    }
}

/// Replays a trace, checks the counts, and prints them.
fn replay_counted(trace: &Trace) {
    let scene = Scene::new(MetalOptions::default().resource_count_max.get());
    let start = Instant::now();
    let outcome = scene.replay(trace).expect("it fits");
    let elapsed = start.elapsed();
    let (counts, device) = scene.end();
    let (peak, made) = (device.peak_objects(), device.made_objects());
    println!(
        "{}: {} events, {} queues; at most {} blocks, {} heaps, {} buffers, {} heaps and buffers; made {} blocks, {} objects of \
         all kinds; {:.2} s",
        trace.name(),
        trace.events().len(),
        outcome.queue_count,
        counts.live_peak,
        peak.get("MTLHeap").copied().unwrap_or(0),
        peak["MTLBuffer"],
        device.resources_peak(),
        counts.created,
        made.values().sum::<u64>(),
        elapsed.as_secs_f64(),
    );
}

fn shipped() -> Trace {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../traces/moe_train_start.csv.gz");
    Trace::open(path).expect("the trace that ships")
}

#[test]
fn a_trace_needs_no_more_objects_than_blocks() {
    replay_counted(&shipped());
}

/// Where the device makes no more resources, the program is told so, and nothing is lost.
#[test]
fn the_limit_of_resources_is_kept_and_named() {
    let scene = Scene::new(60);
    let error = scene.replay(&shipped()).expect_err("the trace needs more than 30 blocks");
    let ReplayError::Allocation { error, .. } = error else { panic!("{error}") };
    assert_eq!(error.kind(), ErrorKind::OutOfMemory);
    assert!(error.to_string().contains("no more than 30"), "{error}");
    let (counts, _) = scene.end();
    assert_eq!(counts.live_peak, 30);
}

/// Traces too large for the repository; nothing without the variable.
#[test]
fn traces_of_a_folder_need_no_more_objects_than_blocks() {
    let Some(folder) = std::env::var_os("AQUIFER_TRACES") else {
        println!("AQUIFER_TRACES names no folder");
        return;
    };
    let is_trace = |path: &PathBuf| path.to_string_lossy().ends_with(".csv.gz");
    let entries = std::fs::read_dir(&folder).expect("AQUIFER_TRACES is a folder");
    let mut paths: Vec<_> =
        entries.map(|entry| entry.expect("it is listed").path()).filter(is_trace).collect();
    paths.sort();
    assert!(!paths.is_empty(), "no trace in {}", folder.display());
    for path in paths {
        let trace = Trace::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        replay_counted(&trace);
    }
}
