//! Blocks of the three kinds, made and given back.

use crate::blocks::{Placed, Side};
use crate::check::Home;
use crate::content::Content;
use crate::faults::Call;
use crate::sim::{BlockKind, Sim, SimBlock, is_host_side};
use crate::span::{Mapped, Memory};
use crate::state::State;
use aquifer_backend::{BlockDesc, DestroyError, Error, ErrorKind, MemoryFlags, Properties};
use std::sync::Arc;

impl BlockKind {
    fn operation(self) -> &'static str {
        match self {
            Self::Ordinary => "create_block",
            Self::Sparse => "create_sparse_block",
            Self::Physical => "create_physical_block",
        }
    }

    fn create_call(self) -> Call {
        match self {
            Self::Ordinary => Call::Create,
            Self::Sparse => Call::CreateSparse,
            Self::Physical => Call::CreatePhysical,
        }
    }

    /// What it is a multiple of, in bytes.
    fn granularity_bytes(self, properties: &Properties) -> u64 {
        match self {
            Self::Ordinary => properties.block_granularity_bytes,
            Self::Sparse | Self::Physical => properties.physical_page_bytes,
        }
    }

    fn bytes_max(self, properties: &Properties) -> u64 {
        // How many addresses there may be is a limit for all sparse blocks together.
        if self == Self::Sparse { u64::MAX } else { properties.block_bytes_max }
    }
}

impl Sim {
    /// Every block of a kind starts at a multiple of this many addresses, and has as many behind it that are nobody's.
    fn address_unit(&self, kind: BlockKind) -> u64 {
        let properties = self.device_properties();
        kind.granularity_bytes(properties)
            .max(properties.block_granularity_bytes)
            .max(properties.alignment_bytes_min)
    }

    /// What is behind a block; `None` if the device has no content.
    fn make_content(&self, bytes: u64, kind: BlockKind) -> Result<Option<Memory>, Error> {
        if !self.has_content() {
            return Ok(None);
        }
        if kind == BlockKind::Sparse {
            return Ok(Some(Memory::Mapped(Arc::new(Mapped::new(bytes)))));
        }
        let content = Content::new(bytes, self.device_properties().alignment_bytes_min);
        let message = || format!("the host has no {bytes} bytes to be behind a simulated block");
        let content =
            content.ok_or_else(|| Error::new(ErrorKind::OutOfMemory, kind.operation(), message()))?;
        Ok(Some(Memory::Own(Arc::new(content))))
    }

    /// See [`create_block`](aquifer_backend::Backend::create_block) and those for the other kinds.
    pub(crate) fn create(&self, desc: &BlockDesc<'_>, kind: BlockKind) -> Result<SimBlock, Error> {
        let operation = kind.operation();
        let properties = self.device_properties();
        if kind != BlockKind::Ordinary {
            self.check_sparse(operation)?;
        }
        let BlockDesc { bytes, memory_type_index, .. } = *desc;
        let mut state = self.state();
        let ns = state.create_ns(kind, bytes);
        state.enter(kind.create_call(), operation, ns)?;
        if bytes == 0
            || !bytes.is_multiple_of(kind.granularity_bytes(properties))
            || bytes > kind.bytes_max(properties)
            || memory_type_index >= properties.memory_types.len()
        {
            let message = format!("{operation} of {bytes} bytes of memory type {memory_type_index}");
            state.schedule.breach(message.clone());
            return Err(Error::new(ErrorKind::Driver, operation, message));
        }
        let memory_type = &properties.memory_types[memory_type_index];
        let (heap_index, flags) = (memory_type.heap_index, memory_type.flags);
        if kind != BlockKind::Ordinary && !flags.contains(MemoryFlags::SPARSE) {
            let message = format!("memory type {memory_type_index} ({flags:?}) has its addresses for good");
            return Err(Error::new(ErrorKind::Unsupported, operation, message));
        }
        state.find_room(bytes, heap_index, kind, properties)?;
        let content = self.make_content(bytes, kind)?;
        let Some(address) = state.addresses_of(kind).take(bytes, self.address_unit(kind)) else {
            return Err(state.no_room(bytes, heap_index, kind, properties));
        };
        let device = state.device;
        let block = SimBlock { address, bytes, device, heap_index, memory_type_index, flags, kind, content };
        state.add_block(&block, properties.block_granularity_bytes);
        Ok(block)
    }

    /// See [`destroy_block`](aquifer_backend::Backend::destroy_block).
    pub(crate) fn destroy(&self, block: SimBlock) -> Result<(), DestroyError<SimBlock>> {
        let mut state = self.state();
        match state.enter(Call::Destroy, "destroy_block", 0) {
            Err(error) if error.kind() != ErrorKind::DeviceLost => {
                let ns = state.destroy_ns(block.kind, 0);
                state.charge(ns);
                return Err(DestroyError { block, error });
            }
            Ok(()) | Err(_) => {}
        }
        match block.kind {
            BlockKind::Ordinary | BlockKind::Physical => state.remove_memory(&block),
            BlockKind::Sparse => state.remove_addresses(&block),
        }
        state.own_mut().books.live_blocks -= 1;
        let unit = self.address_unit(block.kind);
        state.addresses_of(block.kind).give(block.address, block.bytes, unit);
        Ok(())
    }
}

