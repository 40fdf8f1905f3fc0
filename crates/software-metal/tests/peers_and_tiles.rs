//! Devices that are peers, and placement sparse buffers.
#![cfg(not(target_vendor = "apple"))]

mod support;
use std::ptr::NonNull;
use support::*;

const TILE: usize = 16 << 10;

fn peer(index: u32) -> DeviceDesc {
    DeviceDesc {
        registry_id: u64::from(index),
        peer_group_id: 3,
        peer_index: index,
        peer_count: 2,
        ..DeviceDesc::default()
    }
}

#[test]
fn a_remote_view_is_read_by_the_peer() {
    let software = SoftwareDevice::new(peer(1));
    with_device(peer(0), |here, device| {
        let there = software.metal_device();
        assert_eq!((there.peerGroupID(), there.peerIndex(), there.peerCount()), (3, 1, 2));
        let source = buffer(device, 64, PRIVATE);
        let commands = device.newCommandQueue().unwrap().commandBuffer().unwrap();
        fill(&commands, &source, 8);
        complete(&commands);
        let view = source.newRemoteBufferViewForDevice(&there).unwrap();
        assert_eq!(view.remoteStorageBuffer().unwrap(), source);
        assert_eq!(software.live_objects()["MTLBuffer"], 1);
        let (queue, target) = (there.newCommandQueue().unwrap(), buffer(&there, 64, SHARED));
        let commands = queue.commandBuffer().unwrap();
        copy(&commands, &view, &target);
        complete(&commands);
        assert_eq!(read(&target)[63], 8);
        let written = caught(|| {
            let commands = queue.commandBuffer().unwrap();
            commands.blitCommandEncoder().unwrap().fillBuffer_range_value(&view, NSRange::new(0, 64), 0);
        });
        assert!(written.contains("only be the source"), "{written}");
        assert!(
            caught(|| buffer(device, 64, SHARED).newRemoteBufferViewForDevice(&there))
                .contains("not private")
        );
        assert!(source.newRemoteBufferViewForDevice(device).is_none(), "no view on the same device");
        let stranger = SoftwareDevice::new(DeviceDesc::default()).metal_device();
        assert!(source.newRemoteBufferViewForDevice(&stranger).is_none());
        drop(source);
        assert_eq!(here.live_objects()["MTLBuffer"], 1, "the view keeps the storage");
    });
    software.wait_until_returned().unwrap();
}

fn metal4() -> DeviceDesc {
    DeviceDesc { has_metal4: true, ..DeviceDesc::default() }
}

fn sparse(device: &Device, tiles: usize) -> Buffer {
    // SAFETY: the size is one of Metal's.
    unsafe {
        device.newBufferWithLength_options_placementSparsePageSize(
            tiles * TILE,
            PRIVATE,
            MTLSparsePageSize::Size16,
        )
    }
    .unwrap()
}

fn tiles(device: &Device, count: usize, page: MTLSparsePageSize) -> Retained<ProtocolObject<dyn MTLHeap>> {
    let descriptor = MTLHeapDescriptor::new();
    descriptor.setSize(count * TILE);
    descriptor.setType(MTLHeapType::Placement);
    descriptor.setMaxCompatiblePlacementSparsePageSize(page);
    device.newHeapWithDescriptor(&descriptor).unwrap()
}

fn map(first: usize, count: usize, heap_offset: usize) -> MTL4UpdateSparseBufferMappingOperation {
    let mode = MTLSparseTextureMappingMode::Map;
    MTL4UpdateSparseBufferMappingOperation {
        mode,
        bufferRange: NSRange::new(first, count),
        heapOffset: heap_offset,
    }
}

fn unmap(first: usize, count: usize) -> MTL4UpdateSparseBufferMappingOperation {
    MTL4UpdateSparseBufferMappingOperation {
        mode: MTLSparseTextureMappingMode::Unmap,
        ..map(first, count, 0)
    }
}

/// One device's queues and an event that orders them.
struct Tiles<'a> {
    device: &'a Device,
    remap: Retained<ProtocolObject<dyn MTL4CommandQueue>>,
    queue: Queue,
    event: Retained<ProtocolObject<dyn MTLSharedEvent>>,
}

impl<'a> Tiles<'a> {
    fn new(device: &'a Device) -> Self {
        let (remap, queue) = (device.newMTL4CommandQueue().unwrap(), device.newCommandQueue().unwrap());
        Self { device, remap, queue, event: device.newSharedEvent().unwrap() }
    }

    fn update(
        &self,
        buffer: &Buffer,
        heap: Option<&ProtocolObject<dyn MTLHeap>>,
        operation: MTL4UpdateSparseBufferMappingOperation,
    ) {
        let operation = NonNull::from(&operation);
        // SAFETY: one operation is there.
        unsafe { self.remap.updateBufferMappings_heap_operations_count(buffer, heap, operation, 1) };
    }

