//! Finding the function that a message runs.

use crate::classes::{Class, Imp, Method};
use crate::counts::count_message;
use crate::objects::Id;
use crate::selectors::Sel;

/// What `objc_msg_lookup_super` is given: Objective-C's `struct objc_super`.
#[repr(C)]
struct Super {
    receiver: Option<Id>,
    superclass: &'static Class,
}

/// The method that an instance of `class` runs for `sel`: its own, or the nearest superclass's.
///
/// # Panics
///
/// When `class` is that of dead objects.
pub(crate) fn find_method(class: &'static Class, sel: Sel) -> Option<&'static Method> {
    if let Some(dead) = class.zombie_of() {
        panic!("-[{} {sel}]: message sent to deallocated instance", dead.name());
    }
    class.and_superclasses().find_map(|class| class.own_method(sel))
}

/// The method that an instance of `class` runs for `sel`.
///
/// # Panics
///
/// When there is none.
pub(crate) fn method_of(class: &'static Class, sel: Sel) -> &'static Method {
    find_method(class, sel).unwrap_or_else(|| {
        let sign = if class.is_metaclass() { '+' } else { '-' };
        panic!("{sign}[{} {sel}]: unrecognized selector", class.name())
    })
}

/// Sends a message without arguments that answers an object.
pub(crate) fn send_for_object(receiver: Id, sel: Sel) -> Option<Id> {
    method_of(receiver.class(), sel).call_for_object(receiver)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_msg_lookup(receiver: Option<Id>, sel: Sel) -> Imp {
    count_message();
    // The bindings answer a message to nil themselves.
    let Some(receiver) = receiver else { panic!("message {sel} to nil reached the runtime") };
    method_of(receiver.class(), sel).imp
}

#[unsafe(no_mangle)]
extern "C-unwind" fn objc_msg_lookup_super(target: &Super, sel: Sel) -> Imp {
    count_message();
    let receiver = target.receiver.expect("a message to super has a receiver");
    receiver.check_alive(sel);
    method_of(target.superclass, sel).imp
}
