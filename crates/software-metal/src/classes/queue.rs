//! `MTLCommandQueue`.

use super::command_buffer::CommandBuffer;
use super::descriptors::CommandBufferDescriptor;
use super::residency_set::{ResidencySet, objects};
use super::{Device, Label, Proto, down, make};
use crate::census::{Counted, Kind};
use crate::faults::Call;
use crate::lane::Lane;
use crate::residency::Committed;
use objc2::rc::Retained;
use objc2::runtime::NSObjectProtocol;
use objc2::{DefinedClass, Message, define_class};
use objc2_foundation::{NSObject, NSString};
use objc2_metal::{
    MTLCommandBuffer, MTLCommandBufferDescriptor, MTLCommandQueue, MTLDevice, MTLResidencySet,
};
use parking_lot::{Condvar, Mutex};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

/// How many uncompleted command buffers a queue has, unless told otherwise.
pub(super) const COMMAND_BUFFERS_DEFAULT: usize = 64;

/// How many residency sets a queue takes.
const RESIDENCY_SETS_MAX: usize = 32;

/// For how long `commandBuffer` blocks before that counts as a deadlock.
const BLOCKED_MAX: Duration = Duration::from_secs(60);

/// The places for uncompleted command buffers.
pub(super) struct Places {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A command buffer's place. Dropped when it has completed, or is deallocated without.
pub(super) struct PlaceOfOne(Arc<Places>);

impl Drop for PlaceOfOne {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

impl Places {
    fn take(self: &Arc<Self>) -> PlaceOfOne {
        let mut free = self.free.lock();
        while *free == 0 {
            let timed_out = self.freed.wait_for(&mut free, BLOCKED_MAX).timed_out();
            assert!(
                !timed_out || *free > 0,
                "commandBuffer has been blocked for {BLOCKED_MAX:?}: the queue's command buffers do not complete"
            );
        }
        *free -= 1;
        PlaceOfOne(Arc::clone(self))
    }
}

/// The residency sets of a queue or a command buffer.
#[derive(Default)]
pub(super) struct Attached(Mutex<Vec<Retained<ResidencySet>>>);

impl Attached {
    pub(super) fn add(&self, set: &Proto<dyn MTLResidencySet>, device: &Device) {
        let set = down::<ResidencySet, _>(set);
        assert!(std::ptr::eq(set.device(), device), "a residency set of another device");
        let mut sets = self.0.lock();
        if !sets.iter().any(|other| std::ptr::eq(&**other, set)) {
            assert!(sets.len() < RESIDENCY_SETS_MAX, "more than {RESIDENCY_SETS_MAX} residency sets");
            sets.push(set.retain());
        }
    }

    pub(super) fn remove(&self, set: &Proto<dyn MTLResidencySet>) {
        let set = down::<ResidencySet, _>(set);
        let removed: Vec<_> = self.0.lock().extract_if(.., |other| std::ptr::eq(&**other, set)).collect();
        drop(removed); // perhaps the last reference, without the lock
    }

    pub(super) fn committed(&self) -> Vec<Arc<Committed>> {
        self.0.lock().iter().map(|set| Arc::clone(set.committed())).collect()
    }
}

pub(crate) struct CommandQueueIvars {
    label: Label,
    places: Arc<Places>,
    residency_sets: Attached,
    lane: Arc<Lane>,
    device: Retained<Device>,
    _counted: Counted,
}

impl Drop for CommandQueueIvars {
    fn drop(&mut self) {
        self.lane.close();
    }
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalCommandQueue"]
    #[ivars = CommandQueueIvars]
    pub(crate) struct CommandQueue;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for CommandQueue {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLCommandQueue for CommandQueue {
        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.get()
        }

        #[unsafe(method(setLabel:))]
        fn set_label(&self, label: Option<&NSString>) {
            self.ivars().label.set(label);
        }

        #[unsafe(method_id(device))]
        fn device_object(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.ivars().device.clone())
        }

        #[unsafe(method_id(commandBuffer))]
        fn command_buffer(&self) -> Option<Retained<Proto<dyn MTLCommandBuffer>>> {
            self.new_command_buffer(true)
        }

        #[unsafe(method_id(commandBufferWithUnretainedReferences))]
        fn command_buffer_unretained(&self) -> Option<Retained<Proto<dyn MTLCommandBuffer>>> {
            self.new_command_buffer(false)
        }

        #[unsafe(method_id(commandBufferWithDescriptor:))]
        fn command_buffer_described(
            &self,
            descriptor: &MTLCommandBufferDescriptor,
        ) -> Option<Retained<Proto<dyn MTLCommandBuffer>>> {
            self.new_command_buffer(down::<CommandBufferDescriptor, _>(descriptor).retains_references())
        }

        #[unsafe(method(addResidencySet:))]
        fn add_residency_set(&self, set: &Proto<dyn MTLResidencySet>) {
            self.ivars().residency_sets.add(set, self.device());
        }

        #[unsafe(method(addResidencySets:count:))]
        fn add_residency_sets(&self, sets: NonNull<NonNull<Proto<dyn MTLResidencySet>>>, count: usize) {
            // SAFETY: the caller says that `count` sets are there.
            unsafe { objects(sets, count) }
                .for_each(|set| self.ivars().residency_sets.add(set, self.device()));
        }

        #[unsafe(method(removeResidencySet:))]
        fn remove_residency_set(&self, set: &Proto<dyn MTLResidencySet>) {
            self.ivars().residency_sets.remove(set);
        }

        #[unsafe(method(removeResidencySets:count:))]
        fn remove_residency_sets(&self, sets: NonNull<NonNull<Proto<dyn MTLResidencySet>>>, count: usize) {
            // SAFETY: the caller says that `count` sets are there.
            unsafe { objects(sets, count) }.for_each(|set| self.ivars().residency_sets.remove(set));
        }
    }
);

// SAFETY: the state is behind locks, and a device is for all threads.
unsafe impl Send for CommandQueue {}
// SAFETY: as above.
unsafe impl Sync for CommandQueue {}

impl CommandQueue {
    pub(super) fn new(device: &Device, command_buffers_max: usize) -> Option<Retained<Self>> {
        assert!(command_buffers_max > 0, "a queue of at most 0 command buffers");
        let state = device.state();
        if state.faults.refuses(Call::NewCommandQueue) {
            return None;
        }
        Some(make(CommandQueueIvars {
            label: Label::default(),
            places: Arc::new(Places { free: Mutex::new(command_buffers_max), freed: Condvar::new() }),
            residency_sets: Attached::default(),
            lane: Lane::start(state, state.next_queue_seed()),
            device: device.retain(),
            _counted: Counted::new(state, Kind::CommandQueue),
        }))
    }

    pub(super) fn device(&self) -> &Device {
        &self.ivars().device
    }

    pub(super) fn lane(&self) -> &Lane {
        &self.ivars().lane
    }

    pub(super) fn residency_sets(&self) -> &Attached {
        &self.ivars().residency_sets
    }

    fn new_command_buffer(&self, retains_references: bool) -> Option<Retained<Proto<dyn MTLCommandBuffer>>> {
        let place = self.ivars().places.take();
        if self.device().state().faults.plans_refuse(Call::NewCommandBuffer) {
            return None;
        }
        Some(Proto::from_retained(CommandBuffer::new(self, retains_references, place)))
    }
}
