//! `MTLHeap`.

use super::buffer::{Buffer, Source};
use super::descriptors::HeapDescriptor;
use super::{Device, Label, Proto, hazard_tracking_mode, make, storage_mode, with_hazard_tracking};
use crate::census::{Counted, Kind};
use crate::faults::Call;
use crate::memory::{HeapMemory, Place, next_id};
use objc2::rc::Retained;
use objc2::runtime::NSObjectProtocol;
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSObject, NSString};
use objc2_metal::{
    MTLAllocation, MTLBuffer, MTLCPUCacheMode, MTLDevice, MTLHazardTrackingMode, MTLHeap, MTLHeapType,
    MTLPurgeableState, MTLResourceOptions, MTLStorageMode,
};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What buffers on heaps are aligned to, and their sizes rounded up to, in bytes.
pub(super) const HEAP_ALIGN: usize = 256;

/// The parts of a heap that buffers have, by the part's number: offset and size in bytes.
type Used = BTreeMap<u64, (usize, usize)>;

pub(crate) struct HeapIvars {
    label: Label,
    kind: MTLHeapType,
    options: MTLResourceOptions,
    /// The largest page of sparse buffers that may be mapped to it, in bytes; 0: none may.
    sparse_page_bytes: usize,
    used: Mutex<Used>,
    memory: Arc<HeapMemory>,
    device: Retained<Device>,
    _counted: Counted,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalHeap"]
    #[ivars = HeapIvars]
    pub(crate) struct Heap;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for Heap {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLAllocation for Heap {
        #[unsafe(method(allocatedSize))]
        fn allocated_size(&self) -> usize {
            self.memory().charge.bytes()
        }
    }

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLHeap for Heap {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method_id(device))]
        fn device_object(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.ivars().device.clone())
        }

        #[unsafe(method(storageMode))]
        fn storage_mode_of_heap(&self) -> MTLStorageMode {
            storage_mode(self.ivars().options)
        }

        #[unsafe(method(cpuCacheMode))]
        fn cpu_cache_mode(&self) -> MTLCPUCacheMode {
            MTLCPUCacheMode(self.ivars().options.0 & 0xf)
        }

        #[unsafe(method(hazardTrackingMode))]
        fn hazard_tracking_mode_of_heap(&self) -> MTLHazardTrackingMode {
            self.hazard_tracking_mode()
        }

        #[unsafe(method(resourceOptions))]
        fn resource_options(&self) -> MTLResourceOptions {
            self.ivars().options
        }

        #[unsafe(method(size))]
        fn size(&self) -> usize {
            self.memory().len
        }

        #[unsafe(method(usedSize))]
        fn used_size(&self) -> usize {
            self.ivars().used.lock().values().map(|(_, len)| len).sum()
        }

        #[unsafe(method(currentAllocatedSize))]
        fn current_allocated_size(&self) -> usize {
            self.memory().charge.bytes()
        }

        #[unsafe(method(maxAvailableSizeWithAlignment:))]
        fn max_available_size(&self, alignment: usize) -> usize {
            let used = self.ivars().used.lock();
            gaps(&used, self.memory().len, alignment.max(1)).map(|(_, len)| len).max().unwrap_or(0)
        }

        #[unsafe(method(type))]
        fn kind_of_heap(&self) -> MTLHeapType {
            self.kind()
        }

        #[unsafe(method(setPurgeableState:))]
        fn set_purgeable_state(&self, state: MTLPurgeableState) -> MTLPurgeableState {
            self.memory().store.set(state)
        }

        #[unsafe(method_id(newBufferWithLength:options:))]
        fn new_buffer(
            &self,
            len: usize,
            options: MTLResourceOptions,
        ) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            self.new_automatic(len, options).map(Proto::from_retained)
        }

        #[unsafe(method_id(newBufferWithLength:options:offset:))]
        fn new_buffer_at(
            &self,
            len: usize,
            options: MTLResourceOptions,
            offset: usize,
        ) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            self.new_placed(len, options, offset).map(Proto::from_retained)
        }
    }
);

/// The gaps between used parts, aligned, with their sizes in bytes.
fn gaps(used: &Used, end: usize, align: usize) -> impl Iterator<Item = (usize, usize)> {
    let mut parts: Vec<_> = used.values().copied().collect();
    parts.sort_unstable();
    parts.push((end, 0));
    let mut free_from = 0usize;
    parts.into_iter().filter_map(move |(offset, len)| {
        let start = free_from.next_multiple_of(align);
        free_from = free_from.max(offset + len);
        offset.checked_sub(start).filter(|gap| *gap > 0).map(|gap| (start, gap))
    })
}

