//! Purgeable blocks: they hold nothing and are kept, but the system may take their memory without asking.
//!
//! Such a block is out of its pool's free memory, set aside, so that nothing is ever handed out of it and nobody reads it. It
//! stays reserved, since it can come back. The list is under the pool's growth lock.

use super::shared::Shared;
use super::shrink::Leaving;
use super::typed_pool::{Growing, TypedPool};
use crate::pool::{Lane, Place, Pool, Request};
use crate::range::IdleBlock;
use crate::raw::allocation::make_purgeable;
use crate::sync::{AtomicU64, Ordering};
use aquifer_backend::{Backend, Capabilities, Error, ErrorKind};

/// The purgeable blocks of a pool: a few, so that a look at all of them costs nothing beside the driver call that follows.
#[derive(Debug, Default)]
pub(crate) struct PurgeableBlocks(Vec<IdleBlock>);

impl PurgeableBlocks {
    pub(super) fn put(&mut self, idle: IdleBlock) {
        self.0.push(idle);
    }

    /// Takes blocks out, those that have held nothing for longest first, for as long as `wants_more` says so of the next.
    pub(super) fn take_oldest(&mut self, mut wants_more: impl FnMut(&IdleBlock) -> bool) -> Vec<IdleBlock> {
        self.0.sort_unstable_by_key(|idle| idle.since);
        let count = self.0.iter().take_while(|idle| wants_more(idle)).count();
        self.0.drain(..count).collect()
    }

    /// Takes blocks of so many bytes out, or a little more, as far as there are so many.
    pub(super) fn take_bytes(&mut self, bytes: u64) -> Vec<IdleBlock> {
        let mut taken = 0;
        self.take_oldest(|idle| {
            let is_needed = taken < bytes;
            taken += if is_needed { idle.reserved_bytes } else { 0 };
            is_needed
        })
    }

    /// Takes the best block out of those that will do. Blocks of which parts have been released serve nothing more, so they
    /// are never it.
    fn take_best(&mut self, sizes: Sizes) -> Option<IdleBlock> {
        let Sizes { least, enough, most } = sizes;
        let fits =
            |idle: &IdleBlock| (least..=most).contains(&idle.bytes) && idle.reserved_bytes == idle.bytes;
        let off = |idle: &IdleBlock| (idle.bytes < enough, idle.bytes.abs_diff(enough), idle.since);
        let fitting = self.0.iter().enumerate().filter(|(_, idle)| fits(idle));
        let (place, _) = fitting.min_by_key(|(_, idle)| off(idle))?;
        Some(self.0.swap_remove(place))
    }
}

/// What became of purgeable blocks.
#[derive(Debug, Default)]
pub(super) struct PurgeableCounters {
    /// Made nonpurgeable for a request: how many, and their bytes.
    pub(super) recovered: AtomicU64,
    pub(super) recovered_bytes: AtomicU64,
    /// Of those the ones that had lost their content.
    pub(super) purged: AtomicU64,
    pub(super) purged_bytes: AtomicU64,
}

/// The sizes that a block may have, in bytes. The smallest that is enough is best, or else the largest.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    least: u64,
    enough: u64,
    most: u64,
}

/// Which purgeable block will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recover {
    /// One that is not much larger than what is asked for.
    ///
    /// To make a block nonpurgeable brings all of its memory back, which the system may have put to better use; a small
    /// request in a large block then keeps it from being purgeable again. A new block costs just its size. So where one can
    /// be had, the rule is the one for idle blocks that are far too large, without the exception for programs that miss often:
    /// the new block is then larger, too, so that they do not miss again soon.
    GoodFit,
    /// Any that holds a request: no new block can be had, or only after this one has been given back, and that would be two
    /// calls instead of one.
    AnyFit,
}

fn sizes_for(pool: &Pool, request: Request, count: u64, which: Recover) -> Sizes {
    let all = pool.bytes(request).saturating_mul(count);
    match which {
        Recover::GoodFit => {
            let least = pool.range_bytes(request);
            let enough = all.max(least);
            Sizes { least, enough, most: pool.good_fit_bytes_max(enough) }
        }
        Recover::AnyFit => Sizes { least: pool.bytes(request), enough: all, most: u64::MAX },
    }
}

