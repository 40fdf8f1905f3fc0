//! What lies behind sparse blocks.

use crate::Books;
use crate::faults::Call;
use crate::sim::{BlockKind, Sim, SimBlock};
use crate::span::Memory;
use crate::state::State;
use aquifer_backend::{BlockRange, Capabilities, Error, ErrorKind, Properties};

impl Books {
    fn add_mapping(&mut self, bytes: u64) {
        self.mappings_made += 1;
        self.live_mappings += 1;
        self.mapped_bytes += bytes;
    }

    pub(crate) fn remove_mappings(&mut self, count: u64, bytes: u64) {
        self.mappings_removed += count;
        self.live_mappings -= count;
        self.mapped_bytes -= bytes;
    }
}

impl Sim {
    pub(crate) fn check_sparse(&self, operation: &'static str) -> Result<(), Error> {
        if self.device_properties().capabilities.contains(Capabilities::SPARSE_BLOCKS) {
            return Ok(());
        }
        let message = "the device was made without sparse blocks";
        Err(Error::new(ErrorKind::Unsupported, operation, message))
    }

    /// See [`map`](aquifer_backend::Backend::map).
    pub(crate) fn map_behind(
        &self,
        sparse: BlockRange<'_, SimBlock>,
        physical: &SimBlock,
    ) -> Result<(), Error> {
        let operation = "map";
        self.check_sparse(operation)?;
        let mut state = self.state();
        let ns = state.own().costs.map_ns;
        state.enter(Call::Map, operation, ns)?;
        if let Some(breach) = state.map_breach(sparse, physical, self.device_properties()) {
            return Err(state.refuse(operation, breach));
        }
        let count_max = self.device_properties().mapping_count_max;
        if state.own().books.live_mappings >= count_max {
            state.own_mut().books.failed_calls += 1;
            let message = format!("there are {count_max} mappings, no more can be; unmap some first");
            return Err(Error::new(ErrorKind::OutOfMemory, operation, message));
        }
        let BlockRange { block, offset, bytes } = sparse;
        let start = block.address + offset;
        if let Err(breach) = state.schedule.checker.map(block.address, start, bytes, physical.address) {
            return Err(state.refuse(operation, breach));
        }
        if let (Some(Memory::Mapped(mapped)), Some(Memory::Own(content))) =
            (&block.content, &physical.content)
        {
            mapped.map(offset, content);
        }
        state.own_mut().books.add_mapping(bytes);
        Ok(())
    }

    /// See [`unmap`](aquifer_backend::Backend::unmap).
    pub(crate) fn unmap_behind(&self, sparse: BlockRange<'_, SimBlock>) -> Result<(), Error> {
        let operation = "unmap";
        self.check_sparse(operation)?;
        let mut state = self.state();
        let ns = state.own().costs.unmap_ns;
        state.enter(Call::Unmap, operation, 0)?;
        let BlockRange { block, offset, bytes } = sparse;
        let now_ns = state.schedule.now_ns();
        let start = block.address.saturating_add(offset);
        // What is still queued is looked at now: the driver does not wait for it.
        if let Err(breach) = state.schedule.checker.unmap(now_ns, block.address, start, bytes) {
            return Err(state.refuse(operation, breach));
        }
        if let Some(Memory::Mapped(mapped)) = &block.content {
            mapped.unmap(offset);
        }
        state.own_mut().books.remove_mappings(1, bytes);
        state.charge(ns);
        Ok(())
    }
}

impl State<'_> {
    /// Notes a breach of the contract by a call, which the driver refuses.
    pub(crate) fn refuse(&mut self, operation: &'static str, breach: String) -> Error {
        self.schedule.breach(format!("{operation} of {breach}"));
        Error::new(ErrorKind::Driver, operation, breach)
    }

    /// What is wrong with a mapping whatever else there is, in words.
    fn map_breach(
        &self,
        sparse: BlockRange<'_, SimBlock>,
        physical: &SimBlock,
        properties: &Properties,
    ) -> Option<String> {
        let BlockRange { block, offset, bytes } = sparse;
        let is_of_device = |block: &SimBlock| block.device == self.device;
        let wrong = if block.kind != BlockKind::Sparse || physical.kind != BlockKind::Physical {
            format!("{:?} block behind {:?} one", physical.kind, block.kind)
        } else if !is_of_device(block) || !is_of_device(physical) {
            "a block of another device".to_owned()
        } else if block.memory_type_index != physical.memory_type_index {
            format!("memory type {} behind {}", physical.memory_type_index, block.memory_type_index)
        } else if bytes != physical.bytes {
            format!("{} bytes of memory behind {bytes}", physical.bytes)
        } else if !offset.is_multiple_of(properties.physical_page_bytes)
            || offset.checked_add(bytes).is_none_or(|end| end > block.bytes)
        {
            format!("{bytes} bytes at {offset} of {}", block.bytes)
        } else {
            return None;
        };
        Some(wrong)
    }
}
