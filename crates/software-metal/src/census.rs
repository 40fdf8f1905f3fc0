//! Counts a device's objects.

use crate::state::State;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A kind of object that a device makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Device,
    Buffer,
    Heap,
    CommandQueue,
    CommandBuffer,
    BlitEncoder,
    SharedEvent,
    Event,
    Fence,
    ResidencySet,
    Mtl4CommandQueue,
}

/// The names under which objects are counted, in the order of [`Kind`].
const NAMES: [&str; 11] = [
    "MTLDevice",
    "MTLBuffer",
    "MTLHeap",
    "MTLCommandQueue",
    "MTLCommandBuffer",
    "MTLBlitCommandEncoder",
    "MTLSharedEvent",
    "MTLEvent",
    "MTLFence",
    "MTLResidencySet",
    "MTL4CommandQueue",
];

/// How many there are and the most there were.
#[derive(Clone, Copy, Debug, Default)]
struct Gauge {
    live: u64,
    made: u64,
    peak: u64,
}

impl Gauge {
    fn rise(&mut self) {
        self.live += 1;
        self.made += 1;
        self.peak = self.peak.max(self.live);
    }
}

#[derive(Debug, Default)]
struct Books {
    kinds: [Gauge; NAMES.len()],
    /// Heaps, and buffers that are not on heaps.
    memory_objects: Gauge,
    /// Heaps and buffers.
    resources: Gauge,
}

impl Books {
    fn gauges(&mut self, kind: Kind, on_heap: bool) -> impl Iterator<Item = &mut Gauge> {
        let is_resource = matches!(kind, Kind::Buffer | Kind::Heap);
        let Books { kinds, memory_objects, resources } = self;
        std::iter::once(&mut kinds[kind as usize])
            .chain(is_resource.then_some(resources))
            .chain((is_resource && !on_heap).then_some(memory_objects))
    }
}

/// The counts of one device.
#[derive(Debug, Default)]
pub(crate) struct Census {
    books: Mutex<Books>,
    changed: Condvar,
}

impl Census {
    fn by_name(&self, value: impl Fn(&Gauge) -> u64) -> BTreeMap<&'static str, u64> {
        let books = self.books.lock();
        NAMES
            .iter()
            .zip(&books.kinds)
            .map(|(name, gauge)| (*name, value(gauge)))
            .filter(|(_, n)| *n > 0)
            .collect()
    }

    pub(crate) fn live(&self) -> BTreeMap<&'static str, u64> {
        self.by_name(|gauge| gauge.live)
    }

    pub(crate) fn made(&self) -> BTreeMap<&'static str, u64> {
        self.by_name(|gauge| gauge.made)
    }

    pub(crate) fn peak(&self) -> BTreeMap<&'static str, u64> {
        self.by_name(|gauge| gauge.peak)
    }

    pub(crate) fn memory_objects_peak(&self) -> u64 {
        self.books.lock().memory_objects.peak
    }

    pub(crate) fn resources_peak(&self) -> u64 {
        self.books.lock().resources.peak
    }

    /// Waits until nothing but the device may be live. `Err`: what still is after `limit`.
    pub(crate) fn wait_until_returned(&self, limit: Duration) -> Result<(), String> {
        let end = Instant::now() + limit;
        let mut books = self.books.lock();
        while books.kinds[1..].iter().any(|gauge| gauge.live > 0) {
            if self.changed.wait_until(&mut books, end).timed_out() {
                drop(books);
                return Err(format!(
                    "objects of the device are still live after {limit:?}: {:?}",
                    self.live()
                ));
            }
        }
        Ok(())
    }
}

/// Counts one object for as long as it is kept.
#[derive(Debug)]
pub(crate) struct Counted {
    state: Arc<State>,
    kind: Kind,
    on_heap: bool,
}

impl Counted {
    pub(crate) fn new(state: &Arc<State>, kind: Kind) -> Self {
        Self::within(state, kind, false, u64::MAX).expect("only resources are limited")
    }

    /// A buffer or a heap; `None` if the device has as many as it may.
    pub(crate) fn resource(state: &Arc<State>, kind: Kind, on_heap: bool) -> Option<Self> {
        Self::within(state, kind, on_heap, state.desc.resource_count_max)
    }

    fn within(state: &Arc<State>, kind: Kind, on_heap: bool, resources_max: u64) -> Option<Self> {
        let mut books = state.census.books.lock();
        if books.resources.live >= resources_max {
            return None;
        }
        books.gauges(kind, on_heap).for_each(Gauge::rise);
        Some(Self { state: Arc::clone(state), kind, on_heap })
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut books = self.state.census.books.lock();
        books.gauges(self.kind, self.on_heap).for_each(|gauge| gauge.live -= 1);
        self.state.census.changed.notify_all();
    }
}
