//! What tests may do to a device.
#![cfg(not(target_vendor = "apple"))]

mod support;
use objc2::rc::Retained;
use software_metal::Call;
use std::ptr::NonNull;
use support::*;

fn heap_descriptor(size: usize) -> Retained<MTLHeapDescriptor> {
    let descriptor = MTLHeapDescriptor::new();
    descriptor.setSize(size);
    descriptor
}

/// Each call that may answer nil, and whether it does now.
fn attempts(device: &Device, peer: &Device) -> Vec<(Call, bool)> {
    let heap = device.newHeapWithDescriptor(&heap_descriptor(1 << 16));
    let own = device.newBufferWithLength_options(64, PRIVATE);
    let on_heap = heap.as_ref().map(|heap| heap.newBufferWithLength_options(64, PRIVATE));
    let view = own.as_ref().map(|own| own.newRemoteBufferViewForDevice(peer));
    let pages = std::alloc::Layout::from_size_align(16384, 16384).unwrap();
    // SAFETY: the layout has a size.
    let memory = NonNull::new(unsafe { std::alloc::alloc_zeroed(pages) }).unwrap();
    // SAFETY: the memory outlives the buffer.
    let no_copy = unsafe {
        device.newBufferWithBytesNoCopy_length_options_deallocator(memory.cast(), 16384, SHARED, None)
    }
    .is_none();
    // SAFETY: it was allocated with this layout.
    unsafe { std::alloc::dealloc(memory.as_ptr(), pages) };
    // SAFETY: the size is one of Metal's.
    let sparse = unsafe {
        device.newBufferWithLength_options_placementSparsePageSize(
            1 << 16,
            PRIVATE,
            MTLSparsePageSize::Size16,
        )
    };
    let queue = device.newCommandQueue();
    let commands = queue.as_ref().map(|queue| queue.commandBuffer());
    let encoder = commands.as_ref().and_then(Option::as_ref).map(|commands| {
        let encoder = commands.blitCommandEncoder();
        encoder.inspect(|encoder| encoder.endEncoding()).is_none()
    });
    vec![
        (Call::NewHeap, heap.is_none()),
        (Call::NewBuffer, own.is_none()),
        (Call::NewBufferOnHeap, on_heap.is_some_and(|buffer| buffer.is_none())),
        (Call::NewBufferNoCopy, no_copy),
        (Call::NewSparseBuffer, sparse.is_none()),
        (Call::NewCommandQueue, queue.is_none()),
        (Call::NewCommandBuffer, commands.is_some_and(|commands| commands.is_none())),
        (Call::NewBlitEncoder, encoder == Some(true)),
        (Call::NewSharedEvent, device.newSharedEvent().is_none()),
        (
            Call::NewResidencySet,
            device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).is_err(),
        ),
        (Call::NewMtl4Queue, device.newMTL4CommandQueue().is_none()),
        (Call::NewRemoteView, view.is_some_and(|view| view.is_none())),
    ]
}

fn peer(index: u32) -> DeviceDesc {
    DeviceDesc {
        has_metal4: true,
        peer_group_id: 3,
        peer_index: index,
        peer_count: 2,
        ..DeviceDesc::default()
    }
}

#[test]
fn every_call_that_may_fail_can_be_made_to() {
    let other = SoftwareDevice::new(peer(1));
    with_device(peer(0), |software, device| {
        let other_software = &other;
        let other = other.metal_device();
        let failing = || -> Vec<_> {
            autoreleasepool(|_| attempts(device, &other))
                .into_iter()
                .filter(|(_, failed)| *failed)
                .map(|(call, _)| call)
                .collect()
        };
        assert_eq!(failing(), []);
        let all: Vec<_> =
            autoreleasepool(|_| attempts(device, &other)).into_iter().map(|(call, _)| call).collect();
        for call in all {
            // A remote view is made by the other device.
            let software = if call == Call::NewRemoteView { other_software } else { software };
            software.faults().fail(call, 0);
            assert_eq!(failing(), [call], "the next");
            assert_eq!(failing(), [], "only the next");
            software.faults().fail(call, 1);
            assert_eq!(failing(), [], "{call:?}: the second from now, so not yet");
            assert_eq!(failing(), [call], "the second");
            software.faults().fail_all(call, true);
            assert_eq!((failing(), failing()), (vec![call], vec![call]));
            software.faults().fail_all(call, false);
            assert_eq!(failing(), []);
        }
    });
    other.wait_until_returned().unwrap();
}

#[test]
fn the_error_of_a_residency_set_says_something() {
    with_device(DeviceDesc::default(), |software, device| {
        software.faults().fail(Call::NewResidencySet, 0);
        let error =
            device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).unwrap_err();
        assert!(error.localizedDescription().to_string().contains("residency set"));
    });
}

