//! `NSArray`, as far as lists of devices and allocations go.

use super::{init, make};
use objc2::rc::{Allocated, Retained};
use objc2::runtime::AnyObject;
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSArray, NSObject, NSRange};

/// An array's objects. They are read from any thread, and so can they be used.
pub(crate) struct Objects(Vec<Retained<AnyObject>>);

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "NSArray"]
    #[ivars = Objects]
    pub(crate) struct Array;

    impl Array {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Option<Retained<Self>> {
            Some(init(this, Objects(Vec::new())))
        }

        #[unsafe(method_id(initWithObjects:count:))]
        fn init_with_objects(this: Allocated<Self>, objects: *const *mut AnyObject, count: usize) -> Option<Retained<Self>> {
            let retained = |at| {
                // SAFETY: the caller says that `count` pointers are there.
                let object = unsafe { objects.wrapping_add(at).read() };
                // SAFETY: the caller's pointers are to live objects.
                unsafe { Retained::retain(object) }.expect("an array cannot hold nil")
            };
            Some(init(this, Objects((0..count).map(retained).collect())))
        }

        #[unsafe(method(count))]
        fn count(&self) -> usize {
            self.objects().len()
        }

        #[unsafe(method_id(objectAtIndex:))]
        fn object_at_index(&self, index: usize) -> Retained<AnyObject> {
            self.objects()[index].clone()
        }

        #[unsafe(method_id(objectAtIndexedSubscript:))]
        fn object_at_indexed_subscript(&self, index: usize) -> Retained<AnyObject> {
            self.objects()[index].clone()
        }

        #[unsafe(method(getObjects:range:))]
        fn get_objects(&self, to: *mut *mut AnyObject, range: NSRange) {
            // SAFETY: the caller has room for the whole range.
            unsafe { put(&self.objects()[range.location..range.location + range.length], to) };
        }

        #[unsafe(method(getObjects:))]
        fn get_all_objects(&self, to: *mut *mut AnyObject) {
            // SAFETY: the caller has room for all.
            unsafe { put(self.objects(), to) };
        }
    }
);

/// Writes the objects' addresses into a C array.
///
/// # Safety
/// There must be room for all.
unsafe fn put(objects: &[Retained<AnyObject>], to: *mut *mut AnyObject) {
    for (nth, object) in objects.iter().enumerate() {
        let slot = to.wrapping_add(nth);
        // SAFETY: the caller promises that there is room.
        unsafe { slot.write(Retained::as_ptr(object).cast_mut()) };
    }
}

impl Array {
    fn objects(&self) -> &[Retained<AnyObject>] {
        &self.ivars().0
    }
}

/// A new array.
pub(super) fn array<T: ?Sized + Message + AsRef<AnyObject>>(
    objects: Vec<Retained<T>>,
) -> Retained<NSArray<T>> {
    let objects = objects.iter().map(|object| (**object).as_ref().retain()).collect();
    let array = make::<Array>(Objects(objects));
    // SAFETY: `Array` is the class `NSArray`, and all objects in it are of this type.
    unsafe { Retained::cast_unchecked(array) }
}
