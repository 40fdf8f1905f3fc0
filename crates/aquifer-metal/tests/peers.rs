//! Copies between two devices, in software.
#![cfg(not(target_vendor = "apple"))]

mod common;

use aquifer_backend::{Backend as _, BlockDesc, BlockRange, Command, CopyEnd, Ticket};
use aquifer_core::{ErrorKind, MemoryManager};
use aquifer_metal::{Metal, MetalBlock};
use aquifer_testkit::{Pattern, config_with_budget};
use common::blocks::{OwnBlock, pattern, private_type, visible_type};
use common::{Line, assert_nothing_is_left, end, failure, until};
use objc2::rc::autoreleasepool;
use objc2_metal::MTLBuffer as _;
use software_metal::{Call, DeviceDesc, SoftwareDevice};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    fn check_copy(&self, route: Route, types: [usize; 2], bytes: u64, offsets: [u64; 2]) -> [u64; 2] {
        let length = (bytes + 4096).next_multiple_of(1 << 16);
        let source = OwnBlock::new(&self.near, length, types[0]);
        let destination = OwnBlock::new(&self.far, length, types[1]);
        let content = pattern(bytes, bytes);
        source.write(offsets[0], &content);
        destination.fill(0..length, 0xee);
        let (from, to) = (source.range(offsets[0], bytes), destination.range(offsets[1], bytes));
        let before = self.buffers_made();
        match route {
            Route::Queue => run(&self.far, end(from), end(to), bytes),
            Route::Host => {
                let mut host = vec![0_u8; bytes as usize];
                let between = NonNull::from(host.as_mut_slice()).cast();
                run(&self.near, end(from), CopyEnd::Host(between), bytes);
                run(&self.far, CopyEnd::Host(between), end(to), bytes);
            }
        }
        let after = self.buffers_made();
        let arrived = destination.read(0..length);
        let (start, end) = (offsets[1] as usize, (offsets[1] + bytes) as usize);
        assert!(arrived[start..end] == content, "{bytes} bytes from {offsets:?} of types {types:?}");
        assert!(arrived[..start].iter().chain(&arrived[end..]).all(|&byte| byte == 0xee), "more was written");
        [after[0] - before[0], after[1] - before[1]]
    }
}

/// How a part gets from one device to the other.
#[derive(Debug, Clone, Copy)]
enum Route {
    /// A queue of the destination's reads the source.
    Queue,
    /// A queue of either copies to or from memory of the host.
    Host,
}

/// Copies in a new queue, and waits for it.
#[track_caller]
fn run(metal: &Metal, source: CopyEnd<'_, MetalBlock>, destination: CopyEnd<'_, MetalBlock>, bytes: u64) {
    let line = Line::new(metal);
    let ticket = line.enqueue(Command::Copy { source, destination, bytes });
    line.finish();
    assert_eq!((failure(&ticket), ticket.done_bytes()), (None, bytes));
}

/// A copy of as much as both are long.
fn copy_of<'a>(
    source: BlockRange<'a, MetalBlock>,
    destination: BlockRange<'a, MetalBlock>,
) -> Command<'a, MetalBlock> {
    Command::Copy { source: end(source), destination: end(destination), bytes: source.bytes }
}

/// One of two connected GPUs that are not Apple's.
fn discrete(index: u32) -> DeviceDesc {
    DeviceDesc { is_unified: false, is_apple_family: false, ..desc(index, 5) }
}

/// Sizes around the staging buffer's, and odd ones.
const SIZES: [u64; 5] = [0, 1, 1027, MIB, MIB + 77];

