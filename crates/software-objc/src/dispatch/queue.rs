//! Queues.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::NonNull;
use std::sync::{Once, OnceLock, mpsc};

use parking_lot::Mutex;

use super::object::{Attachment, define, destroy, fill, queue};
use super::work::{Context, Function, Work, call_block, call_function, run, start_thread};
use crate::Sel;
use crate::blocks::Block;
use crate::classes::Class;
use crate::held::Held;
use crate::objects::Id;
use crate::text::Text;

/// The class of serial queues.
pub(super) static QUEUE: Class = Class::slot(c"OS_dispatch_queue", || {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| define::<Queue>(&QUEUE, dealloc));
});

/// The class of global queues, which live for ever.
pub(super) static GLOBAL_QUEUE: Class = Class::slot_of_immortals(c"OS_dispatch_queue_global", || {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| define::<Queue>(&GLOBAL_QUEUE, dealloc));
});

/// What is in a queue's object.
pub(super) struct Queue {
    label: CString,
    attachment: Attachment,
    /// None of a global queue, which keeps nothing.
    lane: Option<Mutex<Lane>>,
}

/// The state of a serial queue.
#[derive(Default)]
struct Lane {
    /// Each piece holds the queue until it has run.
    waiting: VecDeque<(Held, Work)>,
    /// Whether there is a thread.
    running: bool,
    suspended: usize,
}

thread_local! {
    /// The queues whose work the thread is in, innermost last.
    static CURRENT: RefCell<Vec<Id>> = const { RefCell::new(Vec::new()) };
}

/// The serial queues that are alive, in the whole process. One that has work, or just had, is alive for that: see
/// [`wait_until_idle`](super::wait_until_idle).
#[must_use]
pub fn live_queues() -> usize {
    QUEUE.live()
}

impl Queue {
    pub(super) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Has the work run on the queue, after all that was submitted before. `object` is this queue's.
    pub(super) fn submit(&self, object: Id, work: Work) {
        let held = Held::new(object);
        let Some(lane) = &self.lane else {
            return start_thread(move || run_on(&held, work));
        };
        let mut lane = lane.lock();
        lane.waiting.push_back((held, work));
        lane.start_thread_if_needed(object);
    }

    pub(super) fn suspend(&self) {
        if let Some(lane) = &self.lane {
            lane.lock().suspended += 1;
        }
    }

    pub(super) fn resume(&self, object: Id) {
        let Some(lane) = &self.lane else { return };
        let mut lane = lane.lock();
        assert!(lane.suspended > 0, "dispatch_resume: the queue {:?} is not suspended", self.label);
        lane.suspended -= 1;
        lane.start_thread_if_needed(object);
    }

    /// Runs the work on the calling thread when the queue's turn has come, and waits for that.
    fn submit_and_wait(&self, object: Id, work: impl FnOnce()) {
        let own = CURRENT.with_borrow(|current| current.contains(&object));
        let held = Held::new(object);
        if self.lane.is_none() {
            return run_on(&held, work);
        }
        assert!(
            !own,
            "dispatch_sync on the queue {:?}, whose work this thread is in: it would wait for itself",
            self.label
        );
        let (turn, has_turn) = mpsc::channel();
        let (done, is_done) = mpsc::channel();
        let give_turn = move || {
            // Neither end goes before it has sent: a panic between ends the process.
            turn.send(()).expect("the caller waits");
            is_done.recv().expect("the caller tells its end");
        };
        self.submit(object, Box::new(give_turn));
        has_turn.recv().expect("the queue runs what it is given");
        run_on(&held, work);
        done.send(()).expect("the queue waits");
    }
}

impl Lane {
    fn start_thread_if_needed(&mut self, object: Id) {
        if !self.running && self.suspended == 0 && !self.waiting.is_empty() {
            self.running = true;
            let held = Held::new(object);
            start_thread(move || work_through(&held));
        }
    }

    /// The next piece of work. Without one, the thread is no longer there.
    fn next(&mut self) -> Option<(Held, Work)> {
        let next = if self.suspended == 0 { self.waiting.pop_front() } else { None };
        self.running = next.is_some();
        next
    }
}

