//! Who may use which part of a shared buffer. There is no memory, so these only ask the claims.

use super::device::{Call, Device};
use super::{MIB, plain_manager};
use crate::manager::{BufferView, MemoryManager};
use crate::range_lock::Access::{Read, Write};
use crate::raw::shared_allocation::CopyClaims;
use aquifer_backend::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Wake, Waker};
use std::thread;

fn whole(manager: &MemoryManager<Device>, bytes: u64) -> BufferView<Device> {
    manager.allocate(bytes).expect("there is room").into_view()
}

#[test]
fn views_exclude_each_other_where_they_overlap() {
    let (manager, _books) = plain_manager(10);
    let whole = whole(&manager, 1000);
    let (low, high) = whole.split_at(500).expect("inside");
    let (written, beside) = (low.claim(Write), high.claim(Write));
    assert!(written.is_granted() && beside.is_granted());
    let read = whole.view(400..500).expect("inside").claim(Read);
    let across = whole.claim(Write);
    assert!(!read.is_granted() && !across.is_granted());
    drop(written);
    assert!(read.is_granted() && !across.is_granted());
    let shared = whole.claim_part("read", 0, 450, Read).expect("inside");
    assert!(!shared.is_granted(), "behind the writer in line");
    drop(across);
    assert!(shared.is_granted() && shared.range() == (0..450));
    assert_eq!(low.claim_part("read", 499, 2, Read).expect_err("outside").kind(), ErrorKind::OutOfBounds);
}

/// Where the host cannot see the memory, a device may write all of the 4 bytes that a view's end lies in.
#[test]
fn odd_ends_take_whole_units_of_memory_that_the_host_cannot_see() {
    let (manager, _books) = plain_manager(10);
    let whole = whole(&manager, 102);
    let part = |range| whole.view(range).expect("inside");
    let written = part(5..10).claim(Write);
    assert!(part(0..4).claim(Write).is_granted() && part(12..102).claim(Write).is_granted());
    assert!(!part(4..5).claim(Read).is_granted() && !part(10..11).claim(Read).is_granted());
    assert!(part(10..10).claim(Write).is_granted(), "no bytes have no unit");
    assert_eq!((written.range(), written.size_bytes()), (5..10, 5));
    // A copy does not wait for itself.
    let CopyClaims { destination, source } =
        part(97..99).claim_copy(&part(99..101)).expect("they do not overlap");
    assert!(destination.is_granted() && source.is_granted());
    part(99..101).view(0..0).expect("inside").fill(0).expect("nothing to fill");
    let end = part(101..102).claim(Write);
    assert!(!end.is_granted());
    drop((destination, source));
    assert!(end.is_granted());
}

#[test]
fn a_claim_keeps_the_buffer() {
    let (manager, _books) = plain_manager(10);
    let whole = whole(&manager, 9 * MIB);
    let claim = whole.view(10..20).expect("inside").claim(Read);
    let whole = whole.try_into_buffer().expect_err("a claim is left");
    assert_eq!((whole.size_bytes(), whole.offset_in_buffer()), (9 * MIB, 0));
    let waiting = whole.claim(Write);
    drop(whole);
    assert_eq!(manager.statistics().live_count(), 1);
    drop(claim);
    assert!(waiting.is_granted());
    assert_eq!(manager.statistics().live_count(), 1);
    drop(waiting);
    assert_eq!(manager.statistics().live_count(), 0);
}

#[test]
fn copies_claim_both_ends_at_once() {
    let (manager, _books) = plain_manager(10);
    let (one, other) = (whole(&manager, 1000), whole(&manager, 1000));
    let there = one.claim_copy(&other).expect("equally long");
    let mut back = other.claim_copy(&one).expect("equally long");
    assert!(there.destination.is_granted() && there.source.is_granted());
    assert!(!back.destination.is_granted() && !back.source.is_granted());
    drop(there.destination);
    assert!(!back.destination.is_granted() && back.source.is_granted());
    drop(there.source);
    back.destination.copy_from(&back.source).expect("both are granted");
    back.destination.fill(3).expect("it is granted");
    drop(back);

    let (stranger_manager, _books) = plain_manager(10);
    let stranger = whole(&stranger_manager, 1000);
    let part = one.view(0..10).expect("inside");
    let refused = [
        one.claim_copy(&stranger),
        part.claim_copy(&one),
        part.claim_copy(&one.view(9..19).expect("inside")),
    ];
    for refused in refused {
        assert_eq!(refused.expect_err("it makes no sense").kind(), ErrorKind::InvalidArgument);
    }
    // What was refused claims nothing.
    assert!(one.claim(Write).is_granted() && stranger.claim(Write).is_granted());
}

#[test]
fn who_does_not_block_is_told() {
    #[derive(Default)]
    struct Bell(AtomicUsize);
    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let (manager, _books) = plain_manager(10);
    let whole = whole(&manager, 1000);
    let held = whole.claim(Read);
    let mut waiting = whole.claim(Write);
    let bell = Arc::new(Bell::default());
    let waker = Waker::from(Arc::clone(&bell));
    assert!(!waiting.poll_granted(&waker));
    drop(held);
    assert_eq!(bell.0.load(Ordering::Relaxed), 1);
    assert!(waiting.poll_granted(&waker));
}

#[test]
#[should_panic(expected = "used before it is granted")]
fn a_claim_in_line_gives_nothing() {
    let (manager, _books) = plain_manager(10);
    let whole = whole(&manager, 1000);
    let _held = whole.claim(Read);
    let _ = whole.claim(Write).fill(1);
}

#[test]
#[should_panic(expected = "written under a claim to read")]
fn a_claim_to_read_does_not_write() {
    let (manager, _books) = plain_manager(10);
    let _ = whole(&manager, 1000).claim(Read).fill(1);
}

#[test]
fn accesses_wait_for_claims_of_other_threads() {
    let (manager, books) = plain_manager(10);
    let whole = whole(&manager, 1000);
    let held = whole.view(0..10).expect("inside").claim(Read);
    let filling = thread::spawn({
        let whole = whole.clone();
        move || whole.fill(1)
    });
    // Until the thread stands in line.
    while whole.view(12..1000).expect("inside").claim(Read).is_granted() {
        thread::yield_now();
    }
    assert_eq!(books.count(&Call::Fill), 0);
    drop(held);
    filling.join().expect("it is granted").expect("the device fills");
    assert_eq!(books.count(&Call::Fill), 1);
}
