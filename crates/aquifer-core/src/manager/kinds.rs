//! The kinds of memory that an allocation may ask for, and which of the device's memory types each is.

use super::shared::{Home, Shared};
use crate::pool::LaneKey;
use crate::range::{NO_QUEUE, QueueIndex};
use aquifer_backend::{Backend, Error, ErrorKind, MemoryFlags, MemoryType};

/// What an allocation's memory is for; [`MemoryOptions::kind`](crate::MemoryOptions::kind).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum MemoryKind {
    /// The device's best for ordinary buffers: its first memory type. The host may or may not see it.
    #[default]
    Device = 0,
    /// Memory of the host that the system keeps where it is (*page-locked*), so that the device copies from and to it as fast
    /// as the link goes. Scarce: few such allocations may be live, as [`Config::pinned`](crate::Config::pinned) says, and
    /// each is counted ([`Statistics::pinned`](crate::Statistics::pinned)). They go past the thread caches, so keep them.
    Pinned = 1,
    /// Memory that host and device both use where it is.
    Unified = 2,
}

/// Which of the device's memory types serve the kinds that not every device has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct KindTypes {
    pub(super) pinned: Option<usize>,
    pub(super) unified: Option<usize>,
    /// What stands in for pinned memory where the driver locks no more: memory that the host sees and that is not locked, best
    /// of the host's own.
    pub(super) unlocked: Option<usize>,
}

impl KindTypes {
    pub(super) fn new(memory_types: &[MemoryType]) -> Self {
        let first = |is_of_kind: &dyn Fn(MemoryFlags) -> bool| {
            memory_types.iter().position(|memory_type| is_of_kind(memory_type.flags))
        };
        let has = |flags: MemoryFlags, flag| flags.contains(flag);
        let is_visible = |flags| has(flags, MemoryFlags::HOST_VISIBLE) && !has(flags, MemoryFlags::PINNED);
        Self {
            pinned: first(&|flags| has(flags, MemoryFlags::PINNED)),
            unified: first(&|flags| has(flags, MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL)),
            unlocked: first(&|flags| is_visible(flags) && !has(flags, MemoryFlags::DEVICE_LOCAL))
                .or_else(|| first(&is_visible)),
        }
    }
}

impl<B: Backend> Shared<B> {
    /// Where memory of a kind is made, on no queue.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the device has no such memory.
    pub(crate) fn home_of(&self, kind: MemoryKind) -> Result<Home, Error> {
        self.home_on(kind, NO_QUEUE)
    }

    /// Where the host's copies of device memory are made, on no queue: in pinned memory, or in other memory that the host sees.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`] where the host sees none.
    pub(super) fn home_of_shadows(&self) -> Result<Home, Error> {
        let memory_type = self.kind_types.pinned.or(self.kind_types.unlocked);
        let memory_type = memory_type.ok_or_else(|| self.has_none(MemoryKind::Unified))?;
        Ok(self.home_in(memory_type, NO_QUEUE))
    }

    /// As [`Shared::home_of`], on a queue of this manager, or on none.
    pub(super) fn home_on(&self, kind: MemoryKind, queue: QueueIndex) -> Result<Home, Error> {
        let memory_type = match kind {
            MemoryKind::Device => Some(0),
            MemoryKind::Pinned => self.kind_types.pinned,
            MemoryKind::Unified => self.kind_types.unified,
        };
        let memory_type = memory_type.ok_or_else(|| self.has_none(kind))?;
        Ok(self.home_in(memory_type, queue))
    }

    /// Where memory of a memory type is made, on a queue or on none.
    pub(super) fn home_in(&self, memory_type: usize, queue: QueueIndex) -> Home {
        if queue == NO_QUEUE {
            let identity = self.pools[memory_type].pool.lane(NO_QUEUE).identity();
            return Home { key: LaneKey::new(identity, memory_type), queue };
        }
        Home { key: self.queues.get(queue).lanes[memory_type], queue }
    }

    fn has_none(&self, kind: MemoryKind) -> Error {
        let properties = self.backend.properties();
        let flags: Vec<_> =
            properties.memory_types.iter().map(|memory_type| format!("{:?}", memory_type.flags)).collect();
        let (what, instead) = match kind {
            MemoryKind::Unified => ("unified", "allocate device memory and copy to it"),
            _ => ("pinned", "use plain host memory, or allocate ordinary buffers"),
        };
        let message = format!(
            "{what} memory asked for; the {} backend has none on {}, which has memory types {}: {instead}",
            properties.backend,
            properties.device,
            flags.join(", ")
        );
        Error::new(ErrorKind::Unsupported, "allocate", message)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn types(flags: &[MemoryFlags]) -> (Option<usize>, Option<usize>, Option<usize>) {
        let memory_types: Vec<_> = flags.iter().map(|&flags| MemoryType { heap_index: 0, flags }).collect();
        let KindTypes { pinned, unified, unlocked } = KindTypes::new(&memory_types);
        (pinned, unified, unlocked)
    }

    #[test]
    fn each_kind_is_the_first_memory_type_that_will_do() {
        let (visible, local) = (MemoryFlags::HOST_VISIBLE, MemoryFlags::DEVICE_LOCAL);
        let pinned = visible | MemoryFlags::PINNED;
        assert_eq!(types(&[local]), (None, None, None));
        // A discrete device.
        assert_eq!(types(&[local, pinned]), (Some(1), None, None));
        assert_eq!(types(&[local, pinned, visible, visible | local]), (Some(1), Some(3), Some(2)));
        // Host memory.
        assert_eq!(types(&[visible | local, pinned]), (Some(1), Some(0), Some(0)));
        // A device that shares the host's memory, and locks all of it.
        assert_eq!(types(&[pinned | local]), (Some(0), Some(0), None));
    }
}
