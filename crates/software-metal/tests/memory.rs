//! Heaps, purgeable memory, the client's own memory, residency.
#![cfg(not(target_vendor = "apple"))]

mod support;
use block2::RcBlock;
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use support::*;

type Heap = Retained<ProtocolObject<dyn MTLHeap>>;

fn described(size: usize, kind: MTLHeapType, mode: MTLStorageMode) -> Retained<MTLHeapDescriptor> {
    let descriptor = MTLHeapDescriptor::new();
    descriptor.setSize(size);
    descriptor.setType(kind);
    descriptor.setStorageMode(mode);
    descriptor
}

fn heap(device: &Device, size: usize, kind: MTLHeapType) -> Heap {
    device.newHeapWithDescriptor(&described(size, kind, MTLStorageMode::Shared)).expect("a heap")
}

fn placed(heap: &Heap, len: usize, offset: usize) -> Option<Buffer> {
    // SAFETY: the device checks the range.
    unsafe { heap.newBufferWithLength_options_offset(len, SHARED, offset) }
}

#[test]
fn descriptors_say_what_they_were_told() {
    let descriptor = MTLHeapDescriptor::new();
    assert_eq!((descriptor.size(), descriptor.storageMode()), (0, MTLStorageMode::Private));
    assert_eq!(descriptor.r#type(), MTLHeapType::Automatic);
    assert_eq!(descriptor.hazardTrackingMode(), MTLHazardTrackingMode::Default);
    descriptor.setResourceOptions(SHARED | UNTRACKED | MTLResourceOptions::CPUCacheModeWriteCombined);
    assert_eq!(descriptor.storageMode(), MTLStorageMode::Shared);
    assert_eq!(descriptor.hazardTrackingMode(), MTLHazardTrackingMode::Untracked);
    assert_eq!(descriptor.cpuCacheMode(), MTLCPUCacheMode::WriteCombined);
    descriptor.setHazardTrackingMode(MTLHazardTrackingMode::Tracked);
    assert!(descriptor.resourceOptions().contains(MTLResourceOptions::HazardTrackingModeTracked));
    descriptor.setMaxCompatiblePlacementSparsePageSize(MTLSparsePageSize::Size64);
    assert_eq!(descriptor.maxCompatiblePlacementSparsePageSize(), MTLSparsePageSize::Size64);
}

#[test]
fn an_automatic_heap_reuses_its_holes() {
    with_device(DeviceDesc::default(), |software, device| {
        let heap = heap(device, 1 << 16, MTLHeapType::Automatic);
        assert_eq!(software.allocated_bytes(), 1 << 16);
        let (one, two) = (
            heap.newBufferWithLength_options(1000, SHARED).unwrap(),
            heap.newBufferWithLength_options(1000, SHARED).unwrap(),
        );
        assert_eq!((heap.usedSize(), heap.size(), heap.currentAllocatedSize()), (2048, 1 << 16, 1 << 16));
        assert_eq!(heap.maxAvailableSizeWithAlignment(256), (1 << 16) - 2048);
        assert_eq!(one.hazardTrackingMode(), MTLHazardTrackingMode::Untracked);
        let first = one.gpuAddress();
        assert_eq!(two.gpuAddress() - first, 1024);
        drop(one);
        let three = heap.newBufferWithLength_options(100, SHARED).unwrap();
        assert_eq!(three.gpuAddress(), first);
        assert!(heap.newBufferWithLength_options(1 << 20, SHARED).is_none());
        // SAFETY: nothing uses the buffer any more.
        unsafe { three.makeAliasable() };
        assert!(three.isAliasable());
        assert_eq!(heap.newBufferWithLength_options(100, SHARED).unwrap().gpuAddress(), first);
        assert_eq!(software.memory_objects_peak(), 1);
        assert_eq!(software.resources_peak(), 4);
    });
}

#[test]
fn a_placement_heap_puts_buffers_where_it_is_told() {
    with_device(DeviceDesc::default(), |_, device| {
        let heap = heap(device, 1 << 16, MTLHeapType::Placement);
        heap.setLabel(Some(&objc2_foundation::NSString::from_str("weights")));
        assert_eq!(heap.label().unwrap().to_string(), "weights");
        let (low, high) = (placed(&heap, 4096, 0).unwrap(), placed(&heap, 8192, 4096).unwrap());
        assert_eq!((low.heapOffset(), high.heapOffset()), (0, 4096));
        assert!(high.heap().is_some());
        write(&low, 1);
        write(&high, 2);
        let alias = placed(&heap, 8192, 0).unwrap();
        let bytes = read(&alias);
        assert!(bytes[..4096].iter().all(|byte| *byte == 1) && bytes[4096..].iter().all(|byte| *byte == 2));
        assert!(
            read(&placed(&heap, 256, 1 << 15).unwrap()).iter().all(|byte| *byte != 0),
            "fresh heap memory is not zero"
        );
        assert!(caught(|| placed(&heap, 4096, (1 << 16) - 256)).contains("not inside its heap"));
        assert!(caught(|| placed(&heap, 4096, 100)).contains("not a multiple of 256"));
        assert!(caught(|| heap.newBufferWithLength_options(256, SHARED)).contains("needs an offset"));
        let private = caught(|| {
            // SAFETY: the device checks the range.
            unsafe { heap.newBufferWithLength_options_offset(256, PRIVATE, 0) }
        });
        assert!(private.contains("storage mode"), "{private}");
        assert!(caught(|| buffer(device, 64, PRIVATE).contents()).contains("contents of a private buffer"));
    });
}

#[test]
fn buffers_keep_their_heap() {
    with_device(DeviceDesc::default(), |software, device| {
        let heap = heap(device, 1 << 16, MTLHeapType::Placement);
        let one = placed(&heap, 256, 0).unwrap();
        drop(heap);
        assert_eq!(software.live_objects()["MTLHeap"], 1);
        write(&one, 1);
        drop(one);
        assert_eq!(software.live_objects().get("MTLHeap"), None);
    });
}

#[test]
fn reserving_far_more_than_the_machine_has_costs_nothing() {
    let desc = DeviceDesc { memory_bytes: 1 << 40, ..DeviceDesc::default() };
    with_device(desc, |software, device| {
        let heaps: Vec<_> = (0..16).map(|_| heap(device, 16 << 30, MTLHeapType::Placement)).collect();
        assert_eq!(software.allocated_bytes(), 256 << 30);
        assert_eq!(heaps.len(), 16);
    });
}

#[test]
fn without_unified_memory_heaps_are_private() {
    with_device(
        DeviceDesc { is_unified: false, is_apple_family: false, ..DeviceDesc::default() },
        |_, device| {
            assert!(
                !device.supportsFamily(MTLGPUFamily::Apple1) && device.supportsFamily(MTLGPUFamily::Mac2)
            );
            let shared = described(1 << 16, MTLHeapType::Placement, MTLStorageMode::Shared);
            assert!(device.newHeapWithDescriptor(&shared).is_none());
            let private = described(1 << 16, MTLHeapType::Placement, MTLStorageMode::Private);
            assert!(device.newHeapWithDescriptor(&private).is_some());
            assert!(device.newBufferWithLength_options(64, MTLResourceOptions::StorageModeManaged).is_none());
            let (queue, target) = (device.newCommandQueue().unwrap(), buffer(device, 64, SHARED));
            let odd = caught(|| {
                let commands = queue.commandBuffer().unwrap();
                commands.blitCommandEncoder().unwrap().fillBuffer_range_value(&target, NSRange::new(2, 4), 0);
            });
            assert!(odd.contains("multiples of 4"), "{odd}");
        },
    );
}

#[test]
fn purgeable_states_are_answered_as_documented() {
    with_device(DeviceDesc::default(), |software, device| {
        let heap = heap(device, 1 << 20, MTLHeapType::Placement);
        let on_heap = placed(&heap, 1 << 20, 0).unwrap();
        write(&on_heap, 5);
        assert_eq!(heap.setPurgeableState(MTLPurgeableState::Volatile), MTLPurgeableState::NonVolatile);
        assert_eq!(heap.setPurgeableState(MTLPurgeableState::KeepCurrent), MTLPurgeableState::Volatile);
        assert_eq!(heap.setPurgeableState(MTLPurgeableState::NonVolatile), MTLPurgeableState::Volatile);
        assert!(read(&on_heap).iter().all(|byte| *byte == 5), "nothing was purged");
        software.faults().purge_volatile();
        assert_eq!(heap.setPurgeableState(MTLPurgeableState::Volatile), MTLPurgeableState::NonVolatile);
        software.faults().purge_volatile();
        assert_eq!(heap.setPurgeableState(MTLPurgeableState::NonVolatile), MTLPurgeableState::Empty);
        assert!(read(&on_heap).iter().all(|byte| *byte != 5), "everything is lost");
        assert!(caught(|| on_heap.setPurgeableState(MTLPurgeableState::Volatile)).contains("only the heap"));
        let own = buffer(device, 64, SHARED);
        assert_eq!(own.setPurgeableState(MTLPurgeableState::Empty), MTLPurgeableState::NonVolatile);
        assert_eq!(own.setPurgeableState(MTLPurgeableState::NonVolatile), MTLPurgeableState::Empty);
    });
}

#[test]
fn volatile_memory_may_not_be_used_by_work() {
    with_device(DeviceDesc::default(), |_, device| {
        let (queue, target) = (device.newCommandQueue().unwrap(), buffer(device, 64, SHARED));
        target.setPurgeableState(MTLPurgeableState::Volatile);
        let volatile = caught(|| {
            let commands = queue.commandBuffer().unwrap();
            fill(&commands, &target, 1);
            commands.commit();
        });
        assert!(volatile.contains("volatile or empty purgeable state"), "{volatile}");
    });
}

#[test]
fn the_clients_memory_is_used_and_given_back() {
    let freed = Arc::new(AtomicUsize::new(0));
    with_device(DeviceDesc::default(), |software, device| {
        let layout = std::alloc::Layout::from_size_align(16384, 16384).unwrap();
        // SAFETY: the layout has a size.
        let memory = NonNull::new(unsafe { std::alloc::alloc_zeroed(layout) }).unwrap();
        let freed = Arc::clone(&freed);
        let free = RcBlock::new(move |pointer: NonNull<c_void>, len: usize| {
            freed.fetch_add(len, Ordering::SeqCst);
            // SAFETY: it was allocated with this layout, and the buffer is gone.
            unsafe { std::alloc::dealloc(pointer.as_ptr().cast(), layout) };
        });
        let no_copy = |offset, len| {
            let pointer = NonNull::new(memory.as_ptr().wrapping_add(offset)).unwrap().cast::<c_void>();
            // SAFETY: the memory lives until the deallocator runs; bad ranges are refused.
            unsafe {
                device.newBufferWithBytesNoCopy_length_options_deallocator(pointer, len, SHARED, Some(&free))
            }
        };
        assert!(no_copy(4096, 4096).is_none() && no_copy(0, 100).is_none());
        let buffer = no_copy(0, 16384).unwrap();
        assert_eq!(buffer.contents(), memory.cast());
        assert_eq!(software.allocated_bytes(), 16384);
    });
    assert_eq!(freed.load(Ordering::SeqCst), 16384);
    assert_eq!(Arc::strong_count(&freed), 1);
}

#[test]
fn bytes_are_copied_into_a_new_buffer() {
    with_device(DeviceDesc::default(), |_, device| {
        let bytes = NonNull::from(&[1u8, 2, 3]).cast();
        // SAFETY: three bytes are there.
        let buffer = unsafe { device.newBufferWithBytes_length_options(bytes, 3, SHARED) }.unwrap();
        assert_eq!(read(&buffer), [1, 2, 3]);
    });
}

#[test]
fn residency_sets_apply_changes_at_commit() {
    with_device(DeviceDesc::default(), |software, device| {
        let set = device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).unwrap();
        let (heap, own) = (heap(device, 1 << 20, MTLHeapType::Placement), buffer(device, 64, SHARED));
        set.addAllocation(ProtocolObject::from_ref(&*heap));
        set.addAllocation(ProtocolObject::from_ref(&*own));
        assert_eq!((set.allocationCount(), set.allocatedSize()), (2, 0), "staged");
        set.commit();
        assert_eq!(set.allocatedSize(), (1 << 20) + 16384);
        assert_eq!(software.residency().resident_bytes, 0);
        set.requestResidency();
        assert_eq!(software.residency().resident_bytes, (1 << 20) + 16384);
        assert!(set.containsAllocation(ProtocolObject::from_ref(&*own)));
        assert_eq!(set.allAllocations().count(), 2);
        set.removeAllocation(ProtocolObject::from_ref(&*own));
        assert_eq!((set.allocationCount(), set.allocatedSize()), (1, (1 << 20) + 16384));
        set.commit();
        assert_eq!(set.allocatedSize(), 1 << 20);
        set.removeAllAllocations();
        set.commit();
        set.endResidency();
        let counts = software.residency();
        assert_eq!((counts.sets, counts.commits, counts.requests, counts.ends), (1, 3, 1, 1));
        assert_eq!(counts.resident_bytes, 0);
        drop(set);
        assert_eq!(software.residency().sets, 0);
    });
}

