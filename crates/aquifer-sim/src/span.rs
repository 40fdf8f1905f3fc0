//! Ranges of memory in which commands move bytes: a block's, what is mapped behind a sparse block's addresses, or the host's own.

mod mapped;

use crate::content::Content;
pub(crate) use mapped::Mapped;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// What is read where nothing is mapped.
const NOWHERE: u8 = 0xdd;

/// What is behind a block's addresses, on a device with content.
#[derive(Debug, Clone)]
pub(crate) enum Memory {
    /// Memory of its own.
    Own(Arc<Content>),
    /// Whatever is mapped there.
    Mapped(Arc<Mapped>),
}

impl Memory {
    /// A part of it; `None` if it does not lie in it.
    pub(crate) fn span(&self, offset: u64, bytes: u64) -> Option<Span> {
        match self {
            Self::Own(content) => Span::of_content(content, offset, bytes),
            Self::Mapped(mapped) => Span::of_mapped(mapped, offset, bytes),
        }
    }
}

/// Bytes side by side in the host's memory.
#[derive(Debug, Clone)]
struct Piece {
    /// `None`: nothing is there.
    start: Option<NonNull<u8>>,
    bytes: usize,
    /// Whose they are, if they are a block's.
    _content: Option<Arc<Content>>,
}

impl Piece {
    /// `None` if the part does not lie in it.
    fn of_content(content: &Arc<Content>, offset: u64, bytes: u64) -> Option<Self> {
        let start = content.part(offset, bytes)?;
        Some(Self { start: Some(start), bytes: bytes as usize, _content: Some(Arc::clone(content)) })
    }

    fn host(start: NonNull<u8>, bytes: usize) -> Self {
        Self { start: Some(start), bytes, _content: None }
    }

    fn nowhere(bytes: u64) -> Self {
        Self { start: None, bytes: bytes as usize, _content: None }
    }

    /// Copies it to one that is no shorter, which may be the same memory.
    ///
    /// # Safety
    ///
    /// - Both are there, nobody writes this one, and nobody touches the other.
    unsafe fn copy_to(&self, destination: &Self) {
        let Some(to) = destination.start else { return };
        match self.start {
            // SAFETY: both are that long, and the caller vouches for the rest.
            Some(from) => unsafe { ptr::copy(from.as_ptr(), to.as_ptr(), self.bytes) },
            // SAFETY: as above.
            None => unsafe { to.write_bytes(NOWHERE, self.bytes) },
        }
    }

    /// Sets all of it.
    ///
    /// # Safety
    ///
    /// - It is there, and nobody touches it.
    unsafe fn fill(&self, value: u8) {
        if let Some(start) = self.start {
            // SAFETY: it is that long, and the caller vouches for the rest.
            unsafe { start.write_bytes(value, self.bytes) };
        }
    }

    /// The part from `offset`, which lies in it, of at most so many bytes.
    fn part(&self, offset: usize, bytes: usize) -> Self {
        let offset = offset.min(self.bytes);
        let bytes = bytes.min(self.bytes - offset);
        // SAFETY: the part lies in the piece, or ends where that does.
        let start = self.start.map(|start| unsafe { start.add(offset) });
        Self { start, bytes, _content: self._content.clone() }
    }
}

#[derive(Debug, Clone)]
enum Place {
    Flat(Piece),
    /// Which memory that is shows when it is used.
    Sparse {
        mapped: Arc<Mapped>,
        offset: u64,
    },
}

/// Bytes of a block's (whose memory it keeps), of addresses, or of somebody else's.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    place: Place,
    bytes: usize,
}

// SAFETY: the bytes are bound to no thread: a block's are not, and of the host's own whoever enqueues a command vouches that
// the device may use them.
unsafe impl Send for Span {}

impl Span {
    fn of_content(content: &Arc<Content>, offset: u64, bytes: u64) -> Option<Self> {
        let piece = Piece::of_content(content, offset, bytes)?;
        Some(Self { bytes: piece.bytes, place: Place::Flat(piece) })
    }

    fn of_mapped(mapped: &Arc<Mapped>, offset: u64, bytes: u64) -> Option<Self> {
        if offset.checked_add(bytes)? > mapped.bytes {
            return None;
        }
        let place = Place::Sparse { mapped: Arc::clone(mapped), offset };
        Some(Self { place, bytes: usize::try_from(bytes).ok()? })
    }

