//! What is behind the blocks of a device with content: memory of the host, and the bytes that commands move in it.

use crate::program::Program;
use crate::span::Span;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

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

    /// How many they are.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Where a part of it starts; `None` if it does not lie in it.
    pub(crate) fn part(&self, offset: u64, bytes: u64) -> Option<NonNull<u8>> {
        if offset.checked_add(bytes)? > self.bytes() {
            return None;
        }
        // SAFETY: the part lies in the block's memory, or ends where that does. No bit is lost: it is in memory of the host.
        Some(unsafe { self.start.add(offset as usize) })
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
            let content = Content::new(10_000, alignment).unwrap();
            assert!((content.start().addr().get() as u64).is_multiple_of(alignment));
            let start = content.start();
            // SAFETY: the byte lies in the content.
            let last = unsafe { start.add(9_999) };
            assert_eq!(content.part(9_999, 1), Some(last));
            for byte in [start, last] {
                // SAFETY: it lies in the content, which nobody else knows.
                assert_eq!(unsafe { byte.read() }, 0);
            }
            assert!(content.part(10_000, 0).is_some());
            for (offset, bytes) in [(10_000, 1), (0, 10_001), (u64::MAX, 2), (2, u64::MAX)] {
                assert!(content.part(offset, bytes).is_none(), "{offset} {bytes}");
            }
        }
        assert!(Content::new(u64::MAX, 256).is_none());
    }
}
