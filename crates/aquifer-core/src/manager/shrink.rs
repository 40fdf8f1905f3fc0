//! Giving memory back to the driver: blocks that hold nothing, and free parts of others.
//!
//! Purgeable blocks ([`super::purgeable`]) go before idle ones: the system may have their memory already.

use super::shared::Shared;
use super::typed_pool::{Growing, TypedPool};
use crate::clock::whole_ms;
use crate::pool::Request;
use crate::range::IdleBlock;
use crate::raw::allocation::{destroy_block, release_range};
use crate::sync::Ordering;
use aquifer_backend::{Backend, Capabilities, DestroyError};
use std::time::Duration;

/// Free ranges are given back in whole multiples of this many bytes, so that calls and mappings stay few.
const RELEASE_GRANULE_BYTES: u64 = 16 << 10;

/// Blocks to be destroyed together.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    /// Purgeable ones, taken out of their list; still set aside in the pool.
    pub(super) purgeable: Vec<IdleBlock>,
    /// Idle ones that the pool has let go.
    pub(super) idle: Vec<IdleBlock>,
}

impl<B: Backend> Shared<B> {
    /// Destroys blocks. Those that the driver refuses go back to where they came from. Returns the bytes given back.
    pub(super) fn destroy(&self, growing: &mut Growing<'_, B::Block>, leaving: Leaving) -> u64 {
        let (mut bytes, mut are_destroyed) = (0, false);
        for idle in leaving.purgeable {
            if self.destroy_one(growing, &idle) {
                growing.pool.forget_aside(&idle);
                (bytes, are_destroyed) = (bytes + idle.reserved_bytes, true);
            } else {
                growing.purgeable.put(idle);
            }
        }
        for idle in leaving.idle {
            if self.destroy_one(growing, &idle) {
                (bytes, are_destroyed) = (bytes + idle.reserved_bytes, true);
            } else {
                growing.pool.restore(idle);
            }
        }
        if are_destroyed {
            if growing.is_elastic {
                self.remove_empty_sparse(growing);
            }
            self.backend.flush_destroyed();
        }
        bytes
    }

    /// Destroys a block and takes it off the books; false if the driver refused, and the block stays.
    fn destroy_one(&self, growing: &mut Growing<'_, B::Block>, idle: &IdleBlock) -> bool {
        let is_physical = growing.is_elastic && growing.pool.is_physical(idle.block);
        if is_physical && !self.unmap_everywhere(growing, idle.block, idle.bytes) {
            return false;
        }
        let answer = destroy_block(&self.backend, growing.take_block(idle.block));
        let refusal = answer.as_ref().err().map(|DestroyError { error, .. }| error);
        self.count_call(growing, "destroy_block", idle.reserved_bytes, &self.calls.destroy, refusal);
        match answer {
            Ok(()) => {
                self.block_count.refund();
                self.ledgers[growing.heap_index].refund(idle.reserved_bytes);
                if is_physical {
                    growing.pool.forget_physical(idle.block);
                }
                true
            }
            Err(DestroyError { block, .. }) => {
                growing.put_block(idle.block, block);
                false
            }
        }
    }

    /// Destroys blocks that hold nothing, purgeable ones first and those that have held nothing for longest, until no more
    /// than `reserved_bytes` of the pool's heap are reserved, or none is left. Returns the bytes given back.
    pub(super) fn release_down_to(&self, growing: &mut Growing<'_, B::Block>, reserved_bytes: u64) -> u64 {
        let mut left = self.ledgers[growing.heap_index].reserved_bytes();
        let mut is_needed = |idle: &IdleBlock| {
            let is_needed = left > reserved_bytes;
            left -= if is_needed { idle.reserved_bytes.min(left) } else { 0 };
            is_needed
        };
        let purgeable = growing.purgeable.take_oldest(&mut is_needed);
        let idle = growing.pool.release_idle(|idle, _| is_needed(idle));
        self.destroy(growing, Leaving { purgeable, idle })
    }

    /// Destroys one block that holds nothing, if there is one.
    pub(super) fn release_one(&self, growing: &mut Growing<'_, B::Block>) {
        let mut left = 1_u32;
        let mut is_needed = |_: &IdleBlock| std::mem::take(&mut left) > 0;
        let purgeable = growing.purgeable.take_oldest(&mut is_needed);
        let idle = growing.pool.release_idle(|idle, _| is_needed(idle));
        self.destroy(growing, Leaving { purgeable, idle });
    }

    /// The other pools that may have what a request is short of: bytes of the same heap, or one of the blocks that there may
    /// be.
    fn others_of_use(&self, request: Request) -> impl Iterator<Item = &TypedPool<B::Block>> {
        let heap_index = self.pools[request.memory_type()].heap_index;
        let is_short_of_blocks = self.block_count.is_full();
        let is_of_use = move |&(memory_type, typed): &(usize, &TypedPool<B::Block>)| {
            memory_type != request.memory_type() && (is_short_of_blocks || typed.heap_index == heap_index)
        };
        self.pools.iter().enumerate().filter(is_of_use).map(|(_, typed)| typed)
    }

