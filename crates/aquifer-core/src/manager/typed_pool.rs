//! One memory type of a manager: its pool, its blocks, and the lock under which it grows and shrinks.

use super::addresses::Addresses;
use super::elastic::RemappingCounters;
use super::purgeable::PurgeableBlocks;
use crate::pool::Pool;
use crate::range::BlockIndex;
use crate::sync::{Mutex, MutexGuard, Rank};
use aquifer_backend::Backend;
use parking_lot::RwLock;
use std::collections::BTreeSet;
use std::ptr::NonNull;
use std::sync::Arc;
use tracing::{debug, warn};

#[derive(Debug)]
pub(crate) struct TypedPool<T> {
    pub(crate) pool: Arc<Pool>,
    pub(crate) heap_index: usize,
    /// Whether its memory is mapped behind addresses, where that can be.
    pub(super) is_elastic: bool,
    blocks: RwLock<Blocks<T>>,
    addresses: Addresses,
    pub(super) remapping: RemappingCounters,
    growth: Mutex<PurgeableBlocks>,
}

/// Blocks by their index.
#[derive(Debug)]
struct Blocks<T> {
    all: Vec<Option<Arc<T>>>,
    /// The indices that are free again.
    unused: BTreeSet<BlockIndex>,
}

impl<T> TypedPool<T> {
    pub(super) fn new(pool: Arc<Pool>, heap_index: usize, is_elastic: bool) -> Self {
        let growth = Mutex::new(Rank::Growth, PurgeableBlocks::default());
        let blocks = RwLock::new(Blocks { all: Vec::new(), unused: BTreeSet::new() });
        let (addresses, remapping) = (Addresses::new(), RemappingCounters::default());
        Self { pool, heap_index, is_elastic, blocks, addresses, remapping, growth }
    }

    /// The block of a live allocation, or one that is set aside.
    pub(crate) fn block(&self, index: BlockIndex) -> Arc<T> {
        let blocks = self.blocks.read();
        Arc::clone(blocks.all[index as usize].as_ref().expect("a block that is in use, or set aside, exists"))
    }

    /// Where the device reaches the block of a live allocation.
    #[inline]
    pub(crate) fn device_address(&self, index: BlockIndex) -> Option<u64> {
        self.addresses.device(index)
    }

    /// Where the host sees the block of a live allocation.
    #[inline]
    pub(crate) fn host_pointer(&self, index: BlockIndex) -> Option<NonNull<u8>> {
        self.addresses.host(index)
    }

    /// Waits until no other thread makes this pool grow or shrink.
    pub(super) fn lock_growth(&self) -> Growing<'_, T> {
        Growing { typed: self, purgeable: self.growth.lock(), log: DriverLog::default() }
    }

    /// Takes a block out that the pool has let go.
    pub(super) fn take_block(&self, index: BlockIndex) -> T {
        let blocks = &mut *self.blocks.write();
        let block = blocks.all[index as usize].take().expect("an idle block exists");
        blocks.unused.insert(index);
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
    pub(super) fn insert_block<B: Backend<Block = T>>(&self, backend: &B, block: T) -> BlockIndex {
        let blocks = &mut *self.blocks.write();
        let index = blocks.unused.pop_first().unwrap_or_else(|| {
            blocks.all.push(None);
            BlockIndex::try_from(blocks.all.len() - 1).expect("fewer than 2^32 blocks")
        });
        self.addresses.note(backend, index, &block);
        blocks.all[index as usize] = Some(Arc::new(block));
        index
    }

    /// Puts a block back that [`TypedPool::take_block`] took out.
    pub(super) fn put_block(&self, index: BlockIndex, block: T) {
        let blocks = &mut *self.blocks.write();
        blocks.unused.remove(&index);
        blocks.all[index as usize] = Some(Arc::new(block));
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
