//! `MTLEvent` and `MTLSharedEvent`, with listeners and handles.

use super::{Device, Handle, Label, Proto, init, make};
use crate::census::{Counted, Kind};
use crate::event::Event;
use block2::{DynBlock, RcBlock};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObjectProtocol};
use objc2::{ClassType, DefinedClass, Message, define_class};
use objc2_foundation::{NSObject, NSString};
use objc2_metal::{MTLDevice, MTLEvent, MTLSharedEvent, MTLSharedEventHandle};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct EventIvars {
    label: Label,
    event: Arc<Event>,
    device: Retained<Device>,
    _counted: Counted,
}

impl EventIvars {
    fn new(device: &Device, kind: Kind, event: Arc<Event>) -> Self {
        let _counted = Counted::new(device.state(), kind);
        Self { label: Label::default(), event, device: device.retain(), _counted }
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalEvent"]
    #[ivars = EventIvars]
    pub(crate) struct EventObject;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for EventObject {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLEvent for EventObject {
        #[unsafe(method_id(device))]
        fn device_object(&self) -> Option<Retained<Proto<dyn MTLDevice>>> {
            Some(Proto::from_retained(self.ivars().device.clone()))
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

// SAFETY: the state is behind locks, and a device is for all threads.
unsafe impl Send for EventObject {}
// SAFETY: as above.
unsafe impl Sync for EventObject {}

impl EventObject {
    pub(super) fn new(device: &Device) -> Retained<Self> {
        make(EventIvars::new(device, Kind::Event, Arc::default()))
    }
}

type Notification = DynBlock<dyn Fn(NonNull<Proto<dyn MTLSharedEvent>>, u64)>;

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalSharedEvent"]
    #[ivars = EventIvars]
    pub(crate) struct SharedEventObject;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for SharedEventObject {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLEvent for SharedEventObject {
        #[unsafe(method_id(device))]
        fn device_object(&self) -> Option<Retained<Proto<dyn MTLDevice>>> {
            Some(Proto::from_retained(self.ivars().device.clone()))
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

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLSharedEvent for SharedEventObject {
        #[unsafe(method(signaledValue))]
        fn signaled_value(&self) -> u64 {
            self.ivars().event.value()
        }

        #[unsafe(method(setSignaledValue:))]
        fn set_signaled_value(&self, value: u64) {
            self.ivars().event.signal(value);
        }

        #[unsafe(method(waitUntilSignaledValue:timeoutMS:))]
        fn wait(&self, value: u64, milliseconds: u64) -> bool {
            self.ivars().event.wait(value, Some(Duration::from_millis(milliseconds)))
        }

        #[unsafe(method(notifyListener:atValue:block:))]
        fn notify(&self, _listener: &AnyObject, value: u64, block: *mut Notification) {
            // SAFETY: the caller's pointer is to a block.
            let block = unsafe { RcBlock::copy(block) }.expect("a notification's block is not nil");
            let call = Handle((self.retain(), block));
            let listener = move |_reached: u64| {
                let (event, block) = call.into_inner();
                let value = event.ivars().event.value();
                block.call((NonNull::from(Proto::from_ref(&*event)), value));
            };
            self.ivars().event.listen(value, Box::new(listener));
        }

        #[unsafe(method_id(newSharedEventHandle))]
        fn new_handle(&self) -> Retained<MTLSharedEventHandle> {
            let handle = make::<SharedEventHandle>(HandleIvars {
                label: self.ivars().label.get().map(|label| label.to_string()),
                event: Arc::clone(&self.ivars().event),
            });
            // SAFETY: `SharedEventHandle` is the class `MTLSharedEventHandle`.
            unsafe { Retained::cast_unchecked(handle) }
        }
    }
);

// SAFETY: the state is behind locks, and a device is for all threads.
unsafe impl Send for SharedEventObject {}
// SAFETY: as above.
unsafe impl Sync for SharedEventObject {}

impl SharedEventObject {
    pub(super) fn new(device: &Device, event: Arc<Event>) -> Retained<Self> {
        make(EventIvars::new(device, Kind::SharedEvent, event))
    }
}

/// The value behind an event of either class. A plain event is for its own device only.
pub(super) fn event_of(object: &Proto<dyn MTLEvent>, user: &Device) -> Arc<Event> {
    let any: &AnyObject = object.as_ref();
    if any.class() == SharedEventObject::class() {
        return Arc::clone(&super::down::<SharedEventObject, _>(object).ivars().event);
    }
    let event = super::down::<EventObject, _>(object).ivars();
    assert!(std::ptr::eq(&*event.device, user), "an MTLEvent is used on a device that did not make it");
    Arc::clone(&event.event)
}

pub(crate) struct HandleIvars {
    label: Option<String>,
    event: Arc<Event>,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLSharedEventHandle"]
    #[ivars = HandleIvars]
    pub(crate) struct SharedEventHandle;

    impl SharedEventHandle {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.as_deref().map(NSString::from_str)
        }
    }
);

impl SharedEventHandle {
    pub(super) fn event(&self) -> Arc<Event> {
        Arc::clone(&self.ivars().event)
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "MTLSharedEventListener"]
    #[ivars = ()]
    pub(crate) struct SharedEventListener;

    impl SharedEventListener {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            Some(init(this, ()))
        }

        #[unsafe(method_id(sharedListener))]
        fn shared_listener() -> Retained<SharedEventListener> {
            make(())
        }
    }
);
