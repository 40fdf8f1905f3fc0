//! Memory that is mapped behind addresses as it is needed: sparse and physical blocks on Linux.
//!
//! A sparse block is reserved addresses ([`sparse`]), a physical block a part of a file that exists in memory only ([`mod@file`]), and
//! mapping is `mmap` of the one over the other, shared, so that the same memory may lie behind several addresses. The file
//! is made with the first physical block, once for a [`Host`](crate::Host), and closed with it. Parts of the file that are destroyed are
//! punched out of it, which gives the memory back, and used again ([`ranges`]).
//!
//! # What it costs
//!
//! All of it hangs on huge pages. Anonymous memory gets them on advice nearly everywhere. Files in memory get them only where
//! `/sys/kernel/mm/transparent_hugepage/shmem_enabled` allows it, and its default is `never`. Measured on a 2-core x86-64 virtual
//! machine with Linux 6.18, 256 MiB, medians of nine, the best of two or three runs:
//!
//! | | blocks (anonymous, advised) | file, huge pages | file, small pages |
//! |---|---|---|---|
//! | first touch, for each 4 KiB | 177 ns | 190 ns | 2260 ns |
//! | `memset` again | 49 GB/s | 47 GB/s | 41 GB/s |
//! | `memcpy` | 19 GB/s | 19 GB/s | 19 GB/s |
//! | read of a random byte | 159 ns | 166 ns | 187 ns |
//! | touch after mapping again, for each 4 KiB | | 15 ns | 1120 ns |
//! | unmapping, for each 4 KiB | | 1.6 ns | 205 ns |
//! | giving back, for each 4 KiB | 12 ns | 11 ns | 530 ns |
//!
//! The file with huge pages was one on a `tmpfs` mounted with `huge=advise`, which the same code of the kernel serves. Populating small
//! pages at once (`MADV_POPULATE_WRITE`) makes them no cheaper. Through this backend, with 32 MiB that were touched, medians of 51 in
//! microseconds, for ordinary blocks, and with huge and small pages for physical ones: to create 6, 5, 7; to map 18 and 18; to
//! unmap 19 and 1490; to destroy 93, 93, 4150. (With nothing touched: 0.4, 4, 3 and 1.)
//!
//! So [`Properties::mapping_costs`](aquifer_backend::Properties::mapping_costs) are told where there are huge pages. Elsewhere they
//! would depend on how many bytes there are, memory would come twelve times slower than a block's, and mapping is for programs that
//! ask for it.

mod facts;
mod file;
mod ranges;
mod sparse;

use std::path::Path;
use std::sync::Arc;

use aquifer_backend::{BlockRange, Error, ErrorKind, MappingCosts};
use parking_lot::Mutex;
use rustix::io::Errno;

use crate::block::HostBlock;
use file::MemoryFile;

pub(crate) use file::{Physical, held_bytes};
pub(crate) use sparse::Sparse;

/// What is mapped is a multiple of this, or of an OS page if that is larger: mapping in smaller pieces would cost more than the
/// memory is worth.
const PAGE_BYTES_MIN: u64 = 64 << 10;

/// With huge pages, for 32 MiB that have been touched: as measured above. Destroying is giving back memory, which takes as long for a
/// block.
const COSTS_WITH_HUGE_PAGES: MappingCosts =
    MappingCosts { create_ns: 5_000, map_ns: 18_000, unmap_ns: 19_000, destroy_ns: 93_000 };

/// Makes sparse and physical blocks and maps them.
#[derive(Debug)]
pub(crate) struct Remap {
    page_bytes: u64,
    has_huge_pages: bool,
    mapping_count_max: u64,
    /// Made when it is needed.
    file: Mutex<Option<Arc<MemoryFile>>>,
}

impl Remap {
    /// `None` where the system does not let the process do it, or would end it for touching memory. Reads a few files of the system.
    pub(crate) fn new(root: &Path, heap_bytes: u64, os_page_bytes: u64) -> Option<Self> {
        facts::can_remap(root, heap_bytes).then(|| Self {
            page_bytes: os_page_bytes.max(PAGE_BYTES_MIN),
            has_huge_pages: facts::has_huge_pages(root),
            mapping_count_max: crate::facts::mapping_count_max(root),
            file: Mutex::default(),
        })
    }

    /// As [`Properties::physical_page_bytes`](aquifer_backend::Properties::physical_page_bytes).
    pub(crate) fn page_bytes(&self) -> u64 {
        self.page_bytes
    }

    /// As [`Properties::mapping_count_max`](aquifer_backend::Properties::mapping_count_max).
    pub(crate) fn mapping_count_max(&self) -> u64 {
        self.mapping_count_max
    }

