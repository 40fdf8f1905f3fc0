//! `MTLFence`.

use super::{Device, Label, Proto, make};
use crate::census::{Counted, Kind};
use crate::event::Event;
use objc2::rc::Retained;
use objc2::runtime::NSObjectProtocol;
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSObject, NSString};
use objc2_metal::{MTLDevice, MTLFence};
use parking_lot::Mutex;
use std::sync::Arc;

pub(crate) struct FenceIvars {
    label: Label,
    /// The end of the pass that updated it last, in the order of the commits.
    updated: Mutex<Option<Arc<Event>>>,
    device: Retained<Device>,
    _counted: Counted,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalFence"]
    #[ivars = FenceIvars]
    pub(crate) struct Fence;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for Fence {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLFence for Fence {
        #[unsafe(method_id(device))]
        fn device_object(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.ivars().device.clone())
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }
    }
);

// SAFETY: the state is a label behind a lock, an event behind a lock, and a device, which is for all threads.
unsafe impl Send for Fence {}
// SAFETY: as above.
unsafe impl Sync for Fence {}

impl Fence {
    pub(super) fn new(device: &Device) -> Retained<Self> {
        let _counted = Counted::new(device.state(), Kind::Fence);
        make(FenceIvars {
            label: Label::default(),
            updated: Mutex::default(),
            device: device.retain(),
            _counted,
        })
    }

    /// The end of the pass for which a waiting pass that is committed now has to wait.
    pub(super) fn last_update(&self) -> Option<Arc<Event>> {
        self.ivars().updated.lock().clone()
    }

    pub(super) fn update(&self, over: &Arc<Event>) {
        *self.ivars().updated.lock() = Some(Arc::clone(over));
    }
}
