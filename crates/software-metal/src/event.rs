//! Values that rise, and who waits for them.

use crate::bell::Bell;
use parking_lot::{Condvar, Mutex};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What is to be done once a value is reached. It gets the value.
pub(crate) type Listener = Box<dyn FnOnce(u64) + Send>;

#[derive(Default)]
struct Inner {
    value: u64,
    bells: Vec<Weak<Bell>>,
    listeners: Vec<(u64, Listener)>,
}

/// The value behind events, fences and the ends of passes.
#[derive(Default)]
pub(crate) struct Event {
    inner: Mutex<Inner>,
    changed: Condvar,
}

impl Event {
    pub(crate) fn value(&self) -> u64 {
        self.inner.lock().value
    }

    /// Raises the value; a lower one changes nothing.
    pub(crate) fn signal(&self, value: u64) {
        let (bells, due) = {
            let mut inner = self.inner.lock();
            if value <= inner.value {
                return;
            }
            inner.value = value;
            let due: Vec<_> = inner.listeners.extract_if(.., |(awaited, _)| *awaited <= value).collect();
            (std::mem::take(&mut inner.bells), due)
        };
        self.changed.notify_all();
        bells.iter().filter_map(Weak::upgrade).for_each(|bell| bell.ring());
        for (awaited, listener) in due {
            call_listener(awaited, listener);
        }
    }

    /// Waits on the host. Whether the value has been reached within `limit`; without a limit for ever.
    pub(crate) fn wait(&self, value: u64, limit: Option<Duration>) -> bool {
        let end = limit.and_then(|limit| Instant::now().checked_add(limit));
        let mut inner = self.inner.lock();
        while inner.value < value {
            match end {
                Some(end) if self.changed.wait_until(&mut inner, end).timed_out() => {
                    return inner.value >= value;
                }
                Some(_) => {}
                None => self.changed.wait(&mut inner),
            }
        }
        true
    }

    /// `bell` rings when the value next changes. Whether the value has been reached already.
    pub(crate) fn watch(&self, value: u64, bell: &Arc<Bell>) -> bool {
        let mut inner = self.inner.lock();
        let reached = inner.value >= value;
        if !reached && !inner.bells.iter().any(|other| std::ptr::eq(other.as_ptr(), Arc::as_ptr(bell))) {
            inner.bells.push(Arc::downgrade(bell));
        }
        reached
    }

    /// `listener` is called once, on a thread of its own, when `value` is reached.
    pub(crate) fn listen(&self, value: u64, listener: Listener) {
        {
            let mut inner = self.inner.lock();
            if inner.value < value {
                inner.listeners.push((value, listener));
                return;
            }
        }
        call_listener(value, listener);
    }
}

fn call_listener(value: u64, listener: Listener) {
    let call = move || objc2::rc::autoreleasepool(|_| listener(value));
    std::thread::Builder::new().name("metal-listener".into()).spawn(call).expect("a thread for a listener");
}
