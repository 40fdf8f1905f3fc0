//! `MTLResidencySet`.

use super::buffer::Buffer;
use super::descriptors::ResidencySetDescriptor;
use super::heap::Heap;
use super::{Device, Proto, down, make};
use crate::census::{Counted, Kind};
use crate::residency::Committed;
use objc2::rc::Retained;
use objc2::runtime::{AnyObject, NSObjectProtocol};
use objc2::{ClassType, DefinedClass, Message, define_class};
use objc2_foundation::{NSArray, NSObject, NSString};
use objc2_metal::{MTLAllocation, MTLDevice, MTLResidencySet};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ptr::NonNull;
use std::sync::Arc;

type Allocation = Proto<dyn MTLAllocation>;

/// The allocations of a set by id. Those that are removed stay until the next commit.
#[derive(Default)]
struct Staged {
    present: BTreeMap<u64, Retained<Allocation>>,
    removed: Vec<Retained<Allocation>>,
}

pub(crate) struct ResidencySetIvars {
    label: Option<String>,
    staged: Mutex<Staged>,
    committed: Arc<Committed>,
    device: Retained<Device>,
    _counted: Counted,
}

define_class!(
    #[unsafe(super(NSObject))]
    #[name = "SoftwareMetalResidencySet"]
    #[ivars = ResidencySetIvars]
    pub(crate) struct ResidencySet;

    // SAFETY: NSObject is the superclass.
    unsafe impl NSObjectProtocol for ResidencySet {}

    // SAFETY: each method has its protocol's signature, which is checked against the encodings in debug builds.
    unsafe impl MTLResidencySet for ResidencySet {
        #[unsafe(method_id(device))]
        fn device_object(&self) -> Retained<Proto<dyn MTLDevice>> {
            Proto::from_retained(self.ivars().device.clone())
        }

        #[unsafe(method_id(label))]
        fn label(&self) -> Option<Retained<NSString>> {
            self.ivars().label.as_deref().map(NSString::from_str)
        }

        #[unsafe(method(allocatedSize))]
        fn allocated_size(&self) -> u64 {
            self.ivars().committed.bytes()
        }

        #[unsafe(method(requestResidency))]
        fn request_residency(&self) {
            self.device().state().residency.request(&self.ivars().committed);
        }

        #[unsafe(method(endResidency))]
        fn end_residency(&self) {
            self.device().state().residency.end(&self.ivars().committed);
        }

        #[unsafe(method(addAllocation:))]
        fn add(&self, allocation: &Allocation) {
            self.stage(allocation);
        }

        #[unsafe(method(addAllocations:count:))]
        fn add_all(&self, allocations: NonNull<NonNull<Allocation>>, count: usize) {
            // SAFETY: the caller says that `count` allocations are there.
            unsafe { objects(allocations, count) }.for_each(|allocation| self.stage(allocation));
        }

        #[unsafe(method(removeAllocation:))]
        fn remove(&self, allocation: &Allocation) {
            self.unstage(allocation);
        }

        #[unsafe(method(removeAllocations:count:))]
        fn remove_all(&self, allocations: NonNull<NonNull<Allocation>>, count: usize) {
            // SAFETY: the caller says that `count` allocations are there.
            unsafe { objects(allocations, count) }.for_each(|allocation| self.unstage(allocation));
        }

        #[unsafe(method(removeAllAllocations))]
        fn clear(&self) {
            let mut staged = self.ivars().staged.lock();
            let present = std::mem::take(&mut staged.present);
            staged.removed.extend(present.into_values());
        }

        #[unsafe(method(containsAllocation:))]
        fn contains(&self, allocation: &Allocation) -> bool {
            let id = self.key(allocation).0;
            self.ivars().staged.lock().present.contains_key(&id)
        }

        #[unsafe(method_id(allAllocations))]
        fn all_allocations(&self) -> Retained<NSArray<Allocation>> {
            super::array::array(self.ivars().staged.lock().present.values().cloned().collect())
        }

        #[unsafe(method(allocationCount))]
        fn allocation_count(&self) -> usize {
            self.ivars().staged.lock().present.len()
        }

        #[unsafe(method(commit))]
        fn commit(&self) {
            let (removed, committed) = {
                let mut staged = self.ivars().staged.lock();
                let committed = staged.present.values().map(|allocation| self.key(allocation)).collect();
                (std::mem::take(&mut staged.removed), committed)
            };
            self.ivars().committed.replace(committed);
            self.device().state().residency.count_commit();
            drop(removed); // may be the last references, and so free memory, without the lock
        }
    }
);

/// The objects of a C array.
///
/// # Safety
/// There must be `count` pointers to live objects.
pub(super) unsafe fn objects<'a, T: ?Sized + Message + 'a>(
    first: NonNull<NonNull<T>>,
    count: usize,
) -> impl Iterator<Item = &'a T> {
    // SAFETY: the caller promises that the pointers are there.
    let pointers = unsafe { std::slice::from_raw_parts(first.as_ptr(), count) };
    // SAFETY: and that the objects live.
    pointers.iter().map(|pointer| unsafe { pointer.as_ref() })
}

impl ResidencySet {
    pub(super) fn new(device: &Device, descriptor: &ResidencySetDescriptor) -> Retained<Self> {
        make(ResidencySetIvars {
            label: descriptor.label_text(),
            staged: Mutex::default(),
            committed: device.state().residency.new_set(),
            device: device.retain(),
            _counted: Counted::new(device.state(), Kind::ResidencySet),
        })
    }

    pub(super) fn device(&self) -> &Device {
        &self.ivars().device
    }

    pub(super) fn committed(&self) -> &Arc<Committed> {
        &self.ivars().committed
    }

    fn stage(&self, allocation: &Allocation) {
        let id = self.key(allocation).0;
        self.ivars().staged.lock().present.insert(id, allocation.retain());
    }

    fn unstage(&self, allocation: &Allocation) {
        let id = self.key(allocation).0;
        let mut staged = self.ivars().staged.lock();
        if let Some(allocation) = staged.present.remove(&id) {
            staged.removed.push(allocation);
        }
    }

    /// Which allocation it is, and its size in bytes: a buffer on a heap stands for the heap. One of another device is the client's error.
    fn key(&self, allocation: &Allocation) -> (u64, u64) {
        let any: &AnyObject = allocation.as_ref();
        let (device, id, bytes) = if any.class() == Heap::class() {
            let heap = down::<Heap, _>(allocation);
            (heap.device(), heap.memory().id, heap.memory().charge.bytes())
        } else {
            let buffer = down::<Buffer, _>(allocation);
            (buffer.device(), buffer.memory().allocation_id(), buffer.memory().allocation_bytes())
        };
        assert!(std::ptr::eq(device, self.device()), "an allocation of another device in a residency set");
        (id, bytes as u64)
    }
}
