//! Structures as bytes.

use std::ffi::{CStr, c_char};
use std::ptr;

/// A structure of the program's, for as long as a call lasts.
pub(crate) struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    /// # Safety
    ///
    /// `size` bytes can be read from `start` on for as long as the answer is used.
    pub(crate) unsafe fn at(start: usize, size: usize) -> Self {
        // SAFETY: as the caller promises.
        Bytes(unsafe { std::slice::from_raw_parts(ptr::with_exposed_provenance(start), size) })
    }

    /// A description that says its own size in its second 16 bits, as all of the memory extension's do.
    ///
    /// # Safety
    ///
    /// `start` is the address of such a description, which lives for as long as the answer is used.
    pub(crate) unsafe fn sized(start: usize, expected: usize) -> Self {
        // SAFETY: every description has these four bytes.
        let size = unsafe { Self::at(start, 4) }.u16(2);
        if usize::from(size) != expected {
            crate::log(&format!("a description of {size} bytes instead of {expected}"));
            std::process::abort();
        }
        // SAFETY: a C program's would be this large, and it says it is.
        unsafe { Self::at(start, expected) }
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_ne_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_ne_bytes(self.array(at))
    }

    pub(crate) fn word(&self, at: usize) -> usize {
        usize::from_ne_bytes(self.array(at))
    }

    /// The text that an address at this place leads to.
    ///
    /// # Safety
    ///
    /// It is null, or that of a C string.
    pub(crate) unsafe fn text(&self, at: usize) -> String {
        let address = self.word(at);
        if address == 0 {
            return "null".to_owned();
        }
        // SAFETY: as the caller promises.
        unsafe { text(ptr::with_exposed_provenance(address)) }
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|index| self.0[at + index])
    }
}

/// # Safety
///
/// `start` is a C string's address.
pub(crate) unsafe fn text(start: *const c_char) -> String {
    // SAFETY: as the caller promises.
    format!("{:?}", unsafe { CStr::from_ptr(start) })
}
