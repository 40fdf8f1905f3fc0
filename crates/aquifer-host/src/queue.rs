//! Queues: worker threads.

/// A queue of the host.
#[derive(Debug)]
pub struct HostQueue(());
