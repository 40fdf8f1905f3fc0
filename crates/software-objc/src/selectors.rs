//! Selectors: the interned names of methods.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::fmt;

use parking_lot::RwLock;

use crate::text::Text;

/// The name of a method. Two selectors of the same name are the same address, and none is ever freed.
///
/// Its address is the pointer that Objective-C calls `SEL`; clients treat it as opaque.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Sel(&'static Selector);

struct Selector {
    name: &'static CStr,
}

static SELECTORS: RwLock<BTreeMap<&'static CStr, &'static Selector>> = RwLock::new(BTreeMap::new());

impl Sel {
    /// The selector of this name; the same one for the same name.
    pub(crate) fn named(name: &CStr) -> Self {
        if let Some(known) = SELECTORS.read().get(name) {
            return Self(known);
        }
        let mut selectors = SELECTORS.write();
        if let Some(known) = selectors.get(name) {
            return Self(known);
        }
        let name: &'static CStr = Box::leak(name.into());
        let selector: &'static Selector = Box::leak(Box::new(Selector { name }));
        selectors.insert(name, selector);
        Self(selector)
    }

    fn address(self) -> usize {
        std::ptr::from_ref(self.0).addr()
    }
}

impl fmt::Display for Sel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.name.to_string_lossy())
    }
}

impl fmt::Debug for Sel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sel({self})")
    }
}

impl PartialEq for Sel {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.0, other.0)
    }
}

impl Eq for Sel {}

impl PartialOrd for Sel {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sel {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.address().cmp(&other.address())
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn sel_registerName(name: Text) -> Sel {
    Sel::named(name.as_c_str())
}

#[unsafe(no_mangle)]
extern "C-unwind" fn sel_getName(sel: Sel) -> *const c_char {
    sel.0.name.as_ptr()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn sel_isEqual(one: Sel, other: Sel) -> bool {
    one == other
}
