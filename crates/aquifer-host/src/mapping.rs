//! Addresses that the system gave, and the aligned part of them that is used.
//!
//! ```text
//! mapping   |<---------------- Mapping::bytes ---------------->|
//! used           |<-------------- bytes -------------->|
//!           lead, unmapped if the system agrees        tail, likewise
//! ```

use std::ptr::NonNull;

use rustix::io::{Errno, Result};

use crate::sys;

/// What is of this size or more is aligned to it: the size of a huge page on x86-64, and on aarch64 with OS pages of
/// 4 KiB.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What the system is asked with for so many bytes at an address of its choice: [`sys::map`] or the like.
type Ask = fn(usize) -> Result<NonNull<u8>>;

/// What the system gave. Unmapped by [`Mapping::unmap`] only; dropping it does nothing.
pub(crate) struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

/// A mapping and where the part of it that is used starts.
pub(crate) type Aligned = (Mapping, NonNull<u8>);

impl Mapping {
    pub(crate) fn new(bytes: usize, ask: Ask) -> Result<Self> {
        Ok(Self { start: ask(bytes)?, bytes })
    }

    /// Maps `bytes` bytes from a multiple of `alignment` on, a power of two and a multiple of the OS page.
    pub(crate) fn aligned(bytes: usize, alignment: usize, ask: Ask) -> Result<Aligned> {
        // Newer kernels align large mappings by themselves, and blocks of whole huge pages line up one below the other.
        // So the exact size is right more often than not, and blocks that touch stay one mapping for the kernel.
        let exact = Self::new(bytes, ask)?;
        if exact.lead_bytes(alignment) == 0 {
            return Ok(exact.all());
        }
        // SAFETY: the mapping is new and nobody else has its address.
        if let Err((exact, _)) = unsafe { exact.unmap() } {
            // It can only be kept, so it is used. Alignment to huge pages is a wish.
            return Ok(exact.all());
        }
        let wide = Self::new(bytes.checked_add(alignment).ok_or(Errno::NOMEM)?, ask)?;
        let lead_bytes = wide.lead_bytes(alignment);
        // SAFETY: the lead is shorter than the alignment, by which the mapping is longer than the used part.
        let start = unsafe { wide.start.add(lead_bytes) };
        // SAFETY: as above for the bounds; the mapping is new and only what lies between the ends will be used.
        Ok((unsafe { wide.trim(lead_bytes, bytes) }, start))
    }

    /// All of it is used.
    pub(crate) fn all(self) -> Aligned {
        let start = self.start;
        (self, start)
    }

    /// How far behind the mapping's start the next multiple of `alignment` (a power of two) lies.
    fn lead_bytes(&self, alignment: usize) -> usize {
        self.start.addr().get().wrapping_neg() & (alignment - 1)
    }

    /// Unmaps everything, or gives the mapping back whole.
    ///
    /// # Safety
    ///
    /// - Nothing uses the mapping, now or later.
    pub(crate) unsafe fn unmap(self) -> std::result::Result<(), (Self, Errno)> {
        // SAFETY: the mapping came from `map`, is whole as long as this value exists, and the caller vouches that
        // nothing uses it.
        unsafe { sys::unmap(self.start, self.bytes) }.map_err(|errno| (self, errno))
    }