    /// Gives back what other pools hold for nobody and a request may be short of. True if anything came of it. To be called
    /// without any pool's growth lock.
    pub(super) fn release_in_others(&self, request: Request) -> bool {
        let heap_index = self.pools[request.memory_type()].heap_index;
        let mut bytes = 0;
        for typed in self.others_of_use(request) {
            let growing = &mut typed.lock_growth();
            self.flush_and_settle(growing);
            bytes += self.release_down_to(growing, 0);
            if typed.heap_index == heap_index {
                bytes += self.release_holes(growing);
            }
        }
        bytes > 0
    }

    /// Gives up what was preallocated in the pool of a request, or else in one that has what it may be short of. False if
    /// nothing was.
    pub(super) fn give_up_preallocated(&self, request: Request) -> bool {
        let own = &self.pools[request.memory_type()];
        std::iter::once(own).chain(self.others_of_use(request)).any(|typed| typed.pool.free_preallocated())
    }

    /// Gives back the free ranges of blocks that are partly used, where the backend can. Returns the bytes given back.
    pub(super) fn release_holes(&self, growing: &mut Growing<'_, B::Block>) -> u64 {
        let properties = self.backend.properties();
        if !properties.capabilities.contains(Capabilities::RELEASE_RANGE) {
            return 0;
        }
        let mut bytes = 0;
        for range in growing.pool.release_holes(RELEASE_GRANULE_BYTES.max(properties.block_granularity_bytes))
        {
            match release_range(&self.backend, &growing.block(range.block), &range) {
                Ok(()) => {
                    self.calls.release.fetch_add(1, Ordering::Relaxed);
                    self.ledgers[growing.heap_index].refund(range.bytes);
                    bytes += range.bytes;
                    growing.log.done("release_range", range.bytes);
                }
                Err(error) => {
                    self.calls.failed.fetch_add(1, Ordering::Relaxed);
                    growing.log.refused("release_range", range.bytes, &error);
                    growing.pool.unrelease(range);
                }
            }
        }
        bytes
    }

    /// Gives back purgeable and idle blocks until no more than `reserved_bytes` are reserved of each heap, or none is left.
    pub(crate) fn trim_to(&self, reserved_bytes: u64) -> u64 {
        if self.is_forked() {
            return 0;
        }
        self.let_go_of_imported();
        drop(self.transfers.take_free_slots());
        let trim_one = |typed: &TypedPool<B::Block>| {
            let growing = &mut typed.lock_growth();
            growing.pool.free_preallocated();
            self.flush_and_settle(growing);
            self.settle_soon(growing);
            let bytes = self.release_down_to(growing, reserved_bytes);
            let is_enough = self.ledgers[growing.heap_index].reserved_bytes() <= reserved_bytes;
            bytes + if is_enough { 0 } else { self.release_holes(growing) }
        };
        let bytes = self.pools.iter().map(trim_one).sum();
        self.bell.tell_news();
        bytes
    }

    /// Gives back blocks that have held nothing for longer than the configuration allows, and makes those purgeable that
    /// have for as long as it says. Returns the bytes given back.
    pub(crate) fn release_idle(&self) -> u64 {
        let has_ages = self.config.idle_decay.is_some() || self.config.purgeable_after.is_some();
        if !has_ages || self.is_forked() {
            return 0;
        }
        let release_one = |typed: &TypedPool<B::Block>| {
            let growing = &mut typed.lock_growth();
            self.flush_and_settle(growing);
            self.release_decayed(growing)
        };
        let bytes = self.pools.iter().map(release_one).sum();
        self.tell_loss();
        bytes
    }

    /// What age does to blocks that hold nothing, as the configuration says. Returns the bytes given back.
    pub(super) fn release_decayed(&self, growing: &mut Growing<'_, B::Block>) -> u64 {
        self.release_older(growing, self.config.idle_decay, self.config.purgeable_after)
    }

    /// Gives back blocks that have held nothing for so long, and makes those purgeable that have for so long. Returns the bytes given
    /// back.
    pub(super) fn release_older(
        &self,
        growing: &mut Growing<'_, B::Block>,
        idle_decay: Option<Duration>,
        purgeable_after: Option<Duration>,
    ) -> u64 {
        let now_ms = self.config.clock.now_ms();
        let latest = |age: Duration| now_ms.checked_sub(whole_ms(age));
        let mut bytes = 0;
        if let Some(latest) = idle_decay.and_then(latest) {
            let has_decayed = |idle: &IdleBlock| idle.since.time_ms <= latest;
            let purgeable = growing.purgeable.take_oldest(has_decayed);
            let idle = growing.pool.release_idle(|idle, _| has_decayed(idle));
            bytes = self.destroy(growing, Leaving { purgeable, idle });
        }
        if let Some(latest) = purgeable_after.and_then(latest) {
            self.make_purgeable(growing, |idle| idle.since.time_ms <= latest);
        }
        bytes
    }
}
