//! What becomes of buffers that host and device both use when the driver refuses, a copy fails, or the device is lost.

mod common;
mod unified_program;

use aquifer_core::{DeviceAccess, ErrorKind, Side, UnifiedBuffer};
use aquifer_sim::{Call, Fault, FaultPlan, Recurrence, Sim, SimDesc};
use common::refused;
use unified_program::scene::Scene;
use unified_program::{bytes, launch, newer};

const BYTES: u64 = 4096;

fn once(call: Call) -> FaultPlan {
    FaultPlan { call: Some(call), number: 0, recurrence: Recurrence::Once, fault: Fault::Refuse }
}

/// The device writes all bytes, on the first queue.
fn device_writes(scene: &Scene, buffer: &mut UnifiedBuffer<Sim>, content: &[u8]) {
    let guard = buffer.on_device(&scene.queues[0], DeviceAccess::Write).expect("the device is there");
    launch(&scene.sim, &guard, None, Some((0, content.to_vec())));
}

/// The device sees these bytes, on the second queue, after all that was before.
fn device_sees(scene: &Scene, buffer: &mut UnifiedBuffer<Sim>, content: &[u8]) {
    let guard = buffer.on_device(&scene.queues[1], DeviceAccess::Read).expect("the device is there");
    launch(&scene.sim, &guard, Some(content.to_vec()), None);
}

fn host_writes(buffer: &mut UnifiedBuffer<Sim>, content: &[u8]) {
    buffer.write().expect("the device is there").copy_from_slice(content);
}

#[test]
fn what_could_not_be_brought_to_the_host_is_not_taken_for_new() {
    let scene = Scene::new(SimDesc::discrete());
    let (mut buffer, content) = (scene.zeroed(BYTES), bytes(1, BYTES));
    device_writes(&scene, &mut buffer, &content);
    for _ in 0..2 {
        scene.sim.plan_fault(once(Call::Copy));
        refused(buffer.read_range(0..100), ErrorKind::Driver);
        scene.sim.plan_fault(once(Call::Copy));
        refused(buffer.write_range(0..100), ErrorKind::Driver);
        assert_eq!(newer(&buffer), [0, 1]);
    }
    assert_eq!(*buffer.read().expect("the driver does it now"), content);

    // A copy that was begun before and fails later.
    let content = bytes(2, BYTES);
    device_writes(&scene, &mut buffer, &content);
    scene.sim.plan_command_fault(0, Recurrence::Once);
    buffer.prefetch(Side::Host, &scene.queues[1]).expect("it is begun");
    scene.sim.run_all();
    assert_eq!(*buffer.read().expect("it is brought again"), content);
    // And one that cannot be begun.
    device_writes(&scene, &mut buffer, &bytes(3, BYTES));
    scene.sim.plan_fault(once(Call::Enqueue));
    refused(buffer.prefetch(Side::Host, &scene.queues[1]), ErrorKind::Driver);
    assert_eq!(*buffer.read().expect("as above"), bytes(3, BYTES));
    scene.sim.assert_no_violations();
}

#[test]
fn what_could_not_be_brought_to_the_device_is_said_once_and_brought_again() {
    let scene = Scene::new(SimDesc::discrete());
    let mut buffer = scene.zeroed(BYTES);
    for round in 1..5 {
        let content = bytes(round, BYTES);
        host_writes(&mut buffer, &content);
        scene.sim.plan_command_fault(0, Recurrence::Once);
        drop(buffer.on_device(&scene.queues[0], DeviceAccess::Read).expect("it is begun"));
        // Whoever comes next is told.
        match round {
            1 => drop(refused(buffer.write(), ErrorKind::Driver)),
            2 => drop(refused(buffer.synchronize(), ErrorKind::Driver)),
            _ => {
                scene.queues[0].synchronize(common::LONG).expect("the device is there");
                scene.manager.settle();
                if round == 3 {
                    refused(buffer.read(), ErrorKind::Driver);
                } else {
                    refused(buffer.on_device(&scene.queues[0], DeviceAccess::Read), ErrorKind::Driver);
                }
            }
        }
        assert_eq!(*buffer.read().expect("it is said once"), content);
        device_sees(&scene, &mut buffer, &content);
    }
    // What was not even begun is there still.
    let content = bytes(9, BYTES);
    host_writes(&mut buffer, &content);
    scene.sim.plan_fault(once(Call::Enqueue));
    refused(buffer.on_device(&scene.queues[1], DeviceAccess::Read), ErrorKind::Driver);
    scene.sim.plan_fault(once(Call::Copy));
    refused(buffer.synchronize(), ErrorKind::Driver);
    device_sees(&scene, &mut buffer, &content);
    scene.sim.run_all();
    scene.sim.assert_no_violations();
}

