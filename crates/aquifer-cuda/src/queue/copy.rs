//! Copies in a stream: which of the ways there are a copy takes.

use aquifer_backend::{CopyEnd, Error};
use cudarc::driver::sys::CUcontext;

use crate::block::{CudaBlock, HostAddress};
use crate::context::Context;
use crate::sys;

use super::host_step::{self, Given, HostSteps};
use super::{CudaQueue, address_of};

/// One end of a copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// Where the host reaches it.
    host: Option<HostAddress>,
    /// Where the device does, if that is known.
    device: Option<u64>,
    /// The only context that is known to reach it.
    context: Option<CUcontext>,
}

impl End {
    pub(super) fn of(end: CopyEnd<'_, CudaBlock>) -> Self {
        match end {
            CopyEnd::Block { block, offset } => {
                // SAFETY: the core vouches that the offset lies in the block.
                let host = block.host().map(|start| HostAddress(unsafe { start.add(offset as usize) }));
                let context = block.own_context().map(Context::raw);
                Self { host, device: Some(address_of(block) + offset), context }
            }
            CopyEnd::Host(address) => Self { host: Some(HostAddress(address)), device: None, context: None },
        }
    }

    /// Where the device reaches so many bytes; `None` for memory of the host that is not page-locked, or only at one of its ends. The driver
    /// is asked only where nobody knows.
    fn address_if_locked(self, bytes: u64) -> Option<u64> {
        self.device.or_else(|| {
            let first = self.host?.0.as_ptr();
            let last = first.wrapping_add((bytes as usize).saturating_sub(1));
            (sys::is_locked(first) && sys::is_locked(last)).then(|| first.addr() as u64)
        })
    }
}

impl CudaQueue {
    /// # Safety
    ///
    /// - Both ends stay until the copy has run, and nobody writes the one or touches the other.
    pub(super) unsafe fn enqueue_copy(
        &self,
        host_steps: &mut HostSteps,
        (from, to): (End, End),
        bytes: u64,
    ) -> Result<Given, Error> {
        let work = &self.device.host_work;
        let own_context = self.device.context.raw();
        let [from_context, to_context] = [from, to].map(|end| end.context.unwrap_or(own_context));
        self.give("enqueue", |stream| {
            // A copy within the host the driver makes at once, out of its turn.
            if let (Some(from), Some(to)) = (from.host, to.host) {
                // SAFETY: the caller vouches for both ends.
                return unsafe { host_step::copy(stream, work, (from, to), bytes) }.map(|()| Given::Whole);
            }
            match (from.address_if_locked(bytes), to.address_if_locked(bytes), from.host, to.host) {
                (Some(from), Some(to), ..) if [from_context, to_context] != [own_context; 2] => {
                    // SAFETY: as above.
                    unsafe { sys::copy_between(stream, (from, from_context), (to, to_context), bytes) }
                        .map(|()| Given::Whole)
                }
                (Some(from), Some(to), ..) => {
                    // SAFETY: as above.
                    unsafe { sys::copy(stream, from, to, bytes) }.map(|()| Given::Whole)
                }
                // SAFETY: as above.
                (None, Some(to), Some(from), _) => unsafe {
                    host_steps.upload(stream, work, (from, to), bytes)
                },
                // SAFETY: as above.
                (Some(from), None, _, Some(to)) => unsafe {
                    host_steps.download(stream, work, (from, to), bytes)
                },
                _ => unreachable!("an end that is not locked is the host's"),
            }
        })
    }
}
