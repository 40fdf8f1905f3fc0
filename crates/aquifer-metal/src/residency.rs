//! Residency sets: which memory Metal keeps resident while queues work.
//!
//! Blocks are spread over at most [`SETS_MAX`] sets, which is what a queue takes (Apple's documentation of `MTLResidencySet`);
//! a set is filled to a twentieth of the working set before the next is begun, since the system decides for a set as a
//! whole (MLX, pull request 4211: 29 and 56 times the speed under pressure). All sets are attached to all queues. What changes is
//! noted, and committed in one go before the next work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use aquifer_backend::{Error, ErrorKind};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{AnyClass, NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_foundation::NSString;
use objc2_metal::{MTLAllocation, MTLCommandQueue, MTLDevice, MTLResidencySet, MTLResidencySetDescriptor};
use parking_lot::Mutex;

use crate::object::Object;

/// The most sets that a queue takes.
const SETS_MAX: usize = 32;
/// A set takes the working set's size over this,
const SHARE_OF_WORKING_SET: u64 = 20;
/// but at least so much.
const SET_BYTES_MIN: u64 = 64 << 20;

/// The index of the set that a block is in; `None`: in none.
pub(crate) type Seat = Mutex<Option<usize>>;

type CommandQueue = Retained<ProtocolObject<dyn MTLCommandQueue>>;

/// All sets of a device, and the queues that they are attached to.
#[derive(Debug)]
pub(crate) struct Residency {
    set_bytes: u64,
    /// Whether something is to be committed. Written under the lock.
    is_dirty: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    sets: Vec<Set>,
    queues: Vec<CommandQueue>,
    /// How many want everything to stay resident.
    hold_count: usize,
}

#[derive(Debug)]
struct Set {
    set: Object<dyn MTLResidencySet>,
    bytes: u64,
    is_dirty: bool,
}

impl Residency {
    /// `None` if the system has no residency sets.
    pub(crate) fn new(device: &ProtocolObject<dyn MTLDevice>) -> Option<Arc<Self>> {
        let has_sets = device.respondsToSelector(sel!(newResidencySetWithDescriptor:error:))
            && AnyClass::get(c"MTLResidencySetDescriptor").is_some();
        let set_bytes = (device.recommendedMaxWorkingSetSize() / SHARE_OF_WORKING_SET).max(SET_BYTES_MIN);
        has_sets
            .then(|| Arc::new(Self { set_bytes, is_dirty: AtomicBool::new(false), state: Mutex::default() }))
    }

    /// Attaches all sets to a queue, now and later.
    pub(crate) fn attach(&self, queue: &CommandQueue) {
        let mut state = self.state.lock();
        for set in &state.sets {
            queue.addResidencySet(&set.set);
        }
        state.queues.push(queue.clone());
    }

    pub(crate) fn detach(&self, queue: &CommandQueue) {
        let mut state = self.state.lock();
        state.queues.retain(|other| other != queue);
        for set in &state.sets {
            queue.removeResidencySet(&set.set);
        }
    }

