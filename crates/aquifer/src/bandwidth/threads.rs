//! A plain copy by several threads: the reference where the device is the host.

use std::cell::Cell;
use std::ptr::NonNull;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

/// Shares begin at multiples of this, in bytes, as far as the whole does.
const SHARE_ALIGNMENT: usize = 4096;

/// What one thread does: copy so many bytes, or set them.
struct Work {
    from: From,
    to: NonNull<u8>,
    bytes: usize,
}

#[derive(Clone, Copy)]
enum From {
    Memory(NonNull<u8>),
    Value(u8),
}

// SAFETY: the pointers are to bytes that `CopyThreads::run` has borrowed, and that any thread may use.
unsafe impl Send for Work {}

impl Work {
    /// # Safety
    ///
    /// - Both ends are good for so many bytes, do not overlap, and are nobody else's until this returns.
    unsafe fn run(&self) {
        match self.from {
            // SAFETY: the caller vouches for it.
            From::Memory(from) => unsafe { from.copy_to_nonoverlapping(self.to, self.bytes) },
            // SAFETY: as above.
            From::Value(value) => unsafe { self.to.write_bytes(value, self.bytes) },
        }
    }
}

struct Worker {
    work: Sender<Work>,
    is_done: Receiver<()>,
    thread: JoinHandle<()>,
}

/// Threads that copy when they are told to, and sleep meanwhile. They end when this is dropped.
pub(super) struct CopyThreads {
    /// Besides the one that calls.
    workers: Vec<Worker>,
    /// How many of all threads copy, the caller's included.
    used: Cell<usize>,
}

impl CopyThreads {
    /// So many threads, the caller's included, or as many as can be had.
    pub(super) fn start(count: usize) -> Self {
        let start = |_| {
            let (work, next_work) = channel::<Work>();
            let (done, is_done) = channel();
            let run = move || {
                for work in next_work {
                    // SAFETY: `CopyThreads::run` made it, gave it to this thread alone, and waits until it is done.
                    unsafe { work.run() };
                    if done.send(()).is_err() {
                        return;
                    }
                }
            };
            let thread = thread::Builder::new().name("aquifer-memcpy".into()).spawn(run).ok()?;
            Some(Worker { work, is_done, thread })
        };
        let workers: Vec<_> = (1..count).map_while(start).collect();
        let used = Cell::new(workers.len() + 1);
        Self { workers, used }
    }

    /// How many threads there are, the caller's included.
    pub(super) fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// How many of them copy.
    pub(super) fn used(&self) -> usize {
        self.used.get()
    }

    /// Lets so many copy from now on; at least one does, and at most all.
    pub(super) fn set_used(&self, count: usize) {
        self.used.set(count.clamp(1, self.count()));
    }

    /// Copies all of `from` to `to`, which is as long.
    pub(super) fn copy(&self, from: &[u8], to: &mut [u8]) {
        debug_assert_eq!(from.len(), to.len());
        let bytes = from.len().min(to.len());
        let start = NonNull::from(from).cast();
        self.run(From::Memory(start), &mut to[..bytes]);
    }

    /// Sets all bytes of `to`.
    pub(super) fn fill(&self, to: &mut [u8], value: u8) {
        self.run(From::Value(value), to);
    }

    /// Returns when all threads are done. What `from` names is as long as `to`, borrowed, and does not overlap it.
    fn run(&self, from: From, to: &mut [u8]) {
        let bytes = to.len();
        let shares = bytes.div_ceil(SHARE_ALIGNMENT).clamp(1, self.used());
        let share_bytes = bytes.div_ceil(shares).next_multiple_of(SHARE_ALIGNMENT);
        let start = NonNull::from(to).cast::<u8>();
        let share = |index: usize| {
            let offset = (index * share_bytes).min(bytes);
            let from = match from {
                // SAFETY: the offset lies in the memory, or where it ends.
                From::Memory(from) => From::Memory(unsafe { from.add(offset) }),
                value @ From::Value(_) => value,
            };
            // SAFETY: as above.
            let to = unsafe { start.add(offset) };
            Work { from, to, bytes: share_bytes.min(bytes - offset) }
        };
        let busy = &self.workers[..shares - 1];
        for (index, worker) in busy.iter().enumerate() {
            if let Err(refused) = worker.work.send(share(index + 1)) {
                // The thread is gone, and the work has come back.
                // SAFETY: shares lie in the two ends, which are borrowed until this returns, and no two overlap.
                unsafe { refused.0.run() };
            }
        }
        // SAFETY: as above.
        unsafe { share(0).run() };
        for worker in busy {
            // An error means that the thread is gone, so that it touches nothing any more.
            let _ = worker.is_done.recv();
        }
    }
}

impl Drop for CopyThreads {
    fn drop(&mut self) {
        for Worker { work, is_done, thread } in self.workers.drain(..) {
            drop((work, is_done));
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_whatever_the_shares() {
        for (count, bytes) in [(1, 0), (1, 70_001), (3, 1), (3, 4096), (3, 8192), (3, 70_001), (4, 12_289)] {
            let threads = CopyThreads::start(count);
            assert_eq!((threads.count(), threads.used()), (count, count));
            let from: Vec<u8> = (0..bytes).map(|index: usize| (index.wrapping_mul(31) >> 3) as u8).collect();
            let mut to = vec![0; bytes];
            threads.copy(&from, &mut to);
            assert!(from == to, "{count} threads, {bytes} bytes");
            threads.fill(&mut to, 7);
            assert!(to.iter().all(|&byte| byte == 7), "{count} threads, {bytes} bytes");
            threads.set_used(0);
            threads.copy(&from, &mut to);
            assert!(from == to && threads.used() == 1, "{count} threads, {bytes} bytes");
        }
    }
}
