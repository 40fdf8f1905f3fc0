//! Parts of a buffer, as bytes and as values.

use super::manager;
use crate::Pattern;
use aquifer_backend::Backend;
use aquifer_core::{BufferView, Error, ErrorKind, MemoryManager};

fn whole<B: Backend>(manager: &MemoryManager<B>, bytes: u64) -> BufferView<B> {
    let mut buffer = manager.allocate(bytes).expect("there is room");
    buffer.fill(0).expect("a fill");
    buffer.into_view()
}

fn part<B: Backend>(view: &BufferView<B>, start: u64, end: u64) -> BufferView<B> {
    view.view(start..end).expect("in bounds")
}

#[track_caller]
fn refused<T>(answer: Result<T, Error>, kind: ErrorKind) -> Error {
    let Err(error) = answer else { panic!("{kind:?} expected") };
    assert_eq!(error.kind(), kind, "{error}");
    error
}

/// Each of a chain of views within views has its own size for its bound, though there is more around it.
pub fn parts_have_bounds_of_their_own<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut view = whole(&manager, 1000);
    for depth in 0..10_u64 {
        let bytes = view.size_bytes();
        refused(view.view(0..bytes + 1), ErrorKind::OutOfBounds);
        refused(view.view(bytes + 1..bytes + 1), ErrorKind::OutOfBounds);
        refused(view.view(u64::MAX - 1..u64::MAX), ErrorKind::OutOfBounds);
        refused(view.write(bytes, &[1_u8]), ErrorKind::OutOfBounds);
        refused(view.read(bytes - 1, &mut [0_u16]), ErrorKind::OutOfBounds);
        let inner = part(&view, 7, bytes - 30);
        assert_eq!((inner.size_bytes(), inner.offset_in_buffer()), (bytes - 37, 7 * (depth + 1)));
        inner.write(0, &[depth as u8 + 1]).expect("in bounds");
        view = inner;
    }
    view.fill(0xff).expect("a fill");
    let (start, end) = (view.offset_in_buffer(), view.offset_in_buffer() + view.size_bytes());
    let mut expected = vec![0_u8; 1000];
    (1..10).for_each(|depth| expected[7 * depth] = depth as u8);
    expected[start as usize..end as usize].fill(0xff);
    let buffer = view.try_into_buffer().expect("it is the last view");
    assert!(*buffer.as_slice::<u8>().expect("visible") == *expected);
}

/// Both parts together are the view, wherever it is split; beyond its end it is not.
pub fn a_view_is_split_anywhere<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let view = part(&whole(&manager, 500), 100, 200);
    for offset in [0, 1, 50, 99, 100] {
        let (low, high) = view.split_at(offset).expect("in bounds");
        assert_eq!((low.size_bytes(), low.offset_in_buffer()), (offset, 100));
        assert_eq!((high.size_bytes(), high.offset_in_buffer()), (100 - offset, 100 + offset));
        let mut held = (
            low.as_mut_slice::<u8>().expect("visible"),
            high.as_mut_slice::<u8>().expect("they have no byte in common"),
        );
        held.0.fill(1);
        held.1.fill(2);
        drop(held);
        let bytes = view.as_slice::<u8>().expect("visible");
        assert!(bytes.iter().enumerate().all(|(index, &byte)| byte == 1 + u8::from(index as u64 >= offset)));
    }
    refused(view.split_at(101), ErrorKind::OutOfBounds);
    refused(view.split_at(u64::MAX), ErrorKind::OutOfBounds);
}

/// What is written through values is there, at their place in the buffer and nowhere else.
pub fn a_view_is_seen_as_values<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 96);
    let view = part(&whole, 16, 48);
    let mut values = view.as_mut_slice::<u64>().expect("aligned, and a multiple");
    assert_eq!(*values, [0; 4]);
    values.copy_from_slice(&[1, u64::MAX, 3, 4]);
    values[3] = 5;
    assert!(format!("{values:?}").contains("16..48"));
    drop(values);
    assert_eq!(*view.as_slice::<u64>().expect("as above"), [1, u64::MAX, 3, 5]);
    assert_eq!(view.as_slice::<[u32; 2]>().expect("a multiple")[1], [u32::MAX; 2]);
    assert!(view.view(8..8).expect("in bounds").as_slice::<u64>().expect("none").is_empty());
    let mut bytes = [0_u8; 96];
    whole.read(0, &mut bytes).expect("in bounds");
    assert!(bytes[..16].iter().chain(&bytes[48..]).all(|&byte| byte == 0));
    assert_eq!(bytes[24..32], [0xff; 8]);
}

