//! Sources that tell of memory pressure.

use std::ptr::NonNull;
use std::sync::Once;

use parking_lot::Mutex;

use super::object::{Attachment, define, destroy, fill, queue, source};
use super::queue::default_queue;
use super::work::{Context, Function, call_function};
use crate::Sel;
use crate::blocks::{Block, HeldBlock};
use crate::classes::Class;
use crate::held::Held;
use crate::objects::Id;

/// How short of memory the system is, by the values of dispatch/source.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum MemoryPressure {
    /// No longer short: `DISPATCH_MEMORYPRESSURE_NORMAL`.
    Normal = 1,
    /// Getting short: `DISPATCH_MEMORYPRESSURE_WARN`.
    Warn = 2,
    /// Very short: `DISPATCH_MEMORYPRESSURE_CRITICAL`.
    Critical = 4,
}

impl MemoryPressure {
    const ALL: usize = Self::Normal as usize | Self::Warn as usize | Self::Critical as usize;
}

/// What kinds of sources are told apart by: the address.
#[repr(C)]
struct SourceType(usize);

#[unsafe(no_mangle)]
static _dispatch_source_type_memorypressure: SourceType = SourceType(MemoryPressure::ALL);

/// The class of sources.
pub(super) static SOURCE: Class = Class::slot(c"OS_dispatch_source", || {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| define::<Source>(&SOURCE, dealloc));
});

/// All sources that are alive; a source leaves when it is deallocated.
static SOURCES: Mutex<Vec<Id>> = Mutex::new(Vec::new());

/// What is in a source's object.
pub(super) struct Source {
    target: Held,
    mask: usize,
    attachment: Attachment,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    active: bool,
    suspended: usize,
    cancelled: bool,
    /// Whether the cancellation is over: the handlers are gone.
    finished: bool,
    /// Whether a piece of work on the target queue waits or runs.
    queued: bool,
    /// What happened since the last delivery.
    pending: usize,
    /// What the last delivery told.
    data: usize,
    on_event: Option<Handler>,
    on_cancel: Option<Handler>,
}

#[derive(Clone)]
enum Handler {
    Block(HeldBlock),
    /// A function and its context; without one it gets the source's at the time of the call.
    Function(Function, Option<Context>),
}

/// The sources that are alive, in the whole process. One that has an event to deliver is alive for that: see
/// [`wait_until_idle`](super::wait_until_idle).
#[must_use]
pub fn live_sources() -> usize {
    SOURCE.live()
}

/// Tells each active source of the process whose mask has this level. Their handlers run on their queues, later.
pub fn raise_memory_pressure(level: MemoryPressure) {
    let alive: Vec<Held> = SOURCES.lock().iter().filter_map(|source| Held::try_new(*source)).collect();
    for held in &alive {
        source(held.id(), "memory pressure").tell(held.id(), level as usize);
    }
}

impl Source {
    pub(super) fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    pub(super) fn activate(&self, object: Id) {
        let mut state = self.state.lock();
        state.active = true;
        self.queue_if_needed(object, &mut state);
    }

    pub(super) fn suspend(&self) {
        self.state.lock().suspended += 1;
    }

    pub(super) fn resume(&self, object: Id) {
        let mut state = self.state.lock();
        if state.suspended > 0 {
            state.suspended -= 1;
        } else {
            assert!(!state.active, "dispatch_resume: the source is neither suspended nor inactive");
            state.active = true;
        }
        self.queue_if_needed(object, &mut state);
    }

    fn tell(&self, object: Id, level: usize) {
        let mut state = self.state.lock();
        if state.active && !state.cancelled && self.mask & level != 0 {
            state.pending |= level;
            self.queue_if_needed(object, &mut state);
        }
    }

    fn cancel(&self, object: Id) {
        let mut state = self.state.lock();
        state.cancelled = true;
        self.queue_if_needed(object, &mut state);
    }

    /// Has the target queue call a handler, unless it is about to anyway.
    fn queue_if_needed(&self, object: Id, state: &mut State) {
        if state.queued || !state.may_call() {
            return;
        }
        state.queued = true;
        let held = Held::new(object);
        let deliver = move || source(held.id(), "dispatch source").deliver(held.id());
        let target = self.target.id();
        queue(target, "dispatch source").submit(target, Box::new(deliver));
    }

    /// Runs on the target queue: calls a handler, and has it called again where more has happened meanwhile.
    fn deliver(&self, object: Id) {
        self.call_handler();
        let mut state = self.state.lock();
        state.queued = false;
        self.queue_if_needed(object, &mut state);
    }

