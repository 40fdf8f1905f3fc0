//! What the test files share.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The message that `action` panics with.
#[allow(dead_code, reason = "not every test file has a panic")]
pub(crate) fn panic_of(action: impl FnOnce()) -> String {
    let payload: Box<dyn Any + Send> = catch_unwind(AssertUnwindSafe(action)).expect_err("a panic");
    match payload.downcast::<String>() {
        Ok(message) => *message,
        Err(payload) => (*payload.downcast::<&str>().expect("a panic with a message")).to_owned(),
    }
}

/// Defines a class without anything of its own, so that its live instances are one test's alone.
#[allow(unused_macros, reason = "not every test file needs classes")]
macro_rules! plain_class {
    ($type:ident, $name:literal) => {
        define_class!(
            #[unsafe(super(NSObject))]
            #[name = $name]
            struct $type;
            unsafe impl NSObjectProtocol for $type {}
        );

        impl $type {
            fn new() -> Retained<Self> {
                // SAFETY: NSObject's `new` answers an object of the class.
                unsafe { msg_send![Self::class(), new] }
            }
        }
    };
}

#[allow(unused_imports, reason = "as above")]
pub(crate) use plain_class;
