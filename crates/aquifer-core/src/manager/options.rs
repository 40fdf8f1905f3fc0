//! What one allocation asks for beyond its size.

use super::kinds::MemoryKind;
use crate::pool::GRANULE_BYTES;
use crate::statistics::Tag;
use crate::transfer::Priority;

// One byte: the kind, the priority, and whether it is zeroed.
const KIND_MASK: u8 = 0b11;
const PRIORITY_SHIFT: u32 = 4;
const PRIORITY_MASK: u8 = 0b11 << PRIORITY_SHIFT;
const ZEROED_BIT: u8 = 1 << 7;
const PINNED: u8 = MemoryKind::Pinned as u8;
const UNIFIED: u8 = MemoryKind::Unified as u8;

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
    /// One byte for three, so that the whole stays one word.
    kind_and_more: u8,
    /// Whether nothing but a tag without limits is asked for, so that the hot path need look at one field only.
    pub(crate) is_plain: bool,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl MemoryOptions {
    /// Untagged, aligned to 256 bytes, content unspecified, in the device's memory.
    pub const DEFAULT: Self = Self {
        tag: Tag::UNTAGGED,
        alignment: GRANULE_BYTES as u32,
        kind_and_more: MemoryKind::Device as u8,
        is_plain: true,
    };

    /// All bytes zero, those that rounding adds too.
    pub const ZEROED: Self = Self::DEFAULT.zeroed(true);

    /// [`MemoryKind::Pinned`].
    pub const PINNED: Self = Self::DEFAULT.kind(MemoryKind::Pinned);

    /// [`MemoryKind::Unified`].
    pub const UNIFIED: Self = Self::DEFAULT.kind(MemoryKind::Unified);

    /// Counted under `tag`, which must be of the manager that allocates: another's is counted under another name. One of a
    /// [`SubBudget`](crate::SubBudget) also counts against that; another manager's is refused, or counts against another one.
    #[must_use]
    pub const fn tag(self, tag: Tag) -> Self {
        Self { tag, ..self }.classified()
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
        let zeroed = if is_zeroed { ZEROED_BIT } else { 0 };
        Self { kind_and_more: self.kind_and_more & !ZEROED_BIT | zeroed, ..self }.classified()
    }

    /// In memory of this kind.
    #[must_use]
    pub const fn kind(self, kind: MemoryKind) -> Self {
        Self { kind_and_more: self.kind_and_more & !KIND_MASK | kind as u8, ..self }.classified()
    }

    /// How much it matters while memory is short: what becomes of each priority says
    /// [`PressureResponse::admission`](crate::PressureResponse::admission). Normal by default. Costs nothing otherwise.
    #[must_use]
    pub const fn priority(self, priority: Priority) -> Self {
        // So that normal, which most are, is 0.
        let bits = match priority {
            Priority::Normal => 0,
            Priority::Low => 1,
            Priority::High => 2,
        };
        Self { kind_and_more: self.kind_and_more & !PRIORITY_MASK | bits << PRIORITY_SHIFT, ..self }
    }

    pub(crate) const fn request_priority(self) -> Priority {
        match (self.kind_and_more & PRIORITY_MASK) >> PRIORITY_SHIFT {
            1 => Priority::Low,
            2 => Priority::High,
            _ => Priority::Normal,
        }
    }

    /// The same under the same tag, of which no limits are looked at.
    pub(crate) const fn unlimited(self) -> Self {
        self.tag(self.tag.unlimited())
    }

    pub(crate) const fn is_zeroed(self) -> bool {
        self.kind_and_more & ZEROED_BIT != 0
    }

    #[inline]
    pub(crate) const fn memory_kind(self) -> MemoryKind {
        match self.kind_and_more & KIND_MASK {
            PINNED => MemoryKind::Pinned,
            UNIFIED => MemoryKind::Unified,
            _ => MemoryKind::Device,
        }
    }

    pub(crate) const fn alignment_bytes(self) -> u64 {
        self.alignment as u64
    }

    const fn classified(self) -> Self {
        let is_plain = self.kind_and_more & (KIND_MASK | ZEROED_BIT) == MemoryKind::Device as u8
            && self.alignment.is_power_of_two()
            && self.alignment_bytes() <= GRANULE_BYTES
            && !self.tag.is_limited();
        Self { is_plain, ..self }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn options_do_not_get_into_each_others_way() {
        assert_eq!(size_of::<MemoryOptions>(), size_of::<u64>());
        for kind in [MemoryKind::Device, MemoryKind::Pinned, MemoryKind::Unified] {
            for is_zeroed in [false, true] {
                let options = MemoryOptions::ZEROED.kind(kind).zeroed(is_zeroed).alignment(64).tag(Tag(7));
                assert_eq!((options.memory_kind(), options.is_zeroed()), (kind, is_zeroed));
                assert_eq!((options.alignment_bytes(), options.tag), (64, Tag(7)));
                for priority in [Priority::Low, Priority::Normal, Priority::High] {
                    let options = options.priority(Priority::Low).priority(priority);
                    assert_eq!((options.memory_kind(), options.is_zeroed()), (kind, is_zeroed));
                    assert_eq!(
                        (options.request_priority(), options.zeroed(is_zeroed).kind(kind)),
                        (priority, options)
                    );
                    assert_eq!(options.is_plain, kind == MemoryKind::Device && !is_zeroed);
                }
                assert_eq!(options.is_plain, kind == MemoryKind::Device && !is_zeroed);
                assert_eq!(options.zeroed(is_zeroed).kind(kind), options);
            }
        }
        assert!(!MemoryOptions::DEFAULT.alignment(512).is_plain && MemoryOptions::DEFAULT.is_plain);
        let limited = MemoryOptions::DEFAULT.tag(Tag(7 | Tag::LIMITED));
        assert!(!limited.is_plain && limited.unlimited() == MemoryOptions::DEFAULT.tag(Tag(7)));
        assert!(limited.tag(Tag(7)).is_plain);
    }
}
