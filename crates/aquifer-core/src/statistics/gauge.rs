//! Byte counts that rise and fall, kept per thread and summed now and then.
//!
//! A thread adds to its own [`LocalGauge`], which no other thread writes: two plain stores. Only when what it has not
//! told yet grows past [`UNTOLD_BYTES_MAX`] does it publish to the [`SharedGauge`] with two read-modify-writes. The
//! current value is exact at any time it is read at rest. The peak is exact if one thread uses the manager: before it
//! adds to the shared sum at once, it publishes, because its `highest` counts from what the shared sum was. With `n`
//! threads the peak may be off by up to `n` times [`UNTOLD_BYTES_MAX`]: too low by what others had not told, too high
//! by a `highest` from before the others rose.

use crate::sync::{AtomicI64, Ordering};

/// How far a thread's untold sum may be from zero before it is published, in bytes.
pub(crate) const UNTOLD_BYTES_MAX: i64 = 4 << 20;

/// One thread's untold part.
#[derive(Debug, Default)]
pub(crate) struct LocalGauge {
    /// What has been added since the last publishing.
    untold: AtomicI64,
    /// The highest `untold` has been since then.
    highest: AtomicI64,
}

impl LocalGauge {
    /// Adds `bytes` and answers whether it is time to publish. Only the owner may call.
    #[inline]
    pub(crate) fn rise(&self, bytes: u64) -> bool {
        let untold = self.untold.load(Ordering::Relaxed).wrapping_add(bytes as i64);
        self.untold.store(untold, Ordering::Relaxed);
        if untold > self.highest.load(Ordering::Relaxed) {
            self.highest.store(untold, Ordering::Relaxed);
        }
        untold > UNTOLD_BYTES_MAX
    }

    /// Takes `bytes` away and answers whether it is time to publish. Only the owner may call.
    #[inline]
    pub(crate) fn fall(&self, bytes: u64) -> bool {
        let untold = self.untold.load(Ordering::Relaxed).wrapping_sub(bytes as i64);
        self.untold.store(untold, Ordering::Relaxed);
        untold < -UNTOLD_BYTES_MAX
    }

    /// Moves the untold part to `shared`. Only the owner, or who has revoked it, may call.
    pub(crate) fn publish(&self, shared: &SharedGauge) {
        let untold = self.untold.load(Ordering::Relaxed);
        let highest = self.highest.load(Ordering::Relaxed);
        self.untold.store(0, Ordering::Relaxed);
        self.highest.store(0, Ordering::Relaxed);
        if untold != 0 || highest != 0 {
            shared.add_with_highest(untold, highest);
        }
    }
}

/// The sum of what all threads have told.
#[derive(Debug, Default)]
pub(crate) struct SharedGauge {
    current: AtomicI64,
    peak: AtomicI64,
}

impl SharedGauge {
    /// Adds at once, for slow paths.
    pub(crate) fn add(&self, bytes: i64) {
        self.add_with_highest(bytes, bytes.max(0));
    }

    fn add_with_highest(&self, bytes: i64, highest: i64) {
        let before = self.current.fetch_add(bytes, Ordering::Relaxed);
        self.peak.fetch_max(before + highest, Ordering::Relaxed);
    }

    /// Current and peak, in bytes, with what the threads of `locals` have not told yet.
    pub(crate) fn read<'a>(&self, locals: impl Iterator<Item = &'a LocalGauge>) -> (u64, u64) {
        let told = self.current.load(Ordering::Relaxed);
        let (mut current, mut highest_rise) = (told, 0);
        for local in locals {
            let untold = local.untold.load(Ordering::Relaxed);
            current += untold;
            highest_rise = highest_rise.max(local.highest.load(Ordering::Relaxed) - untold);
        }
        let peak = self.peak.load(Ordering::Relaxed).max(current + highest_rise);
        (current.max(0) as u64, peak.max(0) as u64)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn one_threads_peak_is_exact_however_it_publishes() {
        let (shared, local) = (SharedGauge::default(), LocalGauge::default());
        let (mut current, mut peak) = (0_i64, 0_i64);
        for step in 0..1000_i64 {
            let bytes = (step * 7919) % 3_000_001 - 1_400_000;
            let bytes = bytes.max(-current);
            current += bytes;
            peak = peak.max(current);
            let is_due = if bytes > 0 { local.rise(bytes as u64) } else { local.fall(bytes.unsigned_abs()) };
            if is_due {
                local.publish(&shared);
            }
            assert_eq!(shared.read([&local].into_iter()), (current as u64, peak as u64));
        }
    }

    #[test]
    fn a_large_change_asks_to_be_published() {
        let local = LocalGauge::default();
        assert!(!local.rise(UNTOLD_BYTES_MAX as u64));
        assert!(local.rise(1));
        assert!(!local.fall(2 * UNTOLD_BYTES_MAX as u64 + 1));
        assert!(local.fall(1));
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::loom_tests::explore;
    use loom::thread;
    use std::sync::Arc;

    /// Two threads add and publish while a third reads.
    ///
    /// At rest the sum is exact. The peak is at least the highest that either thread had of its own, and at most what
    /// both had at their highest together: the most that is known without an order between them. What is read
    /// meanwhile may be off by what is being published, and disturbs nothing.
    ///
    /// 43,000 runs, 3 s.
    #[test]
    fn the_sum_is_exact_at_rest_whoever_read_meanwhile() {
        explore(2, || {
            let gauges = Arc::new((SharedGauge::default(), [LocalGauge::default(), LocalGauge::default()]));
            let add = |index: usize, rise: u64, fall: u64| {
                let gauges = Arc::clone(&gauges);
                move || {
                    let (shared, locals) = &*gauges;
                    locals[index].rise(rise);
                    locals[index].publish(shared);
                    if fall > 0 {
                        locals[index].fall(fall);
                        locals[index].publish(shared);
                    }
                }
            };
            let threads = [thread::spawn(add(0, 100, 99)), thread::spawn(add(1, 10, 0))];
            gauges.0.read(gauges.1.iter());
            for thread in threads {
                thread.join().expect("a publishing thread ends");
            }
            let (current, peak) = gauges.0.read(gauges.1.iter());
            assert_eq!(current, 11);
            assert!((100..=110).contains(&peak));
        });
    }

    /// While one thread uses a gauge its peak is exact, though another reads.
    ///
    /// 17,000 runs, 1 s.
    #[test]
    fn one_threads_peak_is_exact_though_another_reads() {
        explore(3, || {
            let gauges = Arc::new((SharedGauge::default(), LocalGauge::default()));
            let reader = thread::spawn({
                let gauges = Arc::clone(&gauges);
                move || gauges.0.read([&gauges.1].into_iter())
            });
            let (shared, local) = &*gauges;
            local.rise(10);
            local.publish(shared);
            local.fall(4);
            local.publish(shared);
            local.rise(3);
            reader.join().expect("the reader ends");
            assert_eq!(shared.read([local].into_iter()), (9, 10));
        });
    }
}
