//! Memory without addresses: parts of a file that exists in memory only.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, MemfdFlags};
use rustix::io::{Errno, Result};
use rustix::process::Resource;

use super::ranges::Ranges;
use crate::mapping::HUGE_PAGE_BYTES;

/// All files of this process, for [`held_bytes`].
static FILES: Mutex<Vec<Weak<MemoryFile>>> = Mutex::new(Vec::new());

/// A file in memory. It takes memory only where it has been touched, and reads as zero elsewhere.
#[derive(Debug)]
pub(crate) struct MemoryFile {
    descriptor: OwnedFd,
    ranges: Mutex<Ranges>,
}

/// A part of a file, given back by [`Physical::give_back`] only.
pub(crate) struct Physical {
    file: Arc<MemoryFile>,
    offset: u64,
    bytes: u64,
}

/// An empty file. It is closed when this process executes another program, and nobody executes the file.
pub(crate) fn open() -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC;
    match rustix::fs::memfd_create("aquifer", flags | MemfdFlags::NOEXEC_SEAL) {
        // Before Linux 6.3 there is no such flag.
        Err(Errno::INVAL) => rustix::fs::memfd_create("aquifer", flags),
        opened => opened,
    }
}

/// The physical memory that all files of this process have, in bytes.
pub(crate) fn held_bytes() -> u64 {
    let files: Vec<_> = FILES.lock().iter().filter_map(Weak::upgrade).collect();
    files.iter().map(|file| file.held_bytes()).sum()
}

impl MemoryFile {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// What `memfd_create` answered.
    pub(crate) fn new() -> Result<Arc<Self>> {
        let file = Arc::new(Self { descriptor: open()?, ranges: Mutex::default() });
        let mut files = FILES.lock();
        files.retain(|file| file.strong_count() > 0);
        files.push(Arc::downgrade(&file));
        Ok(file)
    }

    /// Sets a part of the file aside, which reads as zero. Where it is as long as a huge page, it begins at a multiple of one.
    ///
    /// # Errors
    ///
    /// [`Errno::FBIG`] if the process may not make a file so long, or whatever `ftruncate` answered. Nothing has changed then.
    pub(crate) fn allocate(self: &Arc<Self>, bytes: u64) -> Result<Physical> {
        let huge_page_bytes = HUGE_PAGE_BYTES as u64;
        let alignment = if bytes >= huge_page_bytes { huge_page_bytes } else { 1 };
        let mut ranges = self.ranges.lock();
        let place = ranges.find(bytes, alignment).ok_or(Errno::FBIG)?;
        if place.end() > ranges.end() {
            self.grow(place.end())?;
        }
        ranges.take(place);
        Ok(Physical { file: Arc::clone(self), offset: place.offset, bytes })
    }

    /// Beyond the limit the kernel would send a signal, which ends the process.
    fn grow(&self, bytes: u64) -> Result<()> {
        let limit = rustix::process::getrlimit(Resource::Fsize).current;
        if limit.is_some_and(|limit| bytes > limit) {
            return Err(Errno::FBIG);
        }
        rustix::fs::ftruncate(&self.descriptor, bytes)
    }

    /// Gives the memory of a part back, which reads as zero from then on, through all its mappings.
    ///
    /// # Errors
    ///
    /// What `fallocate` answered.
    ///
    /// # Safety
    ///
    /// - Nobody uses the part meanwhile, nor misses what it holds.
    pub(crate) unsafe fn release(&self, offset: u64, bytes: u64) -> Result<()> {
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.descriptor, hole, offset, bytes)
    }

    /// The physical memory that it has, in bytes, however often it is mapped. Zero if the system does not say.
    fn held_bytes(&self) -> u64 {
        // The unit of `st_blocks` is 512 bytes, whatever the file system's is (stat(3type)).
        rustix::fs::fstat(&self.descriptor).map_or(0, |status| status.st_blocks as u64 * 512)
    }
}

impl AsFd for MemoryFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

impl Physical {
    pub(crate) fn bytes(&self) -> usize {
        // No bit is lost: there are files on 64-bit systems only.
        self.bytes as usize
    }

    /// Where in which file it is.
    pub(super) fn place(&self) -> (&MemoryFile, u64) {
        (&self.file, self.offset)
    }

    /// Gives the memory back, and the part of the file to whoever comes next; or comes back whole.
    ///
    /// # Safety
    ///
    /// - Nobody uses the memory, now or later, unless it comes back.
    pub(crate) unsafe fn give_back(self) -> std::result::Result<(), (Self, Errno)> {
        // SAFETY: the caller vouches that nobody uses it.
        if let Err(errno) = unsafe { self.file.release(self.offset, self.bytes) } {
            return Err((self, errno));
        }
        self.file.ranges.lock().free(self.offset, self.bytes);
        Ok(())
    }
}
