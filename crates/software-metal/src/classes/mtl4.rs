//! `MTL4CommandQueue`, as far as mappings of sparse buffers go.

use super::buffer::Buffer;
use super::event::event_of;
use super::heap::Heap;
use super::queue::Attached;
use super::residency_set::objects;
use super::{Device, Label, Proto, down, init, make};
use crate::census::{Counted, Kind};
use crate::lane::Lane;
use crate::memory::Place;
use crate::sparse::{Change, Mappings};
use crate::work::{Job, Remap, Step, Target};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::NSObjectProtocol;
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSObject, NSRange, NSString};
use objc2_metal::{
    MTL4CommandQueue, MTL4CopySparseBufferMappingOperation, MTL4UpdateSparseBufferMappingOperation,
    MTLBuffer, MTLDevice, MTLEvent, MTLHeap, MTLHeapType, MTLResidencySet, MTLSparseTextureMappingMode,
};
use std::ptr::NonNull;
use std::sync::Arc;

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTL4CommandQueueDescriptor"]
    #[ivars = Label]
    pub(crate) struct Mtl4CommandQueueDescriptor;

    impl Mtl4CommandQueueDescriptor {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            Some(init(this, Label::default()))
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().set(label);
        }
    }
);

impl Mtl4CommandQueueDescriptor {
    pub(super) fn label_text(&self) -> Option<Retained<NSString>> {
        self.ivars().get()
    }
}

pub(crate) struct Mtl4CommandQueueIvars {
    label: Label,
    residency_sets: Attached,
    lane: Arc<Lane>,
    device: Retained<Device>,
    _counted: Counted,
}

impl Drop for Mtl4CommandQueueIvars {
    fn drop(&mut self) {
        self.lane.close();
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetal4CommandQueue"]
    #[ivars = Mtl4CommandQueueIvars]
    pub(crate) struct Mtl4CommandQueue;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for Mtl4CommandQueue {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTL4CommandQueue for Mtl4CommandQueue {
        #[unsafe(method_id(device))]
        fn device_object(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.ivars().device.clone())
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(signalEvent:value:))]
        fn signal_event(&self, event: &Proto<dyn MTLEvent>, value: u64) {
            self.push(Step::Signal(event_of(event, self.device()), value));
        }

        #[unsafe(method(waitForEvent:value:))]
        fn wait_for_event(&self, event: &Proto<dyn MTLEvent>, value: u64) {
            self.push(Step::Wait(event_of(event, self.device()), value));
        }

        #[unsafe(method(addResidencySet:))]
        fn add_residency_set(&self, set: &Proto<dyn MTLResidencySet>) {
            self.ivars().residency_sets.add(set, self.device());
        }

        #[unsafe(method(addResidencySets:count:))]
        fn add_residency_sets(&self, sets: NonNull<NonNull<Proto<dyn MTLResidencySet>>>, count: usize) {
            // SAFETY: the caller says that `count` sets are there.
            unsafe { objects(sets, count) }
                .for_each(|set| self.ivars().residency_sets.add(set, self.device()));
        }

        #[unsafe(method(removeResidencySet:))]
        fn remove_residency_set(&self, set: &Proto<dyn MTLResidencySet>) {
            self.ivars().residency_sets.remove(set);
        }

        #[unsafe(method(removeResidencySets:count:))]
        fn remove_residency_sets(&self, sets: NonNull<NonNull<Proto<dyn MTLResidencySet>>>, count: usize) {
            // SAFETY: the caller says that `count` sets are there.
            unsafe { objects(sets, count) }.for_each(|set| self.ivars().residency_sets.remove(set));
        }

        #[unsafe(method(updateBufferMappings:heap:operations:count:))]
        fn update_mappings(
            &self,
            buffer: &Proto<dyn MTLBuffer>,
            heap: Option<&Proto<dyn MTLHeap>>,
            operations: NonNull<MTL4UpdateSparseBufferMappingOperation>,
            count: usize,
        ) {
            // SAFETY: the caller says that `count` operations are there.
            let operations = unsafe { std::slice::from_raw_parts(operations.as_ptr(), count) };
            let buffer = down::<Buffer, _>(buffer);
            let heap = heap.map(down::<Heap, _>);
            let changes = operations.iter().map(|operation| change(buffer, heap, operation)).collect();
            self.push(Step::Remap(Remap::Changes { buffer: Target::new(buffer.memory(), 0), changes }));
        }

        #[unsafe(method(copyBufferMappingsFromBuffer:toBuffer:operations:count:))]
        fn copy_mappings(
            &self,
            from: &Proto<dyn MTLBuffer>,
            to: &Proto<dyn MTLBuffer>,
            operations: NonNull<MTL4CopySparseBufferMappingOperation>,
            count: usize,
        ) {
            // SAFETY: the caller says that `count` operations are there.
            let operations = unsafe { std::slice::from_raw_parts(operations.as_ptr(), count) };
            let (from, to) = (down::<Buffer, _>(from), down::<Buffer, _>(to));
            assert!(
                mappings(from).tile_bytes() == mappings(to).tile_bytes(),
                "mappings are copied between buffers of different page sizes"
            );
            let range = |operation: &MTL4CopySparseBufferMappingOperation| {
                let NSRange { location, length } = operation.sourceRange;
                check(from, NSRange::new(location, length));
                check(to, NSRange::new(operation.destinationOffset, length));
                [location, length, operation.destinationOffset]
            };
            let ranges = operations.iter().map(range).collect();
            self.push(Step::Remap(Remap::Copy {
                from: Target::new(from.memory(), 0),
                to: Target::new(to.memory(), 0),
                ranges,
            }));
        }
    }
);

