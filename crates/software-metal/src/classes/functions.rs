//! What the linker asks for by name: the classes that clients name, Metal's functions, and its constants.

use super::Proto;
use super::descriptors::{
    CommandBufferDescriptor, CommandQueueDescriptor, HeapDescriptor, ResidencySetDescriptor,
};
use super::event::{SharedEventHandle, SharedEventListener};
use super::foundation::{ErrorObject, Text};
use super::mtl4::Mtl4CommandQueueDescriptor;
use crate::software_device::default_devices;
use objc2::ClassType;
use objc2::rc::Retained;
use objc2_foundation::{NSArray, NSString};
use objc2_metal::MTLDevice;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

/// The domain of command buffers' errors.
pub(super) const COMMAND_BUFFER_ERRORS: &str = "MTLCommandBufferErrorDomain";

macro_rules! slots {
    ($($slot:ident $name:literal $class:ty;)*) => {
        $(software_objc::class_slot!($slot, $name, || {
            register();
            <$class>::class();
        });)*

        /// Tells the runtime of the classes that clients name. May be called again.
        pub(crate) fn register() {
            software_objc::register_slots(&[$(&$slot),*]);
        }
    };
}

slots! {
    NS_ARRAY "NSArray" super::array::Array;
    NS_ERROR "NSError" ErrorObject;
    NS_STRING "NSString" Text;
    COMMAND_BUFFER_DESCRIPTOR "MTLCommandBufferDescriptor" CommandBufferDescriptor;
    COMMAND_QUEUE_DESCRIPTOR "MTLCommandQueueDescriptor" CommandQueueDescriptor;
    HEAP_DESCRIPTOR "MTLHeapDescriptor" HeapDescriptor;
    RESIDENCY_SET_DESCRIPTOR "MTLResidencySetDescriptor" ResidencySetDescriptor;
    SHARED_EVENT_HANDLE "MTLSharedEventHandle" SharedEventHandle;
    SHARED_EVENT_LISTENER "MTLSharedEventListener" SharedEventListener;
    MTL4_COMMAND_QUEUE_DESCRIPTOR "MTL4CommandQueueDescriptor" Mtl4CommandQueueDescriptor;
}

/// Metal's function: the default device at +1, or nil.
#[unsafe(no_mangle)]
extern "C-unwind" fn MTLCreateSystemDefaultDevice() -> *mut Proto<dyn MTLDevice> {
    default_devices().first().map_or(null_mut(), |device| Retained::into_raw(device.metal_device()))
}

/// Metal's function: all devices, at +1.
#[unsafe(no_mangle)]
extern "C-unwind" fn MTLCopyAllDevices() -> *mut NSArray<Proto<dyn MTLDevice>> {
    let devices = default_devices().iter().map(|device| device.metal_device()).collect();
    Retained::into_raw(super::array::array(devices))
}

/// The domain of Metal 4 queues' errors.
pub(super) const MTL4_ERRORS: &str = "MTL4CommandQueueErrorDomain";

/// Metal's constant. Clients read it as a pointer to a string, without asking anybody first.
#[unsafe(no_mangle)]
static MTLCommandBufferErrorDomain: AtomicPtr<NSString> = AtomicPtr::new(null_mut());

/// As above.
#[unsafe(no_mangle)]
static MTL4CommandQueueErrorDomain: AtomicPtr<NSString> = AtomicPtr::new(null_mut());

extern "C" fn set_constants() {
    register();
    for (constant, text) in
        [(&MTLCommandBufferErrorDomain, COMMAND_BUFFER_ERRORS), (&MTL4CommandQueueErrorDomain, MTL4_ERRORS)]
    {
        constant.store(Retained::into_raw(super::foundation::string(text)), Ordering::SeqCst);
    }
}

/// The dynamic linker calls what is in this section before `main`.
#[used]
#[unsafe(link_section = ".init_array")]
static SET_CONSTANTS: extern "C" fn() = set_constants;
