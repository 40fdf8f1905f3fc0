//! Buffers that host and device both use, on the simulated device with content: like a discrete GPU, where they have a shadow, and like an
//! integrated one, where they are zero-copy.

mod common;
mod unified_program;

use aquifer_core::{DeviceAccess, ErrorKind, MemoryOptions, Side, UnifiedBuffer, UnifiedRead, UnifiedWrite};
use aquifer_sim::{Access, Call, Kernel, Sim, SimDesc, ViolationKind};
use common::{quiet_config, refused, sim_manager};
use std::thread;
use unified_program::scene::Scene;
use unified_program::{Program, bytes, late, launch, newer};

/// Neither side ever reads what the other has written anew, whatever is done in which order, and nobody gets memory too early.
fn assert_nothing_is_stale(desc: &SimDesc) {
    for seed in 0..10 {
        println!("seed {seed}");
        let found = Program::new(late(desc.clone(), seed), seed).run(3000);
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "seed {seed}:\n{}", lines.join("\n"));
    }
}

#[test]
fn nothing_is_stale_with_a_shadow() {
    assert_nothing_is_stale(&SimDesc::discrete());
}

#[test]
fn nothing_is_stale_with_zero_copy() {
    assert_nothing_is_stale(&SimDesc::integrated());
}

/// However scattered the parts are, they are few ranges, and right.
#[test]
fn scattered_parts_are_joined() {
    let mut most = 0;
    for seed in 0..10 {
        println!("seed {seed}");
        let program = Program::new(late(SimDesc::discrete(), seed), seed);
        let (found, ranges) = program.run_scattered(1500);
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "seed {seed}:\n{}", lines.join("\n"));
        // Copies that are under way keep ranges apart, for as long as they are.
        assert!(ranges <= 80, "seed {seed}: {ranges} ranges");
        println!("{ranges} ranges");
        most = most.max(ranges);
    }
    assert!(most >= 64, "no program came to the limit: {most} ranges");
}

/// That programs find nothing means something: what goes past the guards is found.
#[test]
fn what_goes_past_the_guards_is_found() {
    for scene in Scene::both() {
        let queue = &scene.queues[0];
        let mut buffer = scene.zeroed(64);
        let guard = buffer.on_device(queue, DeviceAccess::Read).expect("the device is there");
        let address = guard.device_address().expect("the device uses addresses");
        drop(guard);
        scene.occupy(queue, 1000);
        let (old, new) = (buffer.read().expect("zeros").to_vec(), bytes(7, 64));
        // SAFETY: the simulation moves bytes under the lock of its calls, which one thread makes.
        let launched = unsafe {
            // Neither what it reads is brought over, nor is it waited for.
            let accesses = [Access::write(address, 64)];
            let (expected, written) = (bytes(6, 64), new.clone());
            scene.sim.launch_program(queue.raw(), Kernel::new(accesses), move |memory| {
                memory.expect(address, &expected);
                memory.write(address, &written);
            })
        };
        launched.expect("the device is there");
        buffer.write().expect("nothing is known of the kernel").copy_from_slice(&bytes(6, 64));
        scene.sim.expect_host(&buffer.read().expect("nothing to wait for"), &new);
        scene.sim.run_all();
        let kinds: Vec<_> = scene.sim.violations().iter().map(|violation| violation.kind).collect();
        assert!(!kinds.is_empty() && kinds.iter().all(|&kind| kind == ViolationKind::StaleRead), "{kinds:?}");
        assert_eq!(old, vec![0; 64]);
    }
}

#[test]
fn it_is_zero_copy_exactly_where_there_is_unified_memory() {
    let [discrete, integrated] = Scene::both();
    assert!(!discrete.zeroed(10).is_zero_copy() && integrated.zeroed(10).is_zero_copy());
    let buffer = discrete.zeroed(10).into_buffer().expect_err("it has a shadow");
    assert_eq!(buffer.size_bytes(), 10);
    let mut buffer = integrated.zeroed(4000);
    let (queue, content) = (&integrated.queues[0], bytes(1, 4000));
    integrated.occupy(queue, 5000);
    let guard = buffer.on_device(queue, DeviceAccess::Write).expect("the device is there");
    launch(&integrated.sim, &guard, None, Some((0, content.clone())));
    drop(guard);
    let buffer = buffer.into_buffer().expect("it is one allocation");
    assert_eq!(buffer.as_slice::<u8>().expect("it waits for the kernel"), content);
    // Shadows are the manager's own, not the user's pinned memory.
    assert_eq!(discrete.manager.statistics().pinned.peak_count, 0);

    // Without memory that the host sees there is no sharing.
    let sim = common::sim();
    refused(sim_manager(&sim, quiet_config(1 << 30)).unified(100), ErrorKind::Unsupported);
}

