//! Metal objects that several threads share.

use std::fmt;
use std::ops::Deref;

use objc2::Message;
use objc2::rc::Retained;
use objc2::runtime::ProtocolObject;

/// A Metal object that any thread may use and release: a buffer, a heap, a residency set under a lock.
///
/// The bindings leave these without `Send` and `Sync`, since nothing in their headers says it. Apple's guide says that Metal
/// resources may be used from several threads; what is not safe to call at the same time is named where it is called.
pub(crate) struct Object<P: ?Sized>(Retained<ProtocolObject<P>>);

// SAFETY: Metal's resource objects are reference counted atomically and may be used and released on any thread (Apple, "Metal
// Programming Guide", resource objects and threads). This crate reads fixed facts of them, makes others from them, and changes only
// what has one owner at the time: the label of a block to be, the purgeable state of a block that nobody uses, sets under a lock.
unsafe impl<P: ?Sized> Send for Object<P> {}
// SAFETY: as above.
unsafe impl<P: ?Sized> Sync for Object<P> {}

impl<P: ?Sized> Object<P> {
    pub(crate) fn new(object: Retained<ProtocolObject<P>>) -> Self {
        Self(object)
    }
}

impl<P: ?Sized> Clone for Object<P>
where
    ProtocolObject<P>: Message,
{
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<P: ?Sized> Deref for Object<P> {
    type Target = ProtocolObject<P>;

    fn deref(&self) -> &ProtocolObject<P> {
        &self.0
    }
}

impl<P: ?Sized> fmt::Debug for Object<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The address: a description would be a message, and makes objects.
        write!(f, "{:p}", Retained::as_ptr(&self.0))
    }
}