/// What the device made of bytes that had not come says so too, though they seem to be there.
#[test]
fn what_comes_of_bytes_that_never_came_is_an_error() {
    let scene = Scene::new(SimDesc::discrete());
    let mut buffer = scene.zeroed(BYTES);
    host_writes(&mut buffer, &bytes(1, BYTES));
    scene.sim.plan_command_fault(0, Recurrence::Once);
    let guard = buffer.on_device(&scene.queues[0], DeviceAccess::ReadWrite).expect("it is begun");
    launch(&scene.sim, &guard, None, Some((0, bytes(2, BYTES))));
    drop(guard);
    refused(buffer.read(), ErrorKind::Driver);
}

#[test]
fn markers_and_waits_that_are_refused_come_later() {
    for scene in Scene::both() {
        let (mut buffer, content) = (scene.zeroed(BYTES), bytes(1, BYTES));
        scene.occupy(&scene.queues[0], 1000);
        let guard = buffer.on_device(&scene.queues[0], DeviceAccess::Write).expect("the device is there");
        launch(&scene.sim, &guard, None, Some((0, content.clone())));
        scene.sim.plan_fault(FaultPlan { recurrence: Recurrence::FromThenOn, ..once(Call::Signal) });
        drop(guard);
        refused(buffer.read(), ErrorKind::Driver);
        refused(buffer.on_device(&scene.queues[1], DeviceAccess::Read), ErrorKind::Driver);
        scene.sim.clear_faults();
        scene.sim.plan_fault(once(Call::WaitOnQueue));
        refused(buffer.on_device(&scene.queues[1], DeviceAccess::Read), ErrorKind::Driver);
        device_sees(&scene, &mut buffer, &content);
        assert_eq!(*buffer.read().expect("it is marked now"), content);
        scene.sim.run_all();
        scene.sim.assert_no_violations();
    }
}

#[test]
fn what_only_a_lost_device_has_is_lost() {
    for scene in Scene::both() {
        let (mut buffer, content) = (scene.zeroed(BYTES), bytes(1, BYTES));
        host_writes(&mut buffer, &content);
        let queue = &scene.queues[0];
        scene.occupy(queue, 1000);
        // It reads some and writes some.
        let guard = buffer.on_device_range(queue, 0..2000, DeviceAccess::Read).expect("the device is there");
        launch(&scene.sim, &guard, Some(content[..2000].to_vec()), None);
        drop(guard);
        let written = 3000..3100;
        let guard = buffer.on_device_range(queue, written.clone(), DeviceAccess::Write).expect("as above");
        launch(&scene.sim, &guard, None, Some((0, vec![1; 100])));
        drop(guard);
        scene.sim.lose_device();
        refused(buffer.read(), ErrorKind::DeviceLost);
        refused(buffer.write_range(3096..3104), ErrorKind::DeviceLost);
        assert_eq!(*buffer.read_range(0..3000).expect("the host has them"), content[..3000]);
        assert_eq!(*buffer.read_range(3100..BYTES).expect("the host has them"), content[3100..]);
        buffer.write_range(0..4).expect("nobody is in the way").fill(9);
        assert_eq!(*buffer.read_range(0..4).expect("the host has them"), [9; 4]);
        refused(buffer.on_device(queue, DeviceAccess::Read), ErrorKind::DeviceLost);
        refused(buffer.prefetch(Side::Host, queue), ErrorKind::DeviceLost);
        refused(buffer.synchronize(), ErrorKind::DeviceLost);
    }
}

