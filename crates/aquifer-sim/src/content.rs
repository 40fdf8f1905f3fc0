//! What is behind the blocks of a device with content: memory of the host, and the bytes that commands move in it.

use crate::program::Program;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// What a block holds once the system has taken its memory.
const PURGED: u8 = 0xdb;

/// The memory behind one block, zero at first. It goes when the block is destroyed and no queued command needs it.
///
/// ```text
/// |<--------------- layout --------------->|
/// memory     start |<----- bytes ----->|
/// ```
#[derive(Debug)]
pub(crate) struct Content {
    memory: NonNull<u8>,
    layout: Layout,
    start: NonNull<u8>,
    bytes: usize,
}

// SAFETY: the memory is this value's own and bound to no thread; whoever reads or writes it does so in unsafe code, and
// answers for races.
unsafe impl Send for Content {}
// SAFETY: as above; a shared reference gives addresses only, which never change.
unsafe impl Sync for Content {}

impl Content {
    /// So many bytes from a multiple of `alignment`, a power of two. `None` if the host has not so much.
    pub(crate) fn new(bytes: u64, alignment: u64) -> Option<Self> {
        let bytes = usize::try_from(bytes).ok()?;
        let alignment = usize::try_from(alignment).ok()?;
        // Aligned by hand. Asked for a large alignment, the allocator clears the memory itself, which makes it take
        // physical memory; of its own accord large memory is clear, and takes none before it is touched.
        let layout = Layout::from_size_align(bytes.checked_add(alignment)?, 1).ok()?;
        // SAFETY: the layout is not empty, since no alignment is 0.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        let lead_bytes = memory.addr().get().wrapping_neg() & (alignment - 1);
        // SAFETY: the lead is shorter than the alignment, by which the allocation is longer than the block.
        let start = unsafe { memory.add(lead_bytes) };
        Some(Self { memory, layout, start, bytes })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// A part of it; `None` if it does not lie in it.
    pub(crate) fn span(self: &Arc<Self>, offset: u64, bytes: u64) -> Option<Span> {
        let offset = usize::try_from(offset).ok()?;
        let bytes = usize::try_from(bytes).ok()?;
        if offset.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return None;
        }
        // SAFETY: the part lies in the block's memory, or ends where that does.
        let start = unsafe { self.start.add(offset) };
        Some(Span { start, bytes, _content: Some(Arc::clone(self)) })
    }

    /// Writes over everything, as the system does that takes the memory.
    ///
    /// # Safety
    ///
    /// - Nobody uses the block.
    pub(crate) unsafe fn spoil(&self) {
        // SAFETY: the bytes are this value's, and the caller vouches that nobody uses them.
        unsafe { self.start.write_bytes(PURGED, self.bytes) };
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        // SAFETY: the memory came from this allocator with this layout; nobody has it any more, since blocks and commands that
        // do hold a reference to this value.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// Bytes in the host's memory, a block's (which it keeps) or somebody else's.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    start: NonNull<u8>,
    bytes: usize,
    _content: Option<Arc<Content>>,
}

// SAFETY: the bytes are bound to no thread: a block's are not, and of the host's own whoever enqueues a command vouches that
// the device may use them.
unsafe impl Send for Span {}

impl Span {
    /// Memory of the host's own. `None` if there cannot be so much.
    pub(crate) fn host(start: NonNull<u8>, bytes: u64) -> Option<Self> {
        Some(Self { start, bytes: usize::try_from(bytes).ok()?, _content: None })
    }

    /// Copies the first bytes to another, which may be the same memory.
    ///
    /// # Safety
    ///
    /// - Both are there, nobody writes this one, and nobody touches the other.
    unsafe fn copy_to(&self, destination: &Self, bytes: usize) {
        let bytes = bytes.min(self.bytes).min(destination.bytes);
        // SAFETY: both are that long, and the caller vouches for the rest.
        unsafe { ptr::copy(self.start.as_ptr(), destination.start.as_ptr(), bytes) };
    }

    /// Sets the first bytes.
    ///
    /// # Safety
    ///
    /// - It is there, and nobody touches it.
    unsafe fn fill(&self, value: u8, bytes: usize) {
        // SAFETY: it is that long, and the caller vouches for the rest.
        unsafe { self.start.write_bytes(value, bytes.min(self.bytes)) };
    }

    /// Copies as many bytes out as fit, from `offset`, which lies in it.
    ///
    /// # Safety
    ///
    /// - It is there, and nobody writes it.
    pub(crate) unsafe fn read(&self, offset: usize, bytes: &mut [u8]) {
        // SAFETY: the offset lies in it.
        let from = unsafe { self.start.add(offset.min(self.bytes)) };
        let count = bytes.len().min(self.bytes.saturating_sub(offset));
        // SAFETY: so many are there behind the offset, and the slice is nobody else's; the caller vouches for the rest.
        unsafe { ptr::copy_nonoverlapping(from.as_ptr(), bytes.as_mut_ptr(), count) };
    }

    /// Copies as many bytes in as fit, from `offset`, which lies in it.
    ///
    /// # Safety
    ///
    /// - It is there, and nobody touches it.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        // SAFETY: the offset lies in it.
        let to = unsafe { self.start.add(offset.min(self.bytes)) };
        let count = bytes.len().min(self.bytes.saturating_sub(offset));
        // SAFETY: so many are there behind the offset, and nobody writes the slice; the caller vouches for the rest.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), to.as_ptr(), count) };
    }
}

/// What a command does to bytes when it ends.
#[derive(Debug, Default)]
pub(crate) enum Motion {
    /// Nothing: no memory is behind what it touches.
    #[default]
    None,
    Copy {
        source: Span,
        destination: Span,
    },
    Fill {
        destination: Span,
        value: u8,
    },
    Program(Program),
}

impl Motion {
    /// Moves the first bytes of a copy or fill.
    ///
    /// # Safety
    ///
    /// - What the command reads and writes is there; nobody writes what it reads, nor touches what it writes.
    pub(crate) unsafe fn move_bytes(&self, bytes: u64) {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        match self {
            Self::None | Self::Program(_) => {}
            Self::Copy { source, destination } => {
                // SAFETY: the caller vouches for both.
                unsafe { source.copy_to(destination, bytes) };
            }
            Self::Fill { destination, value } => {
                // SAFETY: the caller vouches for it.
                unsafe { destination.fill(*value, bytes) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_aligned_and_zero_and_its_parts_lie_in_it() {
        for alignment in [256, 4096, 2 << 20] {
            let content = Arc::new(Content::new(10_000, alignment).unwrap());
            assert!((content.start().addr().get() as u64).is_multiple_of(alignment));
            let span = content.span(9_000, 1000).unwrap();
            let mut found = [1; 1000];
            // SAFETY: nobody else knows the content.
            unsafe { span.read(0, &mut found) };
            assert_eq!(found, [0; 1000]);
            // SAFETY: as above.
            unsafe { span.write(998, &[1, 2, 3, 4]) };
            // SAFETY: as above.
            unsafe { span.read(997, &mut found[..3]) };
            assert_eq!(found[..3], [0, 1, 2], "what is too much is left out");
            assert!(content.span(10_000, 0).is_some());
            for (offset, bytes) in [(10_000, 1), (0, 10_001), (u64::MAX, 2), (2, u64::MAX)] {
                assert!(content.span(offset, bytes).is_none(), "{offset} {bytes}");
            }
        }
        assert!(Content::new(u64::MAX, 256).is_none());
    }
}