impl State<'_> {
    fn create_ns(&self, kind: BlockKind, bytes: u64) -> u64 {
        let costs = &self.own().costs;
        match kind {
            BlockKind::Ordinary => costs.create.ns(bytes),
            BlockKind::Sparse => costs.create_sparse_ns,
            BlockKind::Physical => costs.create_physical_ns,
        }
    }

    /// Without what is mapped behind a sparse block.
    fn destroy_ns(&self, kind: BlockKind, bytes: u64) -> u64 {
        let costs = &self.own().costs;
        match kind {
            BlockKind::Ordinary => costs.destroy.ns(bytes),
            BlockKind::Sparse => costs.destroy_sparse_ns,
            BlockKind::Physical => costs.destroy_physical.ns(bytes),
        }
    }

    /// Whether a block of so many bytes may be made; if not, it is out of memory, or of addresses.
    fn find_room(
        &mut self,
        bytes: u64,
        heap_index: usize,
        kind: BlockKind,
        properties: &Properties,
    ) -> Result<(), Error> {
        let is_one_more = self.own().books.live_blocks < properties.block_count_max;
        let has_room = match kind {
            BlockKind::Sparse => bytes <= self.own().left_sparse_bytes(),
            BlockKind::Ordinary | BlockKind::Physical => is_one_more && self.make_room(bytes, heap_index),
        };
        if is_one_more && has_room {
            return Ok(());
        }
        Err(self.no_room(bytes, heap_index, kind, properties))
    }

    fn no_room(&mut self, bytes: u64, heap_index: usize, kind: BlockKind, properties: &Properties) -> Error {
        let own = self.own_mut();
        own.books.failed_calls += 1;
        let (left_bytes, what) = match kind {
            BlockKind::Sparse => (own.left_sparse_bytes(), "addresses"),
            BlockKind::Ordinary | BlockKind::Physical => (own.available_bytes(heap_index), "bytes"),
        };
        let message = format!(
            "{bytes} {what} of {left_bytes} that are left, {} blocks of at most {}; destroy some first",
            own.books.live_blocks, properties.block_count_max
        );
        Error::new(ErrorKind::OutOfMemory, kind.operation(), message)
    }

    /// Notes a block that has been made on a device with this granularity.
    fn add_block(&mut self, block: &SimBlock, granularity_bytes: u64) {
        let SimBlock { address, bytes, kind, .. } = *block;
        let own = self.own_mut();
        own.books.live_blocks += 1;
        match kind {
            BlockKind::Ordinary => own.add_live_bytes(block.heap_index, bytes),
            BlockKind::Sparse => own.books.sparse_bytes += bytes,
            BlockKind::Physical => {
                own.add_live_bytes(block.heap_index, bytes);
                own.books.physical_blocks_made += 1;
            }
        }
        match kind {
            BlockKind::Ordinary => self.schedule.checker.add_block(address, bytes),
            BlockKind::Physical => {
                let SimBlock { device, heap_index, .. } = *block;
                let home = Home { device, heap_index, granularity_bytes };
                self.schedule.checker.add_physical(address, bytes, home);
            }
            BlockKind::Sparse => self.schedule.checker.add_sparse(address, bytes),
        }
        if kind == BlockKind::Physical {
            return;
        }
        let side = if is_host_side(block.flags) { Side::Host } else { Side::Device(self.device) };
        let host_address = block.host_pointer().map(|start| start.addr().get());
        let content = block.content.clone();
        self.blocks.add(address, Placed { end: address + bytes, side, content, host_address });
    }

    /// Takes an ordinary or physical block apart.
    fn remove_memory(&mut self, block: &SimBlock) {
        // The check is made before the driver waits: not every driver does.
        let start_ns = self.schedule.now_ns();
        let is_physical = block.kind == BlockKind::Physical;
        let released_bytes = self.schedule.checker.remove_block(start_ns, block.address);
        let kept_bytes = block.bytes - released_bytes - self.forget_purgeable(block.address);
        if !self.is_lost() {
            if self.own().costs.destroy_waits_for_all_queues && !is_physical {
                let device = self.device;
                self.schedule.finish_all(device);
            }
            self.note_driver_ns(start_ns);
            let ns = self.destroy_ns(block.kind, kept_bytes);
            self.charge(ns);
        }
        if is_physical {
            self.own_mut().books.physical_blocks_destroyed += 1;
        } else {
            self.blocks.remove(block.address);
        }
        self.own_mut().remove_live_bytes(block.heap_index, kept_bytes);
    }

    /// Takes a sparse block apart, with what is mapped behind it.
    fn remove_addresses(&mut self, block: &SimBlock) {
        let now_ns = self.schedule.now_ns();
        let removed = self.schedule.checker.remove_sparse(now_ns, block.address);
        if !self.is_lost() {
            let unmap_ns = self.own().costs.unmap_ns.saturating_mul(removed.count);
            let ns = self.destroy_ns(block.kind, 0).saturating_add(unmap_ns);
            self.charge(ns);
        }
        if let Some(Memory::Mapped(mapped)) = &block.content {
            mapped.clear();
        }
        self.blocks.remove(block.address);
        self.own_mut().books.remove_mappings(removed.count, removed.bytes);
        self.own_mut().books.sparse_bytes -= block.bytes;
    }
}