/// Only what is newer goes over the link, and only when it is needed there.
#[test]
fn only_what_is_newer_is_brought_over() {
    let scene = Scene::new(SimDesc::discrete());
    let (queue, mut buffer) = (&scene.queues[0], scene.zeroed(1 << 20));
    let count = scene.commands();
    buffer.write_range(1000..1100).expect("zeros").fill(1);
    buffer.write_range(1100..1200).expect("zeros").fill(2);
    buffer.write_range(9000..9016).expect("zeros").fill(3);
    assert_eq!(scene.copies_since(count), [], "nothing is needed yet");
    drop(buffer.on_device_range(queue, 0..4096, DeviceAccess::Read).expect("the device is there"));
    assert_eq!(scene.copies_since(count), [200]);
    drop(buffer.on_device_range(queue, 0..4096, DeviceAccess::Read).expect("the device is there"));
    assert_eq!(scene.copies_since(count), [200], "once is enough");
    // Of the last 16 bytes, 10 are overwritten: those of the unit at the end that are not are brought over.
    drop(buffer.on_device_range(queue, 8192..9010, DeviceAccess::Write).expect("the device is there"));
    assert_eq!(scene.copies_since(count), [200, 4]);
    let count = scene.commands();
    assert_eq!(buffer.read_range(9016..9100).expect("clean").len(), 84);
    assert_eq!(scene.copies_since(count), []);
    assert_eq!(buffer.read_range(8190..8200).expect("partly newer on the device").len(), 10);
    assert_eq!(scene.copies_since(count), [8]);
    scene.sim.assert_no_violations();
}

#[test]
fn the_host_waits_for_what_is_in_its_way_and_no_more() {
    for scene in Scene::both() {
        let [one, other] = &scene.queues;
        let (mut buffer, content) = (scene.zeroed(8192), bytes(1, 4096));
        scene.occupy(one, 10_000);
        let guard = buffer.on_device_range(one, 0..4096, DeviceAccess::Write).expect("the device is there");
        launch(&scene.sim, &guard, None, Some((0, content.clone())));
        drop(guard);
        // What the queue is given later, and what others do elsewhere.
        scene.occupy(one, 1 << 40);
        scene.occupy(other, 1 << 40);
        let guard = buffer.on_device_range(other, 4096..8192, DeviceAccess::ReadWrite).expect("as above");
        launch(&scene.sim, &guard, Some(vec![0; 4096]), Some((0, vec![1; 4096])));
        drop(guard);
        assert_eq!(scene.sim.now_ns(), 0);
        scene.sim.expect_host(&buffer.read_range(0..4096).expect("it waits"), &content);
        assert_eq!(scene.sim.now_ns(), 10_000);
        // The device only reads, and so does the host.
        let guard = buffer.on_device_range(one, 0..4096, DeviceAccess::Read).expect("as above");
        launch(&scene.sim, &guard, Some(content.clone()), None);
        drop(guard);
        scene.sim.expect_host(&buffer.read_range(0..4096).expect("it need not wait"), &content);
        assert_eq!(scene.sim.now_ns(), 10_000);
        scene.sim.expect_host(&buffer.read_range(4096..8192).expect("it waits"), &[1; 4096]);
        assert_eq!(scene.sim.now_ns(), 1 << 40);
        scene.sim.assert_no_violations();
    }
}

#[test]
fn a_prefetch_brings_over_without_waiting() {
    for scene in Scene::both() {
        let ([one, other], content) = (&scene.queues, bytes(1, 4096));
        let mut buffer = scene.zeroed(4096);
        buffer.write().expect("zeros").copy_from_slice(&content);
        buffer.prefetch("device".parse().expect("its name"), one).expect("the device is there");
        scene.occupy(one, 10_000);
        let count = scene.sim.history().len();
        let guard = buffer.on_device(other, DeviceAccess::ReadWrite).expect("the device is there");
        launch(&scene.sim, &guard, Some(content), Some((0, vec![3; 4096])));
        drop(guard);
        buffer.prefetch(Side::Host, one).expect("the device is there");
        assert_eq!(scene.sim.now_ns(), 0);
        scene.sim.run_all();
        let copies = scene.copies_since(count).len();
        assert_eq!(
            copies,
            if buffer.is_zero_copy() { 0 } else { 1 },
            "to the host; to the device was before"
        );
        scene.sim.expect_host(&buffer.read().expect("it is there"), &[3; 4096]);
        assert_eq!(scene.copies_since(count).len(), copies, "nothing is left to be brought");
        assert_eq!(newer(&buffer), [0, 0]);
        scene.sim.assert_no_violations();
    }
}