/// Where no device reads the other's memory, it goes by the host's.
#[test]
fn every_combination_of_memory_types_is_staged() {
    let descs = [
        [desc(0, 0), desc(1, 0)],
        // One GPU that is not Apple's, and copies multiples of 4 bytes.
        [desc(0, 0), DeviceDesc { peer_group_id: 0, ..discrete(1) }],
        [DeviceDesc { peer_group_id: 0, ..discrete(0) }, desc(1, 0)],
    ];
    for descs in descs {
        {
            let pair = Pair::new(descs);
            for types in [[0, 0], [0, 1], [1, 0], [1, 1]] {
                assert!(!pair.far.reads_peer(&pair.near, types[0]));
                for bytes in SIZES {
                    for offsets in [[256, 1024], [3, 1]] {
                        pair.check_copy(Route::Host, types, bytes, offsets);
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
        let buffers = |types| pair.check_copy(Route::Host, types, 2 * MIB + 3, [0, 0]);
        assert_eq!(buffers([shared, shared]), [0, 0]);
        assert_eq!(buffers([shared, private]), [0, 1]);
        assert_eq!(buffers([private, shared]), [1, 0]);
        assert_eq!(buffers([private, private]), [1, 1]);
    }
    assert_nothing_is_left();
}

#[test]
fn peers_read_private_memory_without_the_host() {
    {
        let pair = Pair::of_group(5);
        let [shared, private] = [visible_type(&pair.near), private_type(&pair.near)];
        for (one, other) in [(&pair.near, &pair.far), (&pair.far, &pair.near)] {
            assert!(one.reaches_directly(other) && one.reads_peer(other, private));
            assert!(!one.reads_peer(other, shared), "of shared memory there are no views");
        }
        for destination in [shared, private] {
            for bytes in SIZES {
                for offsets in [[256, 512], [3, 1]] {
                    // The view, which is a buffer of the peer's, and nothing to stage in.
                    let views = u64::from(bytes > 0);
                    let made = pair.check_copy(Route::Queue, [private, destination], bytes, offsets);
                    assert_eq!(made, [0, views], "{bytes} bytes");
                }
            }
        }
    }
    assert_nothing_is_left();
}

/// On GPUs that copy multiples of 4 bytes, what begins or ends within one goes another way, and arrives all the same.
#[test]
fn odd_parts_arrive_through_a_view() {
    let pair = Pair::new([discrete(0), discrete(1)]);
    for destination in 0..2 {
        assert_eq!(pair.check_copy(Route::Queue, [0, destination], MIB, [256, 512]), [0, 1]);
        for bytes in SIZES {
            for offsets in [[3, 1], [2, 2], [4, 7]] {
                pair.check_copy(Route::Queue, [0, destination], bytes, offsets);
            }
        }
    }
    drop(pair);
    assert_nothing_is_left();
}

/// A peer's memory is read into the host's too, through a staging buffer of the reader's.
#[test]
fn the_host_is_given_a_peers_memory() {
    for descs in [[desc(0, 5), desc(1, 5)], [discrete(0), discrete(1)]] {
        {
            let pair = Pair::new(descs);
            let source = OwnBlock::new(&pair.near, 4 * MIB, private_type(&pair.near));
            source.write(0, &pattern(7, 4 * MIB));
            for (offset, bytes) in [(0, 4 * MIB), (3, 2 * MIB + 1), (4095, 1)] {
                let mut host = vec![0_u8; bytes as usize];
                let destination = CopyEnd::Host(NonNull::from(host.as_mut_slice()).cast());
                let before = pair.buffers_made();
                run(&pair.far, end(source.range(offset, bytes)), destination, bytes);
                assert_eq!(pair.buffers_made(), [before[0], before[1] + 2]);
                assert!(common::blocks::holds_pattern(7, offset, &host), "{bytes} bytes from {offset}");
            }
        }
        assert_nothing_is_left();
    }
}

/// Whatever reads it keeps the view, and nothing does when it has been read.
#[test]
fn a_view_lives_until_the_command_has_run() {
    for descs in [[desc(0, 5), desc(1, 5)], [discrete(0), discrete(1)]] {
        {
            let pair = Pair::new(descs);
            let private = private_type(&pair.near);
            let source = OwnBlock::new(&pair.near, MIB, private);
            let destination = OwnBlock::new(&pair.far, MIB, private);
            source.write(0, &pattern(1, MIB));
            let buffers = || pair.devices[1].live_objects()["MTLBuffer"];
            until("what copied is gone", || buffers() == 1);
            let line = Line::new(&pair.far);
            let hold = line.queue().hold().expect("the device is there");
            // By a blit, and on the GPU that does not copy it by a step of the processor's.
            let tickets = [(0, 256), (301, 511)].map(|(offset, bytes)| {
                line.enqueue(copy_of(source.range(offset, bytes), destination.range(offset, bytes)))
            });
            assert_eq!(buffers(), 3, "the block, and a view for each command");
            drop(hold);
            line.finish();
            assert_eq!(
                tickets.map(|ticket| (failure(&ticket), ticket.done_bytes())),
                [(None, 256), (None, 511)]
            );
            until("the views are gone", || buffers() == 1);
            let arrived = destination.read(0..MIB);
            let expected = pattern(1, MIB);
            assert!(arrived[..256] == expected[..256] && arrived[301..812] == expected[301..812]);
        }
        assert_nothing_is_left();
    }
}

#[test]
fn a_refused_view_is_told_and_nothing_is_queued() {
    {
        let pair = Pair::of_group(5);
        let private = private_type(&pair.near);
        let source = OwnBlock::new(&pair.near, MIB, private);
        let destination = OwnBlock::new(&pair.far, MIB, private);
        let line = Line::new(&pair.far);
        let ticket = Arc::<Ticket>::default();
        let command_buffers = || pair.devices[1].made_objects().get("MTLCommandBuffer").copied();
        let before = command_buffers();
        let mut host = [0_u8; 16];
        let to_host = Command::Copy {
            source: end(source.range(0, 16)),
            destination: CopyEnd::Host(NonNull::from(&mut host).cast()),
            bytes: 16,
        };
        for command in [copy_of(source.all(), destination.all()), to_host] {
            pair.devices[1].faults().fail(Call::NewRemoteView, 0);
            let error = line.try_enqueue(command, &ticket).expect_err("there is no view");
            assert_eq!(error.kind(), ErrorKind::Driver, "{error}");
            let value = line.mark();
            assert_eq!(line.completed(), value, "nothing is in the queue");
        }
        assert_eq!((command_buffers(), failure(&ticket)), (before, None));
        // Nor is there a view for what is cancelled.
        let (cancelled, made) = (Arc::<Ticket>::default(), pair.buffers_made());
        cancelled.cancel();
        line.try_enqueue(copy_of(source.all(), destination.all()), &cancelled).expect("it is over");
        assert_eq!(pair.buffers_made(), made);
        drop((line, source, destination));
        pair.check_copy(Route::Queue, [private, private], MIB, [0, 256]);
    }
    assert_nothing_is_left();
}

#[test]
fn devices_reach_each_other_only_as_peers() {
    {
        let reaches = |one: DeviceDesc, other: DeviceDesc| {
            let pair = Pair::new([one, other]);
            let private = private_type(&pair.near);
            assert_eq!(pair.near.reaches_directly(&pair.far), pair.far.reads_peer(&pair.near, private));
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

/// Two backends of one device are no peers, and a copy between their blocks is one between its own.
#[test]
fn a_device_copies_to_itself() {
    {
        let device = common::device(desc(0, 5));
        let [near, far] = [(); 2].map(|()| common::metal_on(&device));
        let pair = Pair { devices: [device.clone(), device], near, far };
        assert!(!pair.near.reaches_directly(&pair.far));
        for types in [[0, 0], [0, 1], [1, 0], [1, 1]] {
            let made = pair.check_copy(Route::Queue, types, MIB + 3, [1, 2]);
            assert_eq!(made, [0, 0], "no view");
        }
    }
    assert_nothing_is_left();
}

/// Metal lets go of a view a moment after the work that read it has ended: that is no lack of memory before it has been waited for.
#[test]
fn memory_that_a_peer_has_just_read_is_waited_for() {
    {
        let of = |index| DeviceDesc { working_set_bytes: 64 * MIB, ..desc(index, 5) };
        let pair = Pair::new([of(0), of(1)]);
        let private = private_type(&pair.near);
        let destination = OwnBlock::new(&pair.far, MIB, private);
        let line = Line::new(&pair.far);
        let take = || OwnBlock::try_new(&pair.near, &BlockDesc::new(64 * MIB, private));
        let source = take().expect("all of it is free");
        line.enqueue(copy_of(source.range(0, 4096), destination.range(0, 4096)));
        line.finish();
        // As if Metal still had the copy's.
        let view = autoreleasepool(|_| source.buffer().newRemoteBufferViewForDevice(pair.far.raw_device()));
        let begin = Instant::now();
        drop(source);
        take().map(drop).expect_err("the view keeps the memory");
        assert!(begin.elapsed() >= Duration::from_millis(5), "it was not waited for");
        autoreleasepool(|_| drop(view.expect("a view")));
        until("the copy's view is gone", || pair.devices[0].allocated_bytes() == 0);
        take().expect("all of it is free");
    }
    assert_nothing_is_left();
}

/// Buffers of two managers, by their blocks and offsets.
#[test]
fn buffers_of_two_managers_are_copied() {
    {
        let pair = Pair::new([discrete(0), discrete(1)]);
        let manager = |metal: &Metal| {
            MemoryManager::with_config(metal.clone(), config_with_budget(1 << 30)).expect("a budget")
        };
        let (near, far) = (manager(&pair.near), manager(&pair.far));
        let source = near.allocate(70_001).expect("there is room");
        let destination = far.allocate(70_001).expect("there is room");
        let queue = near.queue().expect("a queue");
        let mut content = vec![0; 70_001];
        Pattern::new(9).bytes(0, &mut content);
        let (source, _) = queue.upload(content, source, 0).expect("it is put in").wait().expect("it arrives");
        source.with_block(|from, from_offset| {
            destination.with_block(|to, to_offset| {
                let end = |block, offset| CopyEnd::Block { block, offset };
                run(&pair.far, end(from, from_offset), end(to, to_offset), 70_001);
            });
        });
        let queue = far.queue().expect("a queue");
        let download = queue.download::<u8>(destination, 0, 70_001).expect("it is put in");
        let (_, content) = download.wait().expect("it arrives");
        assert!(common::blocks::holds_pattern(9, 0, &content));
    }
    assert_nothing_is_left();
}
