//! Classes as a client defines and asks them.
#![cfg(not(target_vendor = "apple"))]

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::thread;

use objc2::rc::{Allocated, Retained};
use objc2::runtime::{AnyClass, AnyObject, ClassBuilder, NSObject, NSObjectProtocol, Sel};
use objc2::{AnyThread, ClassType, DefinedClass, class, define_class, extern_class, msg_send, sel};
use software_objc::{class_slot, live_of, register_slots, thread_counts};

mod common;
use common::panic_of;

/// Counts the drops of the instance variables that it is part of.
struct CountedDrop(&'static AtomicUsize);

impl Drop for CountedDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, SeqCst);
    }
}

struct ShapeIvars {
    corners: Cell<u32>,
    _drop: CountedDrop,
}

static SHAPE_DROPS: AtomicUsize = AtomicUsize::new(0);
static SQUARE_DROPS: AtomicUsize = AtomicUsize::new(0);

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "TestShape"]
    #[ivars = ShapeIvars]
    struct Shape;

    impl Shape {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Retained<Self> {
            let ivars = ShapeIvars { corners: Cell::new(3), _drop: CountedDrop(&SHAPE_DROPS) };
            // SAFETY: NSObject's init has this signature.
            unsafe { msg_send![super(this.set_ivars(ivars)), init] }
        }

        #[unsafe(method(corners))]
        fn corners(&self) -> u32 {
            self.ivars().corners.get()
        }

        #[unsafe(method(setCorners:))]
        fn set_corners(&self, corners: u32) {
            self.ivars().corners.set(corners);
        }

        #[unsafe(method(sides))]
        fn sides() -> i64 {
            2
        }
    }

    unsafe impl NSObjectProtocol for Shape {}
);

define_class!(
    #[unsafe(super(Shape))]
    #[name = "TestSquare"]
    #[ivars = (CountedDrop, Cell<u8>)]
    struct Square;

    impl Square {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Retained<Self> {
            let this = this.set_ivars((CountedDrop(&SQUARE_DROPS), Cell::new(9)));
            // SAFETY: Shape's init has this signature.
            unsafe { msg_send![super(this), init] }
        }

        #[unsafe(method(corners))]
        fn corners(&self) -> u32 {
            // SAFETY: Shape has this method.
            let inherited: u32 = unsafe { msg_send![super(self), corners] };
            inherited + 1
        }
    }
);

fn square() -> Retained<Square> {
    // SAFETY: Square's init takes nothing and answers the object.
    unsafe { msg_send![Square::alloc(), init] }
}

#[test]
fn a_subclass_has_its_own_variables_and_methods_and_those_above() {
    let square = square();
    assert_eq!(live_of("TestSquare"), 1);
    // SAFETY: the method has this signature.
    let corners = || -> u32 { unsafe { msg_send![&square, corners] } };
    assert_eq!(corners(), 4);
    // SAFETY: as above.
    let () = unsafe { msg_send![&square, setCorners: 10_u32] };
    assert_eq!(corners(), 11);
    // SAFETY: as above.
    let sides: i64 = unsafe { msg_send![Square::class(), sides] };
    assert_eq!(sides, 2);
    assert_eq!(square.ivars().1.get(), 9);
    assert!(square.isKindOfClass(Shape::class()) && square.isKindOfClass(NSObject::class()));
    assert!(square.isMemberOfClass(Square::class()) && !square.isMemberOfClass(Shape::class()));
    drop(square);
    assert_eq!((SQUARE_DROPS.load(SeqCst), SHAPE_DROPS.load(SeqCst)), (1, 1));
    assert_eq!(live_of("TestSquare"), 0);
}

#[test]
fn a_class_answers_what_it_consists_of() {
    let class = Square::class();
    assert_eq!(class.name(), c"TestSquare");
    assert_eq!(class.superclass(), Some(Shape::class()));
    assert_eq!(Shape::class().superclass(), Some(NSObject::class()));
    assert_eq!(NSObject::class().superclass(), None);
    assert_eq!(AnyClass::get(c"TestSquare"), Some(class));
    assert_eq!(AnyClass::get(c"TestNothing"), None);
    assert!(!class.is_metaclass() && class.metaclass().is_metaclass());
    assert_eq!(class.metaclass().superclass(), Some(Shape::class().metaclass()));
    assert_eq!(NSObject::class().metaclass().superclass(), Some(NSObject::class()));
    assert!(class.responds_to(sel!(setCorners:)) && !class.responds_to(sel!(setSides:)));
    assert!(class.metaclass().responds_to(sel!(sides)));
    let method = class.instance_method(sel!(setCorners:)).expect("a method");
    assert_eq!((method.name(), method.name().name()), (sel!(setCorners:), c"setCorners:"));
    assert!(class.class_method(sel!(sides)).is_some() && class.class_method(sel!(corners)).is_none());
    let size = |class: &AnyClass| class.instance_size();
    assert!(size(NSObject::class()) < size(Shape::class()) && size(Shape::class()) < size(class));
    assert!(class.verify_sel::<(), u32>(sel!(corners)).is_ok());
    assert!(class.verify_sel::<(), f32>(sel!(corners)).is_err());
}

