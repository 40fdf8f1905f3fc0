//! `MTLDevice`.

use super::descriptors::{CommandQueueDescriptor, HeapDescriptor, ResidencySetDescriptor, sparse_page_bytes};
use super::event::{EventObject, SharedEventHandle, SharedEventObject};
use super::fence::Fence;
use super::foundation::{error, give_error};
use super::functions::MTL4_ERRORS;
use super::heap::{HEAP_ALIGN, Heap};
use super::mtl4::{Mtl4CommandQueue, Mtl4CommandQueueDescriptor};
use super::queue::{COMMAND_BUFFERS_DEFAULT, CommandQueue};
use super::residency_set::ResidencySet;
use super::{Proto, down, make, register};
use crate::census::{Counted, Kind};
use crate::faults::Call;
use crate::state::State;
use block2::DynBlock;
use objc2::rc::{Retained, Weak};
use objc2::runtime::{NSObjectProtocol, Sel};
use objc2::{DefinedClass, define_class, msg_send, sel};
use objc2_foundation::{NSError, NSObject, NSString};
use objc2_metal::{
    MTL4CommandQueue, MTL4CommandQueueDescriptor, MTLBuffer, MTLCommandQueue, MTLCommandQueueDescriptor,
    MTLDevice, MTLDeviceLocation, MTLEvent, MTLFence, MTLGPUFamily, MTLHeap, MTLHeapDescriptor,
    MTLResidencySet, MTLResidencySetDescriptor, MTLResourceOptions, MTLSharedEvent, MTLSharedEventHandle,
    MTLSizeAndAlign, MTLSparsePageSize,
};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

pub(crate) struct DeviceIvars {
    state: Arc<State>,
    _counted: Counted,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalDevice"]
    #[ivars = DeviceIvars]
    pub(crate) struct Device;

    impl Device {
        /// Answers as a system would that is too old for some of the selectors.
        #[unsafe(method(respondsToSelector:))]
        fn responds_to_selector(&self, selector: Sel) -> bool {
            let desc = &self.state().desc;
            let is_absent = !desc.has_residency_sets && selector == sel!(newResidencySetWithDescriptor:error:)
                || !desc.has_metal4 && METAL4.iter().any(|metal4| *metal4 == selector.name());
            // SAFETY: the signature is NSObject's.
            !is_absent && unsafe { msg_send![super(self), respondsToSelector: selector] }
        }
    }

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for Device {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLDevice for Device {
        #[unsafe(method_id(name))]
        fn name(&self) -> Retained<NSString> {
            NSString::from_str(&self.state().desc.name)
        }

        #[unsafe(method(registryID))]
        fn registry_id(&self) -> u64 {
            self.state().desc.registry_id
        }

        #[unsafe(method(isLowPower))]
        fn is_low_power(&self) -> bool {
            self.state().desc.is_low_power
        }

        #[unsafe(method(isHeadless))]
        fn is_headless(&self) -> bool {
            false
        }

        #[unsafe(method(isRemovable))]
        fn is_removable(&self) -> bool {
            self.state().desc.is_removable
        }

        #[unsafe(method(location))]
        fn location(&self) -> MTLDeviceLocation {
            if self.state().desc.is_removable { MTLDeviceLocation::External } else { MTLDeviceLocation::BuiltIn }
        }

        #[unsafe(method(locationNumber))]
        fn location_number(&self) -> usize {
            0
        }

        #[unsafe(method(maxTransferRate))]
        fn max_transfer_rate(&self) -> u64 {
            0
        }

        #[unsafe(method(hasUnifiedMemory))]
        fn has_unified_memory(&self) -> bool {
            self.state().desc.is_unified
        }

        #[unsafe(method(supportsFamily:))]
        fn supports_family(&self, family: MTLGPUFamily) -> bool {
            let desc = &self.state().desc;
            match family {
                MTLGPUFamily::Mac2 | MTLGPUFamily::Common1 | MTLGPUFamily::Common2 | MTLGPUFamily::Common3 | MTLGPUFamily::Metal3 => true,
                MTLGPUFamily::Metal4 => desc.has_metal4,
                family => desc.is_apple_family && (MTLGPUFamily::Apple1.0..=MTLGPUFamily::Apple7.0).contains(&family.0),
            }
        }

        #[unsafe(method(recommendedMaxWorkingSetSize))]
        fn recommended_max_working_set_size(&self) -> u64 {
            self.state().faults.working_set()
        }

        #[unsafe(method(currentAllocatedSize))]
        fn current_allocated_size(&self) -> usize {
            (self.state().account.bytes() + self.state().faults.foreign_bytes()) as usize
        }

        #[unsafe(method(maxBufferLength))]
        fn max_buffer_length(&self) -> usize {
            self.state().desc.max_buffer_bytes as usize
        }

        #[unsafe(method(peerGroupID))]
        fn peer_group_id(&self) -> u64 {
            self.state().desc.peer_group_id
        }

        #[unsafe(method(peerIndex))]
        fn peer_index(&self) -> u32 {
            self.state().desc.peer_index
        }

        #[unsafe(method(peerCount))]
        fn peer_count(&self) -> u32 {
            self.state().desc.peer_count
        }

        #[unsafe(method(sparseTileSizeInBytes))]
        fn sparse_tile_size(&self) -> usize {
            sparse_page_bytes(MTLSparsePageSize::Size16)
        }

        #[unsafe(method(sparseTileSizeInBytesForSparsePageSize:))]
        fn sparse_tile_size_for(&self, size: MTLSparsePageSize) -> usize {
            sparse_page_bytes(size)
        }

        #[unsafe(method(heapBufferSizeAndAlignWithLength:options:))]
        fn heap_buffer_size_and_align(&self, len: usize, _options: MTLResourceOptions) -> MTLSizeAndAlign {
            MTLSizeAndAlign { size: len.next_multiple_of(HEAP_ALIGN), align: HEAP_ALIGN }
        }

        #[unsafe(method_id(newHeapWithDescriptor:))]
        fn new_heap(&self, descriptor: &MTLHeapDescriptor) -> Option<Retained<Proto<dyn MTLHeap>>> {
            Heap::new(self, down::<HeapDescriptor, _>(descriptor)).map(Proto::from_retained)
        }

        #[unsafe(method_id(newBufferWithLength:options:))]
        fn new_buffer(&self, len: usize, options: MTLResourceOptions) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            self.new_own(len, options).map(Proto::from_retained)
        }

        #[unsafe(method_id(newBufferWithBytes:length:options:))]
        fn new_buffer_with_bytes(
            &self,
            bytes: NonNull<c_void>,
            len: usize,
            options: MTLResourceOptions,
        ) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            self.new_own(len, options).map(|buffer| {
                let to = buffer.memory().address();
                // SAFETY: the caller has `len` bytes, and the new buffer is as long.
                unsafe { to.copy_from_nonoverlapping(bytes.cast(), len) };
                Proto::from_retained(buffer)
            })
        }

