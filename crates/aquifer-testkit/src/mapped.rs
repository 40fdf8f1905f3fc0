//! Memory straight from the system, to be imported. (Memory of the allocator will not do everywhere: Metal refuses it.)

use aquifer_backend::HostMemory;
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory of its own, zero when it is new, and given back to the system when dropped.
pub struct MappedMemory {
    /// What the system gave.
    mapping: NonNull<u8>,
    mapping_bytes: usize,
    /// The aligned part of it.
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory belongs to the process, and this value is the only way to it.
unsafe impl Send for MappedMemory {}
// SAFETY: as above; a shared reference lets it be read only.
unsafe impl Sync for MappedMemory {}

impl fmt::Debug for MappedMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedMemory")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl MappedMemory {
    /// `bytes` bytes from a multiple of `alignment`, a power of two.
    ///
    /// # Panics
    ///
    /// If the system has no more.
    #[must_use]
    pub fn new(bytes: u64, alignment: u64) -> Self {
        let (bytes, alignment) = (bytes as usize, alignment as usize);
        let mapping_bytes = bytes + alignment;
        let mapping = system::map(mapping_bytes);
        let lead_bytes = mapping.addr().get().wrapping_neg() & (alignment - 1);
        // SAFETY: the lead is shorter than the alignment, by which the mapping is longer than what is used.
        let start = unsafe { mapping.add(lead_bytes) };
        Self { mapping, mapping_bytes, start, bytes }
    }

    /// The address of the first byte.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The content.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        // SAFETY: the memory is mapped, initialised and this value's, which is borrowed.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.bytes) }
    }

    /// The content, to be written.
    pub fn content_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and it is borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.bytes) }
    }

    /// A part of the memory as [`HostMemory`], whose owner's drop puts the whole on `shelf`.
    ///
    /// # Panics
    ///
    /// If it has no such part.
    #[must_use]
    pub fn lend(self, part: Range<u64>, shelf: &Shelf) -> HostMemory {
        assert!(part.start <= part.end && part.end <= self.bytes as u64, "{part:?} of {self:?}");
        // SAFETY: the part begins in the memory, or where it ends.
        let start = unsafe { self.start.add(part.start as usize) };
        let owner = Lent { memory: Some(self), shelf: shelf.clone() };
        // SAFETY: the part is mapped, readable, writable and initialised for as long as the owner has the memory, and the owner,
        // the only way to it, touches nothing. A mapping does not move with the value that it is known by.
        unsafe { HostMemory::new(start, part.end - part.start, owner) }
    }
}

impl Drop for MappedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping came from `map`, is this value's, and no reference to it outlives the value.
        unsafe { system::unmap(self.mapping, self.mapping_bytes) };
    }
}

/// Where memory comes back to that was lent. Clones are the same shelf.
#[derive(Debug, Clone, Default)]
pub struct Shelf(Arc<Mutex<Vec<MappedMemory>>>);

impl Shelf {
    /// How much has come back that nobody has taken.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.lock().len()
    }

    /// Takes all that has come back, in the order of its coming.
    #[must_use]
    pub fn take(&self) -> Vec<MappedMemory> {
        std::mem::take(&mut *self.0.lock())
    }
}

struct Lent {
    memory: Option<MappedMemory>,
    shelf: Shelf,
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.shelf.0.lock().extend(self.memory.take());
    }
}

#[cfg(unix)]
mod system {
    use rustix::mm::{MapFlags, ProtFlags};
    use std::ptr::{NonNull, null_mut};

    pub(super) fn map(bytes: usize) -> NonNull<u8> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the system chooses the address, so no other mapping is touched.
        let start = unsafe { rustix::mm::mmap_anonymous(null_mut(), bytes, access, MapFlags::PRIVATE) };
        NonNull::new(start.expect("the system has memory").cast()).expect("no mapping begins at null")
    }

    /// # Safety
    ///
    /// - The mapping came from [`map`], and nothing uses it.
    pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: the caller vouches for the mapping. One that the system will not take back stays.
        let _ = unsafe { rustix::mm::munmap(start.as_ptr().cast(), bytes) };
    }
}

#[cfg(not(unix))]
mod system {
    use std::alloc::{Layout, alloc_zeroed, dealloc};
    use std::ptr::NonNull;

    fn layout(bytes: usize) -> Layout {
        Layout::from_size_align(bytes, 1).expect("a size that fits the addresses")
    }

    pub(super) fn map(bytes: usize) -> NonNull<u8> {
        assert!(bytes > 0);
        // SAFETY: the layout has a size.
        NonNull::new(unsafe { alloc_zeroed(layout(bytes)) }).expect("the allocator has memory")
    }

    /// # Safety
    ///
    /// - The memory came from [`map`], and nothing uses it.
    pub(super) unsafe fn unmap(start: NonNull<u8>, bytes: usize) {
        // SAFETY: it was allocated with this layout, and the caller vouches that nothing uses it.
        unsafe { dealloc(start.as_ptr(), layout(bytes)) };
    }
}
