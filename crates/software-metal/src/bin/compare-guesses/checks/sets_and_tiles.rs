//! Residency sets and placement sparse buffers.

use super::*;
use objc2::runtime::NSObjectProtocol;
use objc2::sel;
use objc2_metal::{
    MTL4CommandQueue, MTL4UpdateSparseBufferMappingOperation, MTLAllocation, MTLBufferSparseTier,
    MTLResidencySet, MTLResidencySetDescriptor, MTLResource, MTLSharedEvent, MTLSparsePageSize,
    MTLSparseTextureMappingMode,
};
use std::ptr::NonNull;

pub(super) const CHECKS: [Check; 8] = [
    Check {
        number: 60,
        guess: "a residency set counts what is staged and measures what is committed",
        run: staged,
    },
    Check { number: 61, guess: "an allocation is in a residency set once", run: once },
    Check {
        number: 62,
        guess: "a residency set keeps a reference to what is added, until the removal is committed",
        run: kept,
    },
    Check { number: 63, guess: "tiles have the sizes of their names", run: tile_sizes },
    Check {
        number: 64,
        guess: "a placement sparse buffer has no memory of its own, reads as zeros, and loses what is written",
        run: unmapped,
    },
    Check {
        number: 65,
        guess: "tiles that are mapped hold what is written, and move with their contents",
        run: mapped,
    },
    Check { number: 66, guess: "mapping tiles adds no reference to their heap", run: unreferenced },
    Check { number: 69, guess: "in a residency set a buffer on a heap stands for the heap", run: on_heap },
];

const TILE: usize = 16 << 10;

type Set = Retained<ProtocolObject<dyn MTLResidencySet>>;

/// A residency set and a buffer for it, or why there is none.
fn with_set(device: &Device, check: impl FnOnce(Set, Buffer) -> Verdict) -> Verdict {
    if !device.respondsToSelector(sel!(newResidencySetWithDescriptor:error:)) {
        return skip("the system has no residency sets");
    }
    let set = device.newResidencySetWithDescriptor_error(&MTLResidencySetDescriptor::new());
    match (set, buffer(device, 1 << 20, PRIVATE)) {
        (Ok(set), Some(buffer)) => check(set, buffer),
        _ => skip("the device makes no residency set"),
    }
}

fn allocation(buffer: &Buffer) -> &ProtocolObject<dyn MTLAllocation> {
    ProtocolObject::from_ref(&**buffer)
}

fn staged(device: &Device) -> Verdict {
    with_set(device, |set, buffer| {
        set.addAllocation(allocation(&buffer));
        let before =
            (set.allocationCount(), set.containsAllocation(allocation(&buffer)), set.allocatedSize());
        set.commit();
        let size = MTLResource::allocatedSize(&*buffer) as u64;
        compare((before, set.allocatedSize()), ((1, true, 0), size))
    })
}

fn once(device: &Device) -> Verdict {
    with_set(device, |set, buffer| {
        (0..2).for_each(|_| set.addAllocation(allocation(&buffer)));
        let twice = set.allocationCount();
        set.removeAllocation(allocation(&buffer));
        compare((twice, set.allocationCount()), (1, 0))
    })
}

fn kept(device: &Device) -> Verdict {
    with_set(device, |set, buffer| {
        let before = buffer.retainCount();
        set.addAllocation(allocation(&buffer));
        let added = buffer.retainCount() > before;
        set.commit();
        set.removeAllocation(allocation(&buffer));
        set.commit();
        compare((added, buffer.retainCount() == before), (true, true))
    })
}

fn has_tiles(device: &Device) -> bool {
    device.supportsFamily(MTLGPUFamily::Metal4)
        && device.respondsToSelector(sel!(newBufferWithLength:options:placementSparsePageSize:))
}

fn tile_sizes(device: &Device) -> Verdict {
    if !has_tiles(device) {
        return skip("the device has no placement sparse buffers");
    }
    let sizes = [MTLSparsePageSize::Size16, MTLSparsePageSize::Size64, MTLSparsePageSize::Size256];
    compare(
        sizes.map(|size| device.sparseTileSizeInBytesForSparsePageSize(size)),
        [TILE, 4 * TILE, 16 * TILE],
    )
}

fn sparse(device: &Device, tiles: usize) -> Option<Buffer> {
    // SAFETY: the page size is one of Metal's.
    unsafe {
        device.newBufferWithLength_options_placementSparsePageSize(
            tiles * TILE,
            PRIVATE,
            MTLSparsePageSize::Size16,
        )
    }
}

