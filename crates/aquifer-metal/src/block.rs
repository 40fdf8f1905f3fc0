//! A block: a heap with one buffer over all of it, or a buffer by itself.

use std::ptr::NonNull;
use std::sync::atomic::AtomicBool;

use objc2::runtime::ProtocolObject;
use objc2_metal::{MTLAllocation, MTLBuffer, MTLHeap, MTLPurgeableState, MTLResource as _};

use crate::object::Object;
use crate::residency::Seat;

/// A block of Metal memory. An allocation is a part of one: this buffer, and an offset in it.
///
/// It has no `Drop`: only [`Backend::destroy_block`](aquifer_backend::Backend::destroy_block) takes it out of its residency
/// set. Where it is merely dropped, Metal frees the memory when nothing refers to it any more.
#[derive(Debug)]
pub struct MetalBlock {
    pub(crate) buffer: Object<dyn MTLBuffer>,
    pub(crate) memory: Memory,
    /// `None` where the host cannot see it.
    pub(crate) contents: Option<NonNull<u8>>,
    pub(crate) bytes: u64,
    pub(crate) gpu_address: Option<u64>,
    /// Of its device's.
    pub(crate) registry_id: u64,
    /// Whether a peer has been given a view of it, which may keep the memory a moment longer than the block.
    pub(crate) was_viewed: AtomicBool,
    /// Its place in the residency sets.
    pub(crate) seat: Seat,
}

// SAFETY: the pointer is that of the buffer's memory, which any thread may use as the contract says.
unsafe impl Send for MetalBlock {}
// SAFETY: as above.
unsafe impl Sync for MetalBlock {}

/// Whose the memory behind the buffer is.
#[derive(Debug)]
pub(crate) enum Memory {
    /// A placement heap's, for blocks that are cut: a program may put resources of its own into a range of it, and on Metal 4 its
    /// parts can be mapped behind sparse buffers.
    Heap(Object<dyn MTLHeap>),
    /// The buffer's own.
    Buffer,
    /// The user's.
    Imported,
    /// None; that of heaps is mapped behind it.
    Sparse,
}

impl MetalBlock {
    /// The Metal buffer over all of the block. Kernels are given it together with the offset of an allocation.
    ///
    /// To keep it longer than the allocation (by retaining it) is no error, but its content then belongs to others.
    #[must_use]
    pub fn buffer(&self) -> &ProtocolObject<dyn MTLBuffer> {
        &self.buffer
    }

    /// The placement heap that the block is, if it is one: for resources of the program's own at the offset of an allocation.
    /// `None` for a block that was made for one allocation, an imported and a sparse one.
    #[must_use]
    pub fn heap(&self) -> Option<&ProtocolObject<dyn MTLHeap>> {
        match &self.memory {
            Memory::Heap(heap) => Some(heap),
            Memory::Buffer | Memory::Imported | Memory::Sparse => None,
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What residency sets hold.
    pub(crate) fn allocation(&self) -> &ProtocolObject<dyn MTLAllocation> {
        match &self.memory {
            Memory::Heap(heap) => ProtocolObject::from_ref(&**heap),
            Memory::Buffer | Memory::Imported | Memory::Sparse => ProtocolObject::from_ref(&*self.buffer),
        }
    }

    /// Sets the purgeable state of the memory, and answers the one before. A heap's is set, not that of the resources in it:
    /// Metal has it so.
    pub(crate) fn set_purgeable(&self, state: MTLPurgeableState) -> MTLPurgeableState {
        match &self.memory {
            Memory::Heap(heap) => heap.setPurgeableState(state),
            Memory::Buffer | Memory::Imported | Memory::Sparse => self.buffer.setPurgeableState(state),
        }
    }
}
