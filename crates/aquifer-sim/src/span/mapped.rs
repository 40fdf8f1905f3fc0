//! What is mapped behind sparse blocks.

use super::Piece;
use crate::content::Content;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is mapped behind a sparse block now.
#[derive(Debug)]
pub(crate) struct Mapped {
    /// How many addresses the block has.
    pub(super) bytes: u64,
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
    pub(super) fn pieces(&self, offset: u64, bytes: usize) -> Vec<Piece> {
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

#[cfg(test)]
mod tests {
    use super::super::{Memory, NOWHERE, Span};
    use super::*;
    use crate::random::Random;

    fn content(bytes: u64) -> Arc<Content> {
        Arc::new(Content::new(bytes, 256).unwrap())
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
