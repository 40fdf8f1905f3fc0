//! What travels through a pool: where an allocation lies, and what was asked for.

use super::layout::{BUCKET_BYTES_MAX, BucketLayout, CACHED_BYTES_MAX, ClassIndex, GRANULE_BYTES};
use super::quarantine::Entry;
use super::slab::SLOT_BYTES_MAX;
use super::uses::Uses;
use crate::range::BlockIndex;
use crate::raw::local::{self, LaneIdentity};
use crate::statistics::Tag;
use std::num::NonZeroU64;

/// Where an allocation lies. Moves through caches by value, so that it is in one place at a time.
///
/// Two words, and never all zero, so that an `Option` of it travels in two registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// First byte, counted from the start of the block.
    pub(crate) offset: u64,
    /// Source and block, plus 1.
    word: NonZeroU64,
}

impl Place {
    #[inline]
    pub(crate) fn new(source: u32, block: BlockIndex, offset: u64) -> Self {
        Self { offset, word: NonZeroU64::MIN.saturating_add(u64::from(source) << 32 | u64::from(block)) }
    }

    /// The place as two words, of which the second is not 0.
    #[inline]
    pub(crate) fn words(self) -> (u64, u64) {
        (self.offset, self.word.get())
    }

    #[inline]
    pub(crate) fn from_words(offset: u64, word: u64) -> Option<Self> {
        Some(Self { offset, word: NonZeroU64::new(word)? })
    }

    /// The range or slab that it is part of.
    pub(crate) fn source(self) -> u32 {
        ((self.word.get() - 1) >> 32) as u32
    }

    pub(crate) fn block(self) -> BlockIndex {
        (self.word.get() - 1) as u32
    }
}

/// What is to be allocated, or was: the same on the way in and on the way out.
///
/// Two whole words. With a field for each part the compiler keeps `Result<Buffer>`'s tag in a spare byte and copies the
/// rest at odd addresses, which waits for the stores before: half of a hot pair's time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request {
    pub(crate) requested_bytes: u64,
    /// See [`TAG_SHIFT`].
    parts: u64,
}

/// A lane as requests name it: the part that all its plain requests share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LaneKey(u64);

// The parts of a request, lowest bits first: class 10, tag 11 (the highest bit of which says that it is charged), logarithm of
// the alignment 5, pinned 1, uncached 1, memory type 4, identity 32.
const TAG_SHIFT: u32 = 10;
const ALIGNMENT_SHIFT: u32 = 21;
const PINNED_SHIFT: u32 = 26;
const UNCACHED_SHIFT: u32 = 27;
const MEMORY_TYPE_SHIFT: u32 = 28;
const IDENTITY_SHIFT: u32 = 32;

const CHARGED: u64 = (Tag::LIMITED as u64) << TAG_SHIFT;
const UNCACHED: u64 = 1 << UNCACHED_SHIFT;

impl LaneKey {
    /// # Panics
    ///
    /// If there are more memory types than a request can name, which no device has.
    pub(crate) fn new(identity: LaneIdentity, memory_type: usize) -> Self {
        assert!(memory_type < 1 << (IDENTITY_SHIFT - MEMORY_TYPE_SHIFT), "memory type {memory_type}");
        let alignment = u64::from(GRANULE_BYTES.trailing_zeros());
        Self(
            alignment << ALIGNMENT_SHIFT
                | (memory_type as u64) << MEMORY_TYPE_SHIFT
                | u64::from(identity.bits()) << IDENTITY_SHIFT,
        )
    }

    #[inline]
    pub(crate) fn identity(self) -> LaneIdentity {
        LaneIdentity::from_bits((self.0 >> IDENTITY_SHIFT) as u32)
    }

    pub(crate) fn memory_type(self) -> usize {
        (self.0 >> MEMORY_TYPE_SHIFT & 0xf) as usize
    }
}

impl Request {
    /// A request for 1 byte or more, few enough that rounding up cannot overflow; `alignment` is a power of two, at most
    /// 2 GiB.
    pub(crate) fn new(
        layout: &BucketLayout,
        key: LaneKey,
        requested_bytes: u64,
        alignment: u64,
        tag: Tag,
    ) -> Self {
        if requested_bytes <= CACHED_BYTES_MAX && alignment <= GRANULE_BYTES {
            return Self::plain(layout, key, requested_bytes, tag);
        }
        let class = if requested_bytes <= BUCKET_BYTES_MAX {
            layout.class_of(requested_bytes)
        } else {
            layout.class_count()
        };
        let alignment_log2 = alignment.max(GRANULE_BYTES).trailing_zeros();
        debug_assert!(alignment_log2 < 1 << (PINNED_SHIFT - ALIGNMENT_SHIFT), "alignment {alignment}");
        let replaced = (1 << (MEMORY_TYPE_SHIFT - ALIGNMENT_SHIFT)) - 1;
        let parts = key.0 & !(replaced << ALIGNMENT_SHIFT)
            | class as u64
            | u64::from(tag.bits()) << TAG_SHIFT
            | u64::from(alignment_log2) << ALIGNMENT_SHIFT
            | UNCACHED;
        Self { requested_bytes, parts }
    }

