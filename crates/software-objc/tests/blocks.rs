//! Blocks on the stack, on the heap and as globals.
#![cfg(not(target_vendor = "apple"))]

use std::ffi::c_void;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use block2::{Block, RcBlock, StackBlock, global_block};
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, NSObject, NSObjectProtocol};
use software_objc::live_blocks;

mod common;
use common::panic_of;

/// The number of live blocks is the process's, so the tests of this file take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

global_block! {
    static DOUBLE = |number: i32| -> i32 { number * 2 };
}

#[test]
fn a_heap_block_drops_its_captures_once() {
    let _alone = alone();
    let (before, captured) = (live_blocks(), Arc::new(5));
    let capture = captured.clone();
    let block = RcBlock::new(move |number: i32| number + *capture);
    assert_eq!((block.call((1,)), live_blocks() - before), (6, 1));
    let second = block.clone();
    assert_eq!(live_blocks() - before, 1, "a copy of a heap block is the same block");
    drop(block);
    assert_eq!((second.call((2,)), Arc::strong_count(&captured)), (7, 2));
    drop(second);
    assert_eq!((Arc::strong_count(&captured), live_blocks()), (1, before));
}

#[test]
fn a_stack_block_is_moved_to_the_heap_by_a_copy() {
    let _alone = alone();
    let (before, captured) = (live_blocks(), Arc::new(7));
    let capture = captured.clone();
    let block = StackBlock::new(move || *capture);
    assert_eq!((block.call(()), live_blocks()), (7, before));
    let copy = block.copy();
    assert_eq!((copy.call(()), live_blocks() - before, Arc::strong_count(&captured)), (7, 1, 3));
    drop(copy);
    drop(block);
    assert_eq!((Arc::strong_count(&captured), live_blocks()), (1, before));
}

#[test]
fn a_global_block_is_never_copied() {
    let _alone = alone();
    let before = live_blocks();
    let copy = DOUBLE.copy();
    assert_eq!((copy.call((4,)), live_blocks()), (8, before));
}

#[test]
fn a_block_is_retained_and_released_like_an_object() {
    let _alone = alone();
    let before = live_blocks();
    let stack = StackBlock::new(|| 3);
    let object: *mut AnyObject = std::ptr::from_ref::<Block<dyn Fn() -> i32>>(&stack).cast_mut().cast();
    // SAFETY: a block may be retained like an object; that copies it.
    let copy = unsafe { objc2::ffi::objc_retain(object) };
    assert!(copy != object && live_blocks() == before + 1);
    // SAFETY: the copy was retained.
    unsafe { objc2::ffi::objc_release(copy) };
    assert_eq!(live_blocks(), before);
}

#[test]
fn captured_objects_live_as_long_as_the_block() {
    let _alone = alone();
    let object = NSObject::new();
    let capture = object.clone();
    let block = RcBlock::new(move || capture.retainCount());
    assert_eq!((block.call(()), object.retainCount()), (2, 2));
    drop(block);
    assert_eq!(object.retainCount(), 1);
    drop(object);
}

#[test]
fn a_dead_block_can_be_neither_called_nor_copied_nor_released() {
    let _alone = alone();
    let block = ManuallyDrop::new(RcBlock::new(|| 1));
    let pointer: *const Block<dyn Fn() -> i32> = RcBlock::as_ptr(&block);
    let raw: *const c_void = pointer.cast();
    // SAFETY: this is the only reference.
    unsafe { block2::ffi::_Block_release(raw) };
    // SAFETY: the memory of dead blocks is kept, so that these mistakes are found.
    let call = || _ = unsafe { (*pointer).call(()) };
    assert_eq!(panic_of(call), "a block was called after its last release");
    // SAFETY: as above.
    let release = || unsafe { block2::ffi::_Block_release(raw) };
    assert_eq!(panic_of(release), "a block was released after its last release");
    // SAFETY: as above.
    let copy = || _ = unsafe { block2::ffi::_Block_copy(raw) };
    assert_eq!(panic_of(copy), "a block was copied after its last release");
}

#[test]
fn threads_share_a_block() {
    let _alone = alone();
    struct Shared(RcBlock<dyn Fn()>);
    // SAFETY: the block's captures may be used by several threads.
    unsafe impl Send for Shared {}
    let (before, calls) = (live_blocks(), Arc::new(AtomicUsize::new(0)));
    let counter = calls.clone();
    let block = RcBlock::new(move || _ = counter.fetch_add(1, SeqCst));
    thread::scope(|scope| {
        for _ in 0..4 {
            let shared = Shared(block.clone());
            scope.spawn(move || {
                let Shared(block) = { shared };
                (0..100).for_each(|_| block.clone().call(()));
            });
        }
    });
    drop(block);
    assert_eq!((calls.load(SeqCst), Arc::strong_count(&calls), live_blocks()), (400, 1, before));
}

#[test]
fn nil_blocks_are_let_be() {
    // SAFETY: null is allowed.
    unsafe { block2::ffi::_Block_release(std::ptr::null()) };
    // SAFETY: as above.
    assert!(unsafe { block2::ffi::_Block_copy(std::ptr::null()) }.is_null());
    // SAFETY: as above.
    assert!(unsafe { Retained::<AnyObject>::retain(std::ptr::null_mut()) }.is_none());
}