/// Fills the whole buffer, if told to, and reads the first byte of each tile.
fn firsts(device: &Device, sparse: &Buffer, value: Option<u8>) -> Option<Vec<u8>> {
    let down = buffer(device, sparse.length(), SHARED)?;
    let status = run(device, |commands| {
        if let Some(value) = value {
            pass(commands, |encoder| fill(encoder, sparse, value))?;
        }
        pass(commands, |encoder| fill(encoder, &down, 0xee))?;
        pass(commands, |encoder| copy(encoder, sparse, &down))
    })?;
    (status == MTLCommandBufferStatus::Completed)
        .then(|| bytes(&down).chunks(TILE).map(|tile| tile[0]).collect())
}

fn unmapped(device: &Device) -> Verdict {
    if !has_tiles(device) {
        return skip("the device has no placement sparse buffers");
    }
    let observed = || {
        let sparse = sparse(device, 4)?;
        let tier = sparse.sparseBufferTier() == MTLBufferSparseTier::Tier1;
        Some((tier, MTLResource::allocatedSize(&*sparse), firsts(device, &sparse, Some(1))?))
    };
    made(observed().map(|observed| compare(observed, (true, 0, vec![0; 4]))))
}

/// Maps or unmaps tiles, one after the other, and waits for it.
fn remap(
    device: &Device,
    sparse: &Buffer,
    heap: &ProtocolObject<dyn MTLHeap>,
    operations: &[MTL4UpdateSparseBufferMappingOperation],
) -> Option<()> {
    let (queue, event) = (device.newMTL4CommandQueue()?, device.newSharedEvent()?);
    for operation in operations {
        // SAFETY: one operation is there, inside the buffer and the heap, which both outlive the wait below.
        unsafe {
            queue.updateBufferMappings_heap_operations_count(sparse, Some(heap), NonNull::from(operation), 1)
        };
    }
    queue.signalEvent_value(ProtocolObject::from_ref(&*event), 1);
    event.waitUntilSignaledValue_timeoutMS(1, 10_000).then_some(())
}

fn operation(
    mode: MTLSparseTextureMappingMode,
    first: usize,
    count: usize,
) -> MTL4UpdateSparseBufferMappingOperation {
    MTL4UpdateSparseBufferMappingOperation { mode, bufferRange: NSRange::new(first, count), heapOffset: 0 }
}

/// A heap for tiles.
fn tiles(device: &Device) -> Option<Retained<ProtocolObject<dyn MTLHeap>>> {
    let descriptor = MTLHeapDescriptor::new();
    descriptor.setSize(4 * TILE);
    descriptor.setType(MTLHeapType::Placement);
    descriptor.setStorageMode(MTLStorageMode::Private);
    descriptor.setMaxCompatiblePlacementSparsePageSize(MTLSparsePageSize::Size16);
    device.newHeapWithDescriptor(&descriptor)
}

fn mapped(device: &Device) -> Verdict {
    if !has_tiles(device) {
        return skip("the device has no placement sparse buffers");
    }
    let observed = || {
        let (sparse, heap) = (sparse(device, 4)?, tiles(device)?);
        remap(device, &sparse, &heap, &[operation(MTLSparseTextureMappingMode::Map, 1, 2)])?;
        let first = firsts(device, &sparse, Some(5))?;
        let [unmap, map] =
            [(MTLSparseTextureMappingMode::Unmap, 1, 2), (MTLSparseTextureMappingMode::Map, 3, 1)];
        remap(
            device,
            &sparse,
            &heap,
            &[unmap, map].map(|(mode, first, count)| operation(mode, first, count)),
        )?;
        Some((first, firsts(device, &sparse, None)?))
    };
    made(observed().map(|observed| compare(observed, (vec![0, 5, 5, 0], vec![0, 0, 0, 5]))))
}

fn unreferenced(device: &Device) -> Verdict {
    if !has_tiles(device) {
        return skip("the device has no placement sparse buffers");
    }
    let counts = || {
        let (sparse, heap) = (sparse(device, 4)?, tiles(device)?);
        let before = heap.retainCount();
        remap(device, &sparse, &heap, &[operation(MTLSparseTextureMappingMode::Map, 0, 4)])?;
        let with = heap.retainCount();
        remap(device, &sparse, &heap, &[operation(MTLSparseTextureMappingMode::Unmap, 0, 4)])?;
        Some(with - before)
    };
    made(counts().map(|more| compare(more, 0)))
}

fn on_heap(device: &Device) -> Verdict {
    with_set(device, |set, _| {
        let counts = || {
            let heap = heap(device, 1 << 16, MTLHeapType::Automatic)?;
            let (one, two) = (
                heap.newBufferWithLength_options(256, PRIVATE)?,
                heap.newBufferWithLength_options(256, PRIVATE)?,
            );
            [&one, &two].iter().for_each(|buffer| set.addAllocation(allocation(buffer)));
            set.commit();
            Some((set.allocationCount(), set.allocatedSize()))
        };
        made(counts().map(|counts| compare(counts, (1, 1 << 16))))
    })
}