    /// Memory of the host's own. `None` if there cannot be so much.
    pub(crate) fn host(start: NonNull<u8>, bytes: u64) -> Option<Self> {
        let bytes = usize::try_from(bytes).ok()?;
        Some(Self { place: Place::Flat(Piece::host(start, bytes)), bytes })
    }

    /// What is there now, as much of `bytes` from `offset` as fits.
    fn pieces(&self, offset: usize, bytes: usize) -> Vec<Piece> {
        let offset = offset.min(self.bytes);
        let bytes = bytes.min(self.bytes - offset);
        match &self.place {
            Place::Flat(piece) => vec![piece.part(offset, bytes)],
            Place::Sparse { mapped, offset: first } => mapped.pieces(first + offset as u64, bytes),
        }
    }

    /// Copies the first bytes to another, which may be the same memory.
    ///
    /// # Safety
    ///
    /// - Both are there, nobody writes this one, and nobody touches the other.
    pub(crate) unsafe fn copy_to(&self, destination: &Self, bytes: usize) {
        let mut done_bytes = 0;
        for source in self.pieces(0, bytes.min(destination.bytes)) {
            let mut offset = 0;
            for to in destination.pieces(done_bytes, source.bytes) {
                // SAFETY: the caller vouches for all of both.
                unsafe { source.part(offset, to.bytes).copy_to(&to) };
                offset += to.bytes;
            }
            done_bytes += source.bytes;
        }
    }

    /// Sets the first bytes.
    ///
    /// # Safety
    ///
    /// - It is there, and nobody touches it.
    pub(crate) unsafe fn fill(&self, value: u8, bytes: usize) {
        for piece in self.pieces(0, bytes) {
            // SAFETY: the caller vouches for all of it.
            unsafe { piece.fill(value) };
        }
    }

    /// Copies as many bytes out as fit, from `offset`, which lies in it.
    ///
    /// # Safety
    ///
    /// - It is there, and nobody writes it.
    pub(crate) unsafe fn read(&self, offset: usize, bytes: &mut [u8]) {
        let mut rest = bytes;
        for piece in self.pieces(offset, rest.len()) {
            let (now, later) = rest.split_at_mut(piece.bytes);
            // SAFETY: the slice is nobody else's; the caller vouches for the rest.
            unsafe { piece.copy_to(&Piece::host(NonNull::from(now).cast(), piece.bytes)) };
            rest = later;
        }
    }

    /// Copies as many bytes in as fit, from `offset`, which lies in it.
    ///
    /// # Safety
    ///
    /// - It is there, and nobody touches it.
    pub(crate) unsafe fn write(&self, offset: usize, bytes: &[u8]) {
        let mut rest = bytes;
        for piece in self.pieces(offset, rest.len()) {
            let (now, later) = rest.split_at(piece.bytes);
            // SAFETY: nobody writes the slice; the caller vouches for the rest.
            unsafe { Piece::host(NonNull::from(now).cast(), piece.bytes).copy_to(&piece) };
            rest = later;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(bytes: u64) -> Arc<Content> {
        Arc::new(Content::new(bytes, 256).unwrap())
    }

    #[test]
    fn parts_of_a_block_lie_in_it() {
        for memory in [Memory::Own(content(10_000)), Memory::Mapped(Arc::new(Mapped::new(10_000)))] {
            assert!(memory.span(10_000, 0).is_some() && memory.span(0, 10_000).is_some());
            for (offset, bytes) in [(10_000, 1), (0, 10_001), (u64::MAX, 2), (2, u64::MAX)] {
                assert!(memory.span(offset, bytes).is_none(), "{offset} {bytes}");
            }
        }
    }

    #[test]
    fn what_is_too_much_is_left_out() {
        let span = Memory::Own(content(10_000)).span(9_000, 1000).unwrap();
        let mut found = [1; 1000];
        // SAFETY: nobody else knows the content.
        unsafe { span.read(0, &mut found) };
        assert_eq!(found, [0; 1000]);
        // SAFETY: as above.
        unsafe { span.write(998, &[1, 2, 3, 4]) };
        // SAFETY: as above.
        unsafe { span.read(997, &mut found[..3]) };
        assert_eq!(found[..3], [0, 1, 2]);
    }
}