/// What a serial queue's thread does.
fn work_through(held: &Held) {
    let queue = queue(held.id(), "dispatch queue");
    let Some(lane) = &queue.lane else { return };
    loop {
        let Some((held, work)) = lane.lock().next() else { return };
        run_on(&held, work);
    }
}

fn run_on(held: &Held, work: impl FnOnce()) {
    CURRENT.with_borrow_mut(|current| current.push(held.id()));
    run(work);
    CURRENT.with_borrow_mut(Vec::pop);
}

extern "C-unwind" fn dealloc(object: Id, _: Sel) {
    let queue = queue(object, "dealloc");
    if let Some(lane) = &queue.lane {
        let suspended = lane.lock().suspended;
        assert!(
            suspended == 0,
            "-[OS_dispatch_queue release]: {:?} is released while suspended",
            queue.label
        );
    }
    if let Some((finalizer, context)) = queue.attachment.finalizer() {
        let target = default_queue();
        super::object::queue(target, "dealloc").submit(target, call_function(finalizer, context));
    }
    destroy::<Queue>(object);
}

/// The global queue of the default quality of service.
pub(super) fn default_queue() -> Id {
    global_queue(0).expect("the default queue exists")
}

/// The global queue of this quality of service or priority, if there is such a thing.
fn global_queue(identifier: isize) -> Option<Id> {
    static QUEUES: [OnceLock<Id>; 5] = [const { OnceLock::new() }; 5];
    /// DISPATCH_QUEUE_PRIORITY_BACKGROUND.
    const BACKGROUND: isize = i16::MIN as isize;
    // The values of sys/qos.h, then the old priorities of dispatch/queue.h. An unspecified quality is the default.
    let (index, label) = match identifier {
        0x21 => (0, c"com.apple.root.user-interactive-qos"),
        0x19 | 2 => (1, c"com.apple.root.user-initiated-qos"),
        0x15 | 0 => (2, c"com.apple.root.default-qos"),
        0x11 | -2 => (3, c"com.apple.root.utility-qos"),
        0x09 | BACKGROUND => (4, c"com.apple.root.background-qos"),
        _ => return None,
    };
    let new = || {
        let object = Id::allocate(&GLOBAL_QUEUE, 0);
        fill(object, Queue { label: label.to_owned(), attachment: Attachment::new(), lane: None });
        object
    };
    Some(*QUEUES[index].get_or_init(new))
}

/// # Panics
///
/// When `attributes` are given: all queues are serial and active.
#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_queue_create(label: Option<Text>, attributes: Option<NonNull<c_void>>) -> Id {
    assert!(attributes.is_none(), "dispatch_queue_create: queues with attributes are not supported");
    let label = label.map_or_else(CString::default, |label| label.as_c_str().to_owned());
    let object = Id::create(&QUEUE, 0);
    fill(object, Queue { label, attachment: Attachment::new(), lane: Some(Mutex::default()) });
    object
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_get_global_queue(identifier: isize, flags: usize) -> Option<Id> {
    if flags == 0 { global_queue(identifier) } else { None }
}

/// The label of the queue, or of the one whose work the thread is in.
#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_queue_get_label(object: Option<Id>) -> *const c_char {
    let object = object.or_else(|| CURRENT.with_borrow(|current| current.last().copied()));
    let label = object.map(|object| queue(object, "dispatch_queue_get_label").label.as_c_str());
    label.map_or(c"".as_ptr(), CStr::as_ptr)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_async_f(object: Id, context: Context, function: Function) {
    queue(object, "dispatch_async_f").submit(object, call_function(function, context));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_async(object: Id, block: Block) {
    queue(object, "dispatch_async").submit(object, call_block(block));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_sync_f(object: Id, context: Context, function: Function) {
    queue(object, "dispatch_sync_f").submit_and_wait(object, call_function(function, context));
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_sync(object: Id, block: Block) {
    queue(object, "dispatch_sync").submit_and_wait(object, call_block(block));
}
