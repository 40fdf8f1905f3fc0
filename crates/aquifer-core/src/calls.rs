//! Calls of the user's code from within the core, which must not end what the core is doing.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Waker;
use tracing::error;

/// Calls the user's code. A panic ends here: it is written down as `what` having panicked, and the answer is `None`.
pub(crate) fn call<R>(what: &str, code: impl FnOnce() -> R) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(answer) => Some(answer),
        Err(panic) => {
            let message = panic_message(&*panic);
            error!(message, "{what} panicked");
            drop_panic(panic);
            None
        }
    }
}

/// Wakes all, whichever of them panics: what one executor does is not the others' fault.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    for waker in wakers {
        call("a waker", || waker.wake());
    }
}

/// What a panic says.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let owned = || panic.downcast_ref::<String>().map(String::as_str);
    panic.downcast_ref::<&str>().copied().or_else(owned).unwrap_or("no message")
}

/// Drops what was thrown, which is the user's too. If that throws again when dropped, it stays.
pub(crate) fn drop_panic(panic: Box<dyn Any + Send>) {
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(panic))) {
        std::mem::forget(again);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::task::Wake;

    struct Rings(AtomicU32, bool);

    impl Wake for Rings {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
            assert!(!self.1, "this waker panics, as it should");
        }
    }

    #[test]
    fn one_waker_that_panics_keeps_nobody_from_being_woken() {
        let bells = [false, true, false, true].map(|panics| Arc::new(Rings(AtomicU32::new(0), panics)));
        wake_all(bells.iter().map(|bell| Arc::clone(bell).into()));
        assert!(bells.iter().all(|bell| bell.0.load(Ordering::Relaxed) == 1));
    }
}
