//! Pages of host memory, given by the system when they are touched.

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::null_mut;

/// What fresh memory is filled with, so that no program relies on zeros.
const FRESH: u8 = 0xcd;
/// How much at either end of fresh memory is filled, in bytes. The middle of what is larger is zero: filling it would make it be there.
const FILLED: usize = 256 << 10;

/// A mapping of the process, unmapped when dropped.
#[derive(Debug)]
pub(crate) struct Pages {
    raw: *mut c_void,
    raw_len: usize,
    base: *mut u8,
    len: usize,
}

// SAFETY: a mapping is an address range of the process; no thread has more to do with it than another.
unsafe impl Send for Pages {}
// SAFETY: as above; the shared methods read the fields only.
unsafe impl Sync for Pages {}

impl Pages {
    fn new(len: usize, align: usize, near: u64, protection: ProtFlags) -> Option<Self> {
        const PAGE: usize = 4096;
        let len = len.checked_next_multiple_of(PAGE)?;
        let raw_len = if align > PAGE { len.checked_add(align)? } else { len };
        let near = usize::try_from(near).map_or(null_mut(), std::ptr::without_provenance_mut);
        // SAFETY: a new mapping where the system likes (`near` is a wish) takes nothing from anybody.
        let raw =
            unsafe { mmap_anonymous(near, raw_len, protection, MapFlags::PRIVATE | MapFlags::NORESERVE) }
                .ok()?;
        let base = raw.cast::<u8>().wrapping_add(raw.addr().next_multiple_of(align.max(1)) - raw.addr());
        Some(Self { raw, raw_len, base, len })
    }

    /// At least `len` bytes that may be read and written, fresh; `None` if the system has no room.
    pub(crate) fn memory(len: usize) -> Option<Self> {
        let pages = Self::new(len, 1, 0, ProtFlags::READ | ProtFlags::WRITE)?;
        let filled = pages.len.min(FILLED);
        // SAFETY: `filled` is at most the mapping's length, and the mapping can be written.
        unsafe { pages.base.write_bytes(FRESH, filled) };
        let last = pages.base.wrapping_add(pages.len - filled);
        // SAFETY: as above, for the last `filled` bytes.
        unsafe { last.write_bytes(FRESH, filled) };
        Some(pages)
    }

    /// Addresses only, aligned to a power of two and if possible at `near`: touching one is a fault of the process.
    pub(crate) fn addresses(len: usize, align: usize, near: u64) -> Option<Self> {
        Self::new(len, align, near, ProtFlags::empty())
    }

    pub(crate) fn base(&self) -> *mut u8 {
        self.base
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: the range is of one mapping that this value owns, and nobody uses it any more.
        let _ = unsafe { munmap(self.raw, self.raw_len) };
    }
}

/// Whether all of a range of the process is mapped to something.
pub(crate) fn is_mapped(start: u64, len: u64) -> bool {
    use rustix::mm::{MsyncFlags, msync};
    let start = std::ptr::without_provenance_mut(start as usize);
    // SAFETY: msync changes nothing; it answers ENOMEM where nothing is mapped.
    unsafe { msync(start, len as usize, MsyncFlags::ASYNC) }.is_ok()
}
