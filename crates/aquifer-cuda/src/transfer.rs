//! Copies and fills that are waited for.

use aquifer_backend::{BlockRange, Error};

use crate::block::CudaBlock;
use crate::device::Device;
use crate::sys;

/// # Safety
///
/// - As for [`Backend::copy`](aquifer_backend::Backend::copy).
pub(crate) unsafe fn copy(
    device: &Device,
    source: BlockRange<'_, CudaBlock>,
    destination: BlockRange<'_, CudaBlock>,
) -> Result<(), Error> {
    if let (Some(from), Some(to)) = (source.block.host(), destination.block.host()) {
        // SAFETY: the caller vouches that the range lies in its block.
        let from = unsafe { from.add(source.offset as usize) };
        // SAFETY: as above.
        let to = unsafe { to.add(destination.offset as usize) };
        // SAFETY: the caller vouches for both, equally long and apart.
        unsafe { from.copy_to_nonoverlapping(to, source.bytes as usize) };
        return Ok(());
    }
    let (from, to) = (address_of(source), address_of(destination));
    // SAFETY: the caller vouches for both ends until the call returns, and by then the copy has run.
    device.run("copy", |stream| unsafe { sys::copy(stream, from, to, source.bytes) })
}

/// # Safety
///
/// - As for [`Backend::fill`](aquifer_backend::Backend::fill).
pub(crate) unsafe fn fill(
    device: &Device,
    destination: BlockRange<'_, CudaBlock>,
    value: u8,
) -> Result<(), Error> {
    if let Some(start) = destination.block.host() {
        // SAFETY: the caller vouches that the range lies in its block.
        let start = unsafe { start.add(destination.offset as usize) };
        // SAFETY: the caller vouches for the range.
        unsafe { start.write_bytes(value, destination.bytes as usize) };
        return Ok(());
    }
    let to = address_of(destination);
    // SAFETY: the caller vouches for the range until the call returns, and by then the fill has run.
    device.run("fill", |stream| unsafe { sys::fill(stream, to, value, destination.bytes) })
}

fn address_of(range: BlockRange<'_, CudaBlock>) -> u64 {
    range.block.address().expect("the core names no address of memory that has none") + range.offset
}
