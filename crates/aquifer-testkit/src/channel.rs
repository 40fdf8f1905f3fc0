//! A queue between threads.

use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;

/// A bounded queue of values, of which any thread may send and receive. Clones are the same queue.
///
/// The standard library's channels and contended locks wait in code that the sanitizers of ci/ have not instrumented,
/// and so look like races to them. This one is built with the tests.
#[derive(Debug)]
pub struct Channel<T>(Arc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    values: Mutex<VecDeque<T>>,
    capacity: usize,
    has_changed: Condvar,
}

impl<T> Clone for Channel<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Channel<T> {
    /// A queue that holds up to `capacity` values.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self(Arc::new(Shared { values: Mutex::default(), capacity, has_changed: Condvar::new() }))
    }

    /// Puts a value at the end. Blocks while the queue is full.
    pub fn send(&self, value: T) {
        let mut values = self.0.values.lock();
        self.0.has_changed.wait_while(&mut values, |values| values.len() >= self.0.capacity);
        values.push_back(value);
        self.0.has_changed.notify_all();
    }

    /// Takes the value at the front. Blocks while there is none.
    #[must_use]
    pub fn receive(&self) -> T {
        let mut values = self.0.values.lock();
        loop {
            if let Some(value) = values.pop_front() {
                self.0.has_changed.notify_all();
                return value;
            }
            self.0.has_changed.wait(&mut values);
        }
    }
}
