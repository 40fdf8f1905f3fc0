//! Protocols that clients build. Apple's own have no metadata here: `objc_getProtocol` answers nil for them.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_uint, c_void};
use std::ptr::NonNull;

use parking_lot::RwLock;

use crate::classes::{Class, NativeClass};
use crate::ns_object::NS_OBJECT;
use crate::objects::Object;
use crate::selectors::Sel;
use crate::text::Text;

/// A protocol: an object that never dies.
#[repr(C)]
pub(crate) struct Protocol {
    object: Object,
    name: &'static CStr,
    contents: RwLock<Contents>,
}

#[derive(Default)]
struct Contents {
    methods: Vec<Description>,
    included: Vec<&'static Protocol>,
}

struct Description {
    sel: Sel,
    types: &'static CStr,
    required: bool,
    /// Rather than a class method.
    instance: bool,
}

/// Objective-C's `struct objc_method_description`.
#[repr(C)]
struct MethodDescription {
    sel: Sel,
    types: *const c_char,
}

unsafe extern "C" {
    safe fn malloc(size: usize) -> *mut c_void;
}

/// The class of protocols.
static PROTOCOL: Class = Class::slot_of_immortals(c"Protocol", || {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let class = NativeClass {
            slot: &PROTOCOL,
            superclass: Some(&NS_OBJECT),
            state_size: 0,
            class_methods: &[],
            methods: &[],
            protocol: None,
        };
        // SAFETY: there are no functions.
        unsafe { class.define() };
    });
});

static PROTOCOLS: RwLock<BTreeMap<&'static CStr, &'static Protocol>> = RwLock::new(BTreeMap::new());

impl Protocol {
    pub(crate) fn new(name: &'static CStr) -> &'static Self {
        let object = Object::of(&PROTOCOL);
        Box::leak(Box::new(Self { object, name, contents: RwLock::default() }))
    }

    pub(crate) fn register(&'static self) {
        PROTOCOLS.write().insert(self.name, self);
    }

    pub(crate) fn add_method(&self, sel: Sel, types: &'static CStr, required: bool, instance: bool) {
        self.contents.write().methods.push(Description { sel, types, required, instance });
    }

    /// Whether this is the other, or includes it.
    pub(crate) fn includes(&'static self, other: &'static Self) -> bool {
        std::ptr::eq(self, other) || {
            let included = self.contents.read().included.clone();
            included.iter().any(|protocol| protocol.includes(other))
        }
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_getProtocol(name: Text) -> Option<&'static Protocol> {
    // The one protocol that comes with the runtime is made with the class of its name.
    if name.as_c_str() == c"NSObject" {
        NS_OBJECT.define();
    }
    PROTOCOLS.read().get(name.as_c_str()).copied()
}

/// Nil when there is a protocol of this name.
#[unsafe(no_mangle)]
extern "C-unwind" fn objc_allocateProtocol(name: Text) -> Option<&'static Protocol> {
    objc_getProtocol(name).is_none().then(|| Protocol::new(name.leak()))
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_registerProtocol(protocol: &'static Protocol) {
    protocol.register();
}

#[unsafe(no_mangle)]
extern "C-unwind" fn protocol_getName(protocol: &'static Protocol) -> *const c_char {
    protocol.name.as_ptr()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn protocol_isEqual(
    one: Option<&'static Protocol>,
    other: Option<&'static Protocol>,
) -> bool {
    one.map(std::ptr::from_ref) == other.map(std::ptr::from_ref)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn protocol_addMethodDescription(
    protocol: &'static Protocol,
    sel: Sel,
    types: Text,
    required: u8,
    instance: u8,
) {
    protocol.add_method(sel, types.leak(), required != 0, instance != 0);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn protocol_addProtocol(protocol: &'static Protocol, included: &'static Protocol) {
    protocol.contents.write().included.push(included);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn protocol_conformsToProtocol(
    protocol: Option<&'static Protocol>,
    other: Option<&'static Protocol>,
) -> bool {
    protocol.zip(other).is_some_and(|(protocol, other)| protocol.includes(other))
}

/// The caller frees the array. Null where there are none.
#[unsafe(no_mangle)]
extern "C-unwind" fn protocol_copyMethodDescriptionList(
    protocol: &'static Protocol,
    required: u8,
    instance: u8,
    count: Option<&mut c_uint>,
) -> Option<NonNull<MethodDescription>> {
    let contents = protocol.contents.read();
    let wanted =
        |method: &&Description| method.required == (required != 0) && method.instance == (instance != 0);
    let found: Vec<_> = contents.methods.iter().filter(wanted).collect();
    if let Some(count) = count {
        *count = c_uint::try_from(found.len()).expect("a protocol has fewer methods");
    }
    if found.is_empty() {
        return None;
    }
    let list =
        NonNull::new(malloc(size_of::<MethodDescription>() * found.len()))?.cast::<MethodDescription>();
    for (index, method) in found.iter().enumerate() {
        // SAFETY: the memory has room for as many as were found.
        let place = unsafe { list.add(index) };
        // SAFETY: as above.
        unsafe { place.write(MethodDescription { sel: method.sel, types: method.types.as_ptr() }) };
    }
    Some(list)
}
