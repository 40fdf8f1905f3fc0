//! The raw calls about memory, each a `Result`.

use std::ffi::c_void;
use std::ptr::{self, NonNull};

#[cfg(target_os = "linux")]
use rustix::fd::BorrowedFd;
use rustix::io::{Errno, Result};
use rustix::mm::{MapFlags, ProtFlags};

/// The size of an OS page in bytes: the unit of `mmap`. A power of two, at least 4096 on every supported system.
pub(crate) fn page_bytes() -> usize {
    rustix::param::page_size()
}

/// Maps `bytes` bytes, rounded up to whole OS pages: private, readable, writable, zero, at an address of the system's
/// choice.
pub(crate) fn map(bytes: usize) -> Result<NonNull<u8>> {
    let flags = MapFlags::PRIVATE;
    // Without this Linux counts the whole mapping as memory in use when it judges whether to grant it, though nothing
    // has been touched. (With vm.overcommit_memory = 2 it counts it all the same.) macOS never counts it.
    #[cfg(target_os = "linux")]
    let flags = flags | MapFlags::NORESERVE;
    // SAFETY: the address is the system's choice and MAP_FIXED is not set, so no existing mapping is touched.
    let start = unsafe {
        rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, flags)
    }?;
    // Null is a legal mapping only below vm.mmap_min_addr, which the system does not choose by itself.
    NonNull::new(start.cast()).ok_or(Errno::NOMEM)
}

/// Reserves `bytes` bytes of addresses, rounded up to whole OS pages, at a place of the system's choice. Nothing is behind them.
#[cfg(target_os = "linux")]
pub(crate) fn reserve(bytes: usize) -> Result<NonNull<u8>> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
    // SAFETY: as in `map`.
    let start = unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), bytes, ProtFlags::empty(), flags) }?;
    NonNull::new(start.cast()).ok_or(Errno::NOMEM)
}

/// Puts a part of a file behind reserved addresses, readable and writable, and for all mappings of it the same memory. A forked
/// process has nothing there: it would share the memory, and write what the parent reads.
///
/// On failure the addresses are as they were: Linux counts the mappings before it changes anything.
///
/// # Safety
///
/// - The range is whole OS pages of what [`reserve`] made, and nothing uses what is behind it.
/// - The file is that long, and its memory is read and written by those only who may do so here.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn map_file(
    start: NonNull<u8>,
    bytes: usize,
    file: BorrowedFd<'_>,
    offset: u64,
) -> Result<()> {
    let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::FIXED);
    // SAFETY: the caller vouches that the addresses are ours and that nothing uses them.
    unsafe { rustix::mm::mmap(start.as_ptr().cast(), bytes, access, flags, file, offset) }?;
    // SAFETY: the range has just been mapped; this process goes on as if nothing had been said.
    let kept_from_children =
        unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxDontFork) };
    if kept_from_children.is_err() {
        // SAFETY: as above. If it is refused too, the memory stays mapped where the caller takes it for reserved, which nobody uses.
        let _ = unsafe { reserve_again(start, bytes) };
    }
    kept_from_children
}

/// Takes away what is behind a part of reserved addresses; they stay reserved.
///
/// On failure everything is as it was, as for [`map_file`].
///
/// # Safety
///
/// - The range is whole OS pages of what [`reserve`] made, and nothing uses what is behind it.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn reserve_again(start: NonNull<u8>, bytes: usize) -> Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    // SAFETY: the caller vouches that the addresses are ours and that nothing uses them.
    unsafe { rustix::mm::mmap_anonymous(start.as_ptr().cast(), bytes, ProtFlags::empty(), flags) }?;
    Ok(())
}

/// Unmaps `bytes` bytes from `start`, both in whole OS pages.
///
/// On failure everything is still mapped: Linux checks before it changes anything.
///
/// # Safety
///
/// - The range lies in a mapping that [`map`] made and that has not been unmapped.
/// - Nothing uses the range, now or later.
pub(crate) unsafe fn unmap(start: NonNull<u8>, bytes: usize) -> Result<()> {
    // SAFETY: the caller vouches that the range is a mapping of ours and that nothing uses it.
    unsafe { rustix::mm::munmap(start.as_ptr().cast::<c_void>(), bytes) }
}

/// Advises the system to back a range with huge pages. The content does not change.
///
/// # Safety
///
/// - The range lies in a mapping that [`map`] made and that has not been unmapped.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn advise_huge_pages(start: NonNull<u8>, bytes: usize) -> Result<()> {
    // SAFETY: the caller vouches for the range, and this advice never changes what memory holds.
    unsafe { rustix::mm::madvise(start.as_ptr().cast::<c_void>(), bytes, rustix::mm::Advice::LinuxHugepage) }
}

/// Brings a range into physical memory, all of it, and keeps it there until it is unlocked or unmapped.
///
/// On failure some of it may be locked.
///
/// # Safety
///
/// - The range lies in a mapping that [`map`] made and that has not been unmapped.
pub(crate) unsafe fn lock(start: NonNull<u8>, bytes: usize) -> Result<()> {
    // SAFETY: the caller vouches for the range; locking does not change what memory holds.
    unsafe { rustix::mm::mlock(start.as_ptr().cast::<c_void>(), bytes) }
}

/// Ends what [`lock`] began, for a part of what was locked. The content stays.
///
/// # Safety
///
/// - The range lies in a mapping that [`map`] made and that has not been unmapped.
pub(crate) unsafe fn unlock(start: NonNull<u8>, bytes: usize) -> Result<()> {
    // SAFETY: the caller vouches for the range; unlocking does not change what memory holds.
    unsafe { rustix::mm::munlock(start.as_ptr().cast::<c_void>(), bytes) }
}

/// Gives the memory behind a part of a mapping back; the addresses stay mapped and read as zero. Linux refuses where it is
/// locked.
///
/// # Safety
///
/// - The part lies in one mapping of [`map`] and begins and ends at OS pages.
/// - Nobody uses it.
#[cfg(target_os = "linux")]
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) -> Result<()> {
    // SAFETY: the caller vouches for the range and that nobody misses what it holds.
    unsafe { rustix::mm::madvise(start.as_ptr().cast(), bytes, rustix::mm::Advice::LinuxDontNeed) }
}

/// Gives the memory behind a part of a mapping back, by mapping it anew: elsewhere `madvise` only hints.
///
/// # Safety
///
/// - The part lies in one mapping of [`map`] and begins and ends at OS pages.
/// - Nobody uses it.
#[cfg(not(target_os = "linux"))]
pub(crate) unsafe fn release(start: NonNull<u8>, bytes: usize) -> Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::FIXED;
    // SAFETY: the caller vouches that the range is ours and that nobody misses what it holds.
    unsafe {
        rustix::mm::mmap_anonymous(
            start.as_ptr().cast::<c_void>(),
            bytes,
            ProtFlags::READ | ProtFlags::WRITE,
            flags,
        )
    }?;
    Ok(())
}
