//! What a manager of Metal memory is for, row by row (docs/mission.md), and the faults of the design it grew from, which it has not.

mod common;

use aquifer_core::{Clock, Config, CopyDesc, ErrorKind, MemoryManager};
use aquifer_metal::Metal;
use aquifer_testkit::{Pattern, assert_balanced, config_with_budget};
use common::blocks::{LONG, pattern};
use common::{assert_nothing_is_left, metal};
use std::time::Duration;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn manager_with(config: Config) -> MemoryManager<Metal> {
    MemoryManager::with_config(metal(), config).expect("a budget")
}

fn manager() -> MemoryManager<Metal> {
    manager_with(config_with_budget(1024 * MIB))
}

#[test]
fn buckets_go_from_256_bytes_to_256_mib() {
    {
        let manager = manager();
        let sizes = manager.pool().buckets().iter().map(|bucket| bucket.size_bytes).collect::<Vec<_>>();
        let expected = (8..=28).map(|power| Some(1 << power)).chain([None]);
        assert!(sizes.into_iter().eq(expected));
        for (bytes, of) in [(1, 256), (256, 256), (257, 512), (100_000, 128 * KIB), (256 * MIB, 256 * MIB)] {
            let count = |of| {
                let buckets = manager.pool().buckets();
                buckets.iter().find(|bucket| bucket.size_bytes == Some(of)).map(|bucket| bucket.allocations)
            };
            let before = count(of);
            drop(manager.allocate(bytes).expect("there is room"));
            assert_eq!(count(of), before.map(|count| count + 1), "{bytes} bytes");
        }
    }
    assert_nothing_is_left();
}

#[test]
fn what_is_preallocated_needs_no_call_of_metals() {
    {
        let manager = manager();
        assert!(manager.pool().preallocate(2 * MIB, 8).expect("there is room") >= 16 * MIB);
        let before = manager.statistics().driver_calls;
        let buffers: Vec<_> = (0..8).map(|_| manager.allocate(2 * MIB).expect("it is ready")).collect();
        let statistics = manager.statistics();
        assert_eq!((statistics.driver_calls, statistics.miss_count), (before, 0));
        assert_eq!(statistics.pool_hit_rate(), 1.0);
        drop(buffers);
    }
    assert_nothing_is_left();
}

#[test]
fn hits_misses_and_waste_are_counted_by_bucket() {
    {
        let manager = manager();
        for _ in 0..1000 {
            drop(manager.allocate(3000).expect("there is room"));
        }
        let kept = manager.allocate(3000).expect("there is room");
        let statistics = manager.statistics();
        assert_balanced(&statistics);
        assert_eq!(
            (statistics.allocation_count, statistics.deallocation_count, statistics.miss_count),
            (1001, 1000, 1)
        );
        assert!((statistics.pool_hit_rate() - 1000.0 / 1001.0).abs() < 1e-9);
        let buckets = statistics.buckets();
        let bucket =
            buckets.iter().find(|bucket| bucket.size_bytes == Some(4096)).expect("it is one of them");
        assert_eq!(
            (bucket.allocations, bucket.hits(), bucket.misses, bucket.live_count()),
            (1001, 1000, 1, 1)
        );
        assert_eq!(bucket.requested_bytes, 3000);
        assert!(bucket.waste_total() > 0.0 && bucket.waste_total() < 0.5);
        drop(kept);
    }
    assert_nothing_is_left();
}

/// Fragmentation is that of the free ranges: none while they are one, some when they are apart.
#[test]
fn fragmentation_is_measured() {
    {
        let manager = manager();
        let mut buffers: Vec<_> =
            (0..16).map(|_| manager.allocate(2 * MIB).expect("there is room")).collect();
        let whole = manager.statistics();
        let mut index = 0;
        buffers.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        let holed = manager.statistics();
        assert!(holed.free_range_count > whole.free_range_count, "{holed:#?}");
        assert!(holed.largest_free_bytes < holed.free_bytes);
        let expected = 100.0 * (1.0 - holed.largest_free_bytes as f64 / holed.free_bytes as f64);
        assert!((holed.fragmentation_percentage() - expected).abs() < 1e-6);
        assert!(expected > 0.0);
        drop(buffers);
    }
    assert_nothing_is_left();
}

