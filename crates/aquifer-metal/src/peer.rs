//! Memory of one Metal device that another reads.

use std::sync::atomic::Ordering;

use aquifer_backend::Error;
use objc2::rc::Retained;
use objc2::runtime::{NSObjectProtocol, ProtocolObject};
use objc2::sel;
use objc2_metal::MTLBuffer;

use crate::backend::Metal;
use crate::block::MetalBlock;
use crate::device::Device;
use crate::status::no_object;

impl Metal {
    /// Whether `peer` is another device that reads this one's private memory without the host between: both are in one peer
    /// group. Then a copy in a queue of `peer`'s may have such a block as its source
    /// ([`Backend::reads_peer`](aquifer_backend::Backend::reads_peer)). Apple marks these calls as ended with macOS 27, and no
    /// Mac with Apple silicon has such a group.
    #[must_use]
    pub fn reaches_directly(&self, peer: &Self) -> bool {
        let (here, there) = (&self.device, &peer.device);
        here.registry_id != there.registry_id
            && here.peer_group_id != 0
            && here.peer_group_id == there.peer_group_id
    }
}

impl Device {
    /// A buffer of this device's that is a peer's block, to be read by blits and nothing else: it has no memory of its own, and
    /// keeps the block's. `None` if the block is this device's. To be called with an autorelease pool.
    pub(crate) fn view_of_peer(
        &self,
        block: &MetalBlock,
        operation: &'static str,
    ) -> Result<Option<Retained<ProtocolObject<dyn MTLBuffer>>>, Error> {
        if block.registry_id == self.registry_id {
            return Ok(None);
        }
        let has_views = block.buffer.respondsToSelector(sel!(newRemoteBufferViewForDevice:));
        let view = if has_views { block.buffer.newRemoteBufferViewForDevice(&self.raw) } else { None };
        block.was_viewed.store(true, Ordering::Relaxed);
        view.map(Some).ok_or_else(|| no_object(operation, "view of a peer's buffer"))
    }
}