    /// Adds a block's memory, if it is in no set, and notes where. Without a set it works all the same, only slower: so nothing
    /// fails.
    pub(crate) fn add(
        &self,
        device: &ProtocolObject<dyn MTLDevice>,
        allocation: &ProtocolObject<dyn MTLAllocation>,
        bytes: u64,
        seat: &Seat,
    ) {
        let mut state = self.state.lock();
        let mut seat = seat.lock();
        if seat.is_some() {
            return;
        }
        let Some(index) = state.set_for(device, bytes, self.set_bytes) else { return };
        let set = &mut state.sets[index];
        set.set.addAllocation(allocation);
        set.bytes += bytes;
        set.is_dirty = true;
        *seat = Some(index);
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Takes a block's memory out. The system keeps it resident until the next [`Residency::flush`].
    pub(crate) fn remove(&self, allocation: &ProtocolObject<dyn MTLAllocation>, bytes: u64, seat: &Seat) {
        let mut state = self.state.lock();
        let Some(index) = seat.lock().take() else { return };
        let set = &mut state.sets[index];
        set.set.removeAllocation(allocation);
        set.bytes -= bytes;
        set.is_dirty = true;
        self.is_dirty.store(true, Ordering::Release);
    }

    /// Commits what has changed. A load if nothing has.
    pub(crate) fn flush(&self) {
        if !self.is_dirty.load(Ordering::Acquire) {
            return;
        }
        let mut state = self.state.lock();
        for set in state.sets.iter_mut().filter(|set| set.is_dirty) {
            set.set.commit();
            set.is_dirty = false;
        }
        self.is_dirty.store(false, Ordering::Release);
    }

    /// Asks the system to make everything resident now.
    fn remind(&self) {
        self.flush();
        for set in &self.state.lock().sets {
            set.set.requestResidency();
        }
    }

    fn begin_hold(&self) {
        self.state.lock().hold_count += 1;
    }

    fn end_hold(&self) {
        let mut state = self.state.lock();
        state.hold_count -= 1;
        if state.hold_count == 0 {
            for set in &state.sets {
                set.set.endResidency();
            }
        }
    }
}

impl State {
    /// The set that takes so many bytes: the first with room, else a new one, else the emptiest.
    fn set_for(
        &mut self,
        device: &ProtocolObject<dyn MTLDevice>,
        bytes: u64,
        set_bytes: u64,
    ) -> Option<usize> {
        let has_room = |set: &Set| set.bytes == 0 || set.bytes.saturating_add(bytes) <= set_bytes;
        if let Some(index) = self.sets.iter().position(has_room) {
            return Some(index);
        }
        if self.sets.len() < SETS_MAX
            && let Some(set) = new_set(device)
        {
            for queue in &self.queues {
                queue.addResidencySet(&set);
            }
            self.sets.push(Set { set, bytes: 0, is_dirty: false });
            return Some(self.sets.len() - 1);
        }
        (0..self.sets.len()).min_by_key(|&index| self.sets[index].bytes)
    }
}

fn new_set(device: &ProtocolObject<dyn MTLDevice>) -> Option<Object<dyn MTLResidencySet>> {
    let descriptor = MTLResidencySetDescriptor::new();
    descriptor.setLabel(Some(&NSString::from_str("aquifer")));
    device.newResidencySetWithDescriptor_error(&descriptor).ok().map(Object::new)
}

/// How often the system is reminded while something holds the memory resident: unused memory is let go after a second or so
/// (llama.cpp reminds it as often).
const REMINDER: Duration = Duration::from_millis(500);

/// Keeps all memory of a [`Metal`](crate::Metal) backend resident, also while no queue works; see
/// [`Metal::keep_resident`](crate::Metal::keep_resident).
///
/// Dropping it ends that, and waits for its thread, which may be in a call of Metal's.
#[derive(Debug)]
pub struct ResidentHold {
    residency: Option<Arc<Residency>>,
    /// Never sent to: the thread ends when it is dropped.
    end: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ResidentHold {
    pub(crate) fn new(residency: Option<Arc<Residency>>) -> Result<Self, Error> {
        let Some(of_thread) = residency.clone() else {
            return Ok(Self { residency, end: None, thread: None });
        };
        // Before the first reminder, so that the end of another hold does not undo it.
        of_thread.begin_hold();
        let mut hold = Self { residency, end: None, thread: None };
        let (end, is_ended) = channel::<()>();
        let remind = move || loop {
            autoreleasepool(|_| of_thread.remind());
            if is_ended.recv_timeout(REMINDER) != Err(RecvTimeoutError::Timeout) {
                break;
            }
        };
        let thread = std::thread::Builder::new().name("aquifer-resident".into()).spawn(remind);
        hold.thread = Some(thread.map_err(|error| {
            let message = "the system did not start a thread that keeps memory resident";
            Error::new(ErrorKind::Driver, "keep_resident", message).with_source(error)
        })?);
        hold.end = Some(end);
        Ok(hold)
    }
}

impl Drop for ResidentHold {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
        if let Some(residency) = &self.residency {
            autoreleasepool(|_| residency.end_hold());
        }
    }
}
