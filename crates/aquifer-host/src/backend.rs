//! The backend itself.

use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Capabilities, Command, DefaultDevice, DestroyError, Error, ErrorKind,
    Heap, HeapBudget, HostMemory, ImportError, MemoryFlags, MemoryType, Properties, Ticket,
};
use rustix::io::Errno;
use rustix::process::Resource;

use crate::block::HostBlock;
use crate::budget;
use crate::facts;
use crate::numa;
use crate::options::HostOptions;
use crate::pinned;
use crate::queue::HostQueue;
use crate::remap::{self, Remap};
use crate::sys;

/// The largest block, in bytes.
///
/// A process has 2^47 bytes of address space on the common 64-bit systems, in one piece but for libraries and stacks.
/// Half of it is the largest power of two that can be had; a quarter of that is all a 32-bit process can hope for.
const BLOCK_BYTES_MAX: u64 = if usize::BITS >= 64 { 1 << 46 } else { 1 << 30 };

/// Host memory.
///
/// A value holds facts only: no memory, no descriptor (but one from its first physical block on), no thread (a [`HostQueue`] has
/// one). It can be shared between threads, and its methods never block but for the time of a system call (and of the copying itself); only
/// [`wait`](Backend::wait) does what its name says.
#[derive(Debug)]
pub struct Host {
    properties: Properties,
    /// Where the system's files are.
    root: PathBuf,
    /// The NUMA node that pinned blocks are bound to.
    pinned_node: Option<u32>,
    /// What maps memory, where the system lets it.
    remap: Option<Remap>,
}

/// The index of the memory type for ordinary memory.
const ORDINARY: usize = 0;

/// The index of the memory type that is pinned.
pub(crate) const PINNED: usize = 1;

impl Host {
    /// Asks the system what it is. Reads a few files of the system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the system does not say how much memory it has.
    pub fn new() -> Result<Self, Error> {
        Self::with_options(HostOptions::default())
    }

    /// As [`Host::new`], with pinned blocks on a chosen NUMA node. Asks the kernel once whether it binds memory to it.
    ///
    /// # Errors
    ///
    /// As [`Host::new`]. For [`HostOptions::pinned_near`] also [`ErrorKind::Configuration`] if there is no such node, device or
    /// processor, or this process may not use that node's memory; [`ErrorKind::Unsupported`] if the system does not say where it
    /// is, does not bind memory to nodes, or is not Linux.
    pub fn with_options(options: HostOptions) -> Result<Self, Error> {
        let HostOptions { root, pinned_near } = options;
        let memory = facts::memory(&root).ok_or_else(|| {
            Error::new(ErrorKind::Driver, "Host::new", "the system does not say how much memory it has")
        })?;
        let pinned_node = match pinned_near {
            Some(near) => {
                let node = pinned::check_is_linux().and_then(|()| numa::node_near(&root, &near))?;
                pinned::check_binding(node)?;
                Some(node)
            }
            None => None,
        };
        let page_bytes = sys::page_bytes() as u64;
        let remap = Remap::new(&root, memory.total_bytes, page_bytes);
        let (sparse, sparse_blocks) = match remap {
            Some(_) => (MemoryFlags::SPARSE, Capabilities::SPARSE_BLOCKS),
            None => (MemoryFlags::NONE, Capabilities::NONE),
        };
        let visible = MemoryFlags::HOST_VISIBLE;
        let properties = Properties {
            backend: "host",
            device: facts::device_name(&root),
            heaps: vec![Heap { size_bytes: memory.total_bytes }],
            memory_types: vec![
                MemoryType { heap_index: 0, flags: visible | MemoryFlags::DEVICE_LOCAL | sparse },
                MemoryType { heap_index: 0, flags: visible | MemoryFlags::PINNED },
            ],
            // The OS page, because that is the unit of mmap. A larger granule (the huge page) would only forbid small
            // blocks; blocks that gain from huge pages are aligned to them anyway.
            block_granularity_bytes: page_bytes,
            block_bytes_max: BLOCK_BYTES_MAX,
            block_count_max: facts::block_count_max(&root, BLOCK_BYTES_MAX, page_bytes),
            alignment_bytes_min: page_bytes,
            physical_page_bytes: remap.as_ref().map_or(0, Remap::page_bytes),
            mapping_count_max: remap.as_ref().map_or(0, Remap::mapping_count_max),
            mapping_costs: remap.as_ref().and_then(Remap::mapping_costs),
            // Blocks start at OS pages, imported or not.
            import_alignment_bytes: page_bytes,
            capabilities: Capabilities::ZEROED_BLOCKS
                | Capabilities::COMMIT_ON_TOUCH
                | Capabilities::RELEASE_RANGE
                | Capabilities::QUEUES
                | Capabilities::IMPORT
                | Capabilities::RUNS_ON_HOST
                | sparse_blocks,
        };
        Ok(Self { properties, root, pinned_node, remap })
    }

