//! What is live in a sub-budget: charged before memory is looked for, refunded when it is freed.
//!
//! Bytes and count are one word, so that one step charges both, or neither; with two words a pair paid twice as many locked steps, which
//! are most of its cost. An allocation is charged to its own account and then to each above it, up to the outermost; where one
//! refuses, those before it are refunded. So no account ever holds more than its limits, whatever threads do at the same time. (What it
//! holds for a moment, until one above has refused, may make it refuse another allocation that would have fitted.)
//!
//! Nothing is published through the words, so all of it is relaxed.

use crate::manager::reclaim::ReclaimHooks;
use crate::statistics::Tag;
use crate::statistics::{Limits, SubBudgetUsage};
use crate::sync::{AtomicU64, Ordering};
use arrayvec::ArrayVec;
use std::sync::Arc;

/// How many levels of sub-budgets there can be, the outermost included.
pub(super) const LEVELS_MAX: usize = 8;

const COUNT_SHIFT: u32 = 42;
/// The most that can be live in one account, whatever its limits.
pub(super) const BYTES_MAX: u64 = (1 << COUNT_SHIFT) - 1;
pub(super) const COUNT_MAX: u64 = u64::MAX >> COUNT_SHIFT;

/// Bytes and count in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Live(u64);

impl Live {
    fn bytes(self) -> u64 {
        self.0 & BYTES_MAX
    }

    fn count(self) -> u64 {
        self.0 >> COUNT_SHIFT
    }

    /// One allocation of no more than [`BYTES_MAX`] bytes.
    fn one(bytes: u64) -> u64 {
        debug_assert!(bytes <= BYTES_MAX, "{bytes} bytes");
        1 << COUNT_SHIFT | bytes
    }
}

/// Limits that may change at any time; `u64::MAX` where there is none.
#[derive(Debug)]
struct LiveLimits {
    hard_bytes: AtomicU64,
    soft_bytes: AtomicU64,
    hard_count: AtomicU64,
    soft_count: AtomicU64,
}

impl LiveLimits {
    fn new(limits: Limits) -> Self {
        let [hard_bytes, soft_bytes, hard_count, soft_count] = Self::words(limits).map(AtomicU64::new);
        Self { hard_bytes, soft_bytes, hard_count, soft_count }
    }

    fn words(limits: Limits) -> [u64; 4] {
        let Limits { hard_bytes, soft_bytes, hard_count, soft_count } = limits;
        [hard_bytes, soft_bytes, hard_count, soft_count].map(|limit| limit.unwrap_or(u64::MAX))
    }

    fn all(&self) -> [&AtomicU64; 4] {
        [&self.hard_bytes, &self.soft_bytes, &self.hard_count, &self.soft_count]
    }

