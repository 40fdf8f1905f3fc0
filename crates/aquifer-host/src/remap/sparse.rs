//! Addresses without memory, and the parts of files that are mapped behind them.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use parking_lot::Mutex;
use rustix::io::{Errno, Result};

use super::file::{MemoryFile, Physical};
use crate::mapping::{HUGE_PAGE_BYTES, Mapping};
use crate::sys;

/// A part of a file behind addresses.
#[derive(Debug, Clone, Copy)]
struct Mapped {
    bytes: u64,
    in_file: u64,
}

/// Reserved addresses, unmapped by [`Sparse::unmap_all`] only.
pub(crate) struct Sparse {
    addresses: Mapping,
    start: NonNull<u8>,
    bytes: usize,
    /// What is mapped where, by offset: the kernel has forgotten whose memory it is.
    mapped: Mutex<BTreeMap<u64, Mapped>>,
}

impl Sparse {
    /// Reserves so many bytes of addresses, from a multiple of the huge page on.
    pub(crate) fn new(bytes: usize) -> Result<Self> {
        let (addresses, start) = Mapping::aligned(bytes, HUGE_PAGE_BYTES, sys::reserve)?;
        Ok(Self { addresses, start, bytes, mapped: Mutex::default() })
    }

    pub(crate) fn start(&self) -> NonNull<u8> {
        self.start
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// # Safety
    ///
    /// - `offset` lies in the block.
    unsafe fn at(&self, offset: u64) -> NonNull<u8> {
        // SAFETY: the caller vouches that it lies in the block.
        unsafe { self.start.add(offset as usize) }
    }

    /// Maps a physical block from `offset` on.
    ///
    /// # Safety
    ///
    /// - As for [`Backend::map`](aquifer_backend::Backend::map).
    pub(super) unsafe fn map(&self, offset: u64, physical: &Physical, has_huge_pages: bool) -> Result<()> {
        let (file, in_file) = physical.place();
        // SAFETY: the caller vouches that the range lies in the block.
        let start = unsafe { self.at(offset) };
        // SAFETY: the caller vouches that the range is whole pages, as long as the physical block, and that nothing is behind it.
        // The file has been made as long as the physical block needs; who uses that is the caller's to know.
        unsafe { sys::map_file(start, physical.bytes(), file.as_fd(), in_file) }?;
        if has_huge_pages {
            // Where it is refused, the memory is as good, only slower.
            // SAFETY: the range has just been mapped.
            let _ = unsafe { sys::advise_huge_pages(start, physical.bytes()) };
        }
        self.mapped.lock().insert(offset, Mapped { bytes: physical.bytes() as u64, in_file });
        Ok(())
    }

    /// Takes away what [`Sparse::map`] has put to `offset`.
    ///
    /// # Safety
    ///
    /// - As for [`Backend::unmap`](aquifer_backend::Backend::unmap).
    pub(super) unsafe fn unmap(&self, offset: u64, bytes: u64) -> Result<()> {
        // SAFETY: the caller vouches that the range lies in the block.
        let start = unsafe { self.at(offset) };
        // SAFETY: the caller vouches that it is a mapping, and that nobody uses it.
        unsafe { sys::reserve_again(start, bytes as usize) }?;
        self.mapped.lock().remove(&offset);
        Ok(())
    }

    /// Gives back the memory behind a range that lies behind one mapping. What nothing is mapped behind has none.
    ///
    /// # Safety
    ///
    /// - As for [`Backend::release_range`](aquifer_backend::Backend::release_range), and `file` is what has been mapped here.
    pub(super) unsafe fn release(&self, offset: u64, bytes: u64, file: &MemoryFile) -> Result<()> {
        let before = self.mapped.lock().range(..=offset).next_back().map(|(&at, &mapped)| (at, mapped));
        let Some((at, mapped)) = before.filter(|(at, mapped)| offset < at + mapped.bytes) else {
            return Ok(());
        };
        debug_assert!(offset + bytes <= at + mapped.bytes, "it lies behind one mapping");
        // SAFETY: the caller vouches that nobody uses the range, which is that part of the file.
        unsafe { file.release(mapped.in_file + (offset - at), bytes) }
    }

    /// Gives the addresses back with everything that is mapped behind them; or comes back whole.
    ///
    /// # Safety
    ///
    /// - Nobody uses the addresses, now or later, unless they come back.
    pub(crate) unsafe fn unmap_all(self) -> std::result::Result<(), (Self, Errno)> {
        let Self { addresses, start, bytes, mapped } = self;
        // SAFETY: the caller vouches that nobody uses the addresses; what surrounds them nobody ever uses.
        unsafe { addresses.unmap() }
            .map_err(|(addresses, errno)| (Self { addresses, start, bytes, mapped }, errno))
    }
}
