//! The Objective-C classes, one file a family.

mod allocate;
mod array;
mod blit;
mod buffer;
mod command_buffer;
mod commit;
mod descriptors;
mod device;
mod event;
mod fence;
mod foundation;
mod functions;
mod heap;
mod mtl4;
mod queue;
mod residency_set;

pub(crate) use device::Device;
pub(crate) use functions::register;

use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyObject, NSObject, ProtocolObject};
use objc2::{AllocAnyThread, ClassType, DefinedClass, Message, msg_send};
use objc2_foundation::NSString;
use objc2_metal::{MTLHazardTrackingMode, MTLResourceOptions, MTLStorageMode};
use parking_lot::Mutex;

pub(crate) type Proto<T> = ProtocolObject<T>;

/// The object behind a protocol's reference. An object that is not of class `T` is the client's error, and so is a dead one.
fn down<T: ClassType, P: ?Sized>(object: &P) -> &T {
    let pointer = std::ptr::from_ref(object).cast::<AnyObject>();
    // SAFETY: references to protocol objects point to objects.
    let any = unsafe { &*pointer };
    assert!(any.class() == T::class(), "expected a {}, got a {}", T::class(), any.class());
    // SAFETY: it is of this class, and lives as long as the reference.
    unsafe { &*pointer.cast::<T>() }
}

/// A new object of a class that directly follows `NSObject`.
fn make<T>(ivars: T::Ivars) -> Retained<T>
where
    T: DefinedClass + ClassType<Super = NSObject> + AllocAnyThread + Message,
{
    init(T::alloc(), ivars)
}

/// `-init` of such a class.
fn init<T>(this: Allocated<T>, ivars: T::Ivars) -> Retained<T>
where
    T: DefinedClass + ClassType<Super = NSObject> + Message,
{
    let this = this.set_ivars(ivars);
    // SAFETY: `-[NSObject init]` takes no arguments and returns the object.
    unsafe { msg_send![super(this), init] }
}

/// References to objects or blocks that another thread may use.
struct Handle<T>(T);

// SAFETY: handles are made of references to objects and blocks. The runtime counts references atomically, the classes that
// are put into handles keep their state behind locks, and Metal calls its clients' blocks on other threads.
unsafe impl<T> Send for Handle<T> {}

impl<T> Handle<T> {
    fn get(&self) -> &T {
        &self.0
    }

    fn into_inner(self) -> T {
        self.0
    }
}

/// An object's label.
#[derive(Default)]
pub(crate) struct Label(Mutex<Option<String>>);

impl Label {
    fn get(&self) -> Option<Retained<NSString>> {
        self.0.lock().as_deref().map(NSString::from_str)
    }

    fn set(&self, label: Option<&NSString>) {
        *self.0.lock() = label.map(ToString::to_string);
    }
}

fn storage_mode(options: MTLResourceOptions) -> MTLStorageMode {
    MTLStorageMode((options.0 >> 4) & 0xf)
}

fn hazard_tracking_mode(options: MTLResourceOptions) -> MTLHazardTrackingMode {
    MTLHazardTrackingMode((options.0 >> 8) & 0x3)
}

/// The options with the default mode replaced by what it stands for.
fn with_hazard_tracking(options: MTLResourceOptions, default: MTLHazardTrackingMode) -> MTLResourceOptions {
    let mode = match hazard_tracking_mode(options) {
        MTLHazardTrackingMode::Default => default,
        mode => mode,
    };
    MTLResourceOptions((options.0 & !0x300) | (mode.0 << 8))
}
