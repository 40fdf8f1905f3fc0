//! One memory type of a manager: its pool, its blocks, and the lock under which it grows and shrinks.

use super::purgeable::PurgeableBlocks;
use crate::pool::Pool;
use crate::range::BlockIndex;
use crate::sync::{Mutex, MutexGuard, Rank};
use parking_lot::RwLock;
use std::sync::Arc;
use tracing::{debug, warn};

#[derive(Debug)]
pub(crate) struct TypedPool<T> {
    pub(crate) pool: Arc<Pool>,
    pub(crate) heap_index: usize,
    /// Whether its memory is mapped behind addresses, where that can be.
    pub(super) is_elastic: bool,
    blocks: RwLock<Vec<Option<Arc<T>>>>,
    growth: Mutex<PurgeableBlocks>,
}

impl<T> TypedPool<T> {
    pub(super) fn new(pool: Arc<Pool>, heap_index: usize, is_elastic: bool) -> Self {
        let growth = Mutex::new(Rank::Growth, PurgeableBlocks::default());
        Self { pool, heap_index, is_elastic, blocks: RwLock::new(Vec::new()), growth }
    }

    /// The block of a live allocation, or one that is set aside.
    pub(crate) fn block(&self, index: BlockIndex) -> Arc<T> {
        let blocks = self.blocks.read();
        Arc::clone(blocks[index as usize].as_ref().expect("a block that is in use, or set aside, exists"))
    }

    /// Waits until no other thread makes this pool grow or shrink.
    pub(super) fn lock_growth(&self) -> Growing<'_, T> {
        Growing { typed: self, purgeable: self.growth.lock(), log: DriverLog::default() }
    }

    /// Takes a block out that the pool has let go.
    pub(super) fn take_block(&self, index: BlockIndex) -> T {
        let block = self.blocks.write()[index as usize].take().expect("an idle block exists");
        Arc::into_inner(block)
            .expect("only calls on live allocations borrow a block, and an idle block has none")
    }
}

/// The growth lock of a pool, held.
pub(super) struct Growing<'a, T> {
    typed: &'a TypedPool<T>,
    /// Under the lock, since they come and go only as the pool grows and shrinks.
    pub(super) purgeable: MutexGuard<'a, PurgeableBlocks>,
    /// Written out when the lock has been let go, since subscribers are the user's code.
    pub(super) log: DriverLog,
}

impl<T> std::ops::Deref for Growing<'_, T> {
    type Target = TypedPool<T>;

    fn deref(&self) -> &TypedPool<T> {
        self.typed
    }
}

impl<T> Growing<'_, T> {
    /// Keeps a new block under a free index.
    pub(super) fn insert_block(&self, block: T) -> BlockIndex {
        let mut blocks = self.blocks.write();
        let place = blocks.iter().position(Option::is_none).unwrap_or_else(|| {
            blocks.push(None);
            blocks.len() - 1
        });
        blocks[place] = Some(Arc::new(block));
        BlockIndex::try_from(place).expect("fewer than 2^32 blocks")
    }

    /// Puts a block back that [`TypedPool::take_block`] took out.
    pub(super) fn put_block(&self, index: BlockIndex, block: T) {
        self.blocks.write()[index as usize] = Some(Arc::new(block));
    }
}

/// What the driver was asked and answered.
#[derive(Debug, Default)]
pub(super) struct DriverLog(Vec<DriverEvent>);

#[derive(Debug)]
struct DriverEvent {
    call: &'static str,
    bytes: u64,
    refusal: Option<String>,
}

impl DriverLog {
    pub(super) fn done(&mut self, call: &'static str, bytes: u64) {
        self.0.push(DriverEvent { call, bytes, refusal: None });
    }

    pub(super) fn refused(&mut self, call: &'static str, bytes: u64, refusal: &aquifer_backend::Error) {
        self.0.push(DriverEvent { call, bytes, refusal: Some(refusal.to_string()) });
    }
}

impl Drop for DriverLog {
    fn drop(&mut self) {
        for DriverEvent { call, bytes, refusal } in self.0.drain(..) {
            match refusal {
                None => debug!(call, bytes, "driver call"),
                Some(refusal) => warn!(call, bytes, refusal, "the driver refused"),
            }
        }
    }
}
