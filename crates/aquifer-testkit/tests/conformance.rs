//! The suite on devices that host memory can pass for: the failing driver while it does not fail, and poorer ones.

#![cfg(any(target_os = "linux", target_os = "macos"))]

use aquifer_backend::{Capabilities, MemoryFlags, MemoryType, Properties};
use aquifer_host::Host;
use aquifer_testkit::Faulty;

fn device(change: impl FnOnce(&mut Properties)) -> Faulty<Host> {
    Faulty::with_properties(Host::new().expect("the system says how much memory it has"), change)
}

/// Adds a pinned memory type, by word alone, where there is none.
fn add_pinned(properties: &mut Properties) {
    let flags = MemoryFlags::HOST_VISIBLE | MemoryFlags::PINNED;
    if !properties.memory_types.iter().any(|one| one.flags.contains(flags)) {
        properties.memory_types.push(MemoryType { heap_index: 0, flags });
    }
}

/// Hides the ordinary memory from the host, which stays sparse if it is.
fn hide(properties: &mut Properties) {
    let flags = &mut properties.memory_types[0].flags;
    let is_sparse = flags.contains(MemoryFlags::SPARSE);
    *flags = MemoryFlags::DEVICE_LOCAL | if is_sparse { MemoryFlags::SPARSE } else { MemoryFlags::NONE };
}

/// What the device has of one ability.
fn kept(properties: &Properties, capability: Capabilities) -> Capabilities {
    if properties.capabilities.contains(capability) { capability } else { Capabilities::NONE }
}

/// Memory that the host cannot see, dirty when it is new, mapped too. Queues see it.
mod invisible {
    use super::*;

    aquifer_testkit::conformance!(device(|properties| {
        hide(properties);
        properties.capabilities = Capabilities::QUEUES | kept(properties, Capabilities::SPARSE_BLOCKS);
    }));
}

/// Memory that is mapped behind addresses, wherever the system can: managers do by themselves where its costs are known.
mod elastic {
    use super::*;
    use aquifer_backend::{Backend, MappingCosts};
    use aquifer_core::{Config, MemoryManager, Policy};

    aquifer_testkit::conformance!(device(map));

    /// Says what mapping costs, in words alone, so that it is done.
    fn map(properties: &mut Properties) {
        if properties.capabilities.contains(Capabilities::SPARSE_BLOCKS) {
            properties.mapping_costs =
                Some(MappingCosts { create_ns: 1, map_ns: 1, unmap_ns: 1, destroy_ns: 1 });
        }
    }

    #[test]
    fn managers_map_memory() {
        let device = device(map);
        let can_map = device.properties().capabilities.contains(Capabilities::SPARSE_BLOCKS);
        let manager = MemoryManager::with_config(device, Config::default()).expect("a device");
        assert_eq!(manager.config().policy == Policy::Elastic, can_map);
        drop(manager.allocate(10 << 20).expect("there is room"));
        assert_eq!(manager.statistics().driver_calls.map > 0, can_map);
    }
}

/// Dirty new blocks, small ones only, in coarse granules, that are hardly aligned. No queues.
mod awkward {
    use super::*;

    aquifer_testkit::conformance!(device(|properties| {
        properties.capabilities = Capabilities::COMMIT_ON_TOUCH;
        properties.block_granularity_bytes = 4 << 20;
        properties.block_bytes_max = (100 << 20) + 1;
        properties.alignment_bytes_min = 256;
    }));
}

/// Purgeable memory, every other block of which loses what it held.
mod purging {
    use super::*;
    use aquifer_testkit::conformance::{Need, run};

    aquifer_testkit::conformance!(
        device(|properties| properties.capabilities = properties.capabilities | Capabilities::PURGEABLE),
        then END_COUNT.set(END_COUNT.get() + 1)
    );

    thread_local! {
        static END_COUNT: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
    }

    #[test]
    fn the_end_of_a_test_is_checked() {
        let before = END_COUNT.get();
        some_case_runs();
        assert_eq!(END_COUNT.get(), before + 1);
        let mut is_run = false;
        let end = || END_COUNT.set(END_COUNT.get() + 1);
        run("skipped", Need::HostInvisible, || device(|_| ()), |_| is_run = true, end);
        assert_eq!((END_COUNT.get(), is_run), (before + 2, false), "after a case that is skipped, too");
    }
}

/// Pinned memory, and ordinary memory that the host does not see.
mod pinned {
    use super::*;

    aquifer_testkit::conformance!(device(|properties| {
        hide(properties);
        // What is imported would have to be pinned.
        properties.capabilities = Capabilities::QUEUES | Capabilities::ZEROED_BLOCKS;
        add_pinned(properties);
    }));
}

/// The same beside memory that the host sees, which can stand in for what is pinned, and which is what imported memory is.
mod pinned_or_not {
    use super::*;

    aquifer_testkit::conformance!(device(|properties| {
        hide(properties);
        add_pinned(properties);
        properties.memory_types.push(MemoryType { heap_index: 0, flags: MemoryFlags::HOST_VISIBLE });
    }));
}

mod single_threaded {
    use super::*;

    aquifer_testkit::conformance!(single_threaded device(|_| ()), then assert!(!std::thread::panicking()));
}

#[test]
#[should_panic(expected = "every case is skipped")]
fn a_suite_that_skips_everything_fails() {
    let needs = [aquifer_testkit::conformance::Need::HostInvisible];
    aquifer_testkit::conformance::assert_some_run(|| device(|_| ()), &needs);
}
