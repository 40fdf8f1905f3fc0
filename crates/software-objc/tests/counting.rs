//! Retain, release and autorelease, and each misuse of them.
#![cfg(not(target_vendor = "apple"))]

use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::thread;

use objc2::rc::{Allocated, Retained, Weak, autoreleasepool};
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol};
use objc2::{ClassType, DefinedClass, Message, define_class, ffi, msg_send, sel};
use software_objc::{live_of, poolless_autoreleases, thread_counts};

mod common;
use common::{panic_of, plain_class};

/// Calls the runtime as code whose counting is wrong.
fn release<T: Message>(object: *const T) {
    // SAFETY: the memory of dead objects is kept, so that this is found out.
    unsafe { ffi::objc_release(object.cast_mut().cast()) }
}

fn retain<T: Message>(object: *const T) {
    // SAFETY: as in `release`.
    unsafe { ffi::objc_retain(object.cast_mut().cast()) };
}

plain_class!(Counted, "TestCounted");

#[test]
fn counts_are_exact() {
    let object = Counted::new();
    assert_eq!((object.retainCount(), live_of("TestCounted")), (1, 1));
    let second = object.clone();
    assert_eq!(object.retainCount(), 2);
    autoreleasepool(|pool| {
        let third = object.clone();
        let reference = Retained::autorelease_ptr(third);
        assert!(!reference.is_null());
        assert_eq!(object.retainCount(), 3);
        autoreleasepool(|_| Retained::autorelease_ptr(object.clone()));
        assert_eq!(object.retainCount(), 3, "the inner pool is drained");
        let _ = pool;
    });
    assert_eq!(object.retainCount(), 2);
    drop(object);
    assert_eq!(live_of("TestCounted"), 1);
    drop(second);
    assert_eq!(live_of("TestCounted"), 0);
}

plain_class!(Shared, "TestShared");

#[test]
fn many_threads_may_hold_one_object() {
    struct Pointer(Retained<Shared>);
    // SAFETY: the object has no state, and counts are atomic.
    unsafe impl Send for Pointer {}
    // SAFETY: as above.
    unsafe impl Sync for Pointer {}
    let object = Pointer(Shared::new());
    let object = &object;
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                let Pointer(object) = object;
                let held: Vec<_> = (0..1000).map(|_| object.clone()).collect();
                assert!(object.retainCount() >= 1001);
                drop(held);
            });
        }
    });
    assert_eq!(object.0.retainCount(), 1);
}

plain_class!(Unpooled, "TestUnpooled");

#[test]
fn an_autorelease_without_a_pool_leaks_and_is_counted() {
    // A thread of its own certainly has no pool.
    thread::scope(|scope| {
        scope.spawn(|| {
            let (before, all_before) = (thread_counts(), poolless_autoreleases());
            let pointer = Retained::autorelease_ptr(Unpooled::new());
            assert_eq!(thread_counts().since(&before).poolless_autoreleases, 1);
            assert!(poolless_autoreleases() > all_before);
            assert_eq!(live_of("TestUnpooled"), 1);
            release(pointer);
            assert_eq!(live_of("TestUnpooled"), 0);
        });
    });
}

plain_class!(Dead, "TestDead");

#[test]
fn what_a_dead_object_is_asked_panics() {
    let object = Dead::new();
    let pointer = Retained::as_ptr(&object);
    drop(object);
    let expected = |sel| format!("-[TestDead {sel}]: message sent to deallocated instance");
    assert_eq!(panic_of(|| release(pointer)), expected("release"));
    assert_eq!(panic_of(|| retain(pointer)), expected("retain"));
    let autorelease = || {
        // SAFETY: as in `release`.
        unsafe { ffi::objc_autorelease(pointer.cast_mut().cast()) };
    };
    assert_eq!(panic_of(autorelease), expected("autorelease"));
    // SAFETY: as in `release`.
    let dead: &AnyObject = unsafe { &*pointer.cast() };
    let message = || {
        // SAFETY: the method would have this signature.
        let _: usize = unsafe { msg_send![dead, hash] };
    };
    assert_eq!(panic_of(message), expected("hash"));
    assert_eq!(panic_of(|| _ = Weak::new(dead)), expected("allowsWeakReference"));
    assert_eq!(dead.class().name(), c"_Zombie_TestDead");
    assert_eq!(live_of("TestDead"), 0);
}

plain_class!(Silent, "TestSilent");

#[test]
fn an_unknown_selector_panics() {
    let object = Silent::new();
    // objc2 says it in debug builds, before the message is sent; in release builds the runtime does.
    // SAFETY: there is no such method, so nothing is called.
    let message = panic_of(|| unsafe { msg_send![&*object, testSpeak] });
    assert!(message.contains("-[TestSilent testSpeak]"), "{message}");
    // SAFETY: as above.
    let message = panic_of(|| unsafe { msg_send![Silent::class(), testSpeak] });
    assert!(
        message.contains("+[TestSilent testSpeak]") || message.contains("[TestSilent testSpeak]"),
        "{message}"
    );
    let lookup = || {
        let receiver = Retained::as_ptr(&object).cast_mut().cast();
        // SAFETY: the object is alive.
        unsafe { ffi::objc_msg_lookup(receiver, sel!(testSpeak)) };
    };
    assert_eq!(panic_of(lookup), "-[TestSilent testSpeak]: unrecognized selector");
}

