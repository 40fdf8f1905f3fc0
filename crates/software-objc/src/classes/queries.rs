//! What clients ask about classes, methods and instance variables.

use std::ffi::c_char;

use super::{Class, Ivar, Method};
use crate::messages::find_method;
use crate::objects::Id;
use crate::protocols::Protocol;
use crate::selectors::Sel;
use crate::text::Text;

/// The class of an object, of a dead one too: its name then tells what it was.
#[unsafe(no_mangle)]
extern "C-unwind" fn object_getClass(object: Option<Id>) -> Option<&'static Class> {
    object.map(Id::class)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_getName(class: &'static Class) -> *const c_char {
    class.name.as_ptr()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_getSuperclass(class: Option<&'static Class>) -> Option<&'static Class> {
    class?.superclass()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_isMetaClass(class: Option<&'static Class>) -> bool {
    class.is_some_and(Class::is_metaclass)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_getInstanceSize(class: Option<&'static Class>) -> usize {
    class.map_or(0, |class| class.instance_layout().0)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_getInstanceMethod(
    class: Option<&'static Class>,
    sel: Sel,
) -> Option<&'static Method> {
    find_method(class?, sel)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_getClassMethod(
    class: Option<&'static Class>,
    sel: Sel,
) -> Option<&'static Method> {
    find_method(class?.as_object().class(), sel)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_respondsToSelector(class: Option<&'static Class>, sel: Sel) -> bool {
    class.is_some_and(|class| find_method(class, sel).is_some())
}

/// Of this class alone: a superclass's protocols do not count, as in Objective-C.
#[unsafe(no_mangle)]
extern "C-unwind" fn class_conformsToProtocol(
    class: Option<&'static Class>,
    protocol: Option<&'static Protocol>,
) -> bool {
    class.zip(protocol).is_some_and(|(class, protocol)| class.itself_conforms_to(protocol))
}

#[unsafe(no_mangle)]
extern "C-unwind" fn class_getInstanceVariable(
    class: Option<&'static Class>,
    name: Text,
) -> Option<&'static Ivar> {
    let name = name.as_c_str();
    let own = |class: &Class| class.parts.read().ivars.iter().find(|ivar| ivar.name == name).copied();
    class?.and_superclasses().find_map(own)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn ivar_getOffset(ivar: &'static Ivar) -> isize {
    ivar.offset
}

#[unsafe(no_mangle)]
extern "C-unwind" fn ivar_getName(ivar: &'static Ivar) -> *const c_char {
    ivar.name.as_ptr()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn ivar_getTypeEncoding(ivar: &'static Ivar) -> *const c_char {
    ivar.types.as_ptr()
}

#[unsafe(no_mangle)]
extern "C-unwind" fn method_getName(method: &'static Method) -> Sel {
    method.sel
}

#[unsafe(no_mangle)]
extern "C-unwind" fn method_getTypeEncoding(method: &'static Method) -> *const c_char {
    method.types.as_ptr()
}
