//! Protocols that a client builds and adopts.
#![cfg(not(target_vendor = "apple"))]

use objc2::runtime::{AnyProtocol, ClassBuilder, NSObject, NSObjectProtocol, ProtocolBuilder};
use objc2::{ClassType, ProtocolType, sel};
use software_objc as _;

#[test]
fn a_class_conforms_to_what_it_and_its_superclasses_adopt() {
    let mut builder = ProtocolBuilder::new(c"TestBase").expect("a new name");
    builder.add_method_description::<(), ()>(sel!(base), true);
    let base = builder.register();
    let mut builder = ProtocolBuilder::new(c"TestDerived").expect("a new name");
    builder.add_protocol(base);
    let derived = builder.register();
    assert!(derived.conforms_to(base) && !base.conforms_to(derived) && base.conforms_to(base));
    assert!(ProtocolBuilder::new(c"TestBase").is_none(), "the name is taken");

    let mut builder = ClassBuilder::new(c"TestAdopter", NSObject::class()).expect("a new name");
    assert!(
        builder.add_protocol(derived) && !builder.add_protocol(base),
        "the derived protocol includes the base"
    );
    let class = builder.register();
    assert!(class.conforms_to(base) && class.conforms_to(derived));

    let child = ClassBuilder::new(c"TestAdopterChild", class).expect("a new name").register();
    assert!(!child.conforms_to(base), "as Objective-C's function, without superclasses");
    // SAFETY: NSObject's `new` answers an object of the class.
    let object: objc2::rc::Retained<NSObject> = unsafe { objc2::msg_send![child, new] };
    // SAFETY: the method has this signature.
    let conforms: bool = unsafe { objc2::msg_send![&object, conformsToProtocol: base] };
    assert!(conforms, "the method looks at superclasses");
}

#[test]
fn a_protocol_tells_its_name_and_is_found_by_it() {
    let protocol = ProtocolBuilder::new(c"TestNamed").expect("a new name").register();
    assert_eq!((protocol.name(), AnyProtocol::get(c"TestNamed")), (c"TestNamed", Some(protocol)));
    assert_eq!(AnyProtocol::get(c"TestNobody"), None);
    let object = <dyn NSObjectProtocol>::protocol().expect("NSObject's protocol");
    assert_eq!(object.name(), c"NSObject");
    assert!(NSObject::class().conforms_to(object) && object != protocol);
}

#[test]
fn a_protocol_is_an_object_that_never_dies() {
    let protocol = ProtocolBuilder::new(c"TestImmortal").expect("a new name").register();
    let object: *mut objc2::runtime::AnyObject = std::ptr::from_ref(protocol).cast_mut().cast();
    for _ in 0..2 {
        // SAFETY: what never dies may be released any number of times.
        unsafe { objc2::ffi::objc_release(object) };
    }
    // SAFETY: it is an object.
    assert_eq!(unsafe { &*object }.class().name(), c"Protocol");
}
