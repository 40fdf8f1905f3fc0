//! What a replay with queues needs of a device.

use aquifer_backend::{Backend, Error};
use std::convert::Infallible;

use crate::manager::{Buffer, Queue};

/// A device that a trace with queues is replayed on: how its queues are kept busy, and how its time passes.
///
/// What the recorded program's queues did is not in a trace, only until when they used memory that had been freed. So a
/// queue is held for as long, by whatever the device has for that.
pub trait ReplayDevice<B: Backend>: Sync {
    /// Keeps a queue busy. Dropping it must let the queue go, so that a replay that fails leaves none behind.
    type Hold: Send;

    /// Gives `queue` work that uses `buffer` until the trace's time is `until_us`, by the device's clock if it has one, else
    /// until [`ReplayDevice::release`] is called. A queue may be held several times.
    ///
    /// # Errors
    ///
    /// Whatever keeps the queue from taking work.
    fn hold(&self, queue: &Queue<B>, buffer: &Buffer<B>, until_us: u64) -> Result<Self::Hold, Error>;

    /// Lets a queue go: `holds` are all of its holds. Returns when the queue has done what it was given, and the host
    /// can see that. The trace's time has come to the holds' end.
    fn release(&self, queue: &Queue<B>, holds: Vec<Self::Hold>);

    /// Whether it has a clock that the trace's time drives.
    fn has_clock(&self) -> bool {
        false
    }

    /// Lets the trace's time come to `time_us`, in microseconds since its first event. It never goes back.
    fn advance(&self, time_us: u64) {
        let _ = time_us;
    }

    /// The last event is over, and nothing has been trimmed yet.
    fn end(&self) {}
}

/// No device: for replays without queues.
#[derive(Debug)]
pub(super) enum NoDevice {}

impl<B: Backend> ReplayDevice<B> for NoDevice {
    type Hold = Infallible;

    fn hold(&self, _queue: &Queue<B>, _buffer: &Buffer<B>, _until_us: u64) -> Result<Infallible, Error> {
        match *self {}
    }

    fn release(&self, _queue: &Queue<B>, _holds: Vec<Infallible>) {
        match *self {}
    }
}
