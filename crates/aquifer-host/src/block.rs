//! A block: a mapping, and the aligned part of it that is used; or memory that somebody brought.
//!
//! ```text
//! mapping   |<---------------- Mapping::bytes ---------------->|
//! block          |<-------------- bytes -------------->|
//!           lead, unmapped if the system agrees        tail, likewise
//! ```

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use aquifer_backend::HostMemory;
use rustix::io::{Errno, Result};

use crate::sys;

/// Blocks of this size or more are aligned to it: the size of a huge page on x86-64, and on aarch64 with OS pages of
/// 4 KiB.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// What the system gave. Unmapped by [`Mapping::unmap`] only; dropping it does nothing.
struct Mapping {
    start: NonNull<u8>,
    bytes: usize,
}

impl Mapping {
    fn new(bytes: usize) -> Result<Self> {
        Ok(Self { start: sys::map(bytes)?, bytes })
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
    unsafe fn unmap(self) -> std::result::Result<(), (Self, Errno)> {
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

/// Where a block's memory is from.
enum Source {
    Mapped(Mapping),
    /// Its owner is dropped with [`HostBlock::unmap`] only, like a mapping.
    Imported(ManuallyDrop<HostMemory>),
}

/// A block of host memory, made by [`Host`](crate::Host).
///
/// Give it to [`Backend::destroy_block`](aquifer_backend::Backend::destroy_block) when nothing uses it any more. A
/// block that is only dropped stays mapped until the process ends; of an imported one, the owner is never dropped then.
#[must_use = "a block that is dropped without being destroyed stays mapped"]
pub struct HostBlock {
    source: Source,
    start: NonNull<u8>,
    bytes: usize,
    /// Whether [`HostBlock::lock`] has locked it.
    is_locked: bool,
}

// SAFETY: the pointers are to memory that belongs to the process, not to a thread, and that this value alone may unmap.
unsafe impl Send for HostBlock {}

// SAFETY: through a shared reference only the addresses can be read, and they never change. Whoever reads or writes
// the memory behind them does so in unsafe code and answers for races.
unsafe impl Sync for HostBlock {}

impl HostBlock {
    /// Maps a block of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// What `mmap` answered. Nothing stays mapped then.
    pub(crate) fn map(bytes: usize) -> Result<Self> {
        if bytes < HUGE_PAGE_BYTES {
            return Ok(Self::whole(Mapping::new(bytes)?, bytes));
        }
        let block = Self::map_aligned(bytes, HUGE_PAGE_BYTES)?;
        // Refused where the kernel has no huge pages; the block is as good, only slower.
        #[cfg(target_os = "linux")]
        // SAFETY: the range is the block that has just been mapped.
        let _ = unsafe { sys::advise_huge_pages(block.start, block.bytes) };
        Ok(block)
    }

    /// Maps a block that starts at a multiple of `alignment`, a power of two and a multiple of the OS page.
    fn map_aligned(bytes: usize, alignment: usize) -> Result<Self> {
        // Newer kernels align large mappings by themselves, and blocks of whole huge pages line up one below the other.
        // So the exact size is right more often than not, and blocks that touch stay one mapping for the kernel.
        let exact = Mapping::new(bytes)?;
        if exact.lead_bytes(alignment) == 0 {
            return Ok(Self::whole(exact, bytes));
        }
        // SAFETY: the mapping is new and nobody else has its address.
        if let Err((exact, _)) = unsafe { exact.unmap() } {
            // It can only be kept, so it is used. Alignment to huge pages is a wish.
            return Ok(Self::whole(exact, bytes));
        }
        let wide = Mapping::new(bytes.checked_add(alignment).ok_or(Errno::NOMEM)?)?;
        let lead_bytes = wide.lead_bytes(alignment);
        // SAFETY: the lead is shorter than the alignment, by which the mapping is longer than the block.
        let start = unsafe { wide.start.add(lead_bytes) };
        // SAFETY: as above for the bounds; the mapping is new and only what lies between the ends will be used.
        let mapping = unsafe { wide.trim(lead_bytes, bytes) };
        Ok(Self { source: Source::Mapped(mapping), start, bytes, is_locked: false })
    }

    /// A block that is its whole mapping.
    fn whole(mapping: Mapping, bytes: usize) -> Self {
        Self { start: mapping.start, source: Source::Mapped(mapping), bytes, is_locked: false }
    }

    /// A block of memory that somebody brought.
    pub(crate) fn import(memory: HostMemory) -> Self {
        // No bit is lost: memory of the host is never longer than a usize.
        let (start, bytes) = (memory.start(), memory.bytes() as usize);
        Self { source: Source::Imported(ManuallyDrop::new(memory)), start, bytes, is_locked: false }
    }

    /// Locks the block: all of it is in physical memory from now on, until it is unmapped. Not for imported ones.
    ///
    /// # Errors
    ///
    /// What `mlock` answered. Some of the block may be locked then: unmap it.
    pub(crate) fn lock(&mut self) -> Result<()> {
        debug_assert!(matches!(self.source, Source::Mapped(_)));
        // SAFETY: the block is mapped as long as this value exists.
        unsafe { sys::lock(self.start, self.bytes) }?;
        self.is_locked = true;
        Ok(())
    }

    /// Gives the physical memory of a part of the block back, and what it took of the limit of locked memory.
    ///
    /// # Errors
    ///
    /// What the system answered. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// - The `bytes` bytes from `start` lie in the block, and begin and end at OS pages.
    /// - Nobody uses them, now or until the block is unmapped.
    pub(crate) unsafe fn release(&self, start: NonNull<u8>, bytes: usize) -> Result<()> {
        if self.is_locked {
            // SAFETY: the caller vouches that the range lies in the block, which is mapped.
            unsafe { sys::unlock(start, bytes) }?;
        }
        // SAFETY: a block is one mapping (and imported ones have no part that nobody uses); the caller vouches that the
        // range begins and ends at OS pages, and that nobody uses it.
        let released = unsafe { sys::release(start, bytes) };
        if released.is_err() && self.is_locked {
            // It is in physical memory, and was locked a moment ago. If others have used the limit up meanwhile, then no
            // later call can mend that either.
            // SAFETY: as for unlocking.
            let _ = unsafe { sys::lock(start, bytes) };
        }
        released
    }

    /// Unmaps the block, or gives it back whole. Of an imported one, drops the owner.
    ///
    /// # Safety
    ///
    /// - Nothing uses the block, now or later, unless it comes back.
    pub(crate) unsafe fn unmap(self) -> std::result::Result<(), (Self, Errno)> {
        let Self { source, start, bytes, is_locked } = self;
        match source {
            Source::Mapped(mapping) => {
                // SAFETY: the caller vouches that nothing uses the block, and nothing ever uses what surrounds it.
                unsafe { mapping.unmap() }.map_err(|(mapping, errno)| {
                    (Self { source: Source::Mapped(mapping), start, bytes, is_locked }, errno)
                })
            }
            Source::Imported(memory) => {
                drop(ManuallyDrop::into_inner(memory));
                Ok(())
            }
        }
    }

    /// The first byte.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The size in bytes, as it was asked for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for HostBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBlock")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Maps `wide_bytes`, trims it to the aligned part and checks that exactly this part is left, and is usable.
    fn check_trimmed(wide_bytes: usize, lead_bytes: usize, bytes: usize) {
        let wide = Mapping::new(wide_bytes).unwrap();
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
        let wide = Mapping::new(8 * page).unwrap();
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
                let block = HostBlock::map_aligned(bytes, alignment).unwrap();
                assert_eq!(block.start.addr().get() % alignment, 0);
                let Source::Mapped(mapping) = &block.source else { panic!("it was mapped") };
                assert_eq!(mapping.bytes, bytes, "no end is kept");
                // SAFETY: the block is mapped, writable and ours alone.
                unsafe { block.start.write_bytes(7, bytes) };
                // SAFETY: nothing uses the block.
                unsafe { block.unmap() }.map_err(|(_, errno)| errno).unwrap();
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