    /// The handlers are called and dropped without the lock, for they may use the source.
    fn call_handler(&self) {
        let mut state = self.state.lock();
        if !state.may_call() {
            return; // Suspended after it was queued.
        }
        if state.cancelled {
            state.finished = true;
            let (on_event, on_cancel) = (state.on_event.take(), state.on_cancel.take());
            drop(state);
            if let Some(handler) = on_cancel {
                handler.call(self.attachment.context());
            }
            return drop(on_event);
        }
        state.data = std::mem::take(&mut state.pending);
        let on_event = state.on_event.clone();
        drop(state);
        if let Some(handler) = on_event {
            handler.call(self.attachment.context());
        }
    }

    fn set_handler(&self, place: impl FnOnce(&mut State) -> &mut Option<Handler>, handler: Option<Handler>) {
        let mut state = self.state.lock();
        let old = if state.finished { handler } else { std::mem::replace(place(&mut state), handler) };
        // Dropping a handler may run the client's code.
        drop(state);
        drop(old);
    }

    fn set_block(&self, place: impl FnOnce(&mut State) -> &mut Option<Handler>, block: Option<Block>) {
        self.set_handler(place, block.map(|block| Handler::Block(HeldBlock::new(block))));
    }
}

impl State {
    /// Whether there is something to call a handler for, and it may be called.
    fn may_call(&self) -> bool {
        let cause = if self.cancelled { !self.finished } else { self.pending != 0 };
        cause && self.active && self.suspended == 0
    }
}

impl Handler {
    fn call(&self, context: Context) {
        match self {
            Self::Block(block) => block.call(),
            Self::Function(function, own) => function(own.unwrap_or(context)),
        }
    }
}

extern "C-unwind" fn dealloc(object: Id, _: Sel) {
    SOURCES.lock().retain(|source| *source != object);
    let source = source(object, "dealloc");
    let state = source.state.lock();
    assert!(state.active, "-[OS_dispatch_source release]: the source is released while inactive");
    assert!(state.suspended == 0, "-[OS_dispatch_source release]: the source is released while suspended");
    drop(state);
    if let Some((finalizer, context)) = source.attachment.finalizer() {
        let target = source.target.id();
        queue(target, "dealloc").submit(target, call_function(finalizer, context));
    }
    destroy::<Source>(object);
}

/// Nil for another type, a handle, and a mask that is empty or has unknown levels, as in libdispatch.
#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_create(
    kind: Option<NonNull<SourceType>>,
    handle: usize,
    mask: usize,
    target: Option<Id>,
) -> Option<Id> {
    let memory_pressure = NonNull::from(&_dispatch_source_type_memorypressure);
    if kind != Some(memory_pressure) || handle != 0 || mask == 0 || mask & !MemoryPressure::ALL != 0 {
        return None;
    }
    let target = target.unwrap_or_else(default_queue);
    queue(target, "dispatch_source_create");
    let object = Id::create(&SOURCE, 0);
    let target = Held::new(target);
    fill(object, Source { target, mask, attachment: Attachment::new(), state: Mutex::default() });
    SOURCES.lock().push(object);
    Some(object)
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_set_event_handler(object: Id, block: Option<Block>) {
    source(object, "dispatch_source_set_event_handler").set_block(|state| &mut state.on_event, block);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_set_event_handler_f(object: Id, function: Option<Function>) {
    let source = source(object, "dispatch_source_set_event_handler_f");
    let context = source.attachment.context();
    let handler = function.map(|function| Handler::Function(function, Some(context)));
    source.set_handler(|state| &mut state.on_event, handler);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_set_cancel_handler(object: Id, block: Option<Block>) {
    source(object, "dispatch_source_set_cancel_handler").set_block(|state| &mut state.on_cancel, block);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_set_cancel_handler_f(object: Id, function: Option<Function>) {
    let handler = function.map(|function| Handler::Function(function, None));
    source(object, "dispatch_source_set_cancel_handler_f").set_handler(|state| &mut state.on_cancel, handler);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_cancel(object: Id) {
    source(object, "dispatch_source_cancel").cancel(object);
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_testcancel(object: Id) -> isize {
    source(object, "dispatch_source_testcancel").state.lock().cancelled.into()
}

/// Such sources have no handle.
#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_get_handle(object: Id) -> usize {
    source(object, "dispatch_source_get_handle");
    0
}

#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_get_mask(object: Id) -> usize {
    source(object, "dispatch_source_get_mask").mask
}

/// What the running handler was called for.
#[unsafe(no_mangle)]
extern "C-unwind" fn dispatch_source_get_data(object: Id) -> usize {
    source(object, "dispatch_source_get_data").state.lock().data
}
