//! Buffers that host and device both use, as one side alone sees them.

use super::manager;
use super::pinned::alone;
use crate::Pattern;
use aquifer_backend::{Backend, MemoryFlags};
use aquifer_core::{ErrorKind, MemoryManager, MemoryOptions, Side, UnifiedBuffer};

/// A buffer of zeros. `None` if it would have a shadow and the system locks no memory for that; then it says so.
pub(super) fn zeroed<B: Backend>(manager: &MemoryManager<B>, bytes: u64) -> Option<UnifiedBuffer<B>> {
    match manager.unified_with(bytes, MemoryOptions::ZEROED) {
        Ok(buffer) => Some(buffer),
        Err(refusal) => {
            println!("skipped: {refusal}");
            let is_refusal = [ErrorKind::OutOfMemory, ErrorKind::Driver];
            assert!(!has_unified(manager) && is_refusal.contains(&refusal.kind()), "{refusal}");
            None
        }
    }
}

fn has<B: Backend>(manager: &MemoryManager<B>, flags: MemoryFlags) -> bool {
    manager.properties().memory_types.iter().any(|one| one.flags.contains(flags))
}

fn has_unified<B: Backend>(manager: &MemoryManager<B>) -> bool {
    has(manager, MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL)
}

/// They are zero-copy where memory is unified, have a shadow where the host sees other memory, and are refused elsewhere.
pub fn they_are_zero_copy_exactly_where_memory_is_unified<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    if !has(&manager, MemoryFlags::HOST_VISIBLE) {
        let refusal = manager.unified(100).expect_err("the host sees no memory");
        assert_eq!(refusal.kind(), ErrorKind::Unsupported, "{refusal}");
        return;
    }
    let Some(buffer) = zeroed(&manager, 100) else { return };
    assert_eq!((buffer.size_bytes(), buffer.is_zero_copy()), (100, has_unified(&manager)));
    assert_eq!(manager.statistics().pinned.peak_count, 0, "a shadow is not the user's");
    match buffer.into_buffer() {
        Ok(buffer) => assert!(has_unified(&manager) && buffer.host_pointer().is_some()),
        Err(buffer) => assert!(!buffer.is_zero_copy()),
    }
    assert_eq!(manager.statistics().live_count(), 0);
}

/// What the host writes, in whichever parts, it reads.
pub fn the_host_reads_what_it_writes<B: Backend>(make: impl Fn() -> B) {
    let _alone = alone();
    let manager = manager(make());
    let bytes = 10_001;
    let Some(mut buffer) = zeroed(&manager, bytes) else { return };
    assert!(buffer.read().expect("zeros").iter().all(|&byte| byte == 0));
    let mut oracle = vec![0; bytes as usize];
    for (seed, range) in [(1, 0..bytes), (2, 1..2), (3, 4097..8190), (4, bytes - 3..bytes), (5, 7..7)] {
        let part = &mut oracle[range.start as usize..range.end as usize];
        Pattern::new(seed).bytes(0, part);
        let mut guard = buffer.write_range(range.clone()).expect("it is the host's");
        guard.copy_from_slice(part);
        assert_eq!((guard.range(), &*guard), (range, &*part));
    }
    assert!(*buffer.read().expect("it is the host's") == oracle);
    assert!(*buffer.read_range(4090..4100).expect("a part") == oracle[4090..4100]);
    buffer.write_range(16..32).expect("a part").as_mut_slice::<u64>().expect("whole words").fill(1 << 56);
    assert_eq!(buffer.read_range(23..25).expect("a part")[..], [1, 0]);
    for (start, end) in [(0, bytes + 1), (bytes + 1, bytes + 1), (u64::MAX, u64::MAX)] {
        let refusal = buffer.read_range(start..end).expect_err("it ends before");
        assert_eq!(refusal.kind(), ErrorKind::OutOfBounds, "{refusal}");
    }
    buffer.synchronize().expect("nothing is under way");
    drop(manager);
    assert_eq!(buffer.read_range(23..25).expect("it outlives its manager")[..], [1, 0]);
}

/// A side is known by its name, and no other name is.
pub fn sides_have_names<B: Backend>(_make: impl Fn() -> B) {
    for side in [Side::Host, Side::Device] {
        assert_eq!(side.to_string().parse::<Side>().expect("its name"), side);
    }
    let refusal = "somewhere else".parse::<Side>().expect_err("there is no such side");
    assert_eq!(refusal.kind(), ErrorKind::InvalidArgument);
    assert!(refusal.message().contains("host") && refusal.message().contains("device"), "{refusal}");
}