    /// A request that thread caches keep places for: 1 byte to [`CACHED_BYTES_MAX`], aligned as everything is.
    #[inline]
    pub(crate) fn plain(layout: &BucketLayout, key: LaneKey, requested_bytes: u64, tag: Tag) -> Self {
        let class = layout.class_of(requested_bytes);
        Self { requested_bytes, parts: key.0 | class as u64 | u64::from(tag.bits()) << TAG_SHIFT }
    }

    /// The same for an allocation that counts as pinned: thread caches keep no places for it, so that all of its free goes
    /// the slow way, where it is uncounted.
    pub(crate) fn pinned(self) -> Self {
        Self { parts: self.parts | UNCACHED | 1 << PINNED_SHIFT, ..self }
    }

    /// Whether the allocation counts as pinned, locked or not.
    #[inline]
    pub(crate) fn is_pinned(self) -> bool {
        self.parts >> PINNED_SHIFT & 1 != 0
    }

    /// The same for an allocation that has been charged to its tag's sub-budget. Its place comes from and goes to where it would
    /// without, but its free goes the slow way first, where the charge is refunded.
    pub(crate) fn charged(self) -> Self {
        Self { parts: self.parts | CHARGED, ..self }
    }

    /// Whether freeing it refunds a charge. (Of what is imported it says nothing: that is never charged.)
    #[inline]
    pub(crate) fn is_charged(self) -> bool {
        self.parts & CHARGED != 0
    }

    /// What stands for a request where memory was brought instead: of no class and no lane, exactly as large as it is, and
    /// never cached.
    pub(crate) fn imported(memory_type: usize, bytes: u64, tag: Tag) -> Self {
        let parts = u64::from(tag.bits()) << TAG_SHIFT
            | UNCACHED
            | (memory_type as u64) << MEMORY_TYPE_SHIFT
            | u64::from(LaneIdentity::IMPORTED.bits()) << IDENTITY_SHIFT;
        Self { requested_bytes: bytes, parts }
    }

    /// Whether the memory was brought by the user, and is of no pool.
    #[inline]
    pub(crate) fn is_imported(self) -> bool {
        self.identity() == LaneIdentity::IMPORTED
    }

    /// The request as two words.
    #[inline]
    pub(crate) fn words(self) -> (u64, u64) {
        (self.requested_bytes, self.parts)
    }

    #[inline]
    pub(crate) fn from_words(requested_bytes: u64, parts: u64) -> Self {
        Self { requested_bytes, parts }
    }

    /// What the request occupies, in bytes.
    pub(crate) fn bytes(self, layout: &BucketLayout) -> u64 {
        if self.is_imported() {
            return self.requested_bytes;
        }
        layout.round_up(self.requested_bytes).expect("the size was checked when the request came in")
    }

    /// The class that it is counted under; that it is served from, if it is cached.
    #[inline]
    pub(crate) fn class(self) -> ClassIndex {
        (self.parts & ((1 << TAG_SHIFT) - 1)) as ClassIndex
    }

    #[inline]
    pub(crate) fn tag(self) -> Tag {
        Tag((self.parts >> TAG_SHIFT & 0x7ff) as u16)
    }

    /// At least [`GRANULE_BYTES`].
    pub(crate) fn alignment(self) -> u64 {
        1 << (self.parts >> ALIGNMENT_SHIFT & 0x1f)
    }

    /// Whether it is for a slot of a slab, if it occupies `bytes`, rather than for a range of its own.
    pub(super) fn is_slot(self, bytes: u64) -> bool {
        self.is_cached() && bytes <= SLOT_BYTES_MAX
    }

    /// Whether thread caches keep places for it.
    #[inline]
    pub(crate) fn is_cached(self) -> bool {
        self.parts & UNCACHED == 0
    }

    #[inline]
    pub(crate) fn memory_type(self) -> usize {
        (self.parts >> MEMORY_TYPE_SHIFT & 0xf) as usize
    }

    #[inline]
    pub(crate) fn identity(self) -> LaneIdentity {
        LaneIdentity::from_bits((self.parts >> IDENTITY_SHIFT) as u32)
    }

