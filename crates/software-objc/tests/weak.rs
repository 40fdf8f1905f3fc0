//! Weak references, which become nil with their object's last release.
#![cfg(not(target_vendor = "apple"))]

use std::sync::Barrier;
use std::thread;

use objc2::ClassType;
use objc2::ffi;
use objc2::rc::{Retained, Weak};
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol};
use objc2::{define_class, msg_send};
use software_objc::live_of;

mod common;
use common::plain_class;

plain_class!(Watched, "TestWatched");

#[test]
fn a_weak_reference_becomes_nil_with_the_last_release() {
    let object = Watched::new();
    let weak = Weak::from_retained(&object);
    let copy = weak.clone();
    assert_eq!(weak.load().as_deref().map(std::ptr::from_ref), Some(Retained::as_ptr(&object)));
    assert_eq!(object.retainCount(), 1, "weak references do not count");
    drop(weak);
    let strong = copy.load();
    drop(object);
    assert!(copy.load().is_some(), "the loaded reference counts");
    drop(strong);
    assert!(copy.load().is_none() && copy.clone().load().is_none());
    assert_eq!(live_of("TestWatched"), 0);
    assert!(Weak::<Watched>::default().load().is_none());
}

plain_class!(Moved, "TestMoved");

#[test]
fn a_moved_weak_variable_still_becomes_nil() {
    let object = Moved::new();
    let pointer = Retained::as_ptr(&object).cast_mut().cast::<AnyObject>();
    let (mut from, mut to) = (std::ptr::null_mut(), std::ptr::null_mut());
    // SAFETY: the variables stay where they are until they are destroyed.
    unsafe { ffi::objc_initWeak(&mut from, pointer) };
    // SAFETY: as above.
    unsafe { ffi::objc_moveWeak(&mut to, &mut from) };
    assert!(from.is_null() && to == pointer);
    drop(object);
    assert!(to.is_null());
    // SAFETY: it was initialised by the move.
    unsafe { ffi::objc_destroyWeak(&mut to) };
}

plain_class!(Raced, "TestRaced");

#[test]
fn loads_race_with_the_last_release() {
    struct Both(Retained<Raced>);
    // SAFETY: the object has no state, and counts are atomic.
    unsafe impl Send for Both {}
    struct Observer(Weak<Raced>);
    // SAFETY: as above.
    unsafe impl Send for Observer {}
    const THREADS: usize = 4;
    for _ in 0..200 {
        let object = Both(Raced::new());
        let barrier = Barrier::new(THREADS + 1);
        thread::scope(|scope| {
            for _ in 0..THREADS {
                let observer = Observer(Weak::from_retained(&object.0));
                let barrier = &barrier;
                scope.spawn(move || {
                    let Observer(weak) = { observer };
                    barrier.wait();
                    // Each load answers a live object, which stays so, or nil for ever after. They are few, for as
                    // long as some thread has loaded it, the object lives.
                    for _ in 0..20 {
                        let Some(strong) = weak.load() else {
                            assert!(weak.load().is_none());
                            break;
                        };
                        assert!(strong.retainCount() >= 1);
                        assert_eq!(strong.class(), Raced::class());
                    }
                });
            }
            let Both(object) = { object };
            barrier.wait();
            drop(object);
        });
    }
    assert_eq!(live_of("TestRaced"), 0);
}
