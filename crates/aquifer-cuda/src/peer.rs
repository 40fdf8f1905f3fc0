//! Devices that read each other's memory.

use crate::device::{Device, Place};
use crate::sys;
use crate::virtual_memory as vm;

impl Device {
    /// Whether this device's queues read the memory of another without the host between. The first time for a device, it is let in.
    pub(crate) fn reads_peer(&self, peer: &Self, memory_type_index: usize) -> bool {
        if peer.place(memory_type_index) != Place::Device {
            // Memory of the host, which is no peer's.
            return false;
        }
        if self.ordinal == peer.ordinal {
            return self.context.raw() == peer.context.raw();
        }
        self.options.peer_access && peer.options.peer_access && peer.admit(self)
    }

    /// Lets another device read what is mapped here now and later, and what the driver's allocator gave; false if it cannot.
    fn admit(&self, reader: &Self) -> bool {
        if self.check("reads_peer").is_err() {
            return false;
        }
        let mut mapped = self.mapped.lock();
        if mapped.peers.contains(&reader.ordinal) {
            return true;
        }
        let can = reader.call("reads_peer", || sys::can_access_peer(reader.raw(), self.raw()));
        if !can.unwrap_or(false) {
            return false;
        }
        // Not noted as the reader's: a context of this device's that is gone is answered as if it were that.
        let enabled = reader.context.enter().and_then(|_current| sys::enable_peer_access(self.context.raw()));
        if enabled.is_err() {
            return false;
        }
        let let_in = self.call("reads_peer", || {
            mapped
                .extents
                .iter()
                .try_for_each(|(&address, &bytes)| vm::allow(address, bytes, &[self.ordinal, reader.ordinal]))
        });
        if let_in.is_ok() {
            mapped.peers.push(reader.ordinal);
        }
        let_in.is_ok()
    }
}