    /// Finds a place in this thread's cache of the lane, for a request that is cached. The identity is the request's:
    /// taken from there, the search for the cache would wait for the class to be computed.
    #[inline]
    pub(crate) fn allocate_cached(self, identity: LaneIdentity) -> Option<Place> {
        local::with(identity, |cache| cache.allocate(self))
    }

    /// Whether nothing but the thread's cache need be told of its free. One test of two bits: this is on the hot path.
    #[inline]
    fn is_freed_fast(self) -> bool {
        self.parts & (UNCACHED | CHARGED) == 0
    }

    /// Frees a place to this thread's cache; `None` if that cannot be. After that the place's pool may be gone, unless
    /// the caller holds the manager.
    #[inline]
    pub(crate) fn free_cached(self, place: Place) -> Option<()> {
        if self.is_freed_fast() {
            local::with(self.identity(), |cache| cache.free(place, self))
        } else {
            None
        }
    }

    /// As [`Request::free_cached`], once the charge has been refunded.
    pub(crate) fn free_cached_refunded(self, place: Place) -> Option<()> {
        debug_assert!(self.is_charged());
        if self.is_cached() { local::with(self.identity(), |cache| cache.free(place, self)) } else { None }
    }

    /// Frees a place that other queues may still use, to this thread's batch of such; `None` if that cannot be.
    #[inline]
    pub(crate) fn quarantine_cached(self, place: Place, uses: Uses) -> Option<()> {
        if !self.is_freed_fast() {
            return None;
        }
        local::with(self.identity(), |cache| cache.quarantine(Entry { place, request: self, uses }))
    }

    /// As [`Request::quarantine_cached`], once the charge has been refunded.
    pub(crate) fn quarantine_cached_refunded(self, place: Place, uses: Uses) -> Option<()> {
        debug_assert!(self.is_charged());
        if !self.is_cached() {
            return None;
        }
        local::with(self.identity(), |cache| cache.quarantine(Entry { place, request: self, uses }))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_request_is_what_it_was_but_never_cached() {
        let layout = BucketLayout::default();
        let key = LaneKey::new(LaneIdentity::from_bits(0x8765_4321), 15);
        for (bytes, alignment) in [(1, 1), (1000, 256), (1000, 1 << 31), (5 << 20, 4096), (1 << 40, 1)] {
            let plain = Request::new(&layout, key, bytes, alignment, Tag(1023));
            let pinned = plain.pinned();
            assert!(pinned.is_pinned() && !pinned.is_cached() && !plain.is_pinned());
            assert_eq!(pinned.alignment(), alignment.max(GRANULE_BYTES));
            let parts = |request: Request| {
                let (class, tag) = (request.class(), request.tag());
                (request.requested_bytes, class, tag, request.memory_type(), request.identity())
            };
            assert_eq!(parts(pinned), parts(plain));
            assert_eq!(
                parts(plain).1,
                if bytes == 1 << 40 { layout.class_count() } else { layout.class_of(bytes) }
            );
            assert_eq!((parts(plain).2, parts(plain).3, key.identity()), (Tag(1023), 15, parts(plain).4));
        }
        let imported = Request::imported(3, 4096, Tag::UNTAGGED);
        assert!(!imported.is_pinned() && !imported.is_cached());
    }

    #[test]
    fn a_charged_request_is_what_it_was_but_not_freed_fast() {
        for layout in [BucketLayout::default(), BucketLayout::with_sub_classes(64).unwrap()] {
            let key = LaneKey::new(LaneIdentity::from_bits(0x8765_4321), 15);
            for (bytes, alignment) in [(1, 1), (CACHED_BYTES_MAX, 256), (1000, 1 << 31), (1 << 40, 1)] {
                let plain = Request::new(&layout, key, bytes, alignment, Tag(1023));
                let charged = plain.charged();
                assert!(charged.is_charged() && !plain.is_charged() && !charged.is_freed_fast());
                assert_eq!(plain.is_freed_fast(), plain.is_cached());
                assert_eq!((charged.is_cached(), charged.class()), (plain.is_cached(), plain.class()));
                assert_eq!((charged.alignment(), charged.is_pinned()), (plain.alignment(), false));
                assert_eq!((charged.tag(), charged.tag().index()), (Tag(1023 | Tag::LIMITED), 1023));
                assert_eq!((charged.memory_type(), charged.identity()), (15, key.identity()));
                assert!(charged.pinned().is_charged() && plain.pinned().charged().is_pinned());
            }
        }
    }

    #[test]
    fn every_layouts_classes_fit_their_field() {
        for log2 in 0..7 {
            let layout = BucketLayout::with_sub_classes(1 << log2).unwrap();
            assert!(layout.class_count() < 1 << TAG_SHIFT, "{layout:?}, and one for what is larger");
        }
    }
}
