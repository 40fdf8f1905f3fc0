//! C strings that come in as arguments.

use std::ffi::{CStr, c_char};
use std::ptr::NonNull;

/// A C string that a caller of one of the C functions passed.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Text(NonNull<c_char>);

impl Text {
    pub(crate) fn as_c_str<'a>(self) -> &'a CStr {
        // SAFETY: only callers of the C functions make values of this type, and each of those functions demands a C
        // string that lives until it returns. No function keeps the reference longer: what is kept is copied.
        unsafe { CStr::from_ptr(self.0.as_ptr()) }
    }

    /// A copy that lives as long as the process.
    pub(crate) fn leak(self) -> &'static CStr {
        Box::leak(self.as_c_str().into())
    }
}
