//! Why a call failed, kept for the thread that made it.

use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::fmt::Display;

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Keeps the reason, and returns what the call answers.
#[cold]
pub(crate) fn note<T>(reason: impl Display, answer: T) -> T {
    let text = reason.to_string().replace('\0', " ");
    LAST.set(CString::new(text).unwrap_or_default());
    answer
}

/// The last reason of this thread, good until the next one.
pub(crate) fn last() -> *const c_char {
    LAST.with_borrow(|text| text.as_ptr())
}
