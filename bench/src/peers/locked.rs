//! A bare peer behind a mutex: what its users write to share it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Peer;

pub(crate) struct Locked<P>(Arc<Mutex<P>>);

impl<P> Locked<P> {
    pub(crate) fn new(peer: P) -> Self {
        Self(Arc::new(Mutex::new(peer)))
    }
}

impl<P> Clone for Locked<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Peer> Peer for Locked<P> {
    type Handle = P::Handle;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<P::Handle> {
        self.0.lock().allocate(bytes)
    }

    #[inline]
    fn free(&mut self, handle: P::Handle) {
        self.0.lock().free(handle);
    }
}