impl Heap {
    /// `newHeapWithDescriptor:`
    pub(super) fn new(device: &Device, descriptor: &HeapDescriptor) -> Option<Retained<Self>> {
        let values = descriptor.values();
        assert!(values.size > 0, "a heap of size 0");
        assert!(
            values.kind != MTLHeapType::Sparse,
            "sparse heaps are not implemented; placement heaps are, with sparse pages"
        );
        let (state, mode) = (device.state(), storage_mode(values.options));
        assert!(mode != MTLStorageMode::Memoryless, "a heap cannot be memoryless");
        if state.faults.refuses(Call::NewHeap) || mode == MTLStorageMode::Managed {
            return None;
        }
        if mode == MTLStorageMode::Shared && !state.desc.is_unified {
            return None;
        }
        let memory = Arc::new(HeapMemory::new(state, values.size)?);
        let counted = Counted::resource(state, Kind::Heap, false)?;
        Some(make(HeapIvars {
            label: Label::default(),
            kind: values.kind,
            options: with_hazard_tracking(values.options, MTLHazardTrackingMode::Untracked),
            sparse_page_bytes: values.sparse_page_bytes,
            used: Mutex::default(),
            memory,
            device: device.retain(),
            _counted: counted,
        }))
    }

    pub(super) fn memory(&self) -> &Arc<HeapMemory> {
        &self.ivars().memory
    }

    pub(super) fn device(&self) -> &Device {
        &self.ivars().device
    }

    pub(super) fn kind(&self) -> MTLHeapType {
        self.ivars().kind
    }

    pub(super) fn hazard_tracking_mode(&self) -> MTLHazardTrackingMode {
        hazard_tracking_mode(self.ivars().options)
    }

    pub(super) fn sparse_page_bytes(&self) -> usize {
        self.ivars().sparse_page_bytes
    }

    /// The buffer that had this part is gone or may be aliased.
    pub(super) fn give_back(&self, part: u64) {
        self.ivars().used.lock().remove(&part);
    }

    fn check(&self, len: usize, options: MTLResourceOptions) {
        assert!(len > 0, "a buffer of length 0");
        let (own, wanted) = (self.ivars().options, options);
        assert!(
            storage_mode(own) == storage_mode(wanted),
            "the buffer's storage mode differs from its heap's"
        );
        assert!(own.0 & 0xf == wanted.0 & 0xf, "the buffer's processor cache mode differs from its heap's");
    }

    fn new_automatic(&self, len: usize, options: MTLResourceOptions) -> Option<Retained<Buffer>> {
        assert!(
            self.kind() == MTLHeapType::Automatic,
            "newBufferWithLength:options: of a placement heap, which needs an offset"
        );
        self.check(len, options);
        if self.refuses(len) {
            return None;
        }
        let need = len.checked_next_multiple_of(HEAP_ALIGN)?;
        let mut used = self.ivars().used.lock();
        let (offset, _) = gaps(&used, self.memory().len, HEAP_ALIGN).find(|(_, gap)| *gap >= need)?;
        let part = next_id();
        used.insert(part, (offset, need));
        drop(used);
        self.place(part, offset, len, options)
    }

    fn new_placed(&self, len: usize, options: MTLResourceOptions, offset: usize) -> Option<Retained<Buffer>> {
        if self.kind() != MTLHeapType::Placement {
            return None;
        }
        self.check(len, options);
        assert!(
            offset.is_multiple_of(HEAP_ALIGN),
            "offset {offset} is not a multiple of {HEAP_ALIGN}, which heapBufferSizeAndAlign asks for"
        );
        let need = len.checked_next_multiple_of(HEAP_ALIGN).and_then(|need| need.checked_add(offset));
        let size = self.memory().len;
        assert!(
            need.is_some_and(|end| end <= size),
            "a buffer of {len} bytes at offset {offset} is not inside its heap of {size} bytes"
        );
        if self.refuses(len) {
            return None;
        }
        let part = next_id();
        self.ivars().used.lock().insert(part, (offset, len.next_multiple_of(HEAP_ALIGN)));
        self.place(part, offset, len, options)
    }

    fn refuses(&self, len: usize) -> bool {
        let state = self.device().state();
        state.faults.refuses(Call::NewBufferOnHeap) || len as u64 > state.desc.max_buffer_bytes
    }

    /// Makes the buffer that has a part, or gives the part back.
    fn place(
        &self,
        part: u64,
        offset: usize,
        len: usize,
        options: MTLResourceOptions,
    ) -> Option<Retained<Buffer>> {
        let place = || Some(Place::Heap { heap: Arc::clone(self.memory()), offset });
        let source = Source::Heap { heap: self.retain(), part, offset };
        let buffer = Buffer::new(self.device(), options, len, place, source);
        if buffer.is_none() {
            self.give_back(part);
        }
        buffer
    }
}
