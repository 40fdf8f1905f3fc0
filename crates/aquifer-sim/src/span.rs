//! Ranges of memory in which commands move bytes: a block's, what is mapped behind a sparse block's addresses, or the host's own.

use crate::content::Content;
use parking_lot::Mutex;
use std::collections::BTreeMap;
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

/// What is mapped behind a sparse block now.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// How many addresses the block has.
    bytes: u64,
    /// By the offset in the block. They do not overlap.
    contents: Mutex<BTreeMap<u64, Arc<Content>>>,
}

impl Mapped {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, contents: Mutex::default() }
    }

    /// Puts memory there, where none is.
    pub(crate) fn map(&self, offset: u64, content: &Arc<Content>) {
        self.contents.lock().insert(offset, Arc::clone(content));
    }

    /// Takes the memory away that was put there.
    pub(crate) fn unmap(&self, offset: u64) {
        self.contents.lock().remove(&offset);
    }

    /// Takes all memory away.
    pub(crate) fn clear(&self) {
        self.contents.lock().clear();
    }

    /// What is behind a range, in the order of the addresses.
    fn pieces(&self, offset: u64, bytes: usize) -> Vec<Piece> {
        let contents = self.contents.lock();
        let end = offset + bytes as u64;
        let first = contents.range(..=offset).next_back().map_or(offset, |(&start, _)| start);
        let (mut pieces, mut cursor) = (Vec::new(), offset);
        for (&start, content) in contents.range(first..end.max(first)) {
            if start + content.bytes() <= cursor {
                continue;
            }
            if cursor < start {
                pieces.push(Piece::nowhere(start - cursor));
                cursor = start;
            }
            let piece_end = end.min(start + content.bytes());
            pieces.extend(Piece::of_content(content, cursor - start, piece_end - cursor));
            cursor = piece_end;
        }
        if cursor < end {
            pieces.push(Piece::nowhere(end - cursor));
        }
        pieces
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
    use crate::random::Random;

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

    /// What an array of cells, each of which may be behind several addresses, would hold.
    #[test]
    fn mapped_memory_agrees_with_an_array() {
        const PAGE: usize = 16;
        const PAGES: usize = 12;
        for seed in 0..50 {
            let mut random = Random::new(seed);
            let mut below = |limit: usize| (random.draw() % limit as u64) as usize;
            let contents = [2, 1, 3, 1].map(|pages| content((pages * PAGE) as u64));
            let mapped = Arc::new(Mapped::new((PAGES * PAGE) as u64));
            let mut cells = [0; 7 * PAGE];
            let firsts = [0, 2, 3, 6].map(|page| page * PAGE);
            let mut behind = [None; PAGES * PAGE];
            for _ in 0..200 {
                let (offset, other) = (below(PAGES * PAGE), below(PAGES * PAGE));
                let bytes = 1 + below(PAGES * PAGE - offset.max(other));
                let memory = Memory::Mapped(Arc::clone(&mapped));
                let span = memory.span(offset as u64, bytes as u64).unwrap();
                let value = below(256) as u8;
                match below(5) {
                    0 => {
                        let (page, which) = (below(PAGES), below(4));
                        let length = contents[which].bytes() as usize;
                        let place = page * PAGE..page * PAGE + length;
                        if behind.get(place.clone()).is_some_and(|behind| behind.iter().all(Option::is_none))
                        {
                            mapped.map(place.start as u64, &contents[which]);
                            behind[place].iter_mut().enumerate().for_each(|(index, cell)| {
                                *cell = Some((firsts[which] + index, which));
                            });
                        }
                    }
                    1 => {
                        let start = offset / PAGE * PAGE;
                        if let Some((cell, which)) = behind[start]
                            && cell == firsts[which]
                        {
                            mapped.unmap(start as u64);
                            behind[start..start + contents[which].bytes() as usize].fill(None);
                        }
                    }
                    2 => {
                        // SAFETY: nobody else knows the contents.
                        unsafe { span.fill(value, bytes) };
                        behind[offset..offset + bytes]
                            .iter()
                            .flatten()
                            .for_each(|place| cells[place.0] = value);
                    }
                    3 => {
                        let bytes = vec![value; bytes];
                        // SAFETY: as above.
                        unsafe { span.write(0, &bytes) };
                        let places = behind[offset..offset + bytes.len()].iter().flatten();
                        places.for_each(|place| cells[place.0] = value);
                    }
                    _ => {
                        let flat = content(bytes as u64);
                        let flat = Span::of_content(&flat, 0, bytes as u64).unwrap();
                        // SAFETY: as above.
                        unsafe { span.copy_to(&flat, bytes) };
                        let mut found = vec![0; bytes];
                        // SAFETY: as above.
                        unsafe { flat.read(0, &mut found) };
                        let expected = behind[offset..offset + bytes].iter();
                        let expected = expected.map(|place| place.map_or(NOWHERE, |place| cells[place.0]));
                        assert_eq!(found, expected.collect::<Vec<u8>>(), "seed {seed}");
                    }
                }
            }
        }
    }
}