        #[unsafe(method_id(newBufferWithBytesNoCopy:length:options:deallocator:))]
        fn new_buffer_no_copy(
            &self,
            bytes: *mut c_void,
            len: usize,
            options: MTLResourceOptions,
            deallocator: Option<&DynBlock<dyn Fn(NonNull<c_void>, usize)>>,
        ) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            self.new_foreign(bytes, len, options, deallocator.map(DynBlock::copy)).map(Proto::from_retained)
        }

        #[unsafe(method_id(newBufferWithLength:options:placementSparsePageSize:))]
        fn new_sparse_buffer(
            &self,
            len: usize,
            options: MTLResourceOptions,
            page: MTLSparsePageSize,
        ) -> Option<Retained<Proto<dyn MTLBuffer>>> {
            self.new_sparse(len, options, page).map(Proto::from_retained)
        }

        #[unsafe(method_id(newCommandQueue))]
        fn new_queue(&self) -> Option<Retained<Proto<dyn MTLCommandQueue>>> {
            CommandQueue::new(self, COMMAND_BUFFERS_DEFAULT).map(Proto::from_retained)
        }

        #[unsafe(method_id(newCommandQueueWithMaxCommandBufferCount:))]
        fn new_queue_of(&self, command_buffers_max: usize) -> Option<Retained<Proto<dyn MTLCommandQueue>>> {
            CommandQueue::new(self, command_buffers_max).map(Proto::from_retained)
        }

        #[unsafe(method_id(newCommandQueueWithDescriptor:))]
        fn new_queue_described(&self, descriptor: &MTLCommandQueueDescriptor) -> Option<Retained<Proto<dyn MTLCommandQueue>>> {
            let descriptor = down::<CommandQueueDescriptor, _>(descriptor);
            CommandQueue::new(self, descriptor.command_buffers_max()).map(Proto::from_retained)
        }

        #[unsafe(method_id(newSharedEvent))]
        fn new_shared_event(&self) -> Option<Retained<Proto<dyn MTLSharedEvent>>> {
            let refused = self.state().faults.refuses(Call::NewSharedEvent);
            (!refused).then(|| Proto::from_retained(SharedEventObject::new(self, Arc::default())))
        }

        #[unsafe(method_id(newSharedEventWithHandle:))]
        fn new_shared_event_with_handle(&self, handle: &MTLSharedEventHandle) -> Option<Retained<Proto<dyn MTLSharedEvent>>> {
            let refused = self.state().faults.refuses(Call::NewSharedEvent);
            let event = down::<SharedEventHandle, _>(handle).event();
            (!refused).then(|| Proto::from_retained(SharedEventObject::new(self, event)))
        }

        #[unsafe(method_id(newEvent))]
        fn new_event(&self) -> Option<Retained<Proto<dyn MTLEvent>>> {
            let refused = self.state().faults.refuses(Call::NewSharedEvent);
            (!refused).then(|| Proto::from_retained(EventObject::new(self)))
        }

        #[unsafe(method_id(newFence))]
        fn new_fence(&self) -> Option<Retained<Proto<dyn MTLFence>>> {
            let refused = self.state().faults.refuses(Call::NewSharedEvent);
            (!refused).then(|| Proto::from_retained(Fence::new(self)))
        }

        #[unsafe(method_id(newResidencySetWithDescriptor:error:))]
        fn new_residency_set(
            &self,
            descriptor: &MTLResidencySetDescriptor,
            failure: *mut *mut NSError,
        ) -> Option<Retained<Proto<dyn MTLResidencySet>>> {
            let set = self.new_set(down(descriptor)).map(Proto::from_retained);
            if set.is_none() {
                give_error(failure, error("MTLResidencySetErrorDomain", 1, "no residency set could be made"));
            }
            set
        }

        #[unsafe(method_id(newMTL4CommandQueue))]
        fn new_mtl4_queue(&self) -> Option<Retained<Proto<dyn MTL4CommandQueue>>> {
            self.new_mtl4(None).map(Proto::from_retained)
        }

        #[unsafe(method_id(newMTL4CommandQueueWithDescriptor:error:))]
        fn new_mtl4_queue_described(
            &self,
            descriptor: &MTL4CommandQueueDescriptor,
            failure: *mut *mut NSError,
        ) -> Option<Retained<Proto<dyn MTL4CommandQueue>>> {
            let label = down::<Mtl4CommandQueueDescriptor, _>(descriptor).label_text();
            let queue = self.new_mtl4(label.as_deref()).map(Proto::from_retained);
            if queue.is_none() {
                give_error(failure, error(MTL4_ERRORS, 6, "no Metal 4 command queue could be made"));
            }
            queue
        }
    }
);

