//! Sparse and physical blocks on a system where there are none: it compiles, and nobody can have one.

use std::path::Path;
use std::ptr::NonNull;

use aquifer_backend::{BlockRange, Error, MappingCosts};
use rustix::io::Errno;

use crate::block::HostBlock;

/// Makes no blocks: no value of this type exists.
#[derive(Debug)]
pub(crate) enum Remap {}

/// Addresses without memory: no value of this type exists.
pub(crate) enum Sparse {}

/// Memory without addresses: no value of this type exists.
pub(crate) enum Physical {}

/// No memory is held for blocks that do not exist.
pub(crate) fn held_bytes() -> u64 {
    0
}

impl Remap {
    pub(crate) fn new(_root: &Path, _heap_bytes: u64, _os_page_bytes: u64) -> Option<Self> {
        None
    }

    pub(crate) fn page_bytes(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn mapping_count_max(&self) -> u64 {
        match *self {}
    }

    pub(crate) fn mapping_costs(&self) -> Option<MappingCosts> {
        match *self {}
    }

    pub(crate) fn create_sparse_block(&self, _bytes: u64) -> Result<Sparse, Error> {
        match *self {}
    }

    pub(crate) fn create_physical_block(&self, _bytes: u64) -> Result<Physical, Error> {
        match *self {}
    }

    /// # Safety
    ///
    /// - None: it is never called.
    pub(crate) unsafe fn map(
        &self,
        _range: BlockRange<'_, HostBlock>,
        _physical: &HostBlock,
    ) -> Result<(), Error> {
        match *self {}
    }

    /// # Safety
    ///
    /// - None: it is never called.
    pub(crate) unsafe fn unmap(&self, _range: BlockRange<'_, HostBlock>) -> Result<(), Error> {
        match *self {}
    }

    /// # Safety
    ///
    /// - None: it is never called.
    pub(crate) unsafe fn release(
        &self,
        _sparse: &Sparse,
        _range: BlockRange<'_, HostBlock>,
    ) -> Result<(), Error> {
        match *self {}
    }
}

impl Sparse {
    pub(crate) fn start(&self) -> NonNull<u8> {
        match *self {}
    }

    pub(crate) fn bytes(&self) -> usize {
        match *self {}
    }

    /// # Safety
    ///
    /// - None: it is never called.
    pub(crate) unsafe fn unmap_all(self) -> Result<(), (Self, Errno)> {
        match self {}
    }
}

impl Physical {
    pub(crate) fn bytes(&self) -> usize {
        match *self {}
    }

    /// # Safety
    ///
    /// - None: it is never called.
    pub(crate) unsafe fn give_back(self) -> Result<(), (Self, Errno)> {
        match self {}
    }
}