/// The design it grew from filed a buffer under a rounded-up size, and gave 1,100 bytes to who asked for 2,000.
#[test]
fn nobody_gets_less_than_they_asked_for() {
    {
        let manager = manager();
        for (first, second) in [(1100, 2000), (257, 512), (70_000, 130_000), (1025 * KIB, 2 * MIB)] {
            drop(manager.allocate(first).expect("there is room"));
            let mut buffers: Vec<_> =
                (0..6).map(|_| manager.allocate(second).expect("there is room")).collect();
            for (seed, buffer) in (0..).zip(&mut buffers) {
                buffer.write(0, &pattern(seed, second)).expect("all of it is there");
            }
            for (seed, buffer) in (0..).zip(&buffers) {
                assert!(buffer.allocated_bytes() >= second);
                assert!(buffer.as_slice::<u8>().expect("the host sees it") == pattern(seed, second));
                buffer.with_block(|block, offset| assert!(offset + second <= block.bytes()));
            }
        }
    }
    assert_nothing_is_left();
}

/// It swept what had been unused for ten minutes, and never found anything.
#[test]
fn what_is_idle_long_enough_is_given_back() {
    {
        let mut config = config_with_budget(1024 * MIB);
        config.clock = Clock::manual();
        config.idle_decay = Some(Duration::from_secs(600));
        let clock = config.clock.clone();
        let manager = manager_with(config);
        let kept = manager.allocate(20 * MIB).expect("there is room");
        drop(manager.allocate(100 * MIB).expect("there is room"));
        manager.release_idle();
        clock.advance(Duration::from_secs(599));
        assert_eq!(manager.release_idle(), 0);
        let reserved = manager.statistics().reserved.current;
        clock.advance(Duration::from_secs(2));
        assert!(manager.release_idle() >= 100 * MIB);
        assert!(manager.statistics().reserved.current <= reserved - 100 * MIB);
        drop(kept);
    }
    assert_nothing_is_left();
}

/// Its counters of typed memory never fell, and its count of frees was always 0.
#[test]
fn every_byte_that_is_freed_is_uncounted() {
    {
        let manager = manager();
        let mut buffer = manager.allocate(4 * 1000).expect("there is room");
        buffer.write(0, &[1.5_f32; 1000]).expect("it fits");
        let view = buffer.into_view().view(400..800).expect("it is inside");
        assert_eq!(manager.statistics().requested.current, 4000);
        drop(view);
        let statistics = manager.statistics();
        assert_eq!((statistics.requested.current, statistics.allocated.current), (0, 0));
        assert_eq!((statistics.deallocation_count, statistics.live_count()), (1, 0));
        assert_eq!((statistics.requested.peak, statistics.requested.total), (4000, 4000));
        assert_balanced(&statistics);
    }
    assert_nothing_is_left();
}

/// A copy through a view was checked against the buffer that it is a view of.
#[test]
fn a_view_cannot_be_left() {
    {
        let manager = manager();
        let (low, high) =
            manager.allocate(8000).expect("there is room").into_view().split_at(4000).expect("inside");
        high.fill(7).expect("the host sees it");
        assert_eq!(low.write(3999, &[1_u16]).expect_err("a byte too far").kind(), ErrorKind::OutOfBounds);
        assert_eq!(low.read(4000, &mut [0_u8]).expect_err("beyond").kind(), ErrorKind::OutOfBounds);
        let part = low.view(0..100).expect("inside");
        assert!(part.copy_from(&high).is_err(), "the source is longer");
        assert_eq!(part.view(0..101).expect_err("longer than it is").kind(), ErrorKind::OutOfBounds);
        let mut content = [0_u8; 4000];
        high.read(0, &mut content).expect("inside");
        assert_eq!(content, [7; 4000]);
    }
    assert_nothing_is_left();
}

