//! What callbacks may do, and what becomes of it.

use super::*;
use parking_lot::Mutex as TestMutex;
use std::sync::Barrier;

/// What the callbacks of a test wrote down, in order.
type Log = Arc<TestMutex<Vec<&'static str>>>;

fn write(log: &Log, word: &'static str) -> impl Fn(&ReclaimRequest) + Send + Sync + 'static {
    let log = Arc::clone(log);
    move |_| log.lock().push(word)
}

fn read(log: &Log) -> Vec<&'static str> {
    std::mem::take(&mut log.lock())
}

fn run_all(hooks: &ReclaimHooks) -> Vec<i32> {
    std::iter::successors(hooks.run_next(None, 1, 0), |&after| hooks.run_next(Some(after), 1, 0)).collect()
}

#[test]
fn priorities_rise_and_equals_follow_their_registration() {
    let (hooks, log) = (ReclaimHooks::new(), Log::default());
    assert_eq!(run_all(&hooks), []);
    let kept = [(5, "c"), (i32::MIN, "a"), (5, "d"), (0, "b"), (i32::MAX, "e")]
        .map(|(priority, word)| hooks.register(priority, write(&log, word)));
    assert_eq!(hooks.run_next(Some(0), 1, 0), Some(5));
    assert_eq!(read(&log), ["c", "d"]);
    assert_eq!(run_all(&hooks), [i32::MIN, 0, 5, i32::MAX]);
    assert_eq!(read(&log), ["a", "b", "c", "d", "e"]);
    assert_eq!((hooks.calls(), hooks.panics()), (7, 0));
    drop(kept);
    assert!(hooks.is_empty());
    assert_eq!(run_all(&hooks), []);
}

#[test]
fn a_callback_is_told_what_is_needed() {
    let (hooks, told) = (ReclaimHooks::new(), Arc::new(TestMutex::new(None)));
    let _hook = hooks.register(-3, {
        let told = Arc::clone(&told);
        move |request| *told.lock() = Some(request.clone())
    });
    assert_eq!(hooks.run_next(None, 1 << 20, 2), Some(-3));
    let expected = ReclaimRequest { needed_bytes: 1 << 20, heap_index: 2, priority: -3 };
    assert_eq!(*told.lock(), Some(expected));
}

#[test]
fn panics_are_counted_and_end_there() {
    /// Throws again when it is dropped.
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("thrown by what was thrown, as the test wants");
        }
    }
    let (hooks, log) = (ReclaimHooks::new(), Log::default());
    let _kept = [
        hooks.register(0, |_| panic!("thrown by a callback, as the test wants")),
        hooks.register(0, |_| std::panic::panic_any(Bomb)),
        hooks.register(0, write(&log, "after")),
    ];
    for round in 1..=2 {
        assert_eq!(run_all(&hooks), [0]);
        assert_eq!(read(&log), ["after"]);
        assert_eq!((hooks.calls(), hooks.panics()), (round * 3, round * 2));
    }
}

#[test]
fn a_callback_may_unregister_itself_and_others() {
    let (hooks, log) = (ReclaimHooks::new(), Log::default());
    let own: Arc<TestMutex<Vec<ReclaimHook>>> = Arc::default();
    let first = hooks.register(0, {
        let (own, log) = (Arc::clone(&own), Log::clone(&log));
        move |_| {
            let dropped = std::mem::take(&mut *own.lock());
            drop(dropped);
            log.lock().push("first");
        }
    });
    let second = hooks.register(0, write(&log, "second"));
    let third = hooks.register(0, write(&log, "third"));
    own.lock().extend([first, second]);
    assert_eq!(run_all(&hooks), [0]);
    assert_eq!(read(&log), ["first", "third"]);
    assert_eq!(Arc::strong_count(&own), 1, "the callback has been dropped with what it owned");
    drop(third);
    assert!(hooks.is_empty());
}

#[test]
fn a_callback_may_register_others_which_run_the_next_time() {
    let (hooks, log) = (ReclaimHooks::new(), Log::default());
    let added: Arc<TestMutex<Vec<ReclaimHook>>> = Arc::default();
    let _first = hooks.register(0, {
        let (hooks, log, added) = (Arc::downgrade(&hooks), Log::clone(&log), Arc::clone(&added));
        move |_| {
            let hook = hooks.upgrade().expect("the test holds it").register(0, write(&log, "added"));
            added.lock().push(hook);
        }
    });
    assert_eq!(hooks.run_next(None, 1, 0), Some(0));
    assert_eq!(read(&log), [""; 0]);
    assert_eq!(hooks.run_next(None, 1, 0), Some(0));
    assert_eq!(read(&log), ["added"]);
}

#[test]
fn a_callback_leads_to_no_callback_of_any_manager() {
    let (hooks, others, log) = (ReclaimHooks::new(), ReclaimHooks::new(), Log::default());
    let _other = others.register(0, write(&log, "other"));
    let _hook = hooks.register(0, {
        let (hooks, others) = (Arc::downgrade(&hooks), Arc::clone(&others));
        move |_| {
            let hooks = hooks.upgrade().expect("the test holds it");
            assert_eq!((hooks.run_next(None, 1, 0), others.run_next(None, 1, 0)), (None, None));
        }
    });
    assert_eq!(run_all(&hooks), [0]);
    assert_eq!((hooks.calls(), hooks.panics(), others.calls()), (1, 0, 0));
    assert_eq!(run_all(&others), [0], "it does once the callback has ended");
    assert_eq!(read(&log), ["other"]);
}

#[test]
fn what_one_thread_runs_others_skip() {
    let (hooks, log, gate) = (ReclaimHooks::new(), Log::default(), Arc::new(Barrier::new(2)));
    let slow = hooks.register(0, {
        let gate = Arc::clone(&gate);
        move |_| {
            gate.wait();
            gate.wait();
        }
    });
    let _quick = hooks.register(0, write(&log, "quick"));
    std::thread::scope(|scope| {
        let running = scope.spawn(|| hooks.run_next(None, 1, 0));
        gate.wait();
        assert_eq!(hooks.run_next(None, 1, 0), Some(0));
        assert_eq!(read(&log), ["quick"]);
        drop(slow);
        gate.wait();
        assert_eq!(running.join().expect("the other thread ends"), Some(0));
    });
    assert_eq!(Arc::strong_count(&gate), 1, "the callback went when it had ended");
    assert_eq!(hooks.calls(), 3);
}

#[test]
fn a_callback_may_panic_when_it_is_dropped() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("thrown by a dropped callback, as the test wants");
        }
    }
    let (hooks, bomb) = (ReclaimHooks::new(), Bomb);
    let own: Arc<TestMutex<Option<ReclaimHook>>> = Arc::default();
    let hook = hooks.register(0, {
        let own = Arc::clone(&own);
        move |_| {
            let _ = &bomb;
            let dropped = own.lock().take();
            drop(dropped);
        }
    });
    *own.lock() = Some(hook);
    assert_eq!(run_all(&hooks), [0]);
    assert_eq!((hooks.calls(), hooks.panics()), (1, 1));
    assert!(hooks.is_empty());
}

#[test]
fn a_hook_may_outlive_the_manager() {
    let (hooks, owned) = (ReclaimHooks::new(), Arc::new(()));
    let hook = hooks.register(0, {
        let owned = Arc::clone(&owned);
        move |_| _ = &owned
    });
    drop(hooks);
    assert_eq!(Arc::strong_count(&owned), 1);
    drop(hook);
}
