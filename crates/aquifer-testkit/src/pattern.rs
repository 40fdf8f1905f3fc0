//! Content that tells one buffer from another.

use crate::random::mix;
use aquifer_core::{Backend, Buffer};
use std::ops::Range;

/// Buffers up to this size are filled and checked whole.
const WHOLE_BYTES_MAX: u64 = 64 << 10;
/// Of larger ones so many bytes at the start, in the middle and at the end, so that large buffers cost no memory.
const WINDOW_BYTES: u64 = 4 << 10;

/// A cookie: bytes at each position that hardly any other seed would put there.
///
/// A test writes one into a buffer when it is allocated and checks it before it is freed. If any two live buffers share
/// a byte that both wrote, one of the checks fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pattern(u64);

impl Pattern {
    /// The pattern of a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The pattern's bytes from `offset` on.
    pub fn bytes(self, offset: u64, bytes: &mut [u8]) {
        let (mut position, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let word = mix(mix(self.0).wrapping_add(position / 8)).to_le_bytes();
            let part = &word[(position % 8) as usize..];
            let count = part.len().min(rest.len());
            rest[..count].copy_from_slice(&part[..count]);
            rest = &mut rest[count..];
            position += count as u64;
        }
    }

    /// Writes the pattern into a buffer that the host can see: all of it, or a few windows of a large one.
    ///
    /// # Panics
    ///
    /// If the buffer does not take it.
    pub fn write<B: Backend>(self, buffer: &mut Buffer<B>) {
        let mut bytes = Vec::new();
        for window in windows(buffer.size_bytes()) {
            bytes.resize((window.end - window.start) as usize, 0);
            self.bytes(window.start, &mut bytes);
            buffer.write(window.start, &bytes).expect("a window lies in its buffer");
        }
    }

    /// Checks that a buffer still holds what [`Pattern::write`] wrote.
    ///
    /// # Panics
    ///
    /// If it does not, with the first position that differs.
    pub fn check<B: Backend>(self, buffer: &Buffer<B>) {
        let (mut found, mut expected) = (Vec::new(), Vec::new());
        for window in windows(buffer.size_bytes()) {
            found.resize((window.end - window.start) as usize, 0);
            expected.resize(found.len(), 0);
            self.bytes(window.start, &mut expected);
            buffer.read(window.start, &mut found).expect("a window lies in its buffer");
            if let Some(place) = found.iter().zip(&expected).position(|(found, expected)| found != expected) {
                panic!(
                    "{buffer:?} has {:#x} instead of {:#x} at {}",
                    found[place],
                    expected[place],
                    window.start + place as u64
                );
            }
        }
    }
}

/// The parts of a buffer that are written and checked. None is empty, and they do not overlap.
fn windows(bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let whole = (bytes <= WHOLE_BYTES_MAX).then_some(0..bytes);
    let large = (bytes > WHOLE_BYTES_MAX).then(|| {
        let middle = bytes / 2;
        [0..WINDOW_BYTES, middle..middle + WINDOW_BYTES, bytes - WINDOW_BYTES..bytes]
    });
    whole.into_iter().chain(large.into_iter().flatten())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_pattern_is_the_same_wherever_it_is_read_from() {
        let mut whole = [0; 100];
        Pattern::new(3).bytes(0, &mut whole);
        for start in 0..40 {
            let mut part = [0; 60];
            Pattern::new(3).bytes(start as u64, &mut part);
            assert_eq!(part, whole[start..start + 60]);
        }
        let mut other = [0; 100];
        Pattern::new(4).bytes(0, &mut other);
        let alike = whole.iter().zip(&other).filter(|(one, other)| one == other).count();
        assert!(alike < 10, "{alike} of 100 bytes are alike");
    }

    #[test]
    fn windows_reach_both_ends() {
        for bytes in [1, 100, WHOLE_BYTES_MAX, WHOLE_BYTES_MAX + 1, 1 << 30] {
            let windows: Vec<_> = windows(bytes).collect();
            assert_eq!((windows[0].start, windows[windows.len() - 1].end), (0, bytes));
            assert!(windows.windows(2).all(|pair| pair[0].end <= pair[1].start));
            assert!(windows.iter().all(|window| window.start < window.end));
        }
    }
}
