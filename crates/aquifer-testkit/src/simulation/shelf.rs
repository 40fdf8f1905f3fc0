//! What reclaim callbacks can free.

use super::program::HookKind;
use super::scene::Held;
use aquifer_core::{MemoryManager, ReclaimHook};
use aquifer_sim::Sim;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Buffers that callbacks may free, and the callbacks.
pub(super) struct Shelf {
    sim: Sim,
    inner: Mutex<Inner>,
}

struct Inner {
    /// Until the program ends: a callback must not keep its manager for ever.
    manager: Option<MemoryManager<Sim>>,
    held: Vec<Held>,
    hooks: BTreeMap<u64, ReclaimHook>,
}

impl Shelf {
    pub(super) fn new(sim: Sim, manager: MemoryManager<Sim>) -> Arc<Self> {
        let inner = Inner { manager: Some(manager), held: Vec::new(), hooks: BTreeMap::new() };
        Arc::new(Self { sim, inner: Mutex::new(inner) })
    }

    pub(super) fn len(&self) -> usize {
        self.inner.lock().held.len()
    }

    pub(super) fn put(&self, held: Held) {
        self.inner.lock().held.push(held);
    }

    pub(super) fn take_all(&self) -> Vec<Held> {
        std::mem::take(&mut self.inner.lock().held)
    }

    /// Lets the callbacks and the manager go.
    pub(super) fn clear(&self) {
        let mut inner = self.inner.lock();
        let (hooks, manager) = (std::mem::take(&mut inner.hooks), inner.manager.take());
        drop(inner);
        drop((hooks, manager));
    }

    pub(super) fn register(
        self: &Arc<Self>,
        manager: &MemoryManager<Sim>,
        priority: i32,
        kind: HookKind,
        number: u64,
    ) {
        let shelf = Arc::clone(self);
        let hook = manager.on_reclaim(priority, move |_| shelf.reclaim(kind, number));
        self.inner.lock().hooks.insert(number, hook);
    }

    pub(super) fn unregister(&self, number: u8) {
        let mut inner = self.inner.lock();
        let count = inner.hooks.len();
        let key =
            usize::from(number).checked_rem(count).and_then(|place| inner.hooks.keys().nth(place).copied());
        let hook = key.and_then(|key| inner.hooks.remove(&key));
        drop(inner);
        drop(hook);
    }

    fn free_one(&self) {
        let held = self.inner.lock().held.pop();
        if let Some(held) = held {
            held.free(&self.sim);
        }
    }

    fn reclaim(&self, kind: HookKind, number: u64) {
        match kind {
            HookKind::FreesOne => self.free_one(),
            HookKind::FreesAll => self.take_all().into_iter().for_each(|held| held.free(&self.sim)),
            HookKind::Allocates => {
                let manager = self.inner.lock().manager.clone();
                if let Some(Ok(buffer)) = manager.map(|manager| manager.allocate(1000)) {
                    self.put(Held::new(&self.sim, buffer, None));
                }
            }
            HookKind::Panics => panic!("a reclaim callback that was told to"),
            HookKind::Leaves => {
                self.free_one();
                let hook = self.inner.lock().hooks.remove(&number);
                drop(hook);
            }
        }
    }
}
