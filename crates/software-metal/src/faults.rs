//! What tests may do to a device.

use crate::bell::Bell;
use crate::desc::DeviceDesc;
use crate::purge::Purgeable;
use objc2_metal::MTLCommandBufferError;
use parking_lot::Mutex;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// A call that may answer nil.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// `-[MTLDevice newHeapWithDescriptor:]`
    NewHeap,
    /// `-[MTLDevice newBufferWithLength:options:]` and `newBufferWithBytes:length:options:`
    NewBuffer,
    /// `-[MTLHeap newBufferWithLength:options:]`, with an offset or without
    NewBufferOnHeap,
    /// `-[MTLDevice newBufferWithBytesNoCopy:length:options:deallocator:]`
    NewBufferNoCopy,
    /// `-[MTLDevice newBufferWithLength:options:placementSparsePageSize:]`
    NewSparseBuffer,
    /// `-[MTLDevice newCommandQueue]` and its variants
    NewCommandQueue,
    /// `-[MTLCommandQueue commandBuffer]` and its variants
    NewCommandBuffer,
    /// `-[MTLCommandBuffer blitCommandEncoder]`
    NewBlitEncoder,
    /// `-[MTLDevice newSharedEvent]`, `newEvent` and `newFence`
    NewSharedEvent,
    /// `-[MTLDevice newResidencySetWithDescriptor:error:]`
    NewResidencySet,
    /// `-[MTLDevice newMTL4CommandQueue]`
    NewMtl4Queue,
    /// `-[MTLBuffer newRemoteBufferViewForDevice:]`
    NewRemoteView,
}

#[derive(Debug, Default)]
struct Plans {
    /// Calls that fail, and how many of their kind go before.
    once: Vec<(Call, u64)>,
    always: Vec<Call>,
    /// Codes with which command buffers end, and how many commits go before.
    command_buffers: Vec<(u64, MTLCommandBufferError)>,
}

/// What is held back, and whom to wake when it no longer is.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    execution: AtomicUsize,
    handlers: AtomicUsize,
    bells: Mutex<Vec<Weak<Bell>>>,
}

impl Gates {
    pub(crate) fn execution_is_held(&self) -> bool {
        self.execution.load(Ordering::SeqCst) > 0
    }

    pub(crate) fn handlers_are_held(&self) -> bool {
        self.handlers.load(Ordering::SeqCst) > 0
    }

    /// `bell` is to ring whenever something is let go.
    pub(crate) fn attach(&self, bell: &Arc<Bell>) {
        let mut bells = self.bells.lock();
        bells.retain(|bell| bell.strong_count() > 0);
        bells.push(Arc::downgrade(bell));
    }

    fn ring(&self) {
        let bells = self.bells.lock().clone();
        bells.iter().filter_map(Weak::upgrade).for_each(|bell| bell.ring());
    }
}

#[derive(Clone, Copy, Debug)]
enum Held {
    Execution,
    Handlers,
}

/// Holds something of a device back until it is dropped. Several add up.
#[must_use = "what is held is let go when this is dropped"]
#[derive(Debug)]
pub struct Hold {
    gates: Arc<Gates>,
    held: Held,
}

impl Hold {
    fn new(gates: &Arc<Gates>, held: Held) -> Self {
        let hold = Self { gates: Arc::clone(gates), held };
        hold.count().fetch_add(1, Ordering::SeqCst);
        hold
    }

    fn count(&self) -> &AtomicUsize {
        match self.held {
            Held::Execution => &self.gates.execution,
            Held::Handlers => &self.gates.handlers,
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.count().fetch_sub(1, Ordering::SeqCst);
        self.gates.ring();
    }
}

/// A device's faults. All may be used from any thread at any time.
pub struct Faults {
    plans: Mutex<Plans>,
    removed: AtomicBool,
    working_set: AtomicU64,
    memory: AtomicU64,
    foreign: AtomicU64,
    gates: Arc<Gates>,
    purgeables: Mutex<Vec<Weak<Purgeable>>>,
}

impl Faults {
    pub(crate) fn new(desc: &DeviceDesc) -> Self {
        Self {
            plans: Mutex::default(),
            removed: AtomicBool::new(false),
            working_set: AtomicU64::new(desc.working_set_bytes),
            memory: AtomicU64::new(desc.memory_bytes),
            foreign: AtomicU64::new(0),
            gates: Arc::default(),
            purgeables: Mutex::default(),
        }
    }