/// Values of the wrong size or alignment are refused, and it is said which; nothing is held then.
pub fn values_must_fit<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 96);
    let refusals = |start, end| {
        let view = part(&whole, start, end);
        [
            view.as_slice::<u64>().err(),
            view.try_as_slice::<u64>().err(),
            view.as_mut_slice::<u64>().err(),
            view.try_as_mut_slice::<u64>().err(),
            view.typed::<u64>().err(),
        ]
    };
    for (start, end, reason) in
        [(8, 15, "7 bytes"), (4, 20, "byte 4 "), (3, 11, "byte 3 "), (9, 9, "byte 9 ")]
    {
        for error in refusals(start, end) {
            let error = error.expect("it does not fit");
            assert_eq!(error.kind(), ErrorKind::InvalidArgument, "{error}");
            assert!(error.message().contains(reason), "{error}");
        }
    }
    refused(whole.typed::<()>(), ErrorKind::InvalidArgument);
    refused(whole.as_slice::<[u64; 0]>(), ErrorKind::InvalidArgument);
    assert!(refusals(8, 24).iter().all(Option::is_none));
    whole.fill(1).expect("nothing is held");
}

/// Views of values are cut, read and written by their numbers.
pub fn typed_views_count_values<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 4 * 100);
    let values = part(&whole, 40, 240).typed::<f32>().expect("50 of them");
    assert_eq!((values.len(), values.is_empty()), (50, false));
    let (low, high) = values.split_at(20).expect("in bounds");
    assert_eq!((low.len(), high.len()), (20, 30));
    high.write(1, &[1.5, -2.5]).expect("in bounds");
    low.as_mut_slice().expect("visible").fill(7.0);
    let inner = high.view(1..4).expect("in bounds");
    assert_eq!(*inner.as_slice().expect("visible"), [1.5, -2.5, 0.0]);
    let mut read = [0.0; 3];
    values.read(19, &mut read).expect("in bounds");
    assert_eq!(read, [7.0, 0.0, 1.5]);
    let (all, none) = inner.split_at(3).expect("at the end");
    assert!(all.len() == 3 && none.is_empty());
    none.write(0, &[]).expect("nothing");
    let bytes = inner.clone().untyped();
    assert_eq!((bytes.size_bytes(), bytes.offset_in_buffer()), (12, 40 + 4 * 21));
    assert!(inner.try_as_mut_slice().expect("visible").is_some());
    assert!(inner.try_as_slice().expect("visible").is_some());
}

/// No value outside of a typed view is reached through it, whatever the number.
pub fn typed_views_have_bounds<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 80);
    let values = part(&whole, 16, 48).typed::<u64>().expect("4 of them");
    for (index, count) in [(4, 1), (3, 2), (0, 5), (5, 0), (1 << 61, 1), ((1 << 61) + 1, 1), (u64::MAX, 1)] {
        let mut target = vec![1; count];
        let end = index.saturating_add(count as u64);
        let error = refused(values.read(index, &mut target), ErrorKind::OutOfBounds);
        assert!(error.message().contains("there are 4"), "{error}");
        refused(values.write(index, &target), ErrorKind::OutOfBounds);
        refused(values.view(index..end.max(5)), ErrorKind::OutOfBounds);
        assert!(target.iter().all(|&value| value == 1), "a refused read wrote its target");
    }
    refused(values.split_at(5), ErrorKind::OutOfBounds);
    refused(values.split_at((1 << 61) + 1), ErrorKind::OutOfBounds);
    refused(values.view(std::ops::Range { start: 2, end: 1 }), ErrorKind::OutOfBounds);
    assert!(whole.as_slice::<u8>().expect("visible").iter().all(|&byte| byte == 0));
}

