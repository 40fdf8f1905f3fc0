#![expect(clippy::arc_with_non_send_sync, reason = "loom's cells are not `Sync`, nor do its threads ask")]

use super::*;
use crate::loom_tests::explore;
use loom::cell::UnsafeCell;
use loom::thread;

/// Locks in one place, so that their addresses have the same order in every run, and what each keeps apart.
struct Model {
    locks: [RangeLock; 2],
    content: [UnsafeCell<()>; 2],
}

impl Model {
    fn new() -> Arc<Self> {
        let locks = [RangeLock::new(), RangeLock::new()];
        Arc::new(Self { locks, content: [UnsafeCell::new(()), UnsafeCell::new(())] })
    }

    fn spawn(self: &Arc<Self>, work: impl FnOnce(&Self) + 'static) -> thread::JoinHandle<()> {
        let model = Arc::clone(self);
        thread::spawn(move || work(&model))
    }

    fn write(&self, which: usize) {
        self.content[which].with_mut(|_| ());
    }

    fn read(&self, which: usize) {
        self.content[which].with(|_| ());
    }

    fn write_alone(&self) {
        let id = self.locks[0].claim(0..1, Access::Write);
        self.locks[0].wait(id);
        self.write(0);
        self.locks[0].release(id);
    }

    /// From the other to `to`.
    fn copy(&self, to: usize) {
        let from = 1 - to;
        let (written, read) = RangeLock::claim_pair(
            (&self.locks[to], 0..1, Access::Write),
            (&self.locks[from], 0..1, Access::Read),
        );
        self.locks[to].wait(written);
        self.locks[from].wait(read);
        self.read(from);
        self.write(to);
        self.locks[to].release(written);
        self.locks[from].release(read);
    }

    fn check_empty(&self) {
        assert!(self.locks.iter().all(|lock| lock.0.lock().claims.is_empty()));
    }
}

/// Two threads claim what a third holds, and lets go meanwhile. A wake-up that is lost is a deadlock; two who hold it at once are
/// found by the cell.
///
/// 1,300 runs, 0.1 s.
#[test]
fn who_waits_gets_it_when_it_is_released() {
    explore(3, || {
        let model = Model::new();
        let held = model.locks[0].claim(0..1, Access::Write);
        let threads = [0, 1].map(|_| model.spawn(Model::write_alone));
        model.write(0);
        model.locks[0].release(held);
        for thread in threads {
            thread.join().expect("the thread ends");
        }
        model.check_empty();
    });
}

/// Two threads copy crosswise while a third writes one end: nobody waits for ever.
///
/// 1,100 runs, 0.1 s.
#[test]
fn copies_crosswise_do_not_wait_for_each_other() {
    explore(2, || {
        let model = Model::new();
        let crosswise = model.spawn(|model| model.copy(0));
        let writing = model.spawn(Model::write_alone);
        model.copy(1);
        crosswise.join().expect("the thread ends");
        writing.join().expect("the thread ends");
        model.check_empty();
    });
}

/// One who waits leaves the line while what it waits for is released: who is behind it is not forgotten.
///
/// 200 runs, under 0.1 s.
#[test]
fn who_leaves_the_line_forgets_nobody() {
    explore(3, || {
        let model = Model::new();
        let held = model.locks[0].claim(0..1, Access::Write);
        let leaving = model.locks[0].claim(0..1, Access::Read);
        let leaver = model.spawn(move |model| model.locks[0].release(leaving));
        let waiter = model.spawn(Model::write_alone);
        model.write(0);
        model.locks[0].release(held);
        leaver.join().expect("the thread ends");
        waiter.join().expect("the thread ends");
        model.check_empty();
    });
}
