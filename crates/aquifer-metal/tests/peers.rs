//! Copies between two devices, in software.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_backend::BlockDesc;
use aquifer_core::MemoryManager;
use aquifer_metal::Metal;
use aquifer_testkit::{Pattern, config_with_budget};
use common::assert_nothing_is_left;
use common::blocks::{OwnBlock, pattern, private_type, visible_type};
use software_metal::{Call, DeviceDesc, SoftwareDevice};

const MIB: u64 = 1 << 20;

/// One of two devices of a peer group, or of none.
fn desc(index: u32, group: u64) -> DeviceDesc {
    DeviceDesc {
        registry_id: 7 + u64::from(index),
        peer_group_id: group,
        peer_index: index,
        peer_count: if group == 0 { 0 } else { 2 },
        ..DeviceDesc::default()
    }
}

/// Two devices and their backends.
struct Pair {
    devices: [SoftwareDevice; 2],
    near: Metal,
    far: Metal,
}

impl Pair {
    fn new(descs: [DeviceDesc; 2]) -> Self {
        let devices = descs.map(common::device);
        let [near, far] = devices.each_ref().map(common::metal_on);
        Self { devices, near, far }
    }

    fn of_group(group: u64) -> Self {
        Self::new([desc(0, group), desc(1, group)])
    }

    fn buffers_made(&self) -> [u64; 2] {
        self.devices.each_ref().map(|device| device.made_objects().get("MTLBuffer").copied().unwrap_or(0))
    }

    /// Copies a part between two new blocks, and checks that it arrives, and nothing else is changed. Answers how many
    /// Metal buffers each device made meanwhile.
    fn check_copy(&self, types: [usize; 2], bytes: u64, offsets: [u64; 2]) -> [u64; 2] {
        let length = (bytes + 4096).next_multiple_of(1 << 16);
        let source = OwnBlock::new(&self.near, length, types[0]);
        let destination = OwnBlock::new(&self.far, length, types[1]);
        let content = pattern(bytes, bytes);
        source.write(offsets[0], &content);
        destination.fill(0..length, 0xee);
        let before = self.buffers_made();
        // SAFETY: both ranges lie in blocks that nobody else uses.
        let copied = unsafe {
            self.near.copy_to_peer(
                source.range(offsets[0], bytes),
                &self.far,
                destination.range(offsets[1], bytes),
            )
        };
        copied.expect("a copy");
        let after = self.buffers_made();
        let arrived = destination.read(0..length);
        let (start, end) = (offsets[1] as usize, (offsets[1] + bytes) as usize);
        assert!(arrived[start..end] == content, "{bytes} bytes from {offsets:?} of types {types:?}");
        assert!(arrived[..start].iter().chain(&arrived[end..]).all(|&byte| byte == 0xee), "more was written");
        [after[0] - before[0], after[1] - before[1]]
    }
}

/// Sizes around the staging buffer's, and odd ones.
const SIZES: [u64; 5] = [0, 1, 1027, MIB, MIB + 77];

#[test]
fn every_combination_of_memory_types_is_staged() {
    let descs = [
        [desc(0, 0), desc(1, 0)],
        // One GPU that is not Apple's, and copies multiples of 4 bytes.
        [desc(0, 0), DeviceDesc { is_unified: false, is_apple_family: false, ..desc(1, 0) }],
        [DeviceDesc { is_unified: false, is_apple_family: false, ..desc(0, 0) }, desc(1, 0)],
    ];
    for descs in descs {
        {
            let pair = Pair::new(descs);
            assert!(!pair.near.reaches_directly(&pair.far));
            for types in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                for bytes in SIZES {
                    for offsets in [[256, 1024], [3, 1]] {
                        pair.check_copy(types, bytes, offsets);
                    }
                }
            }
        }
        assert_nothing_is_left();
    }
}

/// What both hosts see needs no staging buffer, what one does not see needs one there.
#[test]
fn staging_buffers_are_where_the_host_sees_nothing() {
    {
        let pair = Pair::of_group(0);
        let [shared, private] = [visible_type(&pair.near), private_type(&pair.near)];
        let buffers = |source, destination| pair.check_copy([source, destination], 2 * MIB + 3, [0, 0]);
        assert_eq!(buffers(shared, shared), [0, 0]);
        assert_eq!(buffers(shared, private), [0, 1]);
        assert_eq!(buffers(private, shared), [1, 0]);
        assert_eq!(buffers(private, private), [1, 1]);
    }
    assert_nothing_is_left();
}

