//! Pinned memory as slices, and in collections.

use super::device::Device;
use super::pinned::{LOCAL, LOCKABLE, figures, manager, plain};
use super::{Config, MIB, MemoryManager, MemoryOptions};
use crate::manager::pinned::{PinnedAllocator, PinnedBuffer, PinnedConfig};
use allocator_api2::{boxed::Box, vec, vec::Vec};
use aquifer_backend::{ErrorKind, MemoryFlags};

fn limited(count: u64) -> MemoryManager<Device> {
    manager(PinnedConfig::DEFAULT.count_max(count).bytes_max(MIB), (LOCKABLE, ErrorKind::OutOfMemory)).0
}

type Floats = Vec<f32, PinnedAllocator<Device>>;

#[test]
fn a_buffer_is_a_slice() {
    let (manager, _) = plain();
    let allocator = manager.pinned();
    let mut buffer = allocator.allocate(64).expect("there is room");
    assert!(buffer.is_locked() && buffer.len() == 64 && buffer.size_bytes() == 64);
    buffer.fill(7);
    buffer[3] = 9;
    assert_eq!((buffer[2], buffer[3], buffer.as_ref().len(), buffer.as_mut().len()), (7, 9, 64, 64));
    buffer.as_mut_slice::<u64>().expect("8 of them")[7] = 1;
    assert_eq!((buffer.as_slice::<u64>().expect("as above")[7], buffer[56]), (1, 1));
    for error in [buffer.as_slice::<[u8; 48]>().err(), buffer.as_mut_slice::<[u8; 48]>().err()] {
        assert_eq!(error.expect("no whole number of them").kind(), ErrorKind::InvalidArgument);
    }
    drop(buffer);
    let zeroed = allocator.allocate_zeroed(64).expect("there is room");
    assert_eq!(*zeroed, [0; 64]);
    let now = allocator.statistics();
    assert_eq!((now.live_count, now.peak_count, now.unlocked_count), (1, 1, 0));
    assert_eq!(now, manager.statistics().pinned);
    assert!(manager.report().to_string().contains("pinned: 64 B in 1 of 64 allocations"));
    // A buffer outlives its manager.
    drop((manager, allocator));
    assert_eq!(*zeroed, [0; 64]);
}

#[test]
fn a_buffer_is_the_hosts_again_if_no_queue_may_use_it() {
    let (manager, _) = plain();
    let mut buffer = manager.pinned().allocate(1000).expect("there is room").into_buffer();
    buffer.fill(3).expect("the device can");
    let again = PinnedBuffer::try_from(buffer).expect("nothing was queued");
    assert_eq!(*again, [3; 1000]);
    let plain = manager.allocate(1000).expect("there is room");
    let refusal = PinnedBuffer::try_from(plain).expect_err("it is not pinned");
    assert_eq!(refusal.error().kind(), ErrorKind::InvalidArgument);
    assert_eq!(refusal.into_parts().expect("it comes back").size_bytes(), 1000);
    let mine = manager.allocate_with(1000, MemoryOptions::PINNED).expect("there is room");
    mine.allocation().record_use(1);
    let refusal = PinnedBuffer::try_from(mine).expect_err("a queue may use it");
    assert_eq!(refusal.error().kind(), ErrorKind::InvalidArgument);
    // There is no such queue, so it cannot be freed.
    std::mem::forget(refusal);
}

#[test]
fn memory_that_the_host_does_not_see_is_only_counted() {
    // A device that breaks its word, or is simulated.
    let types = [LOCAL, MemoryFlags::PINNED];
    let device = Device::with_types(&types, (LOCKABLE, ErrorKind::OutOfMemory));
    let manager = MemoryManager::with_config(device, Config::default()).expect("the configuration is sound");
    let buffer = manager.allocate_with(1000, MemoryOptions::PINNED).expect("there is room");
    assert_eq!((figures(&manager).live_count, figures(&manager).unlocked_count), (1, 0));
    assert!(manager.owner.find_pinned(1, 1).is_none());
    let error = manager.pinned().allocate(1000).expect_err("no slice");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert_eq!(figures(&manager).live_count, 1);
    assert!(Floats::new_in(manager.pinned()).try_reserve(1).is_err());
    drop(buffer);
    assert_eq!(figures(&manager).live_count, 0);
}