/// Its copies on queues checked bounds and moved nothing.
#[test]
fn blits_move_the_bytes() {
    {
        let manager = manager();
        let queue = manager.queue().expect("a queue");
        let bytes = 5 * MIB + 3;
        let source = queue.allocate(bytes).expect("there is room");
        let destination = queue.allocate(bytes).expect("there is room");
        let (source, _) =
            queue.upload(pattern(1, bytes), source, 0).expect("it is put in").wait().expect("it arrives");
        let copy = CopyDesc { source_offset: 5, destination_offset: 2, bytes: bytes - 9 };
        let (source, destination) =
            queue.copy(source, destination, copy).expect("it is put in").wait().expect("it arrives");
        let (_, content) = queue
            .download::<u8>(destination, 0, bytes as usize)
            .expect("it is put in")
            .wait()
            .expect("it arrives");
        assert!(content[2..content.len() - 7] == pattern(1, bytes)[5..bytes as usize - 4]);
        drop(source);
    }
    assert_nothing_is_left();
}

/// A token was looked at before the work began, and never again.
#[test]
fn what_is_cancelled_in_its_course_ends_and_gives_all_back() {
    {
        let manager = manager();
        let queue = manager.queue().expect("a queue");
        let buffer = queue.allocate(64 * MIB).expect("there is room");
        // Behind something that does not end, so that it cannot be over before it is cancelled.
        let hold = queue.raw().hold().expect("the device is there");
        let upload = queue.upload(vec![1_u8; 64 << 20], buffer, 0).expect("it is put in");
        assert!(!upload.is_over());
        upload.cancel();
        drop(hold);
        let error = upload.wait().expect_err("it was cancelled");
        assert_eq!(error.error().kind(), ErrorKind::Cancelled);
        assert!(error.done_bytes() < 64 * MIB);
        let (buffer, values) = error.into_parts().expect("both come back");
        assert_eq!((buffer.size_bytes(), values.len()), (64 * MIB, 64 << 20));
        queue.synchronize(LONG).expect("the queue goes on");
    }
    assert_nothing_is_left();
}

/// What it knew as 16 GiB is what the device says; and a limit is kept.
#[test]
fn the_budget_is_the_devices_working_set_unless_told() {
    use aquifer_metal::objc2_metal::MTLDevice as _;
    {
        let metal = metal();
        let recommended = metal.raw_device().recommendedMaxWorkingSetSize();
        let manager = MemoryManager::with_config(metal, Config::default()).expect("Metal says");
        assert_eq!(manager.properties().heaps[0].size_bytes, recommended);
        assert!(manager.statistics().budget_bytes <= recommended);
        let small = manager_with(config_with_budget(8 * MIB));
        let mut held = small.allocate(5 * MIB).expect("there is room");
        Pattern::new(1).write(&mut held);
        let error = small.allocate(5 * MIB).expect_err("the limit is 8 MiB");
        let report = error.out_of_memory().expect("with a report");
        assert_eq!((error.kind(), report.budget_bytes), (ErrorKind::OutOfMemory, 8 * MIB));
        Pattern::new(1).check(&held);
    }
    assert_nothing_is_left();
}

/// docs/mission.md names no test that there is not.
#[test]
fn the_table_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let read = |path: &str| {
        std::fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let text = read("docs/mission.md");
    let names: Vec<_> = text.split('`').filter_map(|part| part.split_once(".rs::")).collect();
    assert!(names.len() > 40, "the table is not read: {names:?}");
    for (file, name) in names {
        let (modules, function) = name.rsplit_once("::").unwrap_or(("", name));
        let (path, start) = match (file, modules.strip_prefix("system_device::")) {
            // The macro makes a test of each case.
            ("conformance", Some(module)) => {
                (format!("crates/aquifer-testkit/src/conformance/{module}.rs"), format!("pub fn {function}<"))
            }
            _ if ["cli/", "crates/"].iter().any(|folder| file.starts_with(folder)) => {
                (format!("{file}.rs"), format!("fn {function}()"))
            }
            _ => (format!("crates/aquifer-metal/tests/{file}.rs"), format!("fn {function}()")),
        };
        assert!(read(&path).contains(&start), "no {name} in {path}");
    }
}
