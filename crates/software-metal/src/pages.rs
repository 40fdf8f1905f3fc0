//! Pages of host memory, given by the system when they are touched.

use parking_lot::Mutex;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};

/// What addresses and sizes of mappings are multiples of, in bytes: the larger of the devices' pages.
pub(crate) const PAGE: usize = 16384;

/// How much at either end of a range is filled with a pattern, in bytes.
const END: usize = 64 << 10;

/// Mappings that are no longer used and may not be touched. The oldest go when there are too many, so that addresses come again late.
static GRAVES: Mutex<VecDeque<Mapping>> = Mutex::new(VecDeque::new());
const GRAVES_MAX: usize = 1024;

#[derive(Debug)]
struct Mapping {
    base: *mut c_void,
    len: usize,
}

// SAFETY: a mapping is an address range of the process; no thread has more to do with it than another.
unsafe impl Send for Mapping {}
// SAFETY: as above; the shared methods read the fields only.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base` and `len` are of one mapping that this value owns, and nobody uses it any more.
        let _ = unsafe { munmap(self.base, self.len) };
    }
}

fn map(len: usize, prot: ProtFlags) -> Option<*mut c_void> {
    // SAFETY: a new mapping where the system likes takes nothing from anybody.
    unsafe { mmap_anonymous(null_mut(), len, prot, MapFlags::PRIVATE | MapFlags::NORESERVE) }.ok()
}

impl Mapping {
    fn new(len: usize, prot: ProtFlags) -> Option<Self> {
        let base = map(len, prot)?;
        let first = Self { base, len };
        if base.addr().is_multiple_of(PAGE) {
            return Some(first);
        }
        drop(first);
        // The system aligns to its own smaller page: take more and give back what is over.
        let base = map(len.checked_add(PAGE)?, prot)?;
        let head = base.addr().next_multiple_of(PAGE) - base.addr();
        let aligned = base.wrapping_byte_add(head);
        if head > 0 {
            drop(Self { base, len: head });
        }
        if head < PAGE {
            drop(Self { base: aligned.wrapping_byte_add(len), len: PAGE - head });
        }
        Some(Self { base: aligned, len })
    }
}

/// A range of zeroed pages that may be read and written. Dropped, its addresses fault for a while.
#[derive(Debug)]
pub(crate) struct Pages {
    mapping: Mapping,
}

impl Pages {
    /// At least `len` bytes; `None` if the system has no room.
    pub(crate) fn new(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(PAGE)?;
        Mapping::new(len, ProtFlags::READ | ProtFlags::WRITE).map(|mapping| Self { mapping })
    }

    /// Addresses only: nothing can be read or written there.
    pub(crate) fn addresses(len: usize) -> Option<Self> {
        let len = len.checked_next_multiple_of(PAGE)?;
        Mapping::new(len, ProtFlags::empty()).map(|mapping| Self { mapping })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        NonNull::new(self.mapping.base.cast()).expect("a mapping is not at null")
    }

    /// Fills both ends with `pattern`, the middle stays as it is.
    pub(crate) fn fill_ends(&self, pattern: u8) {
        let len = self.mapping.len.min(END);
        let base = self.base().as_ptr();
        // SAFETY: `len` is at most the mapping's length, and the mapping can be written.
        unsafe { base.write_bytes(pattern, len) };
        let last = base.wrapping_add(self.mapping.len - len);
        // SAFETY: as above, for the last `len` bytes.
        unsafe { last.write_bytes(pattern, len) };
    }

    /// Forgets the contents: the ends become `pattern`, the middle zero.
    pub(crate) fn spoil(&self, pattern: u8) {
        // SAFETY: the mapping is private and anonymous, so its pages become zero; who still reads it reads spoilt memory, as on a device.
        let _ = unsafe { madvise(self.mapping.base, self.mapping.len, Advice::LinuxDontNeed) };
        self.fill_ends(pattern);
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let Mapping { base, len } = self.mapping;
        // SAFETY: the range is this value's own mapping; replacing it makes every later access fault.
        let buried = unsafe {
            mmap_anonymous(
                base,
                len,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED,
            )
        };
        if buried.is_err() {
            return; // unmapped when the field is dropped
        }
        let grave = Mapping { base, len };
        // The field would unmap the grave: it gets an empty range, which unmaps nothing.
        self.mapping.len = 0;
        let oldest = {
            let mut graves = GRAVES.lock();
            graves.push_back(grave);
            if graves.len() > GRAVES_MAX { graves.pop_front() } else { None }
        };
        drop(oldest);
    }
}
