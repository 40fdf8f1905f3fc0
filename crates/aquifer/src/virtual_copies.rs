//! Copy threads in virtual time, for transfers on a simulated device.

use aquifer_core::{HostCopy, Transfers};
use aquifer_sim::Sim;

/// Copies between memory of the host for the transfers of a simulated device, as so many threads would: each piece takes virtual time, and at its
/// end the bytes are there and go on.
///
/// The manager must have no copy threads of its own ([`TransferConfig::copy_threads`](aquifer_core::TransferConfig::copy_threads) 0).
#[derive(Debug, Clone)]
pub struct VirtualCopyThreads {
    sim: Sim,
    count: usize,
    bytes_per_second: u64,
}

/// A piece that a thread is at, until a virtual time in nanoseconds.
struct Running {
    until_ns: u64,
    copy: HostCopy<Sim>,
}

impl VirtualCopyThreads {
    /// `count` threads, each of which copies `bytes_per_second` bytes in a second of virtual time.
    ///
    /// # Panics
    ///
    /// If either is 0.
    #[must_use]
    pub fn new(sim: &Sim, count: usize, bytes_per_second: u64) -> Self {
        assert!(count > 0 && bytes_per_second > 0, "{count} threads of {bytes_per_second} bytes a second");
        Self { sim: sim.clone(), count, bytes_per_second }
    }

    /// Works, and lets time pass, until `is_done`, or until nothing more is under way. It is asked whenever something has happened.
    pub fn run(&self, transfers: &Transfers<Sim>, mut is_done: impl FnMut() -> bool) {
        let mut running: Vec<Running> = Vec::new();
        loop {
            transfers.poll();
            if is_done() {
                return;
            }
            while running.len() < self.count
                && let Some(copy) = transfers.take_copy()
            {
                running.push(Running { until_ns: self.sim.now_ns() + self.ns(copy.bytes()), copy });
                transfers.poll();
            }
            let next = running.iter().map(|one| one.until_ns).min();
            let left_ns = next.map_or(u64::MAX, |until_ns| until_ns.saturating_sub(self.sim.now_ns()));
            let has_happened = left_ns > 0 && self.sim.advance_to_next(left_ns);
            if !has_happened && next.is_none() {
                return;
            }
            let now_ns = self.sim.now_ns();
            while let Some(index) = running.iter().position(|one| one.until_ns <= now_ns) {
                running.swap_remove(index).copy.run();
            }
        }
    }

    fn ns(&self, bytes: u64) -> u64 {
        let ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}