    fn settle(&self) {
        let value = self.event.signaledValue() + 1;
        self.remap.signalEvent_value(ProtocolObject::from_ref(&*self.event), value);
        assert!(self.event.waitUntilSignaledValue_timeoutMS(value, 60_000));
    }

    fn fill(&self, buffer: &Buffer, value: u8) {
        let commands = self.queue.commandBuffer().unwrap();
        fill(&commands, buffer, value);
        complete(&commands);
    }

    /// The first byte of each tile.
    fn firsts(&self, sparse: &Buffer) -> Vec<u8> {
        let target = buffer(self.device, sparse.length(), SHARED);
        write(&target, 0xee);
        let commands = self.queue.commandBuffer().unwrap();
        copy(&commands, sparse, &target);
        complete(&commands);
        read(&target).chunks(TILE).map(|tile| tile[0]).collect()
    }
}

#[test]
fn tiles_are_mapped_under_a_fixed_address() {
    with_device(metal4(), |software, device| {
        let work = Tiles::new(device);
        let (sparse, heap) = (sparse(device, 4), tiles(device, 4, MTLSparsePageSize::Size64));
        assert_eq!(sparse.sparseBufferTier(), MTLBufferSparseTier::Tier1);
        assert_eq!((software.allocated_bytes(), MTLResource::allocatedSize(&*sparse)), (4 * TILE as u64, 0));
        work.fill(&sparse, 1);
        assert_eq!(work.firsts(&sparse), [0, 0, 0, 0], "writes vanish, reads are zero");
        work.update(&sparse, Some(&heap), map(1, 2, 0));
        work.settle();
        work.fill(&sparse, 2);
        assert_eq!(work.firsts(&sparse), [0, 2, 2, 0]);
        work.update(&sparse, None, unmap(1, 1));
        work.update(&sparse, Some(&heap), map(3, 1, 0));
        work.settle();
        assert_eq!(work.firsts(&sparse), [0, 0, 2, 2], "the tile has moved with its contents");
    });
}

#[test]
fn mappings_can_be_copied_and_wait_for_events() {
    with_device(metal4(), |_, device| {
        let work = Tiles::new(device);
        let (from, to, heap) =
            (sparse(device, 2), sparse(device, 3), tiles(device, 2, MTLSparsePageSize::Size16));
        let gate = device.newSharedEvent().unwrap();
        work.update(&from, Some(&heap), map(0, 2, 0));
        work.settle();
        work.fill(&from, 7);
        work.remap.waitForEvent_value(ProtocolObject::from_ref(&*gate), 1);
        let operation =
            MTL4CopySparseBufferMappingOperation { sourceRange: NSRange::new(0, 2), destinationOffset: 1 };
        // SAFETY: one operation is there.
        unsafe {
            work.remap.copyBufferMappingsFromBuffer_toBuffer_operations_count(
                &from,
                &to,
                NonNull::from(&operation),
                1,
            )
        };
        assert_eq!(work.firsts(&to), [0, 0, 0]);
        gate.setSignaledValue(1);
        work.settle();
        assert_eq!(work.firsts(&to), [0, 7, 7]);
    });
}

#[test]
fn misuse_of_tiles_is_caught() {
    with_device(metal4(), |_, device| {
        let work = Tiles::new(device);
        let (sparse, heap) = (sparse(device, 2), tiles(device, 2, MTLSparsePageSize::Size16));
        assert!(
            caught(|| work.update(&sparse, Some(&heap), map(1, 2, 0)))
                .contains("outside a sparse buffer of 2")
        );
        assert!(caught(|| work.update(&sparse, Some(&heap), map(0, 2, 1))).contains("past the end"));
        assert!(caught(|| work.update(&sparse, None, map(0, 1, 0))).contains("needs a heap"));
        let plain = tiles(device, 2, MTLSparsePageSize(0));
        assert!(
            caught(|| work.update(&sparse, Some(&plain), map(0, 1, 0)))
                .contains("maxCompatiblePlacementSparsePageSize")
        );
        assert!(
            caught(|| work.update(&buffer(device, TILE, PRIVATE), None, unmap(0, 1)))
                .contains("not placement sparse")
        );
    });
}

#[test]
fn a_tile_of_a_freed_heap_is_seen() {
    with_device(metal4(), |_, device| {
        let work = Tiles::new(device);
        let (sparse, heap) = (sparse(device, 2), tiles(device, 2, MTLSparsePageSize::Size16));
        work.update(&sparse, Some(&heap), map(0, 2, 0));
        work.settle();
        drop(heap);
        let commands = work.queue.commandBuffer().unwrap();
        fill(&commands, &sparse, 1);
        commands.commit();
        commands.waitUntilCompleted();
        assert!(
            commands.error().unwrap().localizedDescription().to_string().contains("heap that has been freed")
        );
    });
}