#[test]
fn names_that_are_not_utf_8_are_names_too() {
    let name = c"Test\xff";
    assert_eq!(AnyClass::get(name), None);
    let class = ClassBuilder::new(name, NSObject::class()).expect("a new name").register();
    assert_eq!((class.name(), AnyClass::get(name)), (name, Some(class)));
    assert!(ClassBuilder::new(name, NSObject::class()).is_none(), "the name is taken");
    assert_eq!(Sel::register(name).name(), name);
    assert_ne!(Sel::register(name), sel!(hash));
}

#[test]
fn built_classes_have_variables_where_they_are_asked_for() {
    let mut builder = ClassBuilder::new(c"TestBuilt", NSObject::class()).expect("a new name");
    builder.add_ivar::<u8>(c"_small");
    builder.add_ivar::<u64>(c"_large");
    let class = builder.register();
    let offset = |name| class.instance_variable(name).expect("a variable").offset();
    assert_eq!((offset(c"_small"), offset(c"_large")), (8, 16));
    assert_eq!(class.instance_size(), 24);
    assert_eq!(class.instance_variable(c"_large").expect("a variable").name(), c"_large");
    assert!(class.instance_variable(c"_none").is_none());
    // SAFETY: `new` of an NSObject answers one.
    let object: Retained<AnyObject> = unsafe { msg_send![class, new] };
    let small = class.instance_variable(c"_small").expect("a variable");
    // SAFETY: the variable is of this type.
    assert_eq!(unsafe { *small.load::<u8>(&object) }, 0, "variables begin as zero");
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "TestSlot"]
    struct InSlot;

    impl InSlot {
        #[unsafe(method(number))]
        fn number() -> u32 {
            7
        }
    }
);

class_slot!(IN_SLOT, "TestSlot", || _ = InSlot::class());

extern_class!(
    /// The class of the slot, as a client that links against it sees it.
    #[unsafe(super(NSObject))]
    #[name = "TestSlot"]
    struct Linked;
);

#[test]
fn threads_that_use_a_slot_at_once_all_find_it_defined() {
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // SAFETY: the method takes nothing and answers this.
                let number: u32 = unsafe { msg_send![class!(TestSlot), number] };
                assert_eq!(number, 7);
            });
        }
    });
    assert!(std::ptr::addr_eq(InSlot::class(), &IN_SLOT));
    assert!(std::ptr::eq(Linked::class(), InSlot::class()));
    assert_eq!(AnyClass::get(c"TestSlot"), Some(Linked::class()));
}

class_slot!(BY_NAME, "TestByName", || {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        _ = ClassBuilder::new(c"TestByName", NSObject::class()).expect("a new name").register()
    });
});

#[test]
fn a_registered_slot_is_found_by_name() {
    assert_eq!(AnyClass::get(c"TestByName"), None);
    register_slots(&[&BY_NAME]);
    let class = AnyClass::get(c"TestByName").expect("the slot's class");
    assert!(std::ptr::addr_eq(class, &BY_NAME));
}

class_slot!(UNDEFINED, "TestUndefined", || {});

#[test]
fn a_slot_that_its_function_does_not_define_is_found_out() {
    let message = panic_of(|| {
        // SAFETY: the class does not exist, so the message panics.
        let _: Retained<AnyObject> = unsafe { msg_send![class!(TestUndefined), new] };
    });
    assert_eq!(message, "the function of the slot TestUndefined did not define the class");
    assert_eq!(UNDEFINED.name(), "TestUndefined");
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "TestNoted"]
    #[ivars = Box<u8>]
    struct Noted;

    impl Noted {
        #[unsafe(method_id(init))]
        fn init(this: Allocated<Self>) -> Retained<Self> {
            // SAFETY: NSObject's init has this signature.
            unsafe { msg_send![super(this.set_ivars(Box::new(1))), init] }
        }
    }
);

#[test]
fn a_thread_s_counts_are_its_own_and_exact() {
    let class = Noted::class();
    let before = thread_counts();
    // SAFETY: init takes nothing and answers the object.
    let object: Retained<Noted> = unsafe { msg_send![class, new] };
    let second = object.clone();
    thread::scope(|scope| _ = scope.spawn(|| drop(NSObject::new())));
    let counts = thread_counts().since(&before);
    // `new` and, from within `init`, the superclass's `init`.
    assert_eq!((counts.messages, counts.objects_made, counts.retains), (2, 1, 1));
    assert_eq!(object.ivars().as_ref(), &1);
    drop((object, second));
    // The superclass's `dealloc`; releases are no messages.
    assert_eq!(thread_counts().since(&before).messages, 3);
    assert_eq!(thread_counts().since(&before).poolless_autoreleases, 0);
}