#[test]
fn collections_are_pinned_and_counted() {
    let (manager, _) = plain();
    let mut floats = Floats::new_in(manager.pinned());
    assert_eq!(figures(&manager).live_count, 0, "nothing is asked for nothing");
    for number in 0..1000 {
        floats.push(number as f32);
    }
    let now = figures(&manager);
    assert_eq!((now.live_count, now.peak_count, now.live_bytes), (1, 1, floats.capacity() as u64 * 4));
    assert!((0..1000).all(|number| floats[number] == number as f32));
    let start = floats.as_ptr().addr();
    let (_, offset) = manager.owner.find_pinned(start + 4, 3996).expect("a transfer finds it");
    assert!(!offset.is_multiple_of(256));
    let copy = floats.clone();
    assert_eq!((copy == floats, figures(&manager).live_count), (true, 2));
    // A little less stays where it is, much less does not.
    floats.shrink_to_fit();
    assert_eq!((floats.capacity(), floats.as_ptr().addr()), (1000, start));
    floats.truncate(10);
    floats.shrink_to_fit();
    assert_eq!((floats.capacity(), figures(&manager).live_bytes), (10, 40 + copy.capacity() as u64 * 4));
    assert_ne!(floats.as_ptr().addr(), start);
    floats.extend([1.5; 3]);
    assert_eq!(floats[9..], [9.0, 1.5, 1.5, 1.5]);
    let boxed: Box<[f32], _> = floats.into_boxed_slice();
    assert_eq!((boxed.len(), boxed[12]), (13, 1.5));
    drop((boxed, copy));
    let now = figures(&manager);
    assert_eq!((now.live_count, now.live_bytes, now.last_refusal), (0, 0, None));
    assert_eq!(manager.statistics().allocated.current, 0);
}

#[test]
fn limits_let_collections_fail_but_not_shrink_or_move() {
    let manager = limited(2);
    let allocator = manager.pinned();
    let mut first = Floats::with_capacity_in(10, allocator.clone());
    first.extend([1.0; 10]);
    let second: Floats = vec![in allocator.clone(); 2.0; 100];
    let mut third = Floats::new_in(allocator.clone());
    let error = third.try_reserve(1);
    assert!(error.is_err());
    let refusal = figures(&manager).last_refusal.expect("the reason");
    assert!(refusal.contains("Config::pinned.count_max allows 2"), "{refusal}");
    // One that moves is no third one.
    first.extend([1.0; 1000]);
    first.truncate(5);
    first.shrink_to_fit();
    assert_eq!((first.capacity(), &first[..]), (5, &[1.0; 5][..]));
    assert_eq!((figures(&manager).live_count, figures(&manager).peak_count), (2, 2));
    drop(second);
    let mut third: Floats = vec![in allocator.clone(); 3.0; MIB as usize / 4];
    let error = third.try_reserve(1);
    assert!(error.is_err() && third.iter().all(|&value| value == 3.0), "it is as it was");
    let refusal = figures(&manager).last_refusal.expect("the reason");
    assert!(refusal.contains("Config::pinned.bytes_max allows 1048576"), "{refusal}");
    assert_eq!((figures(&manager).refused_by_count, figures(&manager).refused_by_size), (1, 1));
}