#[test]
fn uses_without_residency_are_counted() {
    with_device(DeviceDesc::default(), |software, device| {
        let set = device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).unwrap();
        let (queue, heap) =
            (device.newCommandQueue().unwrap(), heap(device, 1 << 16, MTLHeapType::Placement));
        let one = placed(&heap, 256, 0).unwrap();
        let run = || {
            let commands = queue.commandBuffer().unwrap();
            fill(&commands, &one, 1);
            complete(&commands);
            software.residency().unresident_uses
        };
        assert_eq!(run(), 1);
        set.addAllocation(ProtocolObject::from_ref(&*heap));
        queue.addResidencySet(&set);
        assert_eq!(run(), 2, "staged only");
        set.commit();
        assert_eq!(run(), 2, "attached to the queue");
        queue.removeResidencySet(&set);
        assert_eq!(run(), 3);
        set.requestResidency();
        assert_eq!(run(), 3, "requested");
        let sets: Vec<_> = (0..32)
            .map(|_| device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new()).unwrap())
            .collect();
        sets.iter().for_each(|set| queue.addResidencySet(set));
        assert!(caught(|| queue.addResidencySet(&set)).contains("more than 32"));
    });
}

/// Reads memory of a buffer that is gone. In a process of its own: it is to crash.
#[test]
fn touching_freed_memory_faults() {
    use std::os::unix::process::ExitStatusExt;
    const CHILD: &str = "SOFTWARE_METAL_TOUCHES_FREED_MEMORY";
    if std::env::var_os(CHILD).is_some() {
        let device = SoftwareDevice::new(DeviceDesc::default()).metal_device();
        let buffer = buffer(&device, 64, SHARED);
        let contents = buffer.contents().cast::<u8>();
        // SAFETY: the buffer lives.
        println!("before: {}", unsafe { contents.read_volatile() });
        drop(buffer);
        // SAFETY: none; that is what is tested.
        println!("after: {}", unsafe { contents.read_volatile() });
        return;
    }
    let mut child = std::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "touching_freed_memory_faults", "--nocapture"]).env(CHILD, "1");
    let output = child.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("before: 0") && !out.contains("after"), "{out}");
    let is_fault = matches!(output.status.signal(), Some(7 | 11));
    assert!(is_fault || err.contains("AddressSanitizer"), "{:?} {err}", output.status);
}
