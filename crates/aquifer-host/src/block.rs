//! A block: a mapping, addresses without memory, memory without addresses, or memory that somebody brought.

use std::fmt;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

use aquifer_backend::HostMemory;
use rustix::io::{Errno, Result};

use crate::mapping::{HUGE_PAGE_BYTES, Mapping};
use crate::remap::{Physical, Sparse};
use crate::sys;

/// What a block is made of.
enum Source {
    Mapped(Mapping),
    /// Its owner is dropped with [`HostBlock::unmap`] only, like a mapping.
    Imported(ManuallyDrop<HostMemory>),
    /// Addresses.
    Sparse(Sparse),
    /// Memory.
    Physical(Physical),
}

/// A block of host memory, made by [`Host`](crate::Host).
///
/// Give it to [`Backend::destroy_block`](aquifer_backend::Backend::destroy_block) when nothing uses it any more. A
/// block that is only dropped stays mapped until the process ends; of an imported one, the owner is never dropped then, and of a
/// physical one, the memory is not used again.
#[must_use = "a block that is dropped without being destroyed stays mapped"]
pub struct HostBlock {
    source: Source,
    /// Of a physical block nobody uses it: there is nothing.
    start: NonNull<u8>,
    bytes: usize,
    /// Whether [`HostBlock::lock`] has locked it.
    is_locked: bool,
}

// SAFETY: the pointers are to memory that belongs to the process, not to a thread, and that this value alone may unmap.
unsafe impl Send for HostBlock {}

// SAFETY: through a shared reference only the addresses can be read, and they never change. Whoever reads or writes
// the memory behind them does so in unsafe code and answers for races.
unsafe impl Sync for HostBlock {}

impl HostBlock {
    /// Maps a block of `bytes` bytes.
    ///
    /// # Errors
    ///
    /// What `mmap` answered. Nothing stays mapped then.
    pub(crate) fn map(bytes: usize) -> Result<Self> {
        if bytes < HUGE_PAGE_BYTES {
            let (mapping, start) = Mapping::new(bytes, sys::map)?.all();
            return Ok(Self::of(Source::Mapped(mapping), start, bytes));
        }
        let (mapping, start) = Mapping::aligned(bytes, HUGE_PAGE_BYTES, sys::map)?;
        // Refused where the kernel has no huge pages; the block is as good, only slower.
        #[cfg(target_os = "linux")]
        // SAFETY: the range is the block that has just been mapped.
        let _ = unsafe { sys::advise_huge_pages(start, bytes) };
        Ok(Self::of(Source::Mapped(mapping), start, bytes))
    }

    fn of(source: Source, start: NonNull<u8>, bytes: usize) -> Self {
        Self { source, start, bytes, is_locked: false }
    }

    /// A block of memory that somebody brought.
    pub(crate) fn import(memory: HostMemory) -> Self {
        // No bit is lost: memory of the host is never longer than a usize.
        let (start, bytes) = (memory.start(), memory.bytes() as usize);
        Self::of(Source::Imported(ManuallyDrop::new(memory)), start, bytes)
    }

    /// Addresses without memory.
    pub(crate) fn sparse(sparse: Sparse) -> Self {
        let (start, bytes) = (sparse.start(), sparse.bytes());
        Self::of(Source::Sparse(sparse), start, bytes)
    }

    /// Memory without addresses.
    pub(crate) fn physical(physical: Physical) -> Self {
        let bytes = physical.bytes();
        Self::of(Source::Physical(physical), NonNull::dangling(), bytes)
    }

    /// What there is to know of a sparse block, if it is one.
    pub(crate) fn as_sparse(&self) -> Option<&Sparse> {
        if let Source::Sparse(sparse) = &self.source { Some(sparse) } else { None }
    }

    /// The memory, if it is a physical block.
    pub(crate) fn as_physical(&self) -> Option<&Physical> {
        if let Source::Physical(physical) = &self.source { Some(physical) } else { None }
    }

    /// Locks the block: all of it is in physical memory from now on, until it is unmapped. Not for imported ones.
    ///
    /// # Errors
    ///
    /// What `mlock` answered. Some of the block may be locked then: unmap it.
    pub(crate) fn lock(&mut self) -> Result<()> {
        debug_assert!(matches!(self.source, Source::Mapped(_)));
        // SAFETY: the block is mapped as long as this value exists.
        unsafe { sys::lock(self.start, self.bytes) }?;
        self.is_locked = true;
        Ok(())
    }

    /// Gives the physical memory of a part of the block back, and what it took of the limit of locked memory.
    ///
    /// # Errors
    ///
    /// What the system answered. Nothing has changed then.
    ///
    /// # Safety
    ///
    /// - The `bytes` bytes from `start` lie in the block, and begin and end at OS pages.
    /// - Nobody uses them, now or until the block is unmapped.
    pub(crate) unsafe fn release(&self, start: NonNull<u8>, bytes: usize) -> Result<()> {
        if self.is_locked {
            // SAFETY: the caller vouches that the range lies in the block, which is mapped.
            unsafe { sys::unlock(start, bytes) }?;
        }
        // SAFETY: a block is one mapping (and imported ones have no part that nobody uses); the caller vouches that the
        // range begins and ends at OS pages, and that nobody uses it.
        let released = unsafe { sys::release(start, bytes) };
        if released.is_err() && self.is_locked {
            // It is in physical memory, and was locked a moment ago. If others have used the limit up meanwhile, then no
            // later call can mend that either.
            // SAFETY: as for unlocking.
            let _ = unsafe { sys::lock(start, bytes) };
        }
        released
    }

    /// Unmaps the block, or gives it back whole. Of an imported one, drops the owner; of a physical one, gives the memory back.
    ///
    /// # Safety
    ///
    /// - Nothing uses the block, now or later, unless it comes back.
    pub(crate) unsafe fn unmap(self) -> std::result::Result<(), (Self, Errno)> {
        let Self { source, start, bytes, is_locked } = self;
        let outcome = match source {
            Source::Mapped(mapping) => {
                // SAFETY: the caller vouches that nothing uses the block, and nothing ever uses what surrounds it.
                unsafe { mapping.unmap() }.map_err(|(mapping, errno)| (Source::Mapped(mapping), errno))
            }
            Source::Imported(memory) => {
                drop(ManuallyDrop::into_inner(memory));
                Ok(())
            }
            Source::Sparse(sparse) => {
                // SAFETY: as for a mapping.
                unsafe { sparse.unmap_all() }.map_err(|(sparse, errno)| (Source::Sparse(sparse), errno))
            }
            Source::Physical(physical) => {
                // SAFETY: the caller vouches that nothing uses the block, so nobody reaches its memory through a mapping.
                unsafe { physical.give_back() }
                    .map_err(|(physical, errno)| (Source::Physical(physical), errno))
            }
        };
        outcome.map_err(|(source, errno)| (Self { source, start, bytes, is_locked }, errno))
    }

    /// The first byte; of a physical block, which has none, anything.
    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Where it starts, if it has addresses.
    pub(crate) fn address(&self) -> Option<NonNull<u8>> {
        self.as_physical().is_none().then_some(self.start)
    }

    /// The size in bytes, as it was asked for.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl fmt::Debug for HostBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostBlock")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
