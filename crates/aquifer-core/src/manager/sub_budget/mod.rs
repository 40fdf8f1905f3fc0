//! Sub-budgets: parts of a manager's memory with limits of their own.
//!
//! A tag can be *limited*, which a bit of it says: what is allocated under it is charged to an account ([`charge`]) and to all accounts
//! above that, before memory is looked for ([`allocate`]). Options with such a tag are not plain, so the hot path of allocating never
//! sees one; and the bit stays in the request, where freeing tests it together with another, so its hot path does not either. The
//! place itself comes from and goes to the thread's cache as any.
//!
//! Limits count what users ask for, and no more: no trimming, no other sub-budget and no queue has anything to do with them.

mod allocate;
mod charge;
mod tree;

#[cfg(all(test, not(loom)))]
mod tests;

pub(super) use allocate::allocate_limited;
pub(crate) use tree::SubBudgets;

use super::MemoryManager;
use super::reclaim::{ReclaimHook, ReclaimRequest};
use crate::statistics::{Limits, SubBudgetUsage, Tag};
#[cfg(doc)]
use crate::{MemoryOptions, Statistics};
#[cfg(doc)]
use aquifer_backend::ErrorKind;
use aquifer_backend::{Backend, Error};
use charge::Account;
use std::fmt;
use std::sync::Arc;

/// A part of a manager's memory with limits of its own: a tenant's, a model's, a library's. From [`MemoryManager::sub_budget`], or below
/// another from [`SubBudget::sub_budget`].
///
/// What is allocated under one of its tags ([`SubBudget::tag`], [`SubBudget::own_tag`]) counts against it, against all those above it,
/// and against the manager's budget as ever. Other allocations do not, whatever they are for. All kinds of memory count, on queues too; a
/// [`UnifiedBuffer`](crate::UnifiedBuffer) with a shadow is two allocations. Imported memory counts under its tag only, as it is in no
/// budget. It counts until the buffer is dropped, whatever queues still do with the memory.
///
/// ```
/// use aquifer_core::{Backend, Buffer, Error, Limits, MemoryManager, MemoryOptions};
///
/// fn cache_of<B: Backend>(manager: &MemoryManager<B>) -> Result<Buffer<B>, Error> {
///     let tenant = manager.sub_budget("acme", Limits::NONE.hard_bytes(8 << 30))?;
///     let model = tenant.sub_budget("llama", Limits::NONE.hard_bytes(6 << 30).soft_bytes(4 << 30).hard_count(1000))?;
///     // Named "acme/llama/kv".
///     let options = MemoryOptions::DEFAULT.tag(model.tag("kv")?);
///     manager.allocate_with(1 << 20, options)
/// }
/// ```
///
/// # Limits
///
/// What a *hard* limit has no room for is refused at once with [`ErrorKind::LimitReached`], also where the caller would wait for memory
/// ([`MemoryManager::allocate_async`]); with [`ErrorKind::CanNeverFit`] if no freeing could help. The message names the sub-budget. Nothing else
/// happens: nothing is trimmed, and no other sub-budget is asked for anything. Only callbacks of the sub-budget that refuses are called before
/// ([`SubBudget::on_reclaim`]). Limits are exact whatever threads do at the same time, and those of sub-budgets may add up to more than
/// the one above has.
///
/// What goes beyond a *soft* limit is allocated, counted ([`SubBudgetUsage::soft_exceeded_count`]), told as a warning through `tracing`, and to
/// the callbacks; then not again before less has been live.
///
/// Whatever its limits, a sub-budget has at most 4 TiB less a byte live, in 4,194,303 allocations; and a manager has at most 8 levels of them. Each has
/// one of the manager's 1024 tags.
///
/// # Handles
///
/// A handle: clones are cheap and mean the same, and any thread may use them. A sub-budget lives as long as its manager, and goes on
/// counting without a handle; its name is not free again. A handle keeps no manager alive: it may outlive that, and then still tells what
/// is live in buffers that do too.
///
/// # Cost
///
/// An allocation charges one word for each level, and its free refunds it; allocations without a limited tag pay nothing.
#[derive(Clone)]
pub struct SubBudget {
    all: Arc<SubBudgets>,
    account: Arc<Account>,
}

impl fmt::Debug for SubBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SubBudget").field("path", &self.path()).field("usage", &self.usage()).finish()
    }
}

