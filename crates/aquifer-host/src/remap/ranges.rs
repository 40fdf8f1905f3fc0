//! Which parts of a file are free.

use std::collections::BTreeMap;

/// The free ranges of a file that can be made longer. Nothing here makes a system call.
#[derive(Debug, Default)]
pub(crate) struct Ranges {
    /// From the start of each free range to its length. No two touch, none is empty, and all end at or before `end`.
    free: BTreeMap<u64, u64>,
    /// How long the file is.
    end: u64,
}

/// Where a range can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    bytes: u64,
}

impl Place {
    pub(crate) fn end(self) -> u64 {
        self.offset + self.bytes
    }
}

impl Ranges {
    /// How long the file is.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The first place at a multiple of `alignment`, a power of two, that has room; if there is none, the one for which the file
    /// has to become longer, at the latest where it ends. `None` if no file is as long.
    ///
    /// The first, so that what is made one after the other lies so in the file: then the kernel needs one mapping for what is
    /// mapped one after the other as well.
    pub(crate) fn find(&self, bytes: u64, alignment: u64) -> Option<Place> {
        let place_from = |start: u64| {
            let offset = start.checked_next_multiple_of(alignment)?;
            offset.checked_add(bytes).filter(|&end| end <= i64::MAX as u64)?;
            Some(Place { offset, bytes })
        };
        let has_room =
            |(&start, &length): (&u64, &u64)| place_from(start).filter(|place| place.end() <= start + length);
        self.free.iter().find_map(has_room).or_else(|| {
            let last = self.free.last_key_value().filter(|&(start, length)| start + length == self.end);
            place_from(last.map_or(self.end, |(&start, _)| start))
        })
    }

    /// Takes a place that [`Ranges::find`] has just answered, after the file has been made long enough for it.
    pub(crate) fn take(&mut self, place: Place) {
        if place.end() > self.end {
            let grown = place.end() - self.end;
            let start = self.end;
            self.end = place.end();
            self.free(start, grown);
        }
        let around = self.free.range(..=place.offset).next_back().map(|(&start, &length)| (start, length));
        let Some((start, length)) = around else { return };
        debug_assert!(start + length >= place.end(), "it was free");
        self.free.remove(&start);
        if start < place.offset {
            self.free.insert(start, place.offset - start);
        }
        if place.end() < start + length {
            self.free.insert(place.end(), start + length - place.end());
        }
    }

    /// Gives a range back, and merges it with what is free beside it.
    pub(crate) fn free(&mut self, offset: u64, bytes: u64) {
        let (mut start, mut length) = (offset, bytes);
        if let Some(behind) = self.free.remove(&(offset + bytes)) {
            length += behind;
        }
        if let Some((&before, &before_length)) = self.free.range(..offset).next_back()
            && before + before_length == offset
        {
            start = before;
            length += before_length;
        }
        self.free.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aquifer_testkit::Random;

    fn take(ranges: &mut Ranges, bytes: u64, alignment: u64) -> u64 {
        let place = ranges.find(bytes, alignment).unwrap();
        ranges.take(place);
        place.offset
    }

    #[test]
    fn what_is_taken_in_turn_lies_in_turn_and_what_is_freed_merges() {
        let mut ranges = Ranges::default();
        assert_eq!([10, 20, 30].map(|bytes| take(&mut ranges, bytes, 1)), [0, 10, 30]);
        ranges.free(0, 10);
        ranges.free(30, 30);
        assert_eq!(ranges.free, BTreeMap::from([(0, 10), (30, 30)]));
        ranges.free(10, 20);
        assert_eq!((ranges.free.clone(), ranges.end()), (BTreeMap::from([(0, 60)]), 60));
        // The end is free, so the file grows by what is missing only.
        assert_eq!((take(&mut ranges, 70, 1), ranges.end()), (0, 70));
        assert_eq!(ranges.free, BTreeMap::new());
    }

    #[test]
    fn places_are_aligned_and_what_is_left_before_them_stays_free() {
        let mut ranges = Ranges::default();
        take(&mut ranges, 3, 1);
        assert_eq!((take(&mut ranges, 16, 8), ranges.end()), (8, 24));
        assert_eq!(ranges.free, BTreeMap::from([(3, 5)]));
        assert_eq!(take(&mut ranges, 4, 4), 4);
        assert_eq!(ranges.free, BTreeMap::from([(3, 1)]));
        assert_eq!(take(&mut ranges, 1, 1), 3);
        assert_eq!(take(&mut ranges, 1, 1), 24);
    }

    #[test]
    fn no_file_is_longer_than_offsets_are() {
        let mut ranges = Ranges::default();
        for bytes in [u64::MAX, 1 << 63] {
            assert_eq!(ranges.find(bytes, 1 << 21), None);
        }
        assert_eq!(take(&mut ranges, i64::MAX as u64, 1), 0);
        assert_eq!(ranges.find(1, 1), None);
        assert_eq!(ranges.find(1 << 62, 1 << 21), None);
    }

    #[test]
    fn nothing_is_given_twice_and_everything_comes_back() {
        let mut random = Random::new(7);
        let (mut ranges, mut taken) = (Ranges::default(), BTreeMap::new());
        for _ in 0..4000 {
            if taken.len() > 60 || (!taken.is_empty() && random.below(2) == 0) {
                let nth = random.below(taken.len() as u64) as usize;
                let (&offset, &bytes) = taken.iter().nth(nth).unwrap();
                taken.remove(&offset);
                ranges.free(offset, bytes);
            } else {
                let (bytes, alignment) = (1 + random.below(40), 1 << random.below(6));
                let offset = take(&mut ranges, bytes, alignment);
                assert_eq!(offset % alignment, 0);
                assert_eq!(taken.insert(offset, bytes), None);
            }
            // Together they are the file, without a gap.
            let mut all: Vec<_> =
                ranges.free.iter().chain(&taken).map(|(&start, &bytes)| (start, bytes)).collect();
            all.sort_unstable();
            let mut end = 0;
            for (start, bytes) in all {
                assert_eq!(start, end);
                end = start + bytes;
            }
            assert_eq!(end, ranges.end());
            let free: Vec<_> = ranges.free.iter().collect();
            assert!(free.windows(2).all(|pair| pair[0].0 + pair[0].1 < *pair[1].0), "two touch: {free:?}");
        }
    }
}
