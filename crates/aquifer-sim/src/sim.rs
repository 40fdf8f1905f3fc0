//! The device, as the manager and the test hold it.

use crate::span::Memory;
use crate::state::{Machine, State};
use crate::{QueueId, SimDesc};
use aquifer_backend::{Capabilities, Error, ErrorKind, MemoryFlags, Properties};
use parking_lot::Mutex;
use std::fmt;
use std::ptr::NonNull;
use std::sync::Arc;

/// A simulated device. Clones are the same device: one is the manager's backend, another the test's hand on it.
///
/// Any thread may use it. Each call takes a lock for as long as it takes to simulate what happens meanwhile; none waits in
/// real time. So a thread that waits for what another has not yet enqueued does not get it: its timeout passes at once.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    properties: Properties,
    has_content: bool,
    /// With the devices that share the clock.
    machine: Arc<Mutex<Machine>>,
    /// The index there.
    device: usize,
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("device", &self.0.properties.device).finish_non_exhaustive()
    }
}

/// What a block has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// Memory with addresses.
    Ordinary,
    /// Addresses only.
    Sparse,
    /// Memory only. Its address is the simulation's own name for it, which no program knows.
    Physical,
}

/// A block of a [`Sim`]: addresses, memory, or both. On a device with content the memory is memory of the host.
///
/// Give it to [`destroy_block`](aquifer_backend::Backend::destroy_block) when nothing uses it any more. What is behind one that is
/// only dropped stays until all devices that share the clock are gone.
#[derive(Debug)]
pub struct SimBlock {
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    /// The index of the device that made it.
    pub(crate) device: usize,
    pub(crate) heap_index: usize,
    pub(crate) memory_type_index: usize,
    pub(crate) flags: MemoryFlags,
    pub(crate) kind: BlockKind,
    pub(crate) content: Option<Memory>,
}

impl SimBlock {
    /// Whether it is memory of the host's, and the device reaches it over the link.
    pub(crate) fn is_host_side(&self) -> bool {
        is_host_side(self.flags)
    }

    /// Zeroes what has been released of the memory behind a sparse block. What is an ordinary block's own does not come again.
    ///
    /// # Safety
    ///
    /// - Nobody uses it.
    pub(crate) unsafe fn clear_released(&self, offset: u64, bytes: u64) {
        let Some(memory @ Memory::Mapped(_)) = &self.content else { return };
        if let Some(span) = memory.span(offset, bytes) {
            // SAFETY: the caller vouches for it.
            unsafe { span.fill(0, bytes as usize) };
        }
    }

    /// Where the host sees it.
    pub(crate) fn host_pointer(&self) -> Option<NonNull<u8>> {
        let is_visible = self.flags.contains(MemoryFlags::HOST_VISIBLE);
        match self.content.as_ref().filter(|_| is_visible)? {
            Memory::Own(content) => Some(content.start()),
            Memory::Mapped(_) => None,
        }
    }
}

pub(crate) fn is_host_side(flags: MemoryFlags) -> bool {
    flags.contains(MemoryFlags::HOST_VISIBLE) && !flags.contains(MemoryFlags::DEVICE_LOCAL)
}

impl Sim {
    /// Makes a device, with a clock of its own.
    ///
    /// # Panics
    ///
    /// If a granularity or alignment in `desc` is not what its documentation says, or its memory types are not.
    #[must_use]
    pub fn new(desc: SimDesc) -> Self {
        Self::on(Arc::new(Mutex::new(Machine::new())), &desc)
    }

    /// Makes another device beside this one: its peer, with properties, memory, costs, faults and books of its own.
    ///
    /// The two have one clock and one host. What runs on either runs as time passes for anybody, queues of one may wait for
    /// queues of the other, and no two queues or blocks have the same number or address. History, claims and violations are
    /// those of all devices that share the clock, whichever is asked. Each is lost alone: what waits for a lost device's
    /// queue on another waits no longer, and a copy that reads a lost device's memory fails when it ends.
    ///
    /// # Panics
    ///
    /// As [`Sim::new`].
    #[must_use]
    pub fn peer(&self, desc: SimDesc) -> Self {
        Self::on(Arc::clone(&self.0.machine), &desc)
    }

    fn on(machine: Arc<Mutex<Machine>>, desc: &SimDesc) -> Self {
        desc.check();
        let device = machine.lock().add_device(desc);
        let (properties, has_content) = (desc.properties(), desc.has_content);
        Self(Arc::new(Shared { properties, has_content, machine, device }))
    }

    pub(crate) fn state(&self) -> State<'_> {
        State { machine: self.0.machine.lock(), device: self.0.device }
    }

    pub(crate) fn device_properties(&self) -> &Properties {
        &self.0.properties
    }

    pub(crate) fn has_content(&self) -> bool {
        self.0.has_content
    }

    /// Whether the other is another device with the same clock.
    pub(crate) fn is_peer_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0.machine, &other.0.machine) && self.0.device != other.0.device
    }

    pub(crate) fn check_purgeable(&self, operation: &'static str) -> Result<(), Error> {
        if self.0.properties.capabilities.contains(Capabilities::PURGEABLE) {
            return Ok(());
        }
        let message = "the device was made without purgeable memory";
        Err(Error::new(ErrorKind::Unsupported, operation, message))
    }

    pub(crate) fn queue_dropped(&self, queue: QueueId) {
        let mut state = self.state();
        let now_ns = state.schedule.now_ns();
        state.schedule.drive_to(now_ns);
        if !state.schedule.queue(queue).is_idle() {
            state.schedule.breach(format!("{queue} was dropped before its work had run"));
        }
    }
}