#[test]
fn peers_read_private_memory_without_the_host() {
    {
        let pair = Pair::of_group(5);
        assert!(pair.near.reaches_directly(&pair.far) && pair.far.reaches_directly(&pair.near));
        let [shared, private] = [visible_type(&pair.near), private_type(&pair.near)];
        for destination in [shared, private] {
            for bytes in SIZES {
                // The view, which is a buffer of the peer's, and nothing to stage in.
                assert_eq!(
                    pair.check_copy([private, destination], bytes, [256, 512]),
                    [0, 1],
                    "{bytes} bytes"
                );
            }
        }
        // Shared memory has no view; the host sees it anyway.
        assert_eq!(pair.check_copy([shared, shared], MIB, [0, 0]), [0, 0]);
        for bytes in SIZES {
            pair.check_copy([shared, private], bytes, [3, 1]);
        }
    }
    assert_nothing_is_left();
}

/// On GPUs that copy multiples of 4 bytes, what begins or ends within one goes another way, and arrives all the same.
#[test]
fn odd_parts_arrive_through_a_view() {
    for is_apple_family in [true, false] {
        {
            let of = |index| DeviceDesc { is_unified: false, is_apple_family, ..desc(index, 5) };
            let pair = Pair::new([of(0), of(1)]);
            for destination in 0..2 {
                for bytes in SIZES {
                    for offsets in [[3, 1], [2, 2], [4, 7]] {
                        pair.check_copy([0, destination], bytes, offsets);
                    }
                }
            }
        }
        assert_nothing_is_left();
    }
}

#[test]
fn a_refused_view_is_done_without() {
    {
        let pair = Pair::of_group(5);
        let private = private_type(&pair.near);
        pair.devices[1].faults().fail_all(Call::NewRemoteView, true);
        assert_eq!(pair.check_copy([private, private], 2 * MIB + 1, [0, 256]), [1, 1]);
        pair.devices[1].faults().fail_all(Call::NewRemoteView, false);
        assert_eq!(pair.check_copy([private, private], 2 * MIB + 1, [0, 256]), [0, 1]);
    }
    assert_nothing_is_left();
}

#[test]
fn devices_reach_each_other_only_as_peers() {
    {
        let reaches = |one: DeviceDesc, other: DeviceDesc| {
            let pair = Pair::new([one, other]);
            pair.near.reaches_directly(&pair.far)
        };
        assert!(reaches(desc(0, 5), desc(1, 5)));
        assert!(!reaches(desc(0, 5), desc(1, 6)), "another group");
        assert!(!reaches(desc(0, 0), desc(1, 0)), "no group");
        assert!(!reaches(desc(0, 5), desc(1, 0)));
        let metal = common::metal_on(&common::device(desc(0, 5)));
        assert!(!metal.reaches_directly(&metal.clone()), "the same device");
    }
    assert_nothing_is_left();
}

/// The same device twice is no peer of itself, but a copy between its blocks arrives.
#[test]
fn a_device_copies_to_itself() {
    {
        let device = common::device(desc(0, 5));
        let metal = common::metal_on(&device);
        let pair = Pair { devices: [device.clone(), device], near: metal.clone(), far: metal };
        for types in [[0, 0], [0, 1], [1, 0], [1, 1]] {
            pair.check_copy(types, MIB + 3, [1, 2]);
        }
    }
    assert_nothing_is_left();
}

/// Nil is an error with a name, and nothing is left.
#[test]
fn what_cannot_be_staged_is_told() {
    {
        let pair = Pair::of_group(0);
        let private = private_type(&pair.near);
        for failing in 0..2 {
            let make = |metal| OwnBlock::try_new(metal, &BlockDesc::new(MIB, private)).expect("a block");
            let (source, destination) = (make(&pair.near), make(&pair.far));
            pair.devices[failing].faults().fail(Call::NewBuffer, 0);
            // SAFETY: nobody else uses the blocks.
            let error = unsafe { pair.near.copy_to_peer(source.all(), &pair.far, destination.all()) };
            assert_eq!(
                error.expect_err("there is no staging buffer").kind(),
                aquifer_core::ErrorKind::Driver
            );
        }
    }
    assert_nothing_is_left();
}

/// Buffers of two managers, by their blocks and offsets.
#[test]
fn buffers_of_two_managers_are_copied() {
    {
        let pair = Pair::of_group(5);
        let manager = |metal: &Metal| {
            MemoryManager::with_config(metal.clone(), config_with_budget(1 << 30)).expect("a budget")
        };
        let (near, far) = (manager(&pair.near), manager(&pair.far));
        let mut source = near.allocate(70_001).expect("there is room");
        let destination = far.allocate(70_001).expect("there is room");
        Pattern::new(9).write(&mut source);
        let copied = source.with_block(|from, from_offset| {
            destination.with_block(|to, to_offset| {
                let range = |block, offset| aquifer_backend::BlockRange { block, offset, bytes: 70_001 };
                // SAFETY: both ranges are allocations that this thread owns.
                unsafe { pair.near.copy_to_peer(range(from, from_offset), &pair.far, range(to, to_offset)) }
            })
        });
        copied.expect("a copy");
        Pattern::new(9).check(&destination);
    }
    assert_nothing_is_left();
}