thread_local! {
    static IN_DEALLOC: Cell<fn(*const Dying)> = const { Cell::new(|_| {}) };
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "TestDying"]
    #[ivars = ()]
    struct Dying;
);

impl Drop for Dying {
    fn drop(&mut self) {
        IN_DEALLOC.get()(self);
    }
}

fn panic_in_dealloc(action: fn(*const Dying)) -> String {
    IN_DEALLOC.set(action);
    // SAFETY: NSObject's `new` answers an object of the class, whose variable is of no size.
    let object: Retained<Dying> =
        unsafe { msg_send![super(Allocated::set_ivars(Dying::class_alloc(), ())), init] };
    panic_of(|| drop(object))
}

impl Dying {
    fn class_alloc() -> Allocated<Self> {
        // SAFETY: NSObject's `alloc` answers this.
        unsafe { msg_send![Self::class(), alloc] }
    }
}

#[test]
fn a_dying_object_can_be_neither_held_nor_released() {
    let message = panic_in_dealloc(retain);
    assert_eq!(message, "-[TestDying retain]: the object is being deallocated");
    let message = panic_in_dealloc(release);
    assert_eq!(message, "-[TestDying release]: over-release, the object is being deallocated");
    let refer = |object: *const Dying| {
        // SAFETY: the object is still there, in its dealloc.
        drop(Weak::new(unsafe { &*object }));
    };
    let message = panic_in_dealloc(refer);
    assert_eq!(message, "a weak reference to an instance of TestDying that is being deallocated");
}

#[test]
fn a_dealloc_of_a_held_object_panics() {
    let object = ManuallyDrop::new(NSObject::new());
    // SAFETY: this is the mistake that is to be found.
    let message = panic_of(|| unsafe { msg_send![&**object, dealloc] });
    assert_eq!(message, "-[NSObject dealloc]: the object is still held 1 times");
    drop(ManuallyDrop::into_inner(object));
}

#[test]
fn pools_are_popped_in_order_on_their_thread() {
    const WRONG: &str = "autorelease pool popped out of order, twice, or on another thread";
    // SAFETY: always allowed.
    let push = || unsafe { ffi::objc_autoreleasePoolPush() };
    let (outer, inner) = (push(), push());
    // SAFETY: these are the mistakes that are to be found.
    let pop = |token| unsafe { ffi::objc_autoreleasePoolPop(token) };
    assert_eq!(panic_of(|| pop(outer)), WRONG);
    pop(inner);
    assert_eq!(panic_of(|| pop(inner)), WRONG);
    let token = outer.addr();
    thread::scope(|scope| {
        scope.spawn(move || assert_eq!(panic_of(|| pop(std::ptr::without_provenance_mut(token))), WRONG));
    });
    pop(outer);
}

plain_class!(Pooled, "TestPooled");

#[test]
fn a_release_that_panics_in_a_pool_leaves_the_pools_in_order() {
    let message = panic_of(|| {
        autoreleasepool(|_| {
            let pointer = Retained::autorelease_ptr(Pooled::new());
            release(pointer);
        });
    });
    assert_eq!(message, "-[TestPooled release]: message sent to deallocated instance");
    autoreleasepool(|_| _ = Retained::autorelease_ptr(Pooled::new()));
    assert_eq!(live_of("TestPooled"), 0);
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "TestOverriding"]
    #[ivars = Cell<(u32, u32)>]
    struct Overriding;

    impl Overriding {
        #[unsafe(method(retain))]
        fn retain_counted(&self) -> *mut Self {
            let (retains, releases) = self.ivars().get();
            self.ivars().set((retains + 1, releases));
            // SAFETY: NSObject's method has this signature.
            unsafe { msg_send![super(self), retain] }
        }

        #[unsafe(method(release))]
        fn release_counted(&self) {
            let (retains, releases) = self.ivars().get();
            self.ivars().set((retains, releases + 1));
            // SAFETY: NSObject's method has this signature.
            unsafe { msg_send![super(self), release] }
        }
    }
);

#[test]
fn overridden_counting_is_called() {
    // SAFETY: NSObject's `alloc` answers this.
    let allocated: Allocated<Overriding> = unsafe { msg_send![Overriding::class(), alloc] };
    // SAFETY: NSObject's `init` answers the object.
    let object: Retained<Overriding> =
        unsafe { msg_send![super(allocated.set_ivars(Cell::default())), init] };
    drop(object.clone());
    autoreleasepool(|_| _ = Retained::autorelease_ptr(object.clone()));
    assert_eq!(object.ivars().get(), (2, 2));
    drop(object);
    assert_eq!(live_of("TestOverriding"), 0);
}
