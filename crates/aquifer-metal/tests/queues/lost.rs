//! Devices that go.

use crate::common::*;
use software_metal::DeviceDesc;

/// The command buffers of a lost device end all at once, whatever they wait for; a hold on the first of a long chain of queues that
/// wait for each other is let go when all others have ended.
#[test]
fn long_chains_of_waits_end_with_the_device() {
    let device = device(DeviceDesc::default());
    let metal = metal_on(&device);
    let lines = [(); 10].map(|()| Line::new(&metal));
    let hold = lines[0].queue().hold().expect("the device is there");
    for turn in 0..10_000 {
        lines[(turn + 1) % 10].wait_on(&lines[turn % 10]);
    }
    let last = lines[0].queue().hold().expect("the device is there");
    device.faults().remove();
    until("all command buffers end", || !device.live_objects().contains_key("MTLCommandBuffer"));
    // As little stack as a thread of the system's gets.
    let small = std::thread::Builder::new().stack_size(512 << 10);
    small.spawn(move || drop(hold)).expect("a thread").join().expect("no panic");
    drop(last);
    lines.iter().for_each(|line| line.queue().wait_idle());
    drop((lines, metal));
    assert_nothing_is_left();
}
