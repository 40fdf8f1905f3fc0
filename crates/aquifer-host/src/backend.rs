//! The backend itself.

use std::path::Path;
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
use crate::queue::HostQueue;
use crate::sys;

/// The largest block, in bytes.
///
/// A process has 2^47 bytes of address space on the common 64-bit systems, in one piece but for libraries and stacks.
/// Half of it is the largest power of two that can be had; a quarter of that is all a 32-bit process can hope for.
const BLOCK_BYTES_MAX: u64 = if usize::BITS >= 64 { 1 << 46 } else { 1 << 30 };

/// Host memory.
///
/// A value holds facts only: no memory, no descriptor, no thread (a [`HostQueue`] has one). It can be shared between
/// threads, and its methods never block but for the time of a system call (and of the copying itself); only
/// [`wait`](Backend::wait) does what its name says.
#[derive(Debug)]
pub struct Host {
    properties: Properties,
}

impl Host {
    /// Asks the system what it is. Reads a few files of the system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if the system does not say how much memory it has.
    pub fn new() -> Result<Self, Error> {
        let root = root();
        let memory = facts::memory(root).ok_or_else(|| {
            Error::new(ErrorKind::Driver, "Host::new", "the system does not say how much memory it has")
        })?;
        let page_bytes = sys::page_bytes() as u64;
        let properties = Properties {
            backend: "host",
            device: facts::device_name(root),
            heaps: vec![Heap { size_bytes: memory.total_bytes }],
            memory_types: vec![MemoryType {
                heap_index: 0,
                flags: MemoryFlags::HOST_VISIBLE | MemoryFlags::DEVICE_LOCAL,
            }],
            // The OS page, because that is the unit of mmap. A larger granule (the huge page) would only forbid small
            // blocks; blocks that gain from huge pages are aligned to them anyway.
            block_granularity_bytes: page_bytes,
            block_bytes_max: BLOCK_BYTES_MAX,
            block_count_max: facts::block_count_max(root, BLOCK_BYTES_MAX, page_bytes),
            alignment_bytes_min: page_bytes,
            physical_page_bytes: 0,
            // Blocks start at OS pages, imported or not.
            import_alignment_bytes: page_bytes,
            capabilities: Capabilities::ZEROED_BLOCKS
                | Capabilities::COMMIT_ON_TOUCH
                | Capabilities::RELEASE_RANGE
                | Capabilities::QUEUES
                | Capabilities::IMPORT
                | Capabilities::RUNS_ON_HOST,
        };
        Ok(Self { properties })
    }
}