    fn set(&self, limits: Limits) {
        for (limit, word) in self.all().into_iter().zip(Self::words(limits)) {
            limit.store(word, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Limits {
        let read = |limit: &AtomicU64| Some(limit.load(Ordering::Relaxed)).filter(|&word| word != u64::MAX);
        let [hard_bytes, soft_bytes, hard_count, soft_count] = self.all().map(read);
        Limits { hard_bytes, soft_bytes, hard_count, soft_count }
    }

    /// Bytes and allocations that may be live.
    #[inline]
    fn hard(&self) -> (u64, u64) {
        (self.hard_bytes.load(Ordering::Relaxed), self.hard_count.load(Ordering::Relaxed))
    }

    /// Whether so much is above a soft limit.
    #[inline]
    fn is_soft_exceeded(&self, live: Live) -> bool {
        live.bytes() > self.soft_bytes.load(Ordering::Relaxed)
            || live.count() > self.soft_count.load(Ordering::Relaxed)
    }
}

/// What one sub-budget counts.
#[derive(Debug)]
pub(crate) struct Account {
    /// See [`Live`].
    live: AtomicU64,
    limits: LiveLimits,
    peak_bytes: AtomicU64,
    peak_count: AtomicU64,
    soft_exceeded: AtomicU64,
    refused: AtomicU64,
    parent: Option<Arc<Account>>,
    /// 0 for the outermost.
    pub(super) depth: usize,
    pub(super) path: String,
    pub(super) own_tag: Tag,
    pub(super) reclaim: Arc<ReclaimHooks>,
}

impl Account {
    pub(super) fn new(parent: Option<Arc<Self>>, path: String, own_tag: Tag, limits: Limits) -> Self {
        let depth = parent.as_ref().map_or(0, |parent| parent.depth + 1);
        debug_assert!(depth < LEVELS_MAX, "{depth} levels above {path}");
        Self {
            live: AtomicU64::new(0),
            limits: LiveLimits::new(limits),
            peak_bytes: AtomicU64::new(0),
            peak_count: AtomicU64::new(0),
            soft_exceeded: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            parent,
            depth,
            path,
            own_tag,
            reclaim: ReclaimHooks::new(),
        }
    }

    /// This one and those above it, the outermost last.
    #[inline]
    fn levels(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |account| account.parent.as_deref())
    }

    fn live(&self) -> Live {
        Live(self.live.load(Ordering::Relaxed))
    }

    /// What would be live with one allocation more, if that is within the hard limits.
    #[inline]
    fn raised(&self, live: Live, bytes: u64, (hard_bytes, hard_count): (u64, u64)) -> Option<Live> {
        let sum = live.bytes().checked_add(bytes)?;
        let is_room = sum <= hard_bytes.min(BYTES_MAX) && live.count() < hard_count.min(COUNT_MAX);
        is_room.then(|| Live(live.0 + Live::one(bytes)))
    }

    /// Charges an allocation to this account alone, and answers what is live then.
    #[inline]
    fn charge_own(&self, bytes: u64) -> Option<Live> {
        let hard = self.limits.hard();
        let raise = |word| self.raised(Live(word), bytes, hard).map(|live| live.0);
        let before = self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, raise).ok()?;
        Some(Live(before + Live::one(bytes)))
    }

    #[inline]
    fn refund_own(&self, bytes: u64) {
        let before = self.live.fetch_sub(Live::one(bytes), Ordering::Relaxed);
        debug_assert!(
            Live(before).bytes() >= bytes && Live(before).count() > 0,
            "more refunded than charged"
        );
    }

    /// Takes an allocation off that was charged.
    #[inline]
    pub(crate) fn refund(&self, bytes: u64) {
        self.levels().for_each(|level| level.refund_own(bytes));
    }

    /// Which account has no room for an allocation now. Nothing is charged.
    pub(super) fn refuser(&self, bytes: u64) -> Option<&Self> {
        self.levels().find(|level| level.raised(level.live(), bytes, level.limits.hard()).is_none())
    }

    /// Which account has no room for an allocation, whatever is freed.
    pub(super) fn too_small_for(&self, bytes: u64) -> Option<&Self> {
        self.levels().find(|level| level.raised(Live(0), bytes, level.limits.hard()).is_none())
    }

    /// Counts an allocation that this account has refused.
    pub(super) fn count_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// By how many bytes it is above its soft limits: 0 if by the count alone; `None` if it is not.
    pub(super) fn soft_excess_bytes(&self) -> Option<u64> {
        let live = self.live();
        let soft_bytes = self.limits.soft_bytes.load(Ordering::Relaxed);
        self.limits.is_soft_exceeded(live).then(|| live.bytes().saturating_sub(soft_bytes))
    }

    /// Sets other limits. True if what is live is now above a soft limit, and was not above the one before; that is counted.
    pub(super) fn set_limits(&self, limits: Limits) -> bool {
        let was_exceeded = self.limits.is_soft_exceeded(self.live());
        self.limits.set(limits);
        let is_newly_exceeded = !was_exceeded && self.limits.is_soft_exceeded(self.live());
        if is_newly_exceeded {
            self.soft_exceeded.fetch_add(1, Ordering::Relaxed);
        }
        is_newly_exceeded
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits.get()
    }

    pub(super) fn usage(&self) -> SubBudgetUsage {
        let live = self.live();
        SubBudgetUsage {
            live_bytes: live.bytes(),
            peak_bytes: self.peak_bytes.load(Ordering::Relaxed),
            live_count: live.count(),
            peak_count: self.peak_count.load(Ordering::Relaxed),
            limits: self.limits(),
            soft_exceeded_count: self.soft_exceeded.load(Ordering::Relaxed),
            refused_count: self.refused.load(Ordering::Relaxed),
            reclaim_count: self.reclaim.calls(),
            reclaim_panic_count: self.reclaim.panics(),
        }
    }
}

#[inline]
fn raise_peak(peak: &AtomicU64, to: u64) {
    // Seldom higher: so it is looked at first.
    if peak.load(Ordering::Relaxed) < to {
        peak.fetch_max(to, Ordering::Relaxed);
    }
}

/// An allocation that is being made, and refunds what it was charged when this is dropped, unless it is kept.
///
/// It stays where it is made: to move it costs as much as to charge one account.
#[derive(Debug)]
pub(super) struct Charge<'a> {
    account: &'a Account,
    bytes: u64,
    /// What was live with it in each account that has been charged, innermost first.
    reached: ArrayVec<Live, LEVELS_MAX>,
}

