//! Models of the argument in the module's text: who reads the next value after enqueuing work is not told too early that
//! the work is over.
#![expect(clippy::arc_with_non_send_sync, reason = "loom's cells are not `Sync`, nor do its threads ask")]

use super::*;
use crate::loom_tests::device::{DeviceQueue, Memory};
use crate::loom_tests::explore;
use loom::sync::Mutex;
use loom::thread;
use std::sync::Arc;

struct Model {
    queue: DeviceQueue,
    timeline: Timeline,
    /// Signals are given by one thread at a time.
    signal: Mutex<()>,
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self { queue: DeviceQueue::new(), timeline: Timeline::default(), signal: Mutex::new(()) })
    }

    fn spawn<R: 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> R + 'static) -> thread::JoinHandle<R> {
        let model = Arc::clone(self);
        thread::spawn(move || work(&model))
    }

    fn signal(&self) {
        let _one_at_a_time = self.signal.lock().expect("a panic ends the run");
        self.queue.signal(self.timeline.claim());
    }

    /// Enqueues work on new memory and frees the memory at once: up to which value it is bound.
    fn use_and_free(&self) -> (Arc<Memory>, u64) {
        let memory = Arc::new(Memory::default());
        memory.use_on(&self.queue);
        (memory, self.timeline.next_value())
    }

    fn look(&self) {
        self.timeline.reach(self.queue.completed());
    }

    /// Uses the memory again if the queue is known to have passed what it is bound to.
    fn use_again(&self, (memory, bound): &(Arc<Memory>, u64)) -> bool {
        let is_passed = self.timeline.completed() >= *bound;
        if is_passed {
            memory.use_on_host();
        }
        is_passed
    }
}

/// A thread enqueues work, frees its memory, and uses it again if it may. Another puts a marker in meanwhile, and a third is
/// the device, and looks how far the queue is. The memory is used again only after the work has run; and one marker more
/// is enough for that.
///
/// Bound up to what is claimed, not to the next value, the memory is used before the device uses it.
///
/// 1,100 runs, 0.1 s.
#[test]
fn memory_is_used_again_only_after_the_work() {
    explore(3, || {
        let model = Model::new();
        let signaller = model.spawn(Model::signal);
        let device = model.spawn(|model| {
            model.queue.run();
            model.look();
        });
        let user = model.spawn(|model| {
            let freed = model.use_and_free();
            model.use_again(&freed);
            freed
        });
        let freed = user.join().expect("the user ends");
        signaller.join().expect("the signaller ends");
        device.join().expect("the device ends");
        model.signal();
        model.queue.run();
        model.look();
        assert!(model.use_again(&freed), "a marker after the work is enough");
    });
}

/// The same with two who signal, the user among them, and memory that goes through a lock to another thread, as places do.
///
/// 770 runs, 0.1 s.
#[test]
fn memory_that_is_handed_over_is_used_only_after_the_work() {
    explore(2, || {
        let model = Model::new();
        let handed_over = Arc::new(Mutex::new(None));
        let user = model.spawn({
            let handed_over = Arc::clone(&handed_over);
            move |model| {
                let freed = model.use_and_free();
                *handed_over.lock().expect("a panic ends the run") = Some(freed);
                model.signal();
            }
        });
        let signaller = model.spawn(Model::signal);
        let device = model.spawn(|model| {
            model.queue.run();
            model.queue.run();
        });
        model.look();
        let take = || handed_over.lock().expect("a panic ends the run").take();
        let seen = take();
        if let Some(freed) = &seen {
            model.use_again(freed);
        }
        for other in [user, signaller, device] {
            other.join().expect("the others end");
        }
        model.queue.run();
        model.look();
        let freed = seen.or_else(take).expect("it was handed over");
        assert!(model.use_again(&freed), "a marker after the work is enough");
    });
}
