//! Making classes: by the functions that `define_class!` calls, and for the runtime's own.

use std::ffi::CStr;
use std::sync::atomic::Ordering::*;

use super::{CLASSES, Class, Imp, Ivar, Kind, Method, SLOTS, find_class, this_thread};
use crate::protocols::Protocol;
use crate::selectors::Sel;
use crate::text::Text;

/// A method of one of the runtime's own classes: selector, type encoding, function.
pub(crate) type NativeMethod = (&'static CStr, &'static CStr, *const ());

/// What one of the runtime's own classes consists of.
pub(crate) struct NativeClass<'a> {
    pub(crate) slot: &'static Class,
    pub(crate) superclass: Option<&'static Class>,
    /// Bytes that each instance has besides what it inherits, aligned to 8.
    pub(crate) state_size: usize,
    pub(crate) class_methods: &'a [NativeMethod],
    pub(crate) methods: &'a [NativeMethod],
    pub(crate) protocol: Option<&'static Protocol>,
}

impl NativeClass<'_> {
    /// Defines the class in its slot and answers where in an instance its state begins.
    ///
    /// # Safety
    ///
    /// Each function has the C-unwind ABI and the signature that its type encoding tells.
    pub(crate) unsafe fn define(&self) -> usize {
        super::register_slots(&[self.slot]);
        let class = allocate(self.superclass, self.slot.name);
        let metaclass = class.object().class().expect("an allocated class has a metaclass");
        for (class, methods) in [(metaclass, self.class_methods), (class, self.methods)] {
            for &(name, types, function) in methods {
                // SAFETY: the caller says that this is a function; one type of function pointer is as large as another.
                let imp = unsafe { std::mem::transmute::<*const (), Imp>(function) };
                assert!(class.add_method(Sel::named(name), types, imp), "-[{} {name:?}] twice", class.name());
            }
        }
        let offset =
            if self.state_size == 0 { 0 } else { class.add_ivar(c"state", c"?", self.state_size, 8) };
        if let Some(protocol) = self.protocol {
            class.parts.write().protocols.push(protocol);
        }
        class.register();
        offset
    }
}

/// A class and its metaclass, not registered yet: in the slot of this name, or new.
fn allocate(superclass: Option<&'static Class>, name: &'static CStr) -> &'static Class {
    if let Some(superclass) = superclass {
        superclass.define();
    }
    let slot = SLOTS.read().get(name).copied();
    let class = slot.unwrap_or_else(|| Box::leak(Box::new(Class::new(name, Kind::Class, None))));
    let metaclass: &'static Class = Box::leak(Box::new(Class::new(name, Kind::Metaclass, None)));
    class.builder.store(this_thread(), Relaxed);
    let (meta_superclass, root_metaclass) = match superclass {
        // The metaclass of a root class inherits from the root class and is its own class.
        None => (class, metaclass),
        Some(superclass) => {
            assert!(class.superclass.set(superclass).is_ok(), "the slot {} is used twice", class.name());
            class.instance_size.store(superclass.instance_size.load(Acquire), Release);
            class.parts.write().alignment = superclass.parts.read().alignment;
            let above = superclass.object().class().expect("a defined class has a metaclass");
            (above, above.object().class().expect("a metaclass has a class"))
        }
    };
    assert!(metaclass.superclass.set(meta_superclass).is_ok(), "the metaclass is new");
    metaclass.object().set_class(root_metaclass);
    class.object().set_class(metaclass);
    class
}

impl Class {
    fn register(&'static self) {
        let sels = [c"retain", c"release", c"autorelease"].map(Sel::named);
        let own = sels.iter().any(|sel| self.parts.read().methods.contains_key(sel));
        let overrides = self.superclass.get().is_some_and(|above| own || above.overrides_counting());
        self.overrides_counting.store(overrides, Relaxed);
        let before = CLASSES.write().insert(self.name, self);
        assert!(before.is_none(), "the class {} is registered twice", self.name());
        self.builder.store(0, Relaxed);
        self.registered.store(true, Release);
    }

    /// Whether the method is new.
    fn add_method(&self, sel: Sel, types: &'static CStr, imp: Imp) -> bool {
        let mut parts = self.parts.write();
        if parts.methods.contains_key(&sel) {
            return false;
        }
        parts.methods.insert(sel, Box::leak(Box::new(Method { sel, types, imp })));
        true
    }

    /// Puts an instance variable behind those there are and answers its offset.
    fn add_ivar(&self, name: &'static CStr, types: &'static CStr, size: usize, alignment: usize) -> usize {
        let mut parts = self.parts.write();
        let offset = self.instance_size.load(Acquire).next_multiple_of(alignment);
        parts.alignment = parts.alignment.max(alignment);
        parts.ivars.push(Box::leak(Box::new(Ivar { name, types, offset: offset.cast_signed() })));
        self.instance_size.store(offset + size, Release);
        offset
    }
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_getClass(name: Text) -> Option<&'static Class> {
    find_class(name.as_c_str())
}

/// Nil when there is a class of this name. No class here has bytes behind it, so `_extra` is for nothing.
#[unsafe(no_mangle)]
extern "C-unwind" fn objc_allocateClassPair(
    superclass: Option<&'static Class>,
    name: Text,
    _extra: usize,
) -> Option<&'static Class> {
    let taken = CLASSES.read().contains_key(name.as_c_str());
    (!taken).then(|| allocate(superclass, name.leak()))
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_registerClassPair(class: &'static Class) {
    class.register();
}

/// Takes the class out of the registry; its memory stays.
#[unsafe(no_mangle)]
extern "C-unwind" fn objc_disposeClassPair(class: &'static Class) {
    CLASSES.write().remove(class.name);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_addMethod(class: &'static Class, sel: Sel, imp: Imp, types: Text) -> bool {
    class.add_method(sel, types.leak(), imp)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_addIvar(
    class: &'static Class,
    name: Text,
    size: usize,
    alignment_log2: u8,
    types: Text,
) -> bool {
    let known = class.parts.read().ivars.iter().any(|ivar| ivar.name == name.as_c_str());
    if !known {
        class.add_ivar(name.leak(), types.leak(), size, 1 << alignment_log2);
    }
    !known
}

/// Whether the class did not conform to the protocol before.
#[unsafe(no_mangle)]
extern "C-unwind" fn class_addProtocol(class: &'static Class, protocol: &'static Protocol) -> bool {
    let new = !class.conforms_to(protocol);
    if new {
        class.parts.write().protocols.push(protocol);
    }
    new
}
