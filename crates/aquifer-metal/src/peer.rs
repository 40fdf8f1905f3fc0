//! Copies from one Metal device to another.

use aquifer_backend::{BlockRange, Error};
use objc2::rc::{Retained, autoreleasepool};
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_metal::{MTLBuffer, MTLDevice, MTLResource as _, MTLStorageMode};

use crate::backend::Metal;
use crate::block::MetalBlock;
use crate::staging::Staging;
use crate::transfer::{Blit, Part, chunks};

const OPERATION: &str = "copy_to_peer";

impl Metal {
    /// Whether `peer` is another device that reads this one's private memory without the host between: both are in one peer
    /// group. Apple marks these calls as ended with macOS 27, and no Mac with Apple silicon has such a group.
    #[must_use]
    pub fn reaches_directly(&self, peer: &Self) -> bool {
        let group = |metal: &Self| {
            let device = &metal.device.raw;
            if device.respondsToSelector(sel!(peerGroupID)) { device.peerGroupID() } else { 0 }
        };
        self.device.raw.registryID() != peer.device.raw.registryID()
            && group(self) != 0
            && group(self) == group(peer)
    }

    /// Copies a part of a block of this device to a part of one of `peer`, of the same length. Returns when the bytes have
    /// arrived. Directly where the devices can ([`Metal::reaches_directly`]) and the source is private, else in chunks
    /// through memory that the host sees.
    ///
    /// # Errors
    ///
    /// As [`Backend::copy`](aquifer_backend::Backend::copy), and [`ErrorKind::Driver`](aquifer_backend::ErrorKind::Driver) if
    /// Metal makes no staging buffer.
    ///
    /// # Safety
    ///
    /// - Both ranges lie in their blocks, are equally long, and do not overlap.
    /// - Nobody writes the source or touches the destination until the call returns.
    pub unsafe fn copy_to_peer(
        &self,
        source: BlockRange<'_, MetalBlock>,
        peer: &Self,
        destination: BlockRange<'_, MetalBlock>,
    ) -> Result<(), Error> {
        let bytes = source.bytes;
        let to = Part::of(destination.block, destination.offset);
        let view = autoreleasepool(|_| self.remote_view(source.block, peer));
        if let Some(view) = view {
            let from = Part { buffer: &view, contents: None, offset: source.offset };
            // SAFETY: the caller vouches for the ranges; the view is of the whole source.
            return unsafe {
                peer.device.run(Blit::Copy { source: from, destination: to, bytes }, OPERATION)
            };
        }
        let (mut near, mut far) = (Staging::default(), Staging::default());
        let from = Part::of(source.block, source.offset);
        for (done, bytes) in chunks(bytes) {
            // SAFETY: the caller vouches for the source; the chunk lies in it.
            let staged = unsafe { near.download(&self.device, from.at(done), bytes, OPERATION) }?;
            // SAFETY: as above, for the destination; what is staged is that long, and nobody else knows it.
            unsafe { far.upload(&peer.device, staged, to.at(done), bytes, OPERATION) }?;
        }
        Ok(())
    }

    /// A buffer of `peer`'s that is this device's block.
    fn remote_view(
        &self,
        block: &MetalBlock,
        peer: &Self,
    ) -> Option<Retained<ProtocolObject<dyn MTLBuffer>>> {
        let buffer = &block.buffer;
        let can = self.reaches_directly(peer)
            && buffer.storageMode() == MTLStorageMode::Private
            && buffer.respondsToSelector(sel!(newRemoteBufferViewForDevice:));
        if can { buffer.newRemoteBufferViewForDevice(&peer.device.raw) } else { None }
    }
}
