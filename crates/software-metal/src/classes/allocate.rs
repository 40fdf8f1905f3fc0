//! How a device makes buffers.

use super::buffer::{Buffer, Deallocator, Source};
use super::descriptors::sparse_page_bytes;
use super::{Device, storage_mode};
use crate::faults::Call;
use crate::memory::{Charge, Place};
use crate::pages::Pages;
use crate::purge::Purgeable;
use crate::sparse::Mappings;
use objc2::rc::Retained;
use objc2_metal::{MTLResourceOptions, MTLSparsePageSize, MTLStorageMode};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::Arc;

impl Device {
    /// Whether a buffer of the device may have this length and these options; what never may is the client's error.
    fn allows(&self, len: usize, options: MTLResourceOptions) -> bool {
        assert!(len > 0, "a buffer of length 0");
        let mode = storage_mode(options);
        assert!(mode != MTLStorageMode::Memoryless, "a buffer cannot be memoryless");
        mode != MTLStorageMode::Managed && len as u64 <= self.state().desc.max_buffer_bytes
    }

    fn charge(&self, len: usize) -> Option<Charge> {
        Charge::new(self.state(), len.checked_next_multiple_of(self.state().desc.page_bytes())?)
    }

    pub(super) fn new_own(&self, len: usize, options: MTLResourceOptions) -> Option<Retained<Buffer>> {
        if !self.allows(len, options) || self.state().faults.refuses(Call::NewBuffer) {
            return None;
        }
        let place = || {
            let charge = self.charge(len)?;
            let store = Arc::new(Purgeable::new(Pages::new(len)?));
            self.state().faults.watch(&store);
            Some(Place::Own { store, charge })
        };
        Buffer::new(self, options, len, place, Source::Device)
    }

    pub(super) fn new_foreign(
        &self,
        bytes: *mut c_void,
        len: usize,
        options: MTLResourceOptions,
        deallocator: Option<Deallocator>,
    ) -> Option<Retained<Buffer>> {
        let page = self.state().desc.page_bytes();
        let base = NonNull::new(bytes.cast::<u8>())?;
        assert!(
            storage_mode(options) != MTLStorageMode::Private,
            "newBufferWithBytesNoCopy: with private storage"
        );
        if !base.addr().get().is_multiple_of(page) || !len.is_multiple_of(page) {
            return None;
        }
        if !self.allows(len, options) || self.state().faults.refuses(Call::NewBufferNoCopy) {
            return None;
        }
        let place = || self.charge(len).map(|charge| Place::Foreign { base, charge });
        Buffer::new(self, options, len, place, Source::Foreign(deallocator))
    }

    pub(super) fn new_sparse(
        &self,
        len: usize,
        options: MTLResourceOptions,
        page: MTLSparsePageSize,
    ) -> Option<Retained<Buffer>> {
        let tile_bytes = sparse_page_bytes(page);
        assert!(self.state().desc.has_metal4, "a placement sparse buffer of a device without Metal 4");
        assert!(tile_bytes > 0, "placementSparsePageSize {page:?} does not exist");
        assert!(
            storage_mode(options) == MTLStorageMode::Private,
            "a placement sparse buffer that is not private"
        );
        if !self.allows(len, options) || self.state().faults.refuses(Call::NewSparseBuffer) {
            return None;
        }
        Buffer::new(self, options, len, || Mappings::new(len, tile_bytes).map(Place::Sparse), Source::Device)
    }
}
