//! The backend on a system that is not supported: it compiles, and nobody can have one.

use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use aquifer_backend::{
    Backend, BlockDesc, BlockRange, Command, DefaultDevice, DestroyError, Error, ErrorKind, HeapBudget,
    Properties, Ticket,
};

use crate::options::HostOptions;

/// Host memory. Not supported on this system: no value of this type exists.
#[derive(Debug)]
pub enum Host {}

/// A block of host memory. Not supported on this system: no value of this type exists.
#[derive(Debug)]
pub enum HostBlock {}

/// A queue of host memory. Not supported on this system: no value of this type exists.
#[derive(Debug)]
pub enum HostQueue {}

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

    /// Always fails on this system.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Unsupported`].
    pub fn with_options(_options: HostOptions) -> Result<Self, Error> {
        Self::new()
    }

    /// Never called: there is no value.
    #[must_use]
    pub fn pinned_node(&self) -> Option<u32> {
        match *self {}
    }
}

impl HostQueue {
    /// Never called: there is no queue.
    pub fn submit(&self, _work: impl FnOnce() + Send + 'static) {
        match *self {}
    }

    /// Never called: there is no queue.
    #[must_use]
    pub fn panic_count(&self) -> u64 {
        match *self {}
    }
}

// SAFETY: no value of the type exists, so no method is ever called and every promise about their answers holds.
unsafe impl Backend for Host {
    type Block = HostBlock;
    type Queue = HostQueue;

    fn properties(&self) -> &Properties {
        match *self {}
    }

    fn budget(&self, _heap_index: usize) -> Result<HeapBudget, Error> {
        match *self {}
    }

    fn create_block(&self, _desc: &BlockDesc<'_>) -> Result<HostBlock, Error> {
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

    fn device_address(&self, _block: &HostBlock) -> Option<u64> {
        match *self {}
    }

    fn create_queue(&self) -> Result<HostQueue, Error> {
        match *self {}
    }

    unsafe fn enqueue(
        &self,
        _queue: &HostQueue,
        _command: Command<'_, HostBlock>,
        _ticket: &Arc<Ticket>,
    ) -> Result<(), Error> {
        match *self {}
    }

    unsafe fn signal(&self, _queue: &HostQueue, _value: u64) -> Result<(), Error> {
        match *self {}
    }

    fn completed(&self, _queue: &HostQueue) -> Result<u64, Error> {
        match *self {}
    }

    fn wait(&self, _queue: &HostQueue, _value: u64, _timeout: Duration) -> Result<bool, Error> {
        match *self {}
    }

    fn wait_on_queue(&self, _queue: &HostQueue, _other: &HostQueue, _value: u64) -> Result<(), Error> {
        match *self {}
    }
}

impl DefaultDevice for Host {
    fn default_device() -> Result<Self, Error> {
        Self::new()
    }
}