impl<B: Backend> MemoryManager<B> {
    /// Makes a sub-budget of this manager. Costs a lock and a look-up; keep the handle. See [`SubBudget`].
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`] for a name that is empty or has a slash, or that another sub-budget or a tag has; for a soft limit
    ///   above the hard one; and if there are 1024 tags.
    /// - [`ErrorKind::Forked`].
    pub fn sub_budget(&self, name: &str, limits: Limits) -> Result<SubBudget, Error> {
        let all = &self.owner.sub_budgets;
        let account = all.make(None, name, limits)?;
        Ok(SubBudget { all: Arc::clone(all), account })
    }

    /// The sub-budget of a [path](SubBudget::path), for another part of the program than the one that made it; `None` if there is none.
    /// Costs a lock and a look-up.
    #[must_use]
    pub fn find_sub_budget(&self, path: &str) -> Option<SubBudget> {
        let all = &self.owner.sub_budgets;
        Some(SubBudget { account: all.find(path)?, all: Arc::clone(all) })
    }
}

impl SubBudget {
    /// Makes a sub-budget below this one. Its limits may be higher than this one's, which hold all the same.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::sub_budget`]; [`ErrorKind::InvalidArgument`] also on the ninth level.
    pub fn sub_budget(&self, name: &str, limits: Limits) -> Result<Self, Error> {
        let account = self.all.make(Some(&self.account), name, limits)?;
        Ok(Self { all: Arc::clone(&self.all), account })
    }

    /// The names of those above it and its own, with slashes between.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.account.path
    }

    /// The tag of a name below this sub-budget, for [`MemoryOptions::tag`]: what is allocated under it counts here. It is named by the path
    /// and the name. The same name is always the same tag. Costs a lock and a look-up: keep the tag.
    ///
    /// # Errors
    ///
    /// - [`ErrorKind::InvalidArgument`] for a name that is empty or has a slash, or that a sub-budget below this one has; if
    ///   [`MemoryManager::tag`] has made a tag so named; and if there are 1024 tags.
    /// - [`ErrorKind::Forked`].
    pub fn tag(&self, name: &str) -> Result<Tag, Error> {
        self.all.tag(&self.account, name)
    }

    /// The tag that is named as the sub-budget.
    #[must_use]
    pub fn own_tag(&self) -> Tag {
        self.account.own_tag
    }

    /// What is live in it. Takes no lock.
    #[must_use]
    pub fn usage(&self) -> SubBudgetUsage {
        self.account.usage()
    }

    /// Sets other limits, at any time. They may be below what is live: then nothing is taken away, and no more is given until enough has been
    /// freed. If what is live is above a soft limit by that, that is told as it is for an allocation, by this call. (Allocations under way
    /// may still be counted by the limits before; one that goes beyond a soft limit meanwhile may be told twice or not at all.)
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] for a soft limit above the hard one; [`ErrorKind::Forked`]. Nothing changes then.
    pub fn set_limits(&self, limits: Limits) -> Result<(), Error> {
        self.all.check_process("SubBudget::set_limits")?;
        limits.check("SubBudget::set_limits")?;
        if self.account.set_limits(limits) {
            allocate::tell_soft_exceeded(&self.account, 0, 0);
        }
        Ok(())
    }

    /// Calls `callback` whenever this sub-budget's hard limit would refuse an allocation, before it does, and whenever a soft limit is newly
    /// exceeded, so that the program can free something that counts here. Else as [`MemoryManager::on_reclaim`]: the lowest priority
    /// first, each only if the ones before did not free enough, on the thread that allocates (or sets limits), under no lock; it may do anything,
    /// and while it does, no other callback is called on that thread.
    ///
    /// [`ReclaimRequest::needed_bytes`] is the size of the allocation, or how far what is live is above the soft limit;
    /// [`ReclaimRequest::heap_index`] is the heap that the allocation takes memory from (0 if limits were set). The callback should keep
    /// neither a handle of the manager nor one of a sub-budget, which would then never be dropped.
    pub fn on_reclaim(
        &self,
        priority: i32,
        callback: impl Fn(&ReclaimRequest) + Send + Sync + 'static,
    ) -> ReclaimHook {
        self.account.reclaim.register(priority, callback)
    }
}
