//! What one allocation asks for beyond its size.

use crate::pool::GRANULE_BYTES;
use crate::statistics::Tag;

/// Options of one allocation. A plain value: make it once, use it often.
///
/// ```
/// use aquifer_core::MemoryOptions;
/// const ALIGNED: MemoryOptions = MemoryOptions::ZEROED.alignment(4096);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryOptions {
    pub(crate) tag: Tag,
    pub(crate) alignment: u64,
    pub(crate) is_zeroed: bool,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl MemoryOptions {
    /// Untagged, aligned to 256 bytes, content unspecified.
    pub const DEFAULT: Self = Self { tag: Tag::UNTAGGED, alignment: GRANULE_BYTES, is_zeroed: false };

    /// All bytes zero, those that rounding adds too.
    pub const ZEROED: Self = Self { is_zeroed: true, ..Self::DEFAULT };

    /// Counted under `tag`.
    #[must_use]
    pub const fn tag(self, tag: Tag) -> Self {
        Self { tag, ..self }
    }

    /// Starting at a multiple of `bytes`: a power of two, at most the device's
    /// [`alignment_bytes_min`](aquifer_backend::Properties::alignment_bytes_min). Every allocation is aligned to 256
    /// bytes; more than that goes past the thread caches.
    #[must_use]
    pub const fn alignment(self, bytes: u64) -> Self {
        Self { alignment: bytes, ..self }
    }

    /// Zeroed or not.
    #[must_use]
    pub const fn zeroed(self, is_zeroed: bool) -> Self {
        Self { is_zeroed, ..self }
    }
}