    /// The `nth` call of this kind from now answers nil, 0 being the next. Where Metal gives an error, so does it.
    pub fn fail(&self, call: Call, nth: u64) {
        self.plans.lock().once.push((call, nth));
    }

    /// All calls of this kind answer nil, until this is called with `false`.
    pub fn fail_all(&self, call: Call, fail: bool) {
        let mut plans = self.plans.lock();
        plans.always.retain(|other| *other != call);
        if fail {
            plans.always.push(call);
        }
    }

    /// The `nth` command buffer committed from now, 0 being the next, does nothing and ends with this error.
    /// What it signals stays unsignalled.
    pub fn fail_command_buffer(&self, nth: u64, code: MTLCommandBufferError) {
        self.plans.lock().command_buffers.push((nth, code));
    }

    /// The system takes all memory that is volatile: its contents are spoilt, and the next `setPurgeableState:` answers "empty".
    pub fn purge_volatile(&self) {
        let purgeables: Vec<_> = {
            let mut all = self.purgeables.lock();
            all.retain(|purgeable| purgeable.strong_count() > 0);
            all.iter().filter_map(Weak::upgrade).collect()
        };
        purgeables.iter().for_each(|purgeable| purgeable.purge_if_volatile());
    }

    /// The device is gone for good: command buffers that have not ended end with an error, without touching memory,
    /// later ones too, and new objects are nil.
    pub fn remove(&self) {
        self.removed.store(true, Ordering::SeqCst);
        self.gates.ring();
    }

    /// Nothing of the device's work begins before the guard is dropped. Work whose device is removed ends nevertheless.
    pub fn hold_execution(&self) -> Hold {
        Hold::new(&self.gates, Held::Execution)
    }

    /// No handler is called before the guard is dropped. `waitUntilCompleted` waits for handlers, so it blocks too.
    pub fn hold_handlers(&self) -> Hold {
        Hold::new(&self.gates, Held::Handlers)
    }

    /// Changes what `recommendedMaxWorkingSetSize` answers.
    pub fn set_working_set(&self, bytes: u64) {
        self.working_set.store(bytes, Ordering::SeqCst);
    }

    /// Changes how many bytes the device has. What is allocated stays.
    pub fn set_memory(&self, bytes: u64) {
        self.memory.store(bytes, Ordering::SeqCst);
    }

    /// How many bytes others in the process have allocated: `currentAllocatedSize` counts them, and they take of the memory.
    pub fn set_foreign_bytes(&self, bytes: u64) {
        self.foreign.store(bytes, Ordering::SeqCst);
    }

    /// Whether this call is to answer nil: because of a plan, or because the device is gone. Each call is to ask once.
    pub(crate) fn refuses(&self, call: Call) -> bool {
        self.plans_refuse(call) || self.is_removed()
    }

    /// As [`Faults::refuses`], for what a removed device still makes.
    pub(crate) fn plans_refuse(&self, call: Call) -> bool {
        let mut plans = self.plans.lock();
        let mut refused = plans.always.contains(&call);
        plans.once.retain_mut(|(planned, left)| {
            let due = *planned == call && *left == 0;
            refused |= due;
            *left -= u64::from(*planned == call && !due);
            !due
        });
        refused
    }

    /// The error with which the command buffer that is committed now is to end, if it is.
    pub(crate) fn next_command_buffer_fails(&self) -> Option<MTLCommandBufferError> {
        let mut failure = None;
        self.plans.lock().command_buffers.retain_mut(|(left, code)| {
            if *left == 0 {
                failure = Some(*code);
                return false;
            }
            *left -= 1;
            true
        });
        failure
    }

    pub(crate) fn is_removed(&self) -> bool {
        self.removed.load(Ordering::SeqCst)
    }

    pub(crate) fn gates(&self) -> &Arc<Gates> {
        &self.gates
    }

    pub(crate) fn working_set(&self) -> u64 {
        self.working_set.load(Ordering::SeqCst)
    }

    pub(crate) fn memory(&self) -> u64 {
        self.memory.load(Ordering::SeqCst)
    }

    pub(crate) fn foreign_bytes(&self) -> u64 {
        self.foreign.load(Ordering::SeqCst)
    }

    pub(crate) fn watch(&self, purgeable: &Arc<Purgeable>) {
        let mut all = self.purgeables.lock();
        if all.len() == all.capacity() {
            all.retain(|purgeable| purgeable.strong_count() > 0);
        }
        all.push(Arc::downgrade(purgeable));
    }
}

impl fmt::Debug for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Faults")
            .field("plans", &self.plans)
            .field("removed", &self.removed)
            .finish_non_exhaustive()
    }
}
