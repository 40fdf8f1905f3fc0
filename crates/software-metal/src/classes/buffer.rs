//! `MTLBuffer`.

use super::heap::Heap;
use super::{Device, Label, Proto, down, hazard_tracking_mode, make, storage_mode, with_hazard_tracking};
use crate::census::{Counted, Kind};
use crate::faults::Call;
use crate::memory::{Memory, Place};
use block2::RcBlock;
use objc2::rc::Retained;
use objc2::runtime::NSObjectProtocol;
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSObject, NSRange, NSString};
use objc2_metal::{
    MTLAllocation, MTLBuffer, MTLBufferSparseTier, MTLCPUCacheMode, MTLDevice, MTLHazardTrackingMode,
    MTLHeap, MTLHeapType, MTLPurgeableState, MTLResource, MTLResourceOptions, MTLStorageMode,
};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A client's block that frees memory it gave.
pub(super) type Deallocator = RcBlock<dyn Fn(NonNull<c_void>, usize)>;

/// What a buffer keeps, by where its memory is.
pub(super) enum Source {
    Device,
    Foreign(Option<Deallocator>),
    Heap { heap: Retained<Heap>, part: u64, offset: usize },
    Remote(Retained<Buffer>),
}

pub(crate) struct BufferIvars {
    label: Label,
    options: MTLResourceOptions,
    is_aliasable: AtomicBool,
    memory: Arc<Memory>,
    source: Source,
    device: Retained<Device>,
    _counted: Counted,
}

impl Drop for BufferIvars {
    fn drop(&mut self) {
        self.memory.set_freed();
        match &self.source {
            Source::Foreign(Some(deallocator)) => {
                deallocator.call((self.memory.address().cast(), self.memory.len))
            }
            Source::Heap { heap, part, .. } => heap.give_back(*part),
            Source::Device | Source::Foreign(None) | Source::Remote(_) => {}
        }
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalBuffer"]
    #[ivars = BufferIvars]
    pub(crate) struct Buffer;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for Buffer {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLAllocation for Buffer {
        #[unsafe(method(allocatedSize))]
        fn allocated_size(&self) -> usize {
            self.memory().allocated_size()
        }
    }

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLResource for Buffer {
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

        #[unsafe(method(cpuCacheMode))]
        fn cpu_cache_mode(&self) -> MTLCPUCacheMode {
            MTLCPUCacheMode(self.ivars().options.0 & 0xf)
        }

        #[unsafe(method(storageMode))]
        fn storage_mode(&self) -> MTLStorageMode {
            storage_mode(self.ivars().options)
        }

        #[unsafe(method(hazardTrackingMode))]
        fn hazard_tracking_mode(&self) -> MTLHazardTrackingMode {
            hazard_tracking_mode(self.ivars().options)
        }

        #[unsafe(method(resourceOptions))]
        fn resource_options(&self) -> MTLResourceOptions {
            self.ivars().options
        }

        #[unsafe(method(setPurgeableState:))]
        fn set_purgeable_state(&self, state: MTLPurgeableState) -> MTLPurgeableState {
            match &self.memory().place {
                Place::Own { store, .. } => store.set(state),
                Place::Heap { .. } => {
                    panic!("setPurgeableState: of a resource on a heap; only the heap can be purgeable")
                }
                Place::Foreign { .. } | Place::Sparse(_) | Place::Remote(_) => MTLPurgeableState::NonVolatile,
            }
        }

        #[unsafe(method_id(heap))]
        fn heap(&self) -> Option<Retained<Proto<dyn MTLHeap>>> {
            match &self.ivars().source {
                Source::Heap { heap, .. } => Some(Proto::from_retained(heap.clone())),
                _ => None,
            }
        }

        #[unsafe(method(heapOffset))]
        fn heap_offset(&self) -> usize {
            match &self.ivars().source {
                Source::Heap { heap, offset, .. } if heap.kind() == MTLHeapType::Placement => *offset,
                _ => 0,
            }
        }

        #[unsafe(method(makeAliasable))]
        fn make_aliasable(&self) {
            let Source::Heap { heap, part, .. } = &self.ivars().source else {
                panic!("makeAliasable of a resource that is not on a heap")
            };
            self.ivars().is_aliasable.store(true, Ordering::SeqCst);
            heap.give_back(*part);
        }

        #[unsafe(method(isAliasable))]
        fn is_aliasable(&self) -> bool {
            self.ivars().is_aliasable.load(Ordering::SeqCst)
        }
    }

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLBuffer for Buffer {
        #[unsafe(method(length))]
        fn length(&self) -> usize {
            self.memory().len
        }

        #[unsafe(method(contents))]
        fn contents(&self) -> NonNull<c_void> {
            assert!(
                storage_mode(self.ivars().options) != MTLStorageMode::Private,
                "contents of a private buffer"
            );
            self.memory().address().cast()
        }

        #[unsafe(method(didModifyRange:))]
        fn did_modify_range(&self, _range: NSRange) {
            panic!("didModifyRange: of a buffer whose storage mode is not managed");
        }

        #[unsafe(method_id(remoteStorageBuffer))]
        fn remote_storage_buffer(&self) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            match &self.ivars().source {
                Source::Remote(buffer) => Some(Proto::from_retained(buffer.clone())),
                _ => None,
            }
        }

        #[unsafe(method_id(newRemoteBufferViewForDevice:))]
        fn new_remote_view(&self, device: &Proto<dyn MTLDevice>) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            self.remote_view(down(device)).map(Proto::from_retained)
        }

        #[unsafe(method(gpuAddress))]
        fn gpu_address(&self) -> u64 {
            self.memory().address().addr().get() as u64
        }

        #[unsafe(method(sparseBufferTier))]
        fn sparse_buffer_tier(&self) -> MTLBufferSparseTier {
            match self.memory().place {
                Place::Sparse(_) => MTLBufferSparseTier::Tier1,
                _ => MTLBufferSparseTier::TierNone,
            }
        }
    }
);