    /// As [`Properties::mapping_costs`](aquifer_backend::Properties::mapping_costs).
    pub(crate) fn mapping_costs(&self) -> Option<MappingCosts> {
        self.has_huge_pages.then_some(COSTS_WITH_HUGE_PAGES)
    }

    /// As [`Backend::create_sparse_block`](aquifer_backend::Backend::create_sparse_block).
    pub(crate) fn create_sparse_block(&self, bytes: u64) -> Result<Sparse, Error> {
        // No bit is lost: this exists on 64-bit systems only.
        Sparse::new(bytes as usize).map_err(|errno| {
            let message = format!(
                "the system refused to reserve {bytes} bytes of addresses; ask for less, or raise what limits the process: its \
                 address space (ulimit -v), its number of mappings (vm.max_map_count)"
            );
            error("create_sparse_block", message, errno)
        })
    }

    /// As [`Backend::create_physical_block`](aquifer_backend::Backend::create_physical_block).
    pub(crate) fn create_physical_block(&self, bytes: u64) -> Result<Physical, Error> {
        self.file().and_then(|file| file.allocate(bytes)).map_err(|errno| {
            let message = format!(
                "the system refused {bytes} bytes more of a file in memory; ask for less, or raise what limits the process: the \
                 size of files (ulimit -f), their number (ulimit -n)"
            );
            error("create_physical_block", message, errno)
        })
    }

    fn file(&self) -> rustix::io::Result<Arc<MemoryFile>> {
        let mut file = self.file.lock();
        if let Some(file) = &*file {
            return Ok(Arc::clone(file));
        }
        Ok(Arc::clone(file.insert(MemoryFile::new()?)))
    }

    /// # Safety
    ///
    /// - As for [`Backend::map`](aquifer_backend::Backend::map).
    pub(crate) unsafe fn map(
        &self,
        range: BlockRange<'_, HostBlock>,
        physical: &HostBlock,
    ) -> Result<(), Error> {
        let (Some(sparse), Some(physical)) = (range.block.as_sparse(), physical.as_physical()) else {
            return Err(other_blocks("map"));
        };
        // SAFETY: the caller vouches for the range and the physical block.
        unsafe { sparse.map(range.offset, physical, self.has_huge_pages) }
            .map_err(|errno| mapping_error("map", range.bytes, errno))
    }

    /// # Safety
    ///
    /// - As for [`Backend::unmap`](aquifer_backend::Backend::unmap).
    pub(crate) unsafe fn unmap(&self, range: BlockRange<'_, HostBlock>) -> Result<(), Error> {
        let Some(sparse) = range.block.as_sparse() else { return Err(other_blocks("unmap")) };
        // SAFETY: the caller vouches for the range.
        unsafe { sparse.unmap(range.offset, range.bytes) }
            .map_err(|errno| mapping_error("unmap", range.bytes, errno))
    }

    /// Of a sparse block.
    ///
    /// # Safety
    ///
    /// - As for [`Backend::release_range`](aquifer_backend::Backend::release_range).
    pub(crate) unsafe fn release(
        &self,
        sparse: &Sparse,
        range: BlockRange<'_, HostBlock>,
    ) -> Result<(), Error> {
        // Without a file nothing is mapped.
        let Some(file) = self.file.lock().clone() else { return Ok(()) };
        // SAFETY: the caller vouches for the range, and what is mapped is of the one file that there is.
        unsafe { sparse.release(range.offset, range.bytes, &file) }.map_err(|errno| {
            let message = format!("the system did not take {} bytes of memory back", range.bytes);
            Error::new(ErrorKind::Driver, "release_range", message).with_source(errno)
        })
    }
}

fn mapping_error(operation: &'static str, bytes: u64, errno: Errno) -> Error {
    let message = format!(
        "the system refused to change what lies behind {bytes} bytes of addresses, since the process has too many mappings; \
         destroy blocks, map larger physical blocks or fewer, or raise vm.max_map_count"
    );
    error(operation, message, errno)
}

fn error(operation: &'static str, message: String, errno: Errno) -> Error {
    let shortages = [Errno::NOMEM, Errno::FBIG, Errno::NOSPC, Errno::MFILE, Errno::NFILE];
    let kind = if shortages.contains(&errno) { ErrorKind::OutOfMemory } else { ErrorKind::Driver };
    Error::new(kind, operation, message).with_source(errno)
}

fn other_blocks(operation: &'static str) -> Error {
    let message = "only physical blocks are mapped, and only behind sparse blocks";
    Error::new(ErrorKind::Unsupported, operation, message)
}