/// Where the system's files are, outside of tests.
fn root() -> &'static Path {
    Path::new("/")
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
// system until `destroy_block` unmaps it. For imported memory the same is vouched for by whoever made the `HostMemory`, until
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
    /// limit of address space. Reads some ten files of the system on Linux.
    ///
    /// Never fails: what cannot be read does not limit. Control groups count other processes too.
    fn budget(&self, heap_index: usize) -> Result<HeapBudget, Error> {
        let address_space_bytes_max = rustix::process::getrlimit(Resource::As).current;
        let heap_size_bytes = self.properties.heaps[heap_index].size_bytes;
        let page_bytes = self.properties.block_granularity_bytes;
        Ok(budget::read(root(), heap_size_bytes, address_space_bytes_max, page_bytes))
    }

    fn create_block(&self, desc: &BlockDesc<'_>) -> Result<HostBlock, Error> {
        // More than the address space holds is refused like anything else that is too much.
        let mapped = usize::try_from(desc.bytes).map_err(|_| Errno::NOMEM).and_then(HostBlock::map);
        mapped.map_err(|errno| create_error(desc.bytes, errno))
    }

    unsafe fn destroy_block(&self, block: HostBlock) -> Result<(), DestroyError<HostBlock>> {
        // SAFETY: the caller vouches that no range of the block is in use.
        unsafe { block.unmap() }.map_err(|(block, errno)| {
            let message = format!(
                "the system did not unmap {} bytes; if the process has too many mappings, destroy other blocks \
                 first or raise vm.max_map_count",
                block.bytes()
            );
            DestroyError {
                block,
                error: Error::new(ErrorKind::Driver, "destroy_block", message).with_source(errno),
            }
        })
    }

    /// Never fails.
    fn import_block(&self, memory: HostMemory, _memory_type_index: usize) -> Result<HostBlock, ImportError> {
        Ok(HostBlock::import(memory))
    }

    unsafe fn release_range(&self, range: BlockRange<'_, HostBlock>) -> Result<(), Error> {
        // SAFETY: the caller vouches that the range lies in its block.
        let start = unsafe { at(range.block, range.offset) };
        // SAFETY: a block is one mapping (and imported ones have no part that nobody uses); the caller vouches that the range begins and ends at OS pages, our granule, and
        // that nobody uses it.
        unsafe { sys::release(start, range.bytes as usize) }.map_err(|errno| {
            let message = format!("the system did not take {} bytes of a block back", range.bytes);
            Error::new(ErrorKind::Driver, "release_range", message).with_source(errno)
        })
    }

    fn host_pointer(&self, block: &HostBlock) -> Option<NonNull<u8>> {
        Some(block.start())
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
        Some(block.start().addr().get() as u64)
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
mod tests {
    use super::*;
    use crate::block::HUGE_PAGE_BYTES;

    fn create(host: &Host, bytes: u64) -> HostBlock {
        host.create_block(&BlockDesc::new(bytes, 0)).unwrap()
    }

    fn destroy(host: &Host, block: HostBlock) {
        // SAFETY: the tests below use no block after this.
        unsafe { host.destroy_block(block) }.unwrap();
    }

    /// The block's content. The borrow of the block keeps it from being destroyed meanwhile.
    fn bytes<'a>(host: &Host, block: &'a mut HostBlock) -> &'a mut [u8] {
        let start = host.host_pointer(block).unwrap();
        // SAFETY: the block is readable, writable and initialised over its size, and borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), block.bytes()) }
    }

    fn range(block: &HostBlock, offset: u64, bytes: u64) -> BlockRange<'_, HostBlock> {
        BlockRange { block, offset, bytes }
    }

    #[test]
    fn properties_keep_the_contract() {
        let host = Host::new().unwrap();
        let properties = host.properties();
        assert_eq!(properties.backend, "host");
        assert!(properties.device.starts_with("host memory"));
        assert!(properties.block_granularity_bytes.is_power_of_two());
        assert!(properties.alignment_bytes_min.is_power_of_two() && properties.alignment_bytes_min >= 256);
        assert_eq!(properties.heaps.len(), 1);
        assert!(properties.heaps[0].size_bytes > 0);
        assert_eq!(properties.memory_types.len(), 1);
        assert!(properties.block_count_max > 0);
        assert!(properties.block_bytes_max.is_multiple_of(properties.block_granularity_bytes));
    }

    #[test]
    fn budget_is_within_the_heap() {
        let host = Host::new().unwrap();
        let budget = host.budget(0).unwrap();
        assert!(budget.budget_bytes > 0 && budget.budget_bytes <= host.properties().heaps[0].size_bytes);
        assert!(budget.available_bytes <= budget.budget_bytes);
    }

    #[test]
    fn blocks_are_zeroed_aligned_and_writable_to_the_last_byte() {
        let host = Host::new().unwrap();
        let granule = host.properties().block_granularity_bytes;
        let huge = HUGE_PAGE_BYTES as u64;
        let sizes =
            [granule, 3 * granule, huge - granule, huge, huge + granule, 5 * huge, 5 * huge + 7 * granule];
        // Twice, so that addresses which have been dirty come round again.
        for size in sizes.into_iter().chain(sizes) {
            let mut block = create(&host, size);
            let address = host.host_pointer(&block).unwrap().addr().get() as u64;
            let alignment = if size >= huge { huge } else { host.properties().alignment_bytes_min };
            assert!(address.is_multiple_of(alignment), "{size} bytes at {address:#x}");
            let content = bytes(&host, &mut block);
            assert_eq!(content.len() as u64, size);
            assert!(content.iter().all(|&byte| byte == 0), "{size}");
            content.fill(0xa5);
            assert_eq!(content.last(), Some(&0xa5));
            destroy(&host, block);
        }
    }

    #[test]
    fn blocks_do_not_overlap() {
        let host = Host::new().unwrap();
        let granule = host.properties().block_granularity_bytes;
        let size = |index: u64| if index.is_multiple_of(2) { (2 << 20) + granule } else { granule };
        let mut blocks: Vec<_> = (0..20).map(|index| create(&host, size(index))).collect();
        for (index, block) in blocks.iter_mut().enumerate() {
            bytes(&host, block).fill(index as u8 + 1);
        }
        for (index, block) in blocks.iter_mut().enumerate() {
            assert!(bytes(&host, block).iter().all(|&byte| byte == index as u8 + 1), "{index}");
        }
        for block in blocks {
            destroy(&host, block);
        }
    }

    #[test]
    fn impossible_sizes_are_out_of_memory() {
        let host = Host::new().unwrap();
        for size in [1 << 60, 1 << 63, u64::MAX - 0x3fff] {
            let error = host.create_block(&BlockDesc::new(size, 0)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}");
            assert!(error.is_retryable());
            assert!(
                error.message().contains(&size.to_string()) && error.message().contains("ulimit"),
                "{error}"
            );
        }
        // The largest block may be possible: it is address space only.
        let desc = BlockDesc::new(host.properties().block_bytes_max, 0);
        match host.create_block(&desc) {
            Ok(block) => destroy(&host, block),
            Err(error) => assert_eq!(error.kind(), ErrorKind::OutOfMemory, "{error}"),
        }
    }

    #[test]
    fn no_size_at_all_is_an_error_with_its_cause() {
        let error = Host::new().unwrap().create_block(&BlockDesc::new(0, 0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Driver);
        assert!(std::error::Error::source(&error).is_some());
    }

    #[test]
    fn copies_between_blocks_and_within_one() {
        let host = Host::new().unwrap();
        let granule = host.properties().block_granularity_bytes;
        let (mut a, mut b) = (create(&host, granule), create(&host, granule));
        for (index, byte) in bytes(&host, &mut a).iter_mut().enumerate() {
            *byte = index as u8;
        }
        // SAFETY: both ranges lie in their blocks, which are different, and nobody else knows them.
        unsafe { host.copy(range(&a, 3, 100), range(&b, granule - 100, 100)) }.unwrap();
        let content = bytes(&host, &mut b);
        let (before, copied) = content.split_at(content.len() - 100);
        assert!(before.iter().all(|&byte| byte == 0));
        assert!(copied.iter().enumerate().all(|(index, &byte)| byte == index as u8 + 3));
        // SAFETY: the ranges touch but do not overlap.
        unsafe { host.copy(range(&a, 10, 20), range(&a, 30, 20)) }.unwrap();
        assert_eq!(bytes(&host, &mut a)[30..50], (10..30).collect::<Vec<u8>>());
        // SAFETY: both ranges are empty, at the very end of their blocks.
        unsafe { host.copy(range(&a, granule, 0), range(&b, granule, 0)) }.unwrap();
        destroy(&host, a);
        destroy(&host, b);
    }

    #[test]
    fn fills_a_range_and_nothing_else() {
        let host = Host::new().unwrap();
        let granule = host.properties().block_granularity_bytes;
        let mut block = create(&host, granule);
        // SAFETY: the range lies in the block, and nobody else knows it.
        unsafe { host.fill(range(&block, 5, 10), 0xff) }.unwrap();
        let content = bytes(&host, &mut block);
        assert!(content.iter().enumerate().all(|(index, &byte)| (byte == 0xff) == (5..15).contains(&index)));
        destroy(&host, block);
    }

    #[test]
    fn backend_and_blocks_may_cross_threads() {
        fn is_shared<T: Send + Sync>() {}
        is_shared::<Host>();
        is_shared::<HostBlock>();
        let host = Host::new().unwrap();
        let mut block = create(&host, host.properties().block_granularity_bytes);
        let block = std::thread::scope(|scope| {
            let write = || {
                bytes(&host, &mut block)[0] = 9;
                block
            };
            scope.spawn(write).join().unwrap()
        });
        destroy(&host, block);
    }
}
