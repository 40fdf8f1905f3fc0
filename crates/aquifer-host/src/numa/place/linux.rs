//! `mbind` and `move_pages`. Neither rustix nor nix has them, and libnuma would be a C library for two calls.

use std::ffi::{c_int, c_ulong};
use std::io;
use std::ptr::{self, NonNull};

use rustix::io::{Errno, Result};

/// More nodes than any kernel has: `MAX_NUMNODES` is at most 1 << 10.
const NODE_COUNT_MAX: usize = 1 << 10;

const WORD_BITS: usize = c_ulong::BITS as usize;

/// The error of the call that has just answered -1.
fn last_error() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// Has the memory of a range come from one node only, when it is touched. What has been touched stays where it is.
///
/// `MPOL_BIND`, not `MPOL_PREFERRED`: with the latter the kernel takes another node's free memory rather than drop this one's
/// caches of files, so that on a machine that has been up for a day the wish would be in vain, and nobody would know.
/// The price is that it kills a process if the node has nothing left to give; so ask
/// [`available_bytes`](crate::numa::available_bytes) before touching much.
///
/// # Safety
///
/// - The range lies in a mapping of this process's own, in whole OS pages.
pub(crate) unsafe fn bind(start: NonNull<u8>, bytes: usize, node: u32) -> Result<()> {
    let node = node as usize;
    if node >= NODE_COUNT_MAX {
        return Err(Errno::INVAL);
    }
    let mut nodes = [0 as c_ulong; NODE_COUNT_MAX / WORD_BITS];
    nodes[node / WORD_BITS] = 1 << (node % WORD_BITS);
    // One more than there are: the kernel takes one off (mbind(2), "BUGS" of older versions).
    let bits = (NODE_COUNT_MAX + 1) as c_ulong;
    // SAFETY: the kernel reads the mask, which is as long as it is told, and writes no memory of ours. A policy does not change
    // what memory holds. The caller vouches that the range is the process's own.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mbind,
            start.as_ptr(),
            bytes,
            c_ulong::from(libc::MPOL_BIND.cast_unsigned()),
            nodes.as_ptr(),
            bits,
            0 as c_ulong,
        )
    };
    if answer == 0 { Ok(()) } else { Err(last_error()) }
}

/// The node of the page behind an address. `move_pages` without a target moves nothing.
///
/// # Errors
///
/// `ENOENT` if there is no page, `EFAULT` if there is no mapping or the page is the one that is zero for all.
pub(super) fn node_of_page(address: *const u8) -> Result<u32> {
    let mut status: c_int = -1;
    let this_process: c_int = 0;
    let count: c_ulong = 1;
    // SAFETY: the kernel reads one address and writes one int, both of this frame. Whatever the address is, it is only looked up.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            this_process,
            count,
            &raw const address,
            ptr::null::<c_int>(),
            &raw mut status,
            0 as c_int,
        )
    };
    if answer < 0 {
        return Err(last_error());
    }
    // A node, or an error of this one page.
    u32::try_from(status).map_err(|_| Errno::from_raw_os_error(-status))
}
