//! Models of the line: no notice is lost, whatever waiters do meanwhile.

use super::*;
use crate::loom_tests::explore;
use crate::sync::LightFence;
use loom::sync::Notify;
use loom::thread;
use std::sync::Arc;
use std::task::Wake;

/// Wakes a thread of the model. Who waits for a bell that nobody rings is a deadlock, which loom reports.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.notify();
    }
}

/// Memory of which units are freed by one thread and taken by others.
struct Model {
    waiters: Waiters,
    freed: AtomicUsize,
    taken: AtomicUsize,
}

impl Model {
    fn new() -> Arc<Self> {
        Arc::new(Self { waiters: Waiters::new(1), freed: AtomicUsize::new(0), taken: AtomicUsize::new(0) })
    }

    fn spawn<R: 'static>(self: &Arc<Self>, work: impl FnOnce(&Self) -> R + 'static) -> thread::JoinHandle<R> {
        let model = Arc::clone(self);
        thread::spawn(move || work(&model))
    }

    /// Called by one thread only. Relaxed: the fence alone orders it before the question whether anybody waits.
    fn free(&self) {
        self.freed.store(self.freed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        LightFence::new().pass();
        self.waiters.notify();
    }

    /// Takes a unit if there is one; answers how many were taken before.
    fn take(&self) -> Option<usize> {
        let freed = self.freed.load(Ordering::Relaxed);
        let raise = |taken: usize| (taken < freed).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise).ok()
    }

    /// Waits for a unit; answers how many were taken before.
    fn wait(&self, id: WaiterId) -> usize {
        let bell = Arc::new(Bell(Notify::new()));
        let waker = Arc::clone(&bell).into();
        loop {
            if self.waiters.poll_turn(id, 0, &waker) {
                if let Some(taken) = self.take() {
                    self.waiters.leave(id);
                    return taken;
                }
                if !self.waiters.rest(id) {
                    continue;
                }
            }
            bell.0.wait();
        }
    }
}

/// A thread frees one unit while another joins, tries, rests and waits for it.
///
/// 286 runs, under 0.1 s.
#[test]
fn a_notice_reaches_who_joins_meanwhile() {
    explore(3, || {
        let model = Model::new();
        let freeing = model.spawn(Model::free);
        model.wait(model.waiters.join(None));
        freeing.join().expect("the freeing thread ends");
        assert!(model.waiters.is_empty());
    });
}

/// The same, but the waiter had stepped aside, with the line empty without it, and comes back.
///
/// 81 runs, under 0.1 s.
#[test]
fn a_notice_reaches_who_comes_back_meanwhile() {
    explore(3, || {
        let model = Model::new();
        let id = model.waiters.join(None);
        model.waiters.tick(0);
        model.waiters.tick(1);
        assert!(model.waiters.is_empty(), "it is aside");
        let freeing = model.spawn(Model::free);
        model.wait(id);
        freeing.join().expect("the freeing thread ends");
    });
}

/// Two units are freed while two threads wait: both are served, the first in line first.
///
/// 30,000 runs, 4 s.
#[test]
fn two_waiters_are_served_in_order() {
    explore(2, || {
        let model = Model::new();
        let (first, second) = (model.waiters.join(None), model.waiters.join(None));
        let waiting = model.spawn(move |model| model.wait(second));
        let freeing = model.spawn(|model| {
            model.free();
            model.free();
        });
        assert_eq!(model.wait(first), 0);
        assert_eq!(waiting.join().expect("the waiting thread ends"), 1);
        freeing.join().expect("the freeing thread ends");
    });
}

/// One unit is freed while the first in line gives up: the second gets it, whichever of the two was told.
///
/// 16,000 runs, 2 s.
#[test]
fn who_leaves_passes_its_turn_on() {
    explore(3, || {
        let model = Model::new();
        let (first, second) = (model.waiters.join(None), model.waiters.join(None));
        let waiting = model.spawn(move |model| model.wait(second));
        let freeing = model.spawn(Model::free);
        let silent = Arc::new(Bell(Notify::new()));
        if model.waiters.poll_turn(first, 0, &silent.into()) {
            let _ = model.waiters.rest(first);
        }
        model.waiters.leave(first);
        waiting.join().expect("the waiting thread ends");
        freeing.join().expect("the freeing thread ends");
        assert!(model.waiters.is_empty());
    });
}

/// One unit is freed while the first in line, which never answers, is made to step aside: the second gets it.
///
/// 11,000 runs, 2 s.
#[test]
fn who_steps_aside_passes_its_turn_on() {
    explore(3, || {
        let model = Model::new();
        let (_silent, second) = (model.waiters.join(None), model.waiters.join(None));
        let waiting = model.spawn(move |model| model.wait(second));
        let freeing = model.spawn(Model::free);
        model.waiters.tick(0);
        model.waiters.tick(1);
        waiting.join().expect("the waiting thread ends");
        freeing.join().expect("the freeing thread ends");
        assert!(model.waiters.is_empty(), "who is aside does not count");
    });
}
