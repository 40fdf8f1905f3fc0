//! What queues and sources have in common.

use std::ffi::c_void;
use std::mem::offset_of;
use std::ptr::null_mut;

use parking_lot::Mutex;

use super::queue::{GLOBAL_QUEUE, QUEUE, Queue};
use super::source::{SOURCE, Source};
use super::work::{Context, Function};
use crate::classes::{Class, NativeClass, NativeMethod};
use crate::ns_object::NS_OBJECT;
use crate::objects::{Id, Object};

/// An instance of one of libdispatch's classes.
#[repr(C)]
struct Instance<T> {
    object: Object,
    state: T,
}

/// Defines a class whose instances have a `T`, which its `dealloc` ends by [`destroy`].
pub(super) fn define<T>(slot: &'static Class, dealloc: extern "C-unwind" fn(Id, crate::Sel)) {
    let dealloc: NativeMethod = (c"dealloc", c"v@:", dealloc as *const ());
    let class = NativeClass {
        slot,
        superclass: Some(&NS_OBJECT),
        state_size: size_of::<Instance<T>>() - offset_of!(Instance<T>, state),
        class_methods: &[],
        methods: &[dealloc],
        protocol: None,
    };
    // SAFETY: the function has this signature.
    let offset = unsafe { class.define() };
    assert_eq!(offset, offset_of!(Instance<T>, state), "{}: the state's place", slot.name());
}

/// Puts the state into a new instance of a class that [`define`] has defined for this type of state.
pub(super) fn fill<T>(object: Id, state: T) {
    // SAFETY: the class was defined with room for this at this place.
    let place = unsafe { object.state::<T>(offset_of!(Instance<T>, state)) };
    // SAFETY: as above; the instance is new, so nothing is lost.
    unsafe { place.write(state) };
}

/// Drops the state and ends the object, whose last release has been.
pub(super) fn destroy<T>(object: Id) {
    // SAFETY: only the `dealloc` of a class that was defined for this type comes here.
    let state = unsafe { object.state::<T>(offset_of!(Instance<T>, state)) };
    // SAFETY: the state was put in when the object was made, and nobody holds the object any more.
    unsafe { state.drop_in_place() };
    object.dispose();
}

/// The state of an instance of one of these classes. It lives until the object's last release.
///
/// # Panics
///
/// When the object is of another class, or dead.
fn state_of<'a, T>(object: Id, classes: &[&'static Class], function: &str) -> &'a T {
    let class = object.class();
    let fits = classes.iter().any(|wanted| std::ptr::eq(*wanted, class));
    assert!(fits, "{function}: a {} was expected, not a {}", classes[0].name(), class.name());
    // SAFETY: instances of these classes have this state, put in when they were made.
    let state = unsafe { object.state::<T>(offset_of!(Instance<T>, state)) };
    // SAFETY: as above; the caller holds the object, for it is alive, and only the last release drops the state.
    unsafe { state.as_ref() }
}

pub(super) fn queue<'a>(object: Id, function: &str) -> &'a Queue {
    state_of(object, &[&QUEUE, &GLOBAL_QUEUE], function)
}

pub(super) fn source<'a>(object: Id, function: &str) -> &'a Source {
    state_of(object, &[&SOURCE], function)
}

/// The context, and what is to be done with it at the end.
pub(super) struct Attachment(Mutex<(Context, Option<Function>)>);

impl Attachment {
    pub(super) fn new() -> Self {
        Self(Mutex::new((Context(null_mut()), None)))
    }

    pub(super) fn context(&self) -> Context {
        self.0.lock().0
    }

    /// The finalizer's call that the object's end makes, if there is one.
    pub(super) fn finalizer(&self) -> Option<(Function, Context)> {
        let (context, finalizer) = *self.0.lock();
        finalizer.filter(|_| !context.0.is_null()).map(|finalizer| (finalizer, context))
    }
}

fn is_source(object: Id) -> bool {
    std::ptr::eq(object.class(), &SOURCE)
}

fn attachment<'a>(object: Id, function: &str) -> &'a Attachment {
    if is_source(object) {
        source(object, function).attachment()
    } else {
        queue(object, function).attachment()
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_retain(object: Id) {
    object.retain();
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_release(object: Id) {
    object.release();
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_get_context(object: Id) -> *mut c_void {
    attachment(object, "dispatch_get_context").context().0
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_set_context(object: Id, context: Context) {
    attachment(object, "dispatch_set_context").0.lock().0 = context;
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_set_finalizer_f(object: Id, finalizer: Option<Function>) {
    attachment(object, "dispatch_set_finalizer_f").0.lock().1 = finalizer;
}

/// Queues are always active here.
#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_activate(object: Id) {
    if is_source(object) {
        source(object, "dispatch_activate").activate(object);
    } else {
        queue(object, "dispatch_activate");
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_suspend(object: Id) {
    if is_source(object) {
        source(object, "dispatch_suspend").suspend();
    } else {
        queue(object, "dispatch_suspend").suspend();
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_resume(object: Id) {
    if is_source(object) {
        source(object, "dispatch_resume").resume(object);
    } else {
        queue(object, "dispatch_resume").resume(object);
    }
}
