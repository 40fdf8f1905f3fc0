//! A queue of a device, for models: work and markers in a list, done in order by whoever runs it.

use loom::cell::UnsafeCell;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

enum Entry {
    Work(Box<dyn FnOnce()>),
    Marker(u64),
}

/// Does one thing after the other. As a backend promises, and no more: of two calls that put something in, the first
/// happens before the second, and what was done before a marker happens before whoever sees its value.
pub(crate) struct DeviceQueue {
    entries: Mutex<Vec<Entry>>,
    /// Held by who runs what is in: the device, and who waits for it.
    running: Mutex<()>,
    value: AtomicU64,
    is_eager: AtomicBool,
}

#[expect(unsafe_code, reason = "work need not be `Send`, nor do loom's threads ask")]
// SAFETY: loom's threads are one to the system, and loom looks after the order of what they do.
unsafe impl Send for DeviceQueue {}
#[expect(unsafe_code, reason = "as above")]
// SAFETY: as above.
unsafe impl Sync for DeviceQueue {}

impl DeviceQueue {
    pub(crate) fn new() -> Self {
        Self {
            entries: Mutex::new(Vec::new()),
            running: Mutex::new(()),
            value: AtomicU64::new(0),
            is_eager: AtomicBool::new(false),
        }
    }

    fn put(&self, entry: Entry) {
        self.entries.lock().expect("a panic ends the run").push(entry);
    }

    pub(crate) fn enqueue(&self, work: impl FnOnce() + 'static) {
        self.put(Entry::Work(Box::new(work)));
    }

    pub(crate) fn signal(&self, value: u64) {
        self.put(Entry::Marker(value));
        if self.is_eager.load(Ordering::Relaxed) {
            self.run();
        }
    }

    pub(crate) fn completed(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Does all that is in, and from now on everything as soon as there is a marker.
    pub(crate) fn run_from_now_on(&self) {
        self.is_eager.store(true, Ordering::Relaxed);
        self.run();
    }

    /// Does all that is in. Takes it out at once, so that the lock of those who put in does not order what they do after what
    /// the device does.
    pub(crate) fn run(&self) {
        let _one_at_a_time = self.running.lock().expect("a panic ends the run");
        let entries = std::mem::take(&mut *self.entries.lock().expect("a panic ends the run"));
        for entry in entries {
            match entry {
                Entry::Work(work) => work(),
                Entry::Marker(value) => self.value.store(value, Ordering::Release),
            }
        }
    }
}

/// Memory that work of queues uses, and the host. Loom panics unless every use happens before the next.
#[derive(Default)]
pub(crate) struct Memory {
    content: UnsafeCell<()>,
    /// How much work was given to queues and how much has run. Loom's threads are one to the system, so that `std`'s atomics
    /// say how it is, and order nothing.
    given: AtomicUsize,
    done: AtomicUsize,
}

impl Memory {
    /// Puts work into a queue that uses it.
    pub(crate) fn use_on(self: &Arc<Self>, queue: &DeviceQueue) {
        self.given.fetch_add(1, Ordering::Relaxed);
        let memory = Arc::clone(self);
        queue.enqueue(move || {
            memory.content.with_mut(|_| {});
            memory.done.fetch_add(1, Ordering::Relaxed);
        });
    }

    /// Uses it here and now, when no queue may.
    pub(crate) fn use_on_host(&self) {
        let (given, done) = (self.given.load(Ordering::Relaxed), self.done.load(Ordering::Relaxed));
        assert_eq!(given, done, "a queue has yet to use it");
        self.content.with_mut(|_| {});
    }
}