impl<'a> Charge<'a> {
    /// Nothing is charged yet.
    #[inline]
    pub(super) fn new(account: &'a Account, bytes: u64) -> Self {
        Self { account, bytes, reached: ArrayVec::new() }
    }

    /// Charges the account and all above it; or none, and answers which has no room.
    #[inline]
    pub(super) fn take(&mut self) -> Result<(), &'a Account> {
        debug_assert!(self.reached.is_empty(), "charged twice");
        for level in self.account.levels() {
            let Some(live) = level.charge_own(self.bytes) else {
                self.refund();
                return Err(level);
            };
            self.reached.push(live);
        }
        Ok(())
    }

    /// The allocation has come about, and refunds the charge when it is freed. Answers where it has newly exceeded a soft limit, which is
    /// counted.
    #[inline]
    pub(super) fn keep(&mut self) -> SoftExceeded<'a> {
        let (account, one) = (self.account, Live::one(self.bytes));
        let mut levels = 0;
        for (depth_below, (level, &live)) in account.levels().zip(&self.reached).enumerate() {
            raise_peak(&level.peak_bytes, live.bytes());
            raise_peak(&level.peak_count, live.count());
            if level.limits.is_soft_exceeded(live) && !level.limits.is_soft_exceeded(Live(live.0 - one)) {
                level.soft_exceeded.fetch_add(1, Ordering::Relaxed);
                levels |= 1 << depth_below;
            }
        }
        self.reached.clear();
        SoftExceeded { account, levels }
    }

    #[cold]
    fn refund(&mut self) {
        for (level, _) in self.account.levels().zip(self.reached.drain(..)) {
            level.refund_own(self.bytes);
        }
    }
}

impl Drop for Charge<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.reached.is_empty() {
            self.refund();
        }
    }
}

/// Which accounts an allocation has brought above a soft limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct SoftExceeded<'a> {
    account: &'a Account,
    /// A bit for each level, the innermost lowest.
    levels: u8,
}

impl<'a> SoftExceeded<'a> {
    #[inline]
    pub(super) fn is_none(self) -> bool {
        self.levels == 0
    }

    pub(super) fn accounts(self) -> impl Iterator<Item = &'a Account> {
        let is_exceeded = move |&(level, _): &(usize, _)| self.levels >> level & 1 != 0;
        self.account.levels().enumerate().filter(is_exceeded).map(|(_, account)| account)
    }
}

const _: () = assert!(LEVELS_MAX <= u8::BITS as usize, "each level has its bit");

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use crate::loom_tests::explore;
    use loom::thread;

    fn account(parent: Option<&Arc<Account>>, limits: Limits) -> Arc<Account> {
        Arc::new(Account::new(parent.cloned(), String::new(), Tag::UNTAGGED, limits))
    }

    /// Two threads allocate in two accounts below one, which has room for one allocation at a time. Whoever looks never sees more than
    /// the hard limit; what fails or is refused leaves nothing behind; the peak is that of what came about; and each of those exceeds
    /// the soft limit anew, and is told.
    ///
    /// 509 runs, under 0.1 s.
    #[test]
    fn no_level_exceeds_its_limit_and_refunds_are_complete() {
        explore(3, || {
            let outer = account(None, Limits::NONE.hard_bytes(100).soft_bytes(50).hard_count(1));
            let inner = [60, 70].map(|hard| account(Some(&outer), Limits::NONE.hard_bytes(hard)));
            // The second to try does not come about, as if the driver had failed.
            let run = |account: Arc<Account>, bytes: u64, comes_about: bool| {
                move || {
                    let mut charge = Charge::new(&account, bytes);
                    if charge.take().is_err() || !comes_about {
                        return 0;
                    }
                    let exceeded = charge.keep();
                    assert!(!exceeded.is_none());
                    account.refund(bytes);
                    bytes
                }
            };
            let other = thread::spawn(run(Arc::clone(&inner[0]), 60, true));
            let mut done = vec![run(Arc::clone(&inner[1]), 70, true)()];
            assert!(outer.live().bytes() <= 100 && outer.live().count() <= 1);
            run(Arc::clone(&inner[1]), 65, false)();
            done.push(other.join().expect("the other thread ends"));
            let usage = outer.usage();
            assert_eq!((usage.live_bytes, usage.live_count), (0, 0));
            assert_eq!(Some(&usage.peak_bytes), done.iter().max());
            let count = done.iter().filter(|&&bytes| bytes > 0).count() as u64;
            assert_eq!((usage.soft_exceeded_count, usage.peak_count), (count, count.min(1)));
            assert!(inner.iter().all(|account| account.live() == Live(0)));
            assert!(Charge::new(&inner[0], 60).take().is_ok(), "refunds are complete");
        });
    }
}
