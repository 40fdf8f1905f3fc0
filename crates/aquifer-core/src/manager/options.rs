//! What one allocation asks for beyond its size.

use crate::pool::GRANULE_BYTES;
use crate::statistics::Tag;

/// Options of one allocation. A plain value of one word: make it once, use it often.
///
/// ```
/// use aquifer_core::MemoryOptions;
/// const ALIGNED: MemoryOptions = MemoryOptions::ZEROED.alignment(4096);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    /// In bytes, as asked for, right or wrong; what is too large for the field is wrong in any case.
    alignment: u32,
    pub(crate) tag: Tag,
    pub(crate) is_zeroed: bool,
    /// Whether nothing but a tag is asked for, so that the hot path need look at one field only.
    pub(crate) is_plain: bool,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl MemoryOptions {
    /// Untagged, aligned to 256 bytes, content unspecified.
    pub const DEFAULT: Self =
        Self { tag: Tag::UNTAGGED, alignment: GRANULE_BYTES as u32, is_zeroed: false, is_plain: true };

    /// All bytes zero, those that rounding adds too.
    pub const ZEROED: Self = Self::DEFAULT.zeroed(true);

    /// Counted under `tag`, which must be of the manager that allocates: another's is counted under another name.
    #[must_use]
    pub const fn tag(self, tag: Tag) -> Self {
        Self { tag, ..self }
    }

    /// Starting at a multiple of `bytes`: a power of two, at most the device's
    /// [`alignment_bytes_min`](aquifer_backend::Properties::alignment_bytes_min). Every allocation is aligned to 256
    /// bytes; more than that goes past the thread caches.
    #[must_use]
    pub const fn alignment(self, bytes: u64) -> Self {
        let alignment = match (bytes > u32::MAX as u64, bytes.is_power_of_two()) {
            (false, _) => bytes as u32,
            // As wrong as what was asked for, and for the same reason.
            (true, true) => 1 << 31,
            (true, false) => u32::MAX,
        };
        Self { alignment, ..self }.classified()
    }

    /// Zeroed or not.
    #[must_use]
    pub const fn zeroed(self, is_zeroed: bool) -> Self {
        Self { is_zeroed, ..self }.classified()
    }

    pub(crate) const fn alignment_bytes(self) -> u64 {
        self.alignment as u64
    }

    const fn classified(self) -> Self {
        let is_plain =
            !self.is_zeroed && self.alignment.is_power_of_two() && self.alignment_bytes() <= GRANULE_BYTES;
        Self { is_plain, ..self }
    }
}
