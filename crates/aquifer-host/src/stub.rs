//! The backend on a system that is not supported: it compiles, and nobody can have one.

use std::ptr::NonNull;

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, DefaultDevice, DestroyError, Error, ErrorKind, HeapBudget, Properties,
};

/// Host memory. Not supported on this system: no value of this type exists.
#[derive(Debug)]
pub enum Host {}

/// A block of host memory. Not supported on this system: no value of this type exists.
#[derive(Debug)]
pub enum HostBlock {}

impl Host {
    /// Always fails on this system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`].
    pub fn new() -> Result<Self, Error> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "Host::new",
            "host memory is implemented on Linux and macOS; use another backend here",
        ))
    }
}

// SAFETY: no value of the type exists, so no method is ever called and every promise about their answers holds.
unsafe impl Backend for Host {
    type Block = HostBlock;

    fn properties(&self) -> &Properties {
        match *self {}
    }

    fn budget(&self, _heap_index: usize) -> Result<HeapBudget, Error> {
        match *self {}
    }

    fn create_block(&self, _desc: &BlockDesc) -> Result<HostBlock, Error> {
        match *self {}
    }

    unsafe fn destroy_block(&self, _block: HostBlock) -> Result<(), DestroyError<HostBlock>> {
        match *self {}
    }

    fn host_pointer(&self, _block: &HostBlock) -> Option<NonNull<u8>> {
        match *self {}
    }

    unsafe fn copy(
        &self,
        _source: BlockRange<'_, HostBlock>,
        _destination: BlockRange<'_, HostBlock>,
    ) -> Result<(), Error> {
        match *self {}
    }

    unsafe fn fill(&self, _destination: BlockRange<'_, HostBlock>, _value: u8) -> Result<(), Error> {
        match *self {}
    }
}

impl DefaultDevice for Host {
    fn default_device() -> Result<Self, Error> {
        Self::new()
    }
}