    /// The NUMA node that pinned blocks are bound to; `None` without [`HostOptions::pinned_near`].
    #[must_use]
    pub fn pinned_node(&self) -> Option<u32> {
        self.pinned_node
    }

    /// What maps memory, if the system lets it and there is a memory type that it is asked for.
    fn remap(&self, memory_type_index: usize, operation: &'static str) -> Result<&Remap, Error> {
        match &self.remap {
            Some(remap) if memory_type_index == ORDINARY => Ok(remap),
            Some(_) => {
                let message = "pinned memory is locked where it is; map memory of type 0, or ask for a block";
                Err(Error::new(ErrorKind::Unsupported, operation, message))
            }
            None => {
                let message = "the system does not let this process map memory behind addresses (Host's documentation says \
                               what that takes); ask for blocks";
                Err(Error::new(ErrorKind::Unsupported, operation, message))
            }
        }
    }
}

/// The address `offset` bytes into a block.
///
/// # Safety
///
/// - `offset` is at most the block's size.
pub(crate) unsafe fn at(block: &HostBlock, offset: u64) -> NonNull<u8> {
    debug_assert!(offset <= block.bytes() as u64);
    // No bit is lost: the offset is at most the block's size, which is a usize.
    // SAFETY: the caller vouches that the offset stays in the block.
    unsafe { block.start().add(offset as usize) }
}

// SAFETY: a block is a mapping of its own of (at least) the bytes asked for, so it overlaps no other; its start is a
// field that never changes, a multiple of the OS page, and what lies behind it is readable, writable and zeroed by the
// system until `destroy_block` unmaps it. A sparse block is a mapping of its own too, and what lies behind it is parts of a file of
// this value's own, each readable, writable and zeroed until it is written, and each of one physical block at a time. For imported memory the same is vouched for by whoever made the `HostMemory`, until
// its owner is dropped, which is what `destroy_block` does. The properties are made once and never written. A queue's entries are taken
// from the front by its one worker, and a value is set when the worker comes to its marker, or at once where the lock shows
// that there is no entry and none runs; the lock is also what orders calls by different threads.
unsafe impl Backend for Host {
    type Block = HostBlock;
    type Queue = HostQueue;

    fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The lowest of physical memory, the limits of the process's control groups (Linux, versions 1 and 2) and its
    /// limit of address space. Reads some ten files of the system on Linux. What the process has is its resident anonymous
    /// memory and what all backend values have in memory files, each byte once however often it is mapped.
    ///
    /// Never fails: what cannot be read does not limit. Control groups count other processes too.
    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        let address_space_bytes_max = rustix::process::getrlimit(Resource::As).current;
        let heap_size_bytes = self.properties.heaps[heap_index].size_bytes;
        let page_bytes = self.properties.block_granularity_bytes;
        let budget = budget::read(&self.root, heap_size_bytes, address_space_bytes_max, page_bytes);
        Ok(HeapBudget {
            process_bytes: budget.process_bytes.map(|bytes| bytes + remap::held_bytes()),
            ..budget
        })
    }

    /// A pinned block is brought into physical memory within the call, which takes about as long as touching all of it.
    ///
    /// A pinned block fails with [`ErrorKind::OutOfMemory`] if less might be locked: a limit has been reached, or the machine or
    /// the NUMA node has no room for it. It fails with [`ErrorKind::Unsupported`] if this process may lock nothing, or bind
    /// nothing to a node any more.
    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<HostBlock, Error> {
        let block = map(desc.bytes)?;
        if desc.memory_type_index == PINNED {
            pinned::pin(block, &self.root, self.pinned_node)
        } else {
            Ok(block)
        }
    }

    unsafe fn destroy_block(&self, block: HostBlock) -> Result<(), DestroyError<HostBlock>> {
        // SAFETY: the caller vouches that no range of the block is in use.
        unsafe { block.unmap() }.map_err(|(block, errno)| {
            let message = format!(
                "the system did not take {} bytes back; if the process has too many mappings, destroy other blocks \
                 first or raise vm.max_map_count",
                block.bytes()
            );
            DestroyError {
                block,
                error: Error::new(ErrorKind::Driver, "destroy_block", message).with_source(errno),
            }
        })
    }

    /// Never fails for the first memory type. Nothing can be imported as pinned memory: locks of one address do not add up, so
    /// ending this one's would end one that the memory's owner may have made.
    fn import_block(&self, memory: HostMemory, memory_type_index: usize) -> Result<HostBlock, ImportError> {
        if memory_type_index == PINNED {
            let message = "memory is imported as it is; lock it yourself (mlock) and import it as memory type 0, or copy \
                           it to a pinned block";
            let error = Error::new(ErrorKind::Unsupported, "import_block", message);
            return Err(ImportError { memory, error });
        }
        Ok(HostBlock::import(memory))
    }

    /// Of a pinned block, unlocks the range too: that much can be locked elsewhere. A range in the middle of one splits its
    /// mapping in the kernel, for as long as the block exists; where the process has too many mappings this is refused.
    unsafe fn release_range(&self, range: BlockRange<'_, HostBlock>) -> Result<(), Error> {
        if let (Some(remap), Some(sparse)) = (&self.remap, range.block.as_sparse()) {
            // SAFETY: the caller vouches for the range.
            return unsafe { remap.release(sparse, range) };
        }
        // SAFETY: the caller vouches that the range lies in its block.
        let start = unsafe { at(range.block, range.offset) };
        // SAFETY: the caller vouches that the range lies in its block and begins and ends at OS pages, our granule, and that
        // nobody uses it.
        unsafe { range.block.release(start, range.bytes as usize) }.map_err(|errno| {
            let message = format!(
                "the system did not take {} bytes of a block back; if the process has too many mappings, destroy \
                 other blocks first or raise vm.max_map_count",
                range.bytes
            );
            Error::new(ErrorKind::Driver, "release_range", message).with_source(errno)
        })
    }

    /// Takes addresses only, and counts once among the process's mappings.
    fn create_sparse_block(&self, desc: &BlockDesc<'_>) -> Result<HostBlock, Error> {
        let remap = self.remap(desc.memory_type_index, "create_sparse_block")?;
        remap.create_sparse_block(desc.bytes).map(HostBlock::sparse)
    }

    /// Takes memory only where it is touched, like an ordinary block.
    fn create_physical_block(&self, desc: &BlockDesc<'_>) -> Result<HostBlock, Error> {
        let remap = self.remap(desc.memory_type_index, "create_physical_block")?;
        remap.create_physical_block(desc.bytes).map(HostBlock::physical)
    }

    unsafe fn map(&self, sparse: BlockRange<'_, HostBlock>, physical: &HostBlock) -> Result<(), Error> {
        let remap = self.remap(ORDINARY, "map")?;
        // SAFETY: the caller vouches for the range and the physical block.
        unsafe { remap.map(sparse, physical) }
    }

    unsafe fn unmap(&self, sparse: BlockRange<'_, HostBlock>) -> Result<(), Error> {
        let remap = self.remap(ORDINARY, "unmap")?;
        // SAFETY: the caller vouches for the range.
        unsafe { remap.unmap(sparse) }
    }

    fn host_pointer(&self, block: &HostBlock) -> Option<NonNull<u8>> {
        block.address()
    }

    unsafe fn copy(
        &self,
        source: BlockRange<'_, HostBlock>,
        destination: BlockRange<'_, HostBlock>,
    ) -> Result<(), Error> {
        debug_assert_eq!(source.bytes, destination.bytes);
        // SAFETY: the caller vouches that the range lies in its block.
        let from = unsafe { at(source.block, source.offset) };
        // SAFETY: as above.
        let to = unsafe { at(destination.block, destination.offset) };
        // SAFETY: the caller vouches that both ranges lie in their blocks, do not overlap, and that nobody else writes
        // the one or touches the other. Blocks are readable and writable throughout.
        unsafe { from.copy_to_nonoverlapping(to, source.bytes as usize) };
        Ok(())
    }

    unsafe fn fill(&self, destination: BlockRange<'_, HostBlock>, value: u8) -> Result<(), Error> {
        // SAFETY: the caller vouches that the range lies in its block.
        let to = unsafe { at(destination.block, destination.offset) };
        // SAFETY: the caller vouches that the range lies in its block and that nobody else touches it. Blocks are
        // writable throughout.
        unsafe { to.write_bytes(value, destination.bytes as usize) };
        Ok(())
    }

    fn device_address(&self, block: &HostBlock) -> Option<u64> {
        block.address().map(|start| start.addr().get() as u64)
    }

    /// Starts the queue's thread.
    fn create_queue(&self) -> Result<HostQueue, Error> {
        HostQueue::new()
    }

    /// A ticket that is cancelled is seen before each MiB.
    ///
    /// Never fails.
    unsafe fn enqueue(
        &self,
        queue: &HostQueue,
        command: Command<'_, HostBlock>,
        ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        // SAFETY: the caller vouches for the command, and for its memory until the queue's value shows it.
        unsafe { queue.enqueue(command, ticket) };
        Ok(())
    }

    /// On an idle queue the value rises before the call returns.
    ///
    /// Never fails.
    unsafe fn signal(&self, queue: &HostQueue, value: u64) -> Result<(), Error> {
        queue.signal(value);
        Ok(())
    }

    /// A load. Never fails.
    fn completed(&self, queue: &HostQueue) -> Result<u64, Error> {
        Ok(queue.completed())
    }

    /// Never fails.
    fn wait(&self, queue: &HostQueue, value: u64, timeout: Duration) -> Result<bool, Error> {
        queue.wait(value, timeout)
    }

    /// Nothing is queued if the value is reached already. Never fails.
    fn wait_on_queue(&self, queue: &HostQueue, other: &HostQueue, value: u64) -> Result<(), Error> {
        queue.wait_on(other, value);
        Ok(())
    }
}

/// Maps a block of ordinary memory.
fn map(bytes: u64) -> Result<HostBlock, Error> {
    // More than the address space holds is refused like anything else that is too much.
    let mapped = usize::try_from(bytes).map_err(|_| Errno::NOMEM).and_then(HostBlock::map);
    mapped.map_err(|errno| create_error(bytes, errno))
}

fn create_error(bytes: u64, errno: Errno) -> Error {
    let operation = "create_block";
    if errno == Errno::NOMEM {
        let message = format!(
            "the system refused to map {bytes} bytes; ask for less or lower the budget, or raise what limits the \
             process: its address space (ulimit -v), its data (ulimit -d), its number of mappings \
             (vm.max_map_count), overcommit (vm.overcommit_memory)"
        );
        Error::new(ErrorKind::OutOfMemory, operation, message).with_source(errno)
    } else {
        let message = format!("the system failed to map {bytes} bytes");
        Error::new(ErrorKind::Driver, operation, message).with_source(errno)
    }
}

impl DefaultDevice for Host {
    fn default_device() -> Result<Self, Error> {
        Self::new()
    }
}

#[cfg(test)]
mod tests;