/// While values are held nobody else has them, but for readers among themselves.
pub fn who_holds_values_keeps_others_away<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 100);
    let (middle, edge) = (part(&whole, 40, 60), part(&whole, 59, 61));
    let reads = |view: &BufferView<B>| view.try_as_slice::<u8>().expect("visible").is_some();
    let writes = |view: &BufferView<B>| view.try_as_mut_slice::<u8>().expect("visible").is_some();
    let written = middle.as_mut_slice::<u8>().expect("visible");
    assert!(!reads(&whole) && !writes(&whole) && !reads(&edge) && !writes(&edge) && !reads(&middle.clone()));
    assert!(writes(&part(&whole, 60, 61)) && writes(&part(&whole, 0, 40)) && writes(&part(&middle, 3, 3)));
    drop(written);
    let read = middle.as_slice::<u8>().expect("visible");
    let again = middle.as_slice::<u8>().expect("readers share");
    assert!(reads(&whole) && reads(&edge) && !writes(&whole) && !writes(&edge));
    drop(read);
    assert!(!writes(&edge));
    drop(again);
    assert!(writes(&whole));
}

/// One thread may hold many parts to be written, and use what lies between.
pub fn disjoint_values_are_held_at_the_same_time<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let whole = whole(&manager, 1000);
    let mut held: Vec<_> = (0..10)
        .map(|index| part(&whole, index * 100 + 1, index * 100 + 99).as_mut_slice::<u8>().expect("visible"))
        .collect();
    part(&whole, 99, 101).fill(0xaa).expect("nobody holds it");
    part(&whole, 199, 201).copy_from(&part(&whole, 99, 101)).expect("nobody holds them");
    for (index, values) in held.iter_mut().enumerate() {
        Pattern::new(index as u64).bytes(0, values);
    }
    drop(held);
    let bytes = whole.as_slice::<u8>().expect("visible");
    for index in 0..10 {
        let mut expected = [0; 98];
        Pattern::new(index as u64).bytes(0, &mut expected);
        assert!(bytes[index * 100 + 1..index * 100 + 99] == expected, "part {index} changed");
    }
    assert_eq!([99, 100, 199, 200, 299].map(|index| bytes[index]), [0xaa, 0xaa, 0xaa, 0xaa, 0]);
}

/// The buffer lives as long as what is held of it, and comes back after.
pub fn what_is_held_keeps_the_buffer<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let view = whole(&manager, 300);
    let mut held = part(&view, 3, 10).as_mut_slice::<u8>().expect("visible");
    let view = view.try_into_buffer().expect_err("a part is held");
    held[0] = 9;
    drop(held);
    let buffer = view.try_into_buffer().expect("nothing is held");
    assert_eq!(buffer.as_slice::<u8>().expect("visible")[3], 9);
    let view = buffer.into_view();
    let held = part(&view, 3, 4).as_slice::<u8>().expect("visible");
    drop(view);
    assert_eq!((manager.statistics().live_count(), held[0]), (1, 9));
    drop(held);
    assert_eq!(manager.statistics().live_count(), 0);
}

/// Copies from one part of a buffer to another arrive, next to each other too; those that overlap are refused.
pub fn copies_within_a_buffer_arrive<B: Backend>(make: impl Fn() -> B) {
    let manager = manager(make());
    let mut buffer = manager.allocate(300).expect("300 bytes");
    Pattern::new(3).write(&mut buffer);
    let mut expected = vec![0; 300];
    Pattern::new(3).bytes(0, &mut expected);
    let whole = buffer.into_view();
    for (from, to, bytes) in [(0, 100, 100), (201, 198, 3), (5, 0, 5), (299, 0, 1), (17, 17, 0)] {
        let (source, target) = (part(&whole, from, from + bytes), part(&whole, to, to + bytes));
        target.copy_from(&source).expect("they do not overlap");
        expected.copy_within(from as usize..(from + bytes) as usize, to as usize);
    }
    for (from, to, bytes) in [(0, 99, 100), (99, 0, 100), (0, 0, 300), (7, 7, 1)] {
        let (source, target) = (part(&whole, from, from + bytes), part(&whole, to, to + bytes));
        refused(target.copy_from(&source), ErrorKind::InvalidArgument);
    }
    refused(part(&whole, 0, 10).copy_from(&part(&whole, 20, 31)), ErrorKind::InvalidArgument);
    assert!(*whole.as_slice::<u8>().expect("visible") == *expected);
}