    /// Unmaps what lies before `lead_bytes` and what lies behind the `bytes` bytes after it.
    ///
    /// An end that the system refuses (Linux does when the process has too many mappings and this would split one)
    /// stays: it is untouched, so it costs address space only, and it goes when the whole mapping goes.
    ///
    /// # Safety
    ///
    /// - `lead_bytes` is less than the mapping's size, and so many bytes and `bytes` more lie in it.
    /// - Nothing uses either end, now or later.
    unsafe fn trim(mut self, lead_bytes: usize, bytes: usize) -> Self {
        // SAFETY: the caller vouches that the lead ends inside the mapping.
        let start = unsafe { self.start.add(lead_bytes) };
        // SAFETY: the caller vouches that the used part ends inside the mapping, or where it ends.
        let end = unsafe { start.add(bytes) };
        let tail_bytes = self.bytes - lead_bytes - bytes;
        // SAFETY: the tail is the mapping's end, and the caller vouches that nothing uses it.
        if tail_bytes > 0 && unsafe { sys::unmap(end, tail_bytes) }.is_ok() {
            self.bytes -= tail_bytes;
        }
        // SAFETY: the lead is the mapping's beginning, and the caller vouches that nothing uses it.
        if lead_bytes > 0 && unsafe { sys::unmap(self.start, lead_bytes) }.is_ok() {
            self.start = start;
            self.bytes -= lead_bytes;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps `wide_bytes`, trims it to the aligned part and checks that exactly this part is left, and is usable.
    fn check_trimmed(wide_bytes: usize, lead_bytes: usize, bytes: usize) {
        let wide = Mapping::new(wide_bytes, sys::map).unwrap();
        let wide_start = wide.start;
        // SAFETY: the mapping is new, and the callers below stay inside it.
        let left = unsafe { wide.trim(lead_bytes, bytes) };
        assert_eq!(left.start.addr().get(), wide_start.addr().get() + lead_bytes);
        assert_eq!(left.bytes, bytes);
        // SAFETY: the part that is left is mapped, writable and ours alone.
        unsafe { left.start.write_bytes(7, bytes) };
        // SAFETY: nothing uses the mapping.
        unsafe { left.unmap() }.map_err(|(_, errno)| errno).unwrap();
    }

    #[test]
    fn trims_both_ends_one_or_none() {
        let page = sys::page_bytes();
        check_trimmed(8 * page, 2 * page, 3 * page);
        check_trimmed(8 * page, 0, 3 * page);
        check_trimmed(8 * page, 5 * page, 3 * page);
        check_trimmed(8 * page, 0, 8 * page);
    }

    #[test]
    fn an_end_that_is_refused_stays_and_goes_with_the_rest() {
        let page = sys::page_bytes();
        let wide = Mapping::new(8 * page, sys::map).unwrap();
        let wide_start = wide.start;
        // The tail does not begin with an OS page, which munmap refuses. The lead is taken.
        // SAFETY: the mapping is new, and the used part lies in it.
        let left = unsafe { wide.trim(2 * page, 3 * page + 1) };
        assert_eq!(left.start.addr().get(), wide_start.addr().get() + 2 * page);
        assert_eq!(left.bytes, 6 * page);
        // SAFETY: everything that is left is mapped, writable and ours alone.
        unsafe { left.start.write_bytes(7, 6 * page) };
        // SAFETY: nothing uses the mapping.
        unsafe { left.unmap() }.map_err(|(_, errno)| errno).unwrap();
    }

    #[test]
    fn aligns_beyond_what_the_system_does_by_itself() {
        let page = sys::page_bytes();
        // No kernel aligns to the larger of these by itself, so the long way is taken for at least one of several sizes.
        for alignment in [HUGE_PAGE_BYTES, 16 * HUGE_PAGE_BYTES, 128 * HUGE_PAGE_BYTES] {
            for bytes in [page, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + page, 3 * HUGE_PAGE_BYTES] {
                let (mapping, start) = Mapping::aligned(bytes, alignment, sys::map).unwrap();
                assert_eq!(start.addr().get() % alignment, 0);
                assert_eq!((mapping.start, mapping.bytes), (start, bytes), "no end is kept");
                // SAFETY: it is mapped, writable and ours alone.
                unsafe { start.write_bytes(7, bytes) };
                // SAFETY: nothing uses it.
                unsafe { mapping.unmap() }.map_err(|(_, errno)| errno).unwrap();
            }
        }
    }

    #[test]
    fn lead_reaches_the_next_multiple() {
        let at = |address: usize| Mapping {
            start: NonNull::without_provenance(address.try_into().unwrap()),
            bytes: 0,
        };
        assert_eq!(at(0x1000).lead_bytes(0x1000), 0);
        assert_eq!(at(0x1000).lead_bytes(0x4000), 0x3000);
        assert_eq!(at(0x5000).lead_bytes(0x4000), 0x3000);
        assert_eq!(at(usize::MAX - 0xfff).lead_bytes(0x1000), 0);
    }
}