// SAFETY: the state is behind locks, and a device is for all threads.
unsafe impl Send for Mtl4CommandQueue {}
// SAFETY: as above.
unsafe impl Sync for Mtl4CommandQueue {}

/// A sparse buffer's mappings. Another buffer is the client's error.
fn mappings(buffer: &Buffer) -> &Mappings {
    match &buffer.memory().place {
        Place::Sparse(mappings) => mappings,
        _ => panic!("mappings of a buffer that is not placement sparse"),
    }
}

fn check(buffer: &Buffer, tiles: NSRange) {
    let (end, count) = (tiles.location.checked_add(tiles.length), mappings(buffer).tile_count());
    assert!(end.is_some_and(|end| end <= count), "tiles {tiles:?} outside a sparse buffer of {count}");
}

fn change(
    buffer: &Buffer,
    heap: Option<&Heap>,
    operation: &MTL4UpdateSparseBufferMappingOperation,
) -> Change {
    check(buffer, operation.bufferRange);
    let NSRange { location: first, length: count } = operation.bufferRange;
    if operation.mode == MTLSparseTextureMappingMode::Unmap {
        return Change::Unmap { first, count };
    }
    let heap = heap.expect("mapping tiles needs a heap");
    assert!(heap.kind() == MTLHeapType::Placement, "tiles are mapped to a heap that is not a placement heap");
    let tile_bytes = mappings(buffer).tile_bytes();
    assert!(
        heap.sparse_page_bytes() >= tile_bytes,
        "the heap's maxCompatiblePlacementSparsePageSize is less than the buffer's page size"
    );
    let end = operation.heapOffset.checked_add(count).and_then(|end| end.checked_mul(tile_bytes));
    assert!(end.is_some_and(|end| end <= heap.memory().len), "tiles are mapped past the end of a heap");
    Change::Map { first, count, heap: Arc::downgrade(heap.memory()), heap_tile: operation.heapOffset }
}

impl Mtl4CommandQueue {
    pub(super) fn new(device: &Device, label: Option<&NSString>) -> Retained<Self> {
        let own = Label::default();
        own.set(label);
        make(Mtl4CommandQueueIvars {
            label: own,
            residency_sets: Attached::default(),
            lane: Lane::start(device.state(), None),
            device: device.retain(),
            _counted: Counted::new(device.state(), Kind::Mtl4CommandQueue),
        })
    }

    fn device(&self) -> &Device {
        &self.ivars().device
    }

    fn push(&self, step: Step) {
        let end = |outcome: Result<(), crate::work::Failure>| {
            Box::new(move || {
                if let Err(failure) = outcome {
                    eprintln!("software Metal device: a call of a Metal 4 queue failed: {}", failure.text);
                }
            }) as crate::work::Task
        };
        self.ivars().lane.push(None, Job { steps: vec![step], fails: None, begin: None, end: Box::new(end) });
    }
}
