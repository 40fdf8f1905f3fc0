//! Which sizes are served alike: buckets of powers of two, each cut into linear sub-classes.
//!
//! Sizes are counted in granules of [`GRANULE_BYTES`]. With `N` sub-classes the first `2 N` classes are 1, 2, 3, …
//! granules; from there on each doubling is cut into `N` equal steps. Rounding up to a class therefore adds less than
//! `1 / N` of the request, or less than one granule where that is more.
//!
//! ```text
//! N = 8:   256 512 768 … 4096 | 4608 5120 … 8192 | 9216 10240 … 16384 | …
//! N = 1:   256 512 | 1024 | 2048 | 4096 | …                                the plain pool
//! ```

use crate::sync::table_size;
use aquifer_backend::{Error, ErrorKind};

pub use crate::range::GRANULE_BYTES;

/// The upper end of the largest bucket, in bytes: 256 MiB.
pub const BUCKET_BYTES_MAX: u64 = 256 << 20;

/// The number of a size class, counted from the smallest.
pub(crate) type ClassIndex = usize;

/// How sizes are rounded and which of them thread caches keep.
///
/// Two layouts are ready made: [`BucketLayout::default`] wastes little, [`BucketLayout::power_of_two`] is the plain
/// pool of one class per bucket. Requests of more than 256 MiB are dedicated in every layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketLayout {
    sub_classes_log2: u32,
    exact_above_bytes: u64,
}

impl Default for BucketLayout {
    /// Eight sub-classes per bucket up to 1 MiB; above, requests are rounded to 4 KiB only, since a range that large
    /// is worth a search.
    fn default() -> Self {
        Self { sub_classes_log2: 3, exact_above_bytes: CACHED_BYTES_MAX }
    }
}

/// The largest class that thread caches and the depot keep, in bytes.
///
/// A cached range cannot merge with its neighbours. Above 1 MiB what that costs in memory is more than what the cache
/// saves in time.
pub(crate) const CACHED_BYTES_MAX: u64 = table_size(1 << 20, 512);

/// Sizes above the last class are rounded up to this many bytes.
const EXACT_GRANULE_BYTES: u64 = 4096;

impl BucketLayout {
    /// One class per bucket: every request of up to 256 MiB is rounded up to a power of two.
    #[must_use]
    pub const fn power_of_two() -> Self {
        Self { sub_classes_log2: 0, exact_above_bytes: BUCKET_BYTES_MAX }
    }

    /// The default layout with `count` sub-classes per bucket: a power of two from 1 to 64.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`] for any other count.
    pub fn with_sub_classes(count: u32) -> Result<Self, Error> {
        if !count.is_power_of_two() || count > 64 {
            return Err(Error::new(
                ErrorKind::Configuration,
                "BucketLayout::with_sub_classes",
                format!("{count} sub-classes per bucket; use a power of two from 1 to 64"),
            ));
        }
        Ok(Self { sub_classes_log2: count.trailing_zeros(), ..Self::default() })
    }

    /// How many sub-classes each bucket is cut into.
    #[must_use]
    pub const fn sub_classes(&self) -> u32 {
        1 << self.sub_classes_log2
    }

    /// How many bytes a request of `bytes` occupies (of none, as many as one of 1 byte); `None` if the sum does not fit a
    /// `u64`.
    #[must_use]
    pub fn round_up(&self, bytes: u64) -> Option<u64> {
        if bytes <= self.exact_above_bytes {
            Some(self.class_bytes(self.class_of(bytes.max(1))))
        } else {
            bytes.checked_next_multiple_of(EXACT_GRANULE_BYTES)
        }
    }

    /// The class of a request of 1 to [`BUCKET_BYTES_MAX`] bytes.
    #[inline]
    pub(crate) fn class_of(&self, bytes: u64) -> ClassIndex {
        let granules_less_one = (bytes - 1) / GRANULE_BYTES;
        if granules_less_one >> self.sub_classes_log2 == 0 {
            return granules_less_one as ClassIndex;
        }
        // At least one bit is set here; the 1 spares the check.
        let shift = (granules_less_one | 1).ilog2() - self.sub_classes_log2;
        ((u64::from(shift) << self.sub_classes_log2) + (granules_less_one >> shift)) as ClassIndex
    }

    /// The size in bytes of a class.
    #[inline]
    pub(crate) fn class_bytes(&self, class: ClassIndex) -> u64 {
        let class = class as u64;
        let steps = 1 << self.sub_classes_log2;
        if class < 2 * steps {
            return (class + 1) * GRANULE_BYTES;
        }
        let shift = (class >> self.sub_classes_log2) - 1;
        ((class % steps + steps + 1) << shift) * GRANULE_BYTES
    }

    /// How many classes there are, up to [`BUCKET_BYTES_MAX`].
    pub(crate) fn class_count(&self) -> usize {
        self.class_of(BUCKET_BYTES_MAX) + 1
    }

    /// How many of the classes thread caches keep.
    pub(crate) fn cached_class_count(&self) -> usize {
        self.class_of(CACHED_BYTES_MAX) + 1
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn layouts() -> impl Iterator<Item = BucketLayout> {
        (0..7)
            .map(|log2| BucketLayout::with_sub_classes(1 << log2).unwrap())
            .chain([BucketLayout::power_of_two()])
    }

    #[test]
    fn every_size_goes_to_the_smallest_class_that_holds_it() {
        for layout in layouts() {
            let mut previous = 0;
            for class in 0..layout.class_count() {
                let bytes = layout.class_bytes(class);
                assert!(bytes > previous);
                assert_eq!(bytes % GRANULE_BYTES, 0);
                assert_eq!(layout.class_of(bytes), class, "{layout:?} {bytes}");
                assert_eq!(layout.class_of(previous + 1), class, "{layout:?} {bytes}");
                previous = bytes;
            }
            assert_eq!(previous, BUCKET_BYTES_MAX);
        }
    }

    #[test]
    fn rounding_wastes_less_than_a_share_or_a_granule() {
        for layout in layouts() {
            for class in 1..layout.class_count() {
                let least = layout.class_bytes(class - 1) + 1;
                let waste = layout.class_bytes(class) - least;
                assert!(
                    waste < (least / u64::from(layout.sub_classes())).max(GRANULE_BYTES),
                    "{layout:?} {least}"
                );
            }
        }
    }

    #[test]
    fn power_of_two_rounds_to_powers_of_two() {
        let layout = BucketLayout::power_of_two();
        for bytes in [1, 255, 257, 5000, 1 << 20, (1 << 20) + 1, 200 << 20] {
            assert_eq!(layout.round_up(bytes), Some(bytes.max(GRANULE_BYTES).next_power_of_two()));
        }
        assert_eq!(layout.class_count(), 21);
    }

    #[test]
    fn large_requests_are_rounded_to_a_few_kib() {
        let layout = BucketLayout::default();
        assert_eq!(layout.round_up(1 << 20), Some(1 << 20));
        assert_eq!(layout.round_up((1 << 20) + 1), Some((1 << 20) + 4096));
        assert_eq!(layout.round_up(u64::MAX), None);
        assert!(BucketLayout::with_sub_classes(3).is_err());
        assert!(BucketLayout::with_sub_classes(0).is_err());
        assert!(BucketLayout::with_sub_classes(128).is_err());
    }
}