impl<B: Backend> Shared<B> {
    /// Empties all caches and makes the blocks purgeable that hold nothing. Returns their bytes.
    pub(crate) fn mark_idle_purgeable(&self) -> u64 {
        if !self.has_purgeable_blocks() || self.is_forked() {
            return 0;
        }
        let mark_one = |typed: &TypedPool<B::Block>| {
            let growing = &mut typed.lock_growth();
            self.flush_and_settle(growing);
            self.settle_soon(growing);
            self.make_purgeable(growing, |_| true)
        };
        let bytes = self.pools.iter().map(mark_one).sum();
        self.bell.tell_news();
        self.tell_loss();
        bytes
    }

    fn has_purgeable_blocks(&self) -> bool {
        self.backend.properties().capabilities.contains(Capabilities::PURGEABLE)
    }

    /// Makes idle blocks purgeable, those that have held nothing for longest first, for as long as `wants_more` says so of the
    /// next. Idle means idle for everybody: a block that some queue has not passed is none of them. Returns their bytes.
    pub(super) fn make_purgeable(
        &self,
        growing: &mut Growing<'_, B::Block>,
        wants_more: impl FnMut(&IdleBlock) -> bool,
    ) -> u64 {
        if !self.has_purgeable_blocks() || self.is_lost() {
            return 0;
        }
        let mut bytes = 0;
        for idle in growing.pool.set_idle_aside(wants_more) {
            match self.note(make_purgeable(&self.backend, &growing.block(idle.block))) {
                Ok(()) => {
                    self.calls.purge.fetch_add(1, Ordering::Relaxed);
                    bytes += idle.reserved_bytes;
                    growing.log.done("make_purgeable", idle.reserved_bytes);
                    growing.purgeable.put(idle);
                }
                Err(error) => {
                    self.calls.failed.fetch_add(1, Ordering::Relaxed);
                    growing.log.refused("make_purgeable", idle.reserved_bytes, &error);
                    growing.pool.restore_aside(idle);
                }
            }
        }
        bytes
    }

    /// Serves a request from a purgeable block, the smallest that will do: one driver call instead of a new block's. What the
    /// block holds then is unknown, whether or not it was purged.
    pub(super) fn recover(
        &self,
        growing: &mut Growing<'_, B::Block>,
        lane: &Lane,
        request: Request,
        which: Recover,
    ) -> Result<Option<Place>, Error> {
        let idle = self.recover_block(growing, request, 1, which)?;
        Ok(idle.map(|idle| growing.pool.recover(lane, idle, request)))
    }

    /// Makes a purgeable block nonpurgeable that holds at least one of `count` requests: the smallest for all of them, or else
    /// the largest. It is still set aside in the pool.
    ///
    /// A block that the driver cannot give its memory back is destroyed, and the next one tried.
    pub(super) fn recover_block(
        &self,
        growing: &mut Growing<'_, B::Block>,
        request: Request,
        count: u64,
        which: Recover,
    ) -> Result<Option<IdleBlock>, Error> {
        let sizes = sizes_for(&growing.pool, request, count, which);
        let mut failed = Vec::new();
        let answer = loop {
            let Some(idle) = growing.purgeable.take_best(sizes) else { break Ok(None) };
            match self.make_nonpurgeable(growing, &idle) {
                Ok(()) => break Ok(Some(idle)),
                Err(error) if error.kind() == ErrorKind::DeviceLost => {
                    growing.purgeable.put(idle);
                    break Err(error);
                }
                Err(_) => failed.push(idle),
            }
        };
        // Not sooner: what the driver does not take back is kept, and must not be found again.
        self.destroy(growing, Leaving { purgeable: failed, idle: Vec::new() });
        answer
    }

    fn make_nonpurgeable(&self, growing: &mut Growing<'_, B::Block>, idle: &IdleBlock) -> Result<(), Error> {
        match self.backend.make_nonpurgeable(&growing.block(idle.block)) {
            Ok(is_kept) => {
                let count = |counter: &AtomicU64, by: u64| counter.fetch_add(by, Ordering::Relaxed);
                count(&self.calls.purge, 1);
                count(&self.purgeable.recovered, 1);
                count(&self.purgeable.recovered_bytes, idle.bytes);
                if !is_kept {
                    count(&self.purgeable.purged, 1);
                    count(&self.purgeable.purged_bytes, idle.bytes);
                }
                growing.log.done("make_nonpurgeable", idle.bytes);
                Ok(())
            }
            Err(error) => {
                self.calls.failed.fetch_add(1, Ordering::Relaxed);
                growing.log.refused("make_nonpurgeable", idle.bytes, &error);
                Err(error)
            }
        }
    }
}