impl Buffer {
    /// A buffer over `place`; `None` if the device has as many resources as it may. A deallocator in `source` is not called then.
    pub(super) fn new(
        device: &Device,
        options: MTLResourceOptions,
        len: usize,
        place: impl FnOnce() -> Option<Place>,
        source: Source,
    ) -> Option<Retained<Self>> {
        let (default, on_heap) = match &source {
            Source::Heap { heap, .. } => (heap.hazard_tracking_mode(), true),
            _ => (MTLHazardTrackingMode::Tracked, false),
        };
        let options = with_hazard_tracking(options, default);
        let is_tracked = hazard_tracking_mode(options) == MTLHazardTrackingMode::Tracked;
        let memory = Memory::new(place()?, len, is_tracked);
        let counted = Counted::resource(device.state(), Kind::Buffer, on_heap)?;
        let device = device.retain();
        let is_aliasable = AtomicBool::new(false);
        Some(make(BufferIvars {
            label: Label::default(),
            options,
            is_aliasable,
            memory,
            source,
            device,
            _counted: counted,
        }))
    }

    pub(super) fn memory(&self) -> &Arc<Memory> {
        &self.ivars().memory
    }

    pub(super) fn device(&self) -> &Device {
        &self.ivars().device
    }

    pub(super) fn is_remote(&self) -> bool {
        matches!(self.ivars().source, Source::Remote(_))
    }

    fn remote_view(&self, device: &Device) -> Option<Retained<Self>> {
        assert!(
            storage_mode(self.ivars().options) == MTLStorageMode::Private,
            "a remote view of a buffer that is not private"
        );
        let (own, other) = (self.device().state(), device.state());
        if device.state().faults.refuses(Call::NewRemoteView) {
            return None;
        }
        let are_peers = own.desc.peer_group_id != 0 && own.desc.peer_group_id == other.desc.peer_group_id;
        if !are_peers || Arc::ptr_eq(own, other) {
            return None;
        }
        let place = || Some(Place::Remote(Arc::clone(self.memory())));
        Buffer::new(device, self.ivars().options, self.memory().len, place, Source::Remote(self.retain()))
    }
}