#[test]
fn what_finds_no_smaller_place_stays() {
    let (manager, hand) = manager(PinnedConfig::DEFAULT, (LOCKABLE, ErrorKind::OutOfMemory));
    let mut bytes: Vec<u8, _> = vec![in manager.pinned(); 5; LOCKABLE as usize];
    let start = bytes.as_ptr();
    assert_eq!(hand.locked_bytes(), LOCKABLE);
    bytes.truncate(100);
    bytes.shrink_to_fit();
    assert_eq!((bytes.capacity(), bytes.as_ptr(), figures(&manager).refused_by_system), (100, start, 1));
    // And grows there again.
    bytes.reserve_exact(MIB as usize);
    assert_eq!((bytes.as_ptr(), &bytes[..]), (start, &[5; 100][..]));
    let refusal = figures(&manager).last_refusal.expect("the reason");
    assert!(refusal.contains("no more can be locked"), "{refusal}");
}

#[test]
fn alignment_is_as_the_layout_says() {
    #[repr(align(4096))]
    #[derive(Clone, Copy)]
    struct Page(u8);
    #[repr(align(8192))]
    struct TooMuch(#[expect(dead_code, reason = "for its size")] u8);
    let (manager, _) = plain();
    let allocator = manager.pinned();
    let odd = Box::new_in(1_u8, allocator.clone());
    let pages: Vec<Page, _> = vec![in allocator.clone(); Page(4); 3];
    assert!(pages.as_ptr().addr().is_multiple_of(4096) && pages.iter().all(|page| page.0 == 4));
    let mut too_much = Vec::<TooMuch, _>::new_in(allocator.clone());
    assert!(too_much.try_reserve(1).is_err());
    let refusal = figures(&manager).last_refusal.expect("the reason");
    assert!(refusal.contains("this device aligns blocks to 4096"), "{refusal}");
    let mut nothing = Vec::<(), _>::new_in(allocator.clone());
    nothing.extend([(); 100]);
    assert_eq!((figures(&manager).live_count, *odd), (2, 1));
}

#[test]
fn collections_keep_their_manager_and_are_freed_anywhere() {
    let (manager, hand) = plain();
    let floats: Floats = vec![in manager.pinned(); 1.0; 5000];
    drop(manager);
    let freed = std::thread::spawn(move || {
        let sum: f32 = floats.iter().sum();
        let mut more = Floats::new_in(floats.allocator().clone());
        more.extend([sum; 10]);
        drop(floats);
        more[9]
    });
    assert_eq!(freed.join().expect("it sums up"), 5000.0);
    assert_eq!((hand.live(), hand.locked_bytes()), (0, 0), "the manager went with the last of them");
}

#[test]
fn what_is_leaked_stays_good() {
    let (manager, hand) = plain();
    let leaked: &'static mut [f32] = {
        let floats: Floats = vec![in manager.pinned(); 2.5; 10];
        floats.leak()
    };
    drop(manager);
    leaked[3] = 1.0;
    assert_eq!((leaked[2], leaked[3], hand.live()), (2.5, 1.0, 1));
}

#[test]
fn threads_share_the_limits() {
    let manager = limited(3);
    std::thread::scope(|scope| {
        for thread in 0..4_u8 {
            let allocator = manager.pinned();
            scope.spawn(move || {
                let mut served = 0;
                for round in 0..200_u64 {
                    let Ok(mut mine) = allocator.allocate(1 + round) else { continue };
                    mine.fill(thread);
                    let mut grown = Vec::<u8, _>::new_in(allocator.clone());
                    if grown.try_reserve(10).is_ok() {
                        grown.extend_from_slice(&mine[..1]);
                        assert_eq!(grown[..], [thread]);
                    }
                    assert!(mine.iter().all(|&byte| byte == thread));
                    assert!(allocator.statistics().live_count <= 3);
                    served += 1;
                }
                served
            });
        }
    });
    let now = figures(&manager);
    assert_eq!((now.live_count, now.live_bytes), (0, 0));
    assert!((1..=3).contains(&now.peak_count));
    assert_eq!(manager.statistics().allocated.current, 0);
}