/// The selectors that came with Metal 4.
const METAL4: [&std::ffi::CStr; 3] = [
    c"newMTL4CommandQueue",
    c"newMTL4CommandQueueWithDescriptor:error:",
    c"newBufferWithLength:options:placementSparsePageSize:",
];

// SAFETY: the state is behind locks and atomics.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// The device's object: the one that lives, or a new one.
    pub(crate) fn of(state: &Arc<State>) -> Retained<Self> {
        register();
        let mut object = state.object.lock();
        if let Some(device) = object.load() {
            return device;
        }
        let device = make::<Device>(DeviceIvars {
            state: Arc::clone(state),
            _counted: Counted::new(state, Kind::Device),
        });
        *object = Weak::from_retained(&device);
        device
    }

    pub(super) fn state(&self) -> &Arc<State> {
        &self.ivars().state
    }

    fn new_set(&self, descriptor: &ResidencySetDescriptor) -> Option<Retained<ResidencySet>> {
        assert!(
            self.state().desc.has_residency_sets,
            "newResidencySetWithDescriptor:error: of a device that does not respond to it"
        );
        let refused = self.state().faults.refuses(Call::NewResidencySet);
        (!refused).then(|| ResidencySet::new(self, descriptor))
    }

    fn new_mtl4(&self, label: Option<&NSString>) -> Option<Retained<Mtl4CommandQueue>> {
        assert!(self.state().desc.has_metal4, "a Metal 4 queue of a device without Metal 4");
        let refused = self.state().faults.refuses(Call::NewMtl4Queue);
        (!refused).then(|| Mtl4CommandQueue::new(self, label))
    }
}