/// Dropped while queues are at it, its memory goes to nobody before they have passed: not the shadow either.
#[test]
fn it_may_be_dropped_while_it_is_used() {
    for scene in Scene::both() {
        let [one, other] = &scene.queues;
        let mut buffer = scene.zeroed(1 << 20);
        let (address, content) =
            (buffer.device_address().expect("the device uses addresses"), bytes(1, 1 << 20));
        let claim = scene.sim.claim(address, 1 << 20);
        scene.occupy(one, 1 << 30);
        buffer.write().expect("zeros").copy_from_slice(&content);
        let guard = buffer.on_device(one, DeviceAccess::ReadWrite).expect("the device is there");
        launch(&scene.sim, &guard, Some(content), Some((0, bytes(2, 1 << 20))));
        drop(guard);
        buffer.prefetch(Side::Host, one).expect("the device is there");
        scene.sim.give_up(claim);
        drop(buffer);
        // Others' memory, as much as there was, which they write at once.
        let mut next = scene.manager.unified(1 << 20).expect("there is room");
        next.write().expect("it is new").copy_from_slice(&bytes(3, 1 << 20));
        next.prefetch(Side::Device, other).expect("the device is there");
        for options in [MemoryOptions::DEFAULT, MemoryOptions::PINNED] {
            let taken = scene.manager.allocate_with(1 << 20, options).expect("there is room");
            let address = taken.device_address().expect("the device uses addresses");
            let claim = scene.sim.claim(address, 1 << 20);
            taken.record_use(other).expect("one manager");
            let accesses = [Access::write(address, 1 << 20)];
            // SAFETY: nobody else has the buffer, and the host does not touch it.
            let launched = unsafe {
                scene.sim.launch_program(other.raw(), Kernel::new(accesses), move |memory| {
                    memory.write(address, &[0xdd; 1 << 20]);
                })
            };
            launched.expect("the device is there");
            scene.sim.give_up(claim);
        }
        assert_eq!(scene.sim.now_ns(), 0, "nobody has waited");
        scene.sim.run_all();
        scene.sim.expect_host(&next.read().expect("it is there"), &bytes(3, 1 << 20));
        scene.sim.assert_no_violations();
    }
}

#[test]
fn it_outlives_its_manager_and_guards_may_be_forgotten() {
    for Scene { sim, manager, queues } in Scene::both() {
        let mut buffer = manager.unified(100).expect("there is room");
        std::mem::forget(
            buffer.write().expect("it is anybody's").as_mut_slice::<u8>().map(|part| part.fill(5)),
        );
        let guard = buffer.on_device(&queues[0], DeviceAccess::ReadWrite).expect("the device is there");
        launch(&sim, &guard, Some(vec![5; 100]), Some((50, vec![6; 50])));
        std::mem::forget(guard);
        drop((manager, queues));
        let expected = [[5; 50], [6; 50]].concat();
        sim.expect_host(&buffer.read().expect("the state is kept"), &expected);
        drop(buffer);
        sim.run_all();
        sim.assert_no_violations();
    }
}

#[test]
fn senseless_calls_are_refused() {
    for scene in Scene::both() {
        let (queue, mut buffer) = (&scene.queues[0], scene.zeroed(100));
        refused(buffer.read_range(90..101), ErrorKind::OutOfBounds);
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is senseless")]
        let backwards = 20..10;
        refused(buffer.write_range(backwards), ErrorKind::OutOfBounds);
        let outside = buffer.on_device_range(queue, 101..101, DeviceAccess::Read);
        refused(outside, ErrorKind::OutOfBounds);
        let foreign = Scene::new(SimDesc::discrete());
        refused(buffer.on_device(&foreign.queues[0], DeviceAccess::Read), ErrorKind::InvalidArgument);
        refused(buffer.prefetch(Side::Host, &foreign.queues[0]), ErrorKind::InvalidArgument);
        refused("gpu".parse::<Side>(), ErrorKind::InvalidArgument);
        refused(scene.manager.unified(0), ErrorKind::InvalidArgument);
        refused(buffer.read_range(1..9).expect("zeros").as_slice::<u64>(), ErrorKind::InvalidArgument);
        refused(buffer.write_range(0..7).expect("zeros").as_mut_slice::<u64>(), ErrorKind::InvalidArgument);
        // Nothing is something, too.
        assert!(buffer.read_range(100..100).expect("nothing").is_empty());
        let guard = buffer.on_device_range(queue, 7..7, DeviceAccess::Write).expect("nothing");
        assert_eq!((guard.size_bytes(), guard.range()), (0, 7..7));
    }
}

/// Of threads that read at the same time one brings the bytes over, and all see them.
#[test]
fn threads_read_at_the_same_time() {
    fn assert_shared<T: Send + Sync>() {}
    assert_shared::<(UnifiedBuffer<Sim>, UnifiedRead<'_, Sim>, UnifiedWrite<'_, Sim>)>();
    for scene in Scene::both() {
        let (mut buffer, content) = (scene.zeroed(4096), bytes(1, 4096));
        scene.occupy(&scene.queues[0], 10_000);
        let guard = buffer.on_device(&scene.queues[0], DeviceAccess::Write).expect("the device is there");
        launch(&scene.sim, &guard, None, Some((0, content.clone())));
        drop(guard);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| assert_eq!(*buffer.read().expect("it waits"), content));
            }
        });
        assert!(scene.sim.books().calls_of(Call::Copy) <= 1);
    }
}
