//! Memory that users bring, of which blocks are made.

use std::any::Any;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;

use crate::Error;

/// What keeps memory where it is. `None` only while it is dropped.
struct Owner(Option<Box<dyn Any + Send + Sync>>);

impl Owner {
    fn new(owner: impl Any + Send + Sync) -> Self {
        Self(Some(Box::new(owner)))
    }
}

impl Drop for Owner {
    /// If the drop panics, the panic ends here: it may be a driver that lets go, which nothing may unwind through.
    fn drop(&mut self) {
        let owner = self.0.take();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| drop(owner))) {
            // What was thrown may throw again when it is dropped.
            std::mem::forget(panic);
        }
    }
}

/// Memory of the host, with what owns it: [`Backend::import_block`](crate::Backend::import_block) makes a block of it without a copy.
pub struct HostMemory {
    start: NonNull<u8>,
    bytes: u64,
    /// Dropped when nothing uses the memory any more.
    _owner: Owner,
}

// SAFETY: whoever made it vouches that until the owner is dropped the memory may be used from any thread.
unsafe impl Send for HostMemory {}
// SAFETY: as above; a shared reference gives the address only.
unsafe impl Sync for HostMemory {}

impl fmt::Debug for HostMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostMemory")
            .field("start", &self.start)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl HostMemory {
    /// `bytes` bytes from `start`, which live as long as `owner`. Nothing is checked here.
    ///
    /// The owner is dropped on whichever thread lets go last; it should not wait for others there.
    ///
    /// # Safety
    ///
    /// - Until `owner` is dropped, on whichever thread, the bytes stay where they are and are readable, writable and
    ///   initialised, and nobody touches them but through what is made of this value.
    ///
    /// For a mapped file this means: the mapping is readable and writable (private, if the file is not to change), the
    /// owner's drop unmaps it and nothing else does, and nobody writes to the file or makes it shorter meanwhile. For memory
    /// of an allocator: the owner's drop gives it back, and `start` stays good for all of it when the owner is moved. In
    /// either case the same bytes are not given twice.
    pub unsafe fn new(start: NonNull<u8>, bytes: u64, owner: impl Any + Send + Sync) -> Self {
        Self { start, bytes, _owner: Owner::new(owner) }
    }

    /// The first byte.
    #[must_use]
    pub fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Memory of a device that something else allocated, with what owns it:
/// [`Backend::import_device_block`](crate::Backend::import_device_block) makes a block of it.
pub struct DeviceMemory {
    address: u64,
    bytes: u64,
    /// Dropped when nothing uses the memory any more.
    _owner: Owner,
}

impl fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceMemory")
            .field("address", &format_args!("{:#x}", self.address))
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl DeviceMemory {
    /// `bytes` bytes from `address`, which is the device's, as [`Backend::device_address`](crate::Backend::device_address)
    /// answers them. They live as long as `owner`, whose drop gives them back. Nothing is checked here.
    ///
    /// The owner is dropped on whichever thread lets go last; it should not wait for others there.
    ///
    /// # Safety
    ///
    /// - Until `owner` is dropped, on whichever thread, the bytes stay memory of the device, behind the same address, and nobody
    ///   touches them but through what is made of this value. Work that was given to the device before has run, or whoever
    ///   uses the buffer orders its own behind it.
    pub unsafe fn new(address: u64, bytes: u64, owner: impl Any + Send + Sync) -> Self {
        Self { address, bytes, _owner: Owner::new(owner) }
    }

    /// The address of the first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Memory that no block was made of, together with the reason.
#[derive(Debug)]
pub struct ImportError<M = HostMemory> {
    /// The memory, untouched.
    pub memory: M,
    /// Why there is no block.
    pub error: Error,
}

impl<M> fmt::Display for ImportError<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<M: fmt::Debug> std::error::Error for ImportError<M> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// The memory is dropped.
impl<M> From<ImportError<M>> for Error {
    fn from(error: ImportError<M>) -> Self {
        error.error
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    struct Panics(Arc<AtomicU32>);

    impl Drop for Panics {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
            panic!("this owner panics, as it should");
        }
    }

    #[test]
    fn an_owner_is_dropped_once_and_its_panic_goes_no_further() {
        let drops = Arc::new(AtomicU32::new(0));
        // SAFETY: there is no byte that anybody could touch.
        let memory = unsafe { HostMemory::new(NonNull::dangling(), 0, Panics(Arc::clone(&drops))) };
        let error = Error::new(ErrorKind::Driver, "import_block", "refused");
        let refused = ImportError { memory, error };
        assert_eq!((refused.to_string(), refused.memory.bytes()), (refused.error.to_string(), 0));
        assert_eq!(drops.load(Ordering::Relaxed), 0);
        assert_eq!(Error::from(refused).kind(), ErrorKind::Driver);
        assert_eq!(drops.load(Ordering::Relaxed), 1);
    }
}