/// Where a copy to the host is under way, the host's ranges are not joined over it: it may fail.
#[test]
fn ranges_are_not_joined_over_what_has_not_come() {
    let scene = Scene::new(SimDesc::discrete());
    let (mut buffer, mut oracle) = (scene.zeroed(64 << 10), vec![0; 64 << 10]);
    let [one, other] = &scene.queues;
    let guard = buffer.on_device_range(one, 100..104, DeviceAccess::Write).expect("the device is there");
    launch(&scene.sim, &guard, None, Some((0, vec![7; 4])));
    drop(guard);
    oracle[100..104].fill(7);
    scene.occupy(other, 1000);
    scene.sim.plan_command_fault(0, Recurrence::Once);
    buffer.prefetch(Side::Host, other).expect("it is begun");
    for start in [96, 104].into_iter().chain((0..70).map(|number| 1000 + 100 * number)) {
        buffer.write_range(start..start + 4).expect("nobody is in the way").fill(8);
        oracle[start as usize..][..4].fill(8);
    }
    assert_eq!((scene.sim.now_ns(), newer(&buffer)), (0, [64, 0]));
    device_sees(&scene, &mut buffer, &oracle);
    scene.sim.run_all();
    scene.sim.assert_no_violations();
    assert_eq!(*buffer.read().expect("it is brought again"), oracle);
}

/// Copies that were under way when the device was lost have not arrived, as far as anybody knows.
#[test]
fn what_was_on_its_way_when_the_device_was_lost_is_where_it_was() {
    for is_to_host in [true, false] {
        let scene = Scene::new(SimDesc::discrete());
        let (mut buffer, content) = (scene.zeroed(BYTES), bytes(1, BYTES));
        let [one, other] = &scene.queues;
        host_writes(&mut buffer, &content);
        scene.occupy(one, 1000);
        drop(buffer.on_device(one, DeviceAccess::Read).expect("the device is there"));
        if is_to_host {
            // Brought there, written and brought back, all in flight: only what is on the device is new.
            device_writes(&scene, &mut buffer, &bytes(2, BYTES));
            buffer.prefetch(Side::Host, other).expect("it is begun");
        }
        scene.sim.lose_device();
        if is_to_host {
            refused(buffer.read(), ErrorKind::DeviceLost);
        } else {
            assert_eq!(*buffer.read().expect("the host has them"), content);
        }
        drop(buffer);
    }
}

/// A thousand uses in flight are let through; the next one waits for the first, not for all.
#[test]
fn uses_in_flight_are_bounded() {
    for scene in Scene::both() {
        let mut buffer = scene.zeroed(16 << 10);
        for number in 0..1500_u64 {
            let queue = &scene.queues[number as usize % 2];
            let start = number % 4000 * 4;
            let guard = buffer
                .on_device_range(queue, start..start + 4, DeviceAccess::Write)
                .expect("the device is there");
            launch(&scene.sim, &guard, None, Some((0, (number as u32).to_le_bytes().to_vec())));
            drop(guard);
            if number == 0 {
                scene.occupy(&scene.queues[0], 1 << 40);
                scene.occupy(&scene.queues[1], 5000);
            }
            if number == 1000 {
                assert_eq!(scene.sim.now_ns(), 0, "so many are let through");
            }
        }
        assert!((5000..1 << 40).contains(&scene.sim.now_ns()), "{}", scene.sim.now_ns());
        let found = buffer.read_range(0..6000).expect("the device is there");
        let expected: Vec<u32> = (0..1500).collect();
        assert_eq!(found.as_slice::<u32>().expect("whole numbers"), expected);
        scene.sim.assert_no_violations();
    }
}