#[test]
fn what_does_not_fit_is_nil() {
    let desc = DeviceDesc {
        memory_bytes: 1 << 20,
        max_buffer_bytes: 1 << 19,
        resource_count_max: 3,
        ..DeviceDesc::default()
    };
    with_device(desc, |software, device| {
        assert!(
            device.newBufferWithLength_options((1 << 19) + 1, SHARED).is_none(),
            "longer than maxBufferLength"
        );
        assert!(
            device.newHeapWithDescriptor(&heap_descriptor((1 << 20) + 1)).is_none(),
            "larger than the memory"
        );
        let heap = device.newHeapWithDescriptor(&heap_descriptor(1 << 19)).unwrap();
        software.faults().set_foreign_bytes(1 << 19);
        assert_eq!(device.currentAllocatedSize(), 1 << 20);
        assert_eq!(software.allocated_bytes(), 1 << 19);
        assert!(device.newBufferWithLength_options(64, SHARED).is_none(), "others have it");
        software.faults().set_foreign_bytes(0);
        software.faults().set_memory(1 << 19);
        assert!(device.newBufferWithLength_options(64, SHARED).is_none(), "less memory than before");
        software.faults().set_memory(1 << 20);
        let _two: Vec<_> = (0..2).map(|_| heap.newBufferWithLength_options(64, PRIVATE).unwrap()).collect();
        assert!(device.newBufferWithLength_options(64, SHARED).is_none(), "too many resources");
        software.faults().set_working_set(5);
        assert_eq!(device.recommendedMaxWorkingSetSize(), 5);
    });
}

#[test]
fn a_failed_command_buffer_does_nothing() {
    with_device(DeviceDesc::default(), |software, device| {
        let (queue, target) = (device.newCommandQueue().unwrap(), buffer(device, 64, SHARED));
        software.faults().fail_command_buffer(1, MTLCommandBufferError::OutOfMemory);
        let all: Vec<_> = (1..4).map(|value| (queue.commandBuffer().unwrap(), value)).collect();
        for (commands, value) in &all {
            fill(commands, &target, *value);
            commands.commit();
            commands.waitUntilCompleted();
            let expected = if *value == 2 { 1 } else { *value };
            assert_eq!(read(&target)[0], expected);
        }
        let error = all[1].0.error().unwrap();
        assert_eq!(
            (all[1].0.status(), error.code()),
            (MTLCommandBufferStatus::Error, MTLCommandBufferError::OutOfMemory.0 as isize)
        );
        assert!(all[0].0.error().is_none());
    });
}

#[test]
fn a_removed_device_ends_everything_and_touches_nothing() {
    for seed in [None, Some(1)] {
        with_device(DeviceDesc { overlap_seed: seed, ..DeviceDesc::default() }, |software, device| {
            let (queue, target) = (device.newCommandQueue().unwrap(), buffer(device, 64, SHARED));
            let hold = software.faults().hold_execution();
            let event = device.newSharedEvent().unwrap();
            let (before, waiting) = (queue.commandBuffer().unwrap(), queue.commandBuffer().unwrap());
            fill(&before, &target, 1);
            before.commit();
            waiting.encodeWaitForEvent_value(ProtocolObject::from_ref(&*event), 1);
            waiting.commit();
            software.faults().remove();
            let after = queue.commandBuffer().unwrap();
            fill(&after, &target, 2);
            after.commit();
            for commands in [&before, &waiting, &after] {
                commands.waitUntilCompleted();
                assert_eq!(commands.status(), MTLCommandBufferStatus::Error);
                assert_eq!(commands.error().unwrap().code(), MTLCommandBufferError::DeviceRemoved.0 as isize);
            }
            drop(hold);
            assert_eq!(read(&target)[0], 0);
            assert!(device.newBufferWithLength_options(64, SHARED).is_none());
            assert!(device.newSharedEvent().is_none() && device.newCommandQueue().is_none());
        });
    }
}

#[test]
fn work_waits_while_it_is_held() {
    with_device(DeviceDesc::default(), |software, device| {
        let (queue, target) = (device.newCommandQueue().unwrap(), buffer(device, 64, SHARED));
        let (one, two) = (software.faults().hold_execution(), software.faults().hold_execution());
        let commands = queue.commandBuffer().unwrap();
        fill(&commands, &target, 1);
        commands.commit();
        drop(one);
        assert_eq!((commands.status(), read(&target)[0]), (MTLCommandBufferStatus::Committed, 0));
        drop(two);
        commands.waitUntilCompleted();
        assert_eq!(read(&target)[0], 1);
    });
}

#[test]
fn an_old_system_responds_to_less() {
    use objc2::runtime::NSObjectProtocol;
    use objc2::sel;
    let sets = sel!(newResidencySetWithDescriptor:error:);
    let metal4 = sel!(newMTL4CommandQueue);
    with_device(DeviceDesc::default(), |_, device| {
        assert!(device.respondsToSelector(sets) && !device.respondsToSelector(metal4));
        assert!(caught(|| device.newMTL4CommandQueue()).contains("without Metal 4"));
    });
    with_device(
        DeviceDesc { has_residency_sets: false, has_metal4: true, ..DeviceDesc::default() },
        |_, device| {
            assert!(!device.respondsToSelector(sets) && device.respondsToSelector(metal4));
            assert!(
                device.respondsToSelector(sel!(newCommandQueue)) && !device.respondsToSelector(sel!(fooBar))
            );
            let set =
                caught(|| device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()));
            assert!(set.contains("does not respond"), "{set}");
        },
    );
}
