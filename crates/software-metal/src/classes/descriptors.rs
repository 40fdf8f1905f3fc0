//! Descriptors: classes that clients make with `+new`.

use super::init;
use objc2::rc::{Allocated, Retained};
use objc2::{DefinedClass, define_class};
use objc2_foundation::{NSObject, NSString};
use objc2_metal::{
    MTLCPUCacheMode, MTLCommandBufferErrorOption, MTLHazardTrackingMode, MTLHeapType, MTLResourceOptions,
    MTLSparsePageSize, MTLStorageMode,
};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The size of a sparse page in bytes; 0 for none.
pub(super) fn sparse_page_bytes(size: MTLSparsePageSize) -> usize {
    match size {
        MTLSparsePageSize::Size16 => 16 << 10,
        MTLSparsePageSize::Size64 => 64 << 10,
        MTLSparsePageSize::Size256 => 256 << 10,
        _ => 0,
    }
}

fn sparse_page_size(bytes: usize) -> MTLSparsePageSize {
    let sizes = [MTLSparsePageSize::Size16, MTLSparsePageSize::Size64, MTLSparsePageSize::Size256];
    sizes.into_iter().find(|size| sparse_page_bytes(*size) == bytes).unwrap_or(MTLSparsePageSize(0))
}

/// What an `MTLHeapDescriptor` says.
#[derive(Clone, Copy)]
pub(crate) struct HeapValues {
    pub(super) size: usize,
    pub(super) kind: MTLHeapType,
    pub(super) options: MTLResourceOptions,
    pub(super) sparse_page_bytes: usize,
}

impl HeapValues {
    fn field(self, shift: usize) -> usize {
        (self.options.0 >> shift) & 0xf
    }

    fn set_field(&mut self, shift: usize, value: usize) {
        self.options = MTLResourceOptions((self.options.0 & !(0xf << shift)) | (value << shift));
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLHeapDescriptor"]
    #[ivars = Mutex<HeapValues>]
    pub(crate) struct HeapDescriptor;

    impl HeapDescriptor {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            let private = MTLResourceOptions::StorageModePrivate;
            let values = HeapValues { size: 0, kind: MTLHeapType::Automatic, options: private, sparse_page_bytes: 0 };
            Some(init(this, Mutex::new(values)))
        }

        #[unsafe(method(size))]
        fn size(&self) -> usize {
            self.values().size
        }

        #[unsafe(method(setSize:))]
        fn set_size(&self, size: usize) {
            self.ivars().lock().size = size;
        }

        #[unsafe(method(type))]
        fn kind(&self) -> MTLHeapType {
            self.values().kind
        }

        #[unsafe(method(setType:))]
        fn set_kind(&self, kind: MTLHeapType) {
            self.ivars().lock().kind = kind;
        }

        #[unsafe(method(cpuCacheMode))]
        fn cpu_cache_mode(&self) -> MTLCPUCacheMode {
            MTLCPUCacheMode(self.values().field(0))
        }

        #[unsafe(method(setCpuCacheMode:))]
        fn set_cpu_cache_mode(&self, mode: MTLCPUCacheMode) {
            self.ivars().lock().set_field(0, mode.0);
        }

        #[unsafe(method(storageMode))]
        fn storage_mode(&self) -> MTLStorageMode {
            MTLStorageMode(self.values().field(4))
        }

        #[unsafe(method(setStorageMode:))]
        fn set_storage_mode(&self, mode: MTLStorageMode) {
            self.ivars().lock().set_field(4, mode.0);
        }

        #[unsafe(method(hazardTrackingMode))]
        fn hazard_tracking_mode(&self) -> MTLHazardTrackingMode {
            MTLHazardTrackingMode(self.values().field(8))
        }

        #[unsafe(method(setHazardTrackingMode:))]
        fn set_hazard_tracking_mode(&self, mode: MTLHazardTrackingMode) {
            self.ivars().lock().set_field(8, mode.0);
        }

        #[unsafe(method(resourceOptions))]
        fn resource_options(&self) -> MTLResourceOptions {
            self.values().options
        }

        #[unsafe(method(setResourceOptions:))]
        fn set_resource_options(&self, options: MTLResourceOptions) {
            self.ivars().lock().options = options;
        }

        #[unsafe(method(maxCompatiblePlacementSparsePageSize))]
        fn sparse_page_size(&self) -> MTLSparsePageSize {
            sparse_page_size(self.values().sparse_page_bytes)
        }

        #[unsafe(method(setMaxCompatiblePlacementSparsePageSize:))]
        fn set_sparse_page_size(&self, size: MTLSparsePageSize) {
            self.ivars().lock().sparse_page_bytes = sparse_page_bytes(size);
        }
    }
);

impl HeapDescriptor {
    pub(super) fn values(&self) -> HeapValues {
        *self.ivars().lock()
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLResidencySetDescriptor"]
    #[ivars = Mutex<(Option<String>, usize)>]
    pub(crate) struct ResidencySetDescriptor;

    impl ResidencySetDescriptor {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            Some(init(this, Mutex::default()))
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.label_text().as_deref().map(NSString::from_str)
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().lock().0 = label.map(ToString::to_string);
        }

        #[unsafe(method(initialCapacity))]
        fn initial_capacity(&self) -> usize {
            self.ivars().lock().1
        }

        #[unsafe(method(setInitialCapacity:))]
        fn set_initial_capacity(&self, capacity: usize) {
            self.ivars().lock().1 = capacity;
        }
    }
);

impl ResidencySetDescriptor {
    pub(super) fn label_text(&self) -> Option<String> {
        self.ivars().lock().0.clone()
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLCommandQueueDescriptor"]
    #[ivars = AtomicUsize]
    pub(crate) struct CommandQueueDescriptor;

    impl CommandQueueDescriptor {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            Some(init(this, AtomicUsize::new(super::queue::COMMAND_BUFFERS_DEFAULT)))
        }

        #[unsafe(method(maxCommandBufferCount))]
        fn max_command_buffer_count(&self) -> usize {
            self.ivars().load(Ordering::SeqCst)
        }

        #[unsafe(method(setMaxCommandBufferCount:))]
        fn set_max_command_buffer_count(&self, count: usize) {
            self.ivars().store(count, Ordering::SeqCst);
        }
    }
);

impl CommandQueueDescriptor {
    pub(super) fn command_buffers_max(&self) -> usize {
        self.ivars().load(Ordering::SeqCst)
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLCommandBufferDescriptor"]
    #[ivars = (AtomicBool, AtomicUsize)]
    pub(crate) struct CommandBufferDescriptor;

    impl CommandBufferDescriptor {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            Some(init(this, (AtomicBool::new(true), AtomicUsize::new(0))))
        }

        #[unsafe(method(retainedReferences))]
        fn retained_references(&self) -> bool {
            self.retains_references()
        }

        #[unsafe(method(setRetainedReferences:))]
        fn set_retained_references(&self, retained: bool) {
            self.ivars().0.store(retained, Ordering::SeqCst);
        }

        #[unsafe(method(errorOptions))]
        fn error_options(&self) -> MTLCommandBufferErrorOption {
            MTLCommandBufferErrorOption(self.ivars().1.load(Ordering::SeqCst))
        }

        #[unsafe(method(setErrorOptions:))]
        fn set_error_options(&self, options: MTLCommandBufferErrorOption) {
            self.ivars().1.store(options.0, Ordering::SeqCst);
        }
    }
);

impl CommandBufferDescriptor {
    pub(super) fn retains_references(&self) -> bool {
        self.ivars().0.load(Ordering::SeqCst)
    }
}
