//! Allocating under a limited tag.

use super::charge::{Account, Charge, LEVELS_MAX, SoftExceeded};
use super::tree::CEILINGS;
use crate::manager::kinds::MemoryKind;
use crate::manager::ladder::InFlight;
use crate::manager::options::MemoryOptions;
use crate::manager::shared::{Home, Shared, allocate_unlimited};
use crate::pool::{Place, Request};
use crate::raw::allocation::Owner;
use crate::statistics::SubBudgetUsage;
use aquifer_backend::{Backend, Error, ErrorKind};
use std::sync::Arc;
use tracing::warn;

const OPERATION: &str = "allocate";

/// Allocates under a limited tag: charges it, and then allocates as without limits. Until that has come about the charge is refunded if
/// anything fails, or panics; after it, when the allocation is freed.
#[cold]
#[inline(never)]
#[track_caller]
pub(in crate::manager) fn allocate_limited<B: Backend>(
    owner: &Owner<B>,
    home: Home,
    bytes: u64,
    options: MemoryOptions,
    in_flight: InFlight,
) -> Result<(Place, Request), Error> {
    let shared = &**owner;
    let account = shared.account(options)?;
    let mut charge = Charge::new(account, bytes);
    if charge.take().is_err() {
        shared.make_room(account, home, bytes, options, || charge.take())?;
    }
    // Its request says nothing of a charge, so whatever frees it in there refunds none.
    let (place, request) = allocate_unlimited(owner, home, bytes, options.unlimited(), in_flight)?;
    let request = request.charged();
    let exceeded = charge.keep();
    if !exceeded.is_none() {
        // Freed if the user's code panics that is told.
        let allocation = owner.adopt(home.queue, place, request);
        shared.tell_soft_exceeded(exceeded, home, bytes, options);
        std::mem::forget(allocation);
    }
    Ok((place, request))
}

impl<B: Backend> Shared<B> {
    /// The account of a limited tag.
    fn account(&self, options: MemoryOptions) -> Result<&Arc<Account>, Error> {
        self.sub_budgets.account(options.tag).ok_or_else(|| {
            let message = "the tag is of another manager's sub-budget; use one of this manager's";
            Error::new(ErrorKind::InvalidArgument, OPERATION, message)
        })
    }

    /// Refuses what hard limits would refuse now, if the tag has any, after asking for room as an allocation does: for those who wait
    /// for memory, and should not wait for this. Charges nothing.
    pub(in crate::manager) fn check_limits(
        &self,
        home: Home,
        bytes: u64,
        options: MemoryOptions,
    ) -> Result<(), Error> {
        if !options.tag.is_limited() {
            return Ok(());
        }
        let account = self.account(options)?;
        let attempt = || account.refuser(bytes).map_or(Ok(()), Err);
        attempt().or_else(|_| self.make_room(account, home, bytes, options, attempt))
    }

    /// Attempts again and again, while the account that refuses has callbacks which may free something in it.
    #[cold]
    fn make_room<'a>(
        &self,
        account: &'a Account,
        home: Home,
        bytes: u64,
        options: MemoryOptions,
        mut attempt: impl FnMut() -> Result<(), &'a Account>,
    ) -> Result<(), Error> {
        // What would be refused anyway is no reason to ask anybody.
        self.check(OPERATION, bytes, &options)?;
        if let Some(account) = account.too_small_for(bytes) {
            account.count_refused();
            return Err(can_never_fit(account, bytes));
        }
        // The priority that was asked last, of each account: each callback is called once.
        let mut asked = [None; LEVELS_MAX];
        loop {
            let Err(refuser) = attempt() else { return Ok(()) };
            let asked = &mut asked[refuser.depth];
            if !refuser.reclaim.is_empty() {
                self.check_process(OPERATION)?;
                *asked = refuser.reclaim.run_next(*asked, bytes, self.heap_of(home, options)?);
                if asked.is_some() {
                    continue;
                }
            }
            refuser.count_refused();
            return Err(limit_reached(refuser, bytes));
        }
    }

    /// The heap that an allocation takes memory from.
    fn heap_of(&self, home: Home, options: MemoryOptions) -> Result<usize, Error> {
        let memory_type = match options.memory_kind() {
            MemoryKind::Device => home.key.memory_type(),
            kind => self.home_on(kind, home.queue)?.key.memory_type(),
        };
        Ok(self.pools[memory_type].heap_index)
    }

    #[cold]
    fn tell_soft_exceeded(&self, exceeded: SoftExceeded<'_>, home: Home, bytes: u64, options: MemoryOptions) {
        if self.is_forked() {
            // Locks of the callbacks may be held by threads that this process has not got.
            return;
        }
        let heap_index = self.heap_of(home, options).unwrap_or_default();
        exceeded.accounts().for_each(|account| tell_soft_exceeded(account, bytes, heap_index));
    }

    /// Takes a live allocation off its sub-budget. It is about to be freed.
    pub(crate) fn refund_charge(&self, request: Request) {
        let account = self.sub_budgets.account(request.tag());
        debug_assert!(account.is_some(), "charged to no account");
        if let Some(account) = account {
            account.refund(request.requested_bytes);
        }
    }
}

/// Warns that a soft limit is newly exceeded, and calls the callbacks, one priority after the other, until it is no more. By an allocation of
/// `bytes` bytes from this heap, if that was why.
pub(super) fn tell_soft_exceeded(account: &Account, bytes: u64, heap_index: usize) {
    let usage = account.usage();
    warn!(
        sub_budget = account.path,
        live_bytes = usage.live_bytes,
        soft_bytes = usage.limits.soft_bytes,
        live_count = usage.live_count,
        soft_count = usage.limits.soft_count,
        "a sub-budget is above its soft limit"
    );
    let mut asked = None;
    while let Some(excess_bytes) = account.soft_excess_bytes() {
        let needed_bytes = if excess_bytes == 0 { bytes } else { excess_bytes };
        asked = account.reclaim.run_next(asked, needed_bytes, heap_index);
        if asked.is_none() {
            break;
        }
    }
}

#[cold]
fn can_never_fit(account: &Account, bytes: u64) -> Error {
    let limits = account.limits();
    let message = if limits.hard_count == Some(0) {
        format!(
            "{bytes} bytes asked for; sub-budget {:?} may have 0 allocations: raise its limit (SubBudget::set_limits)",
            account.path
        )
    } else {
        format!(
            "{bytes} bytes asked for; sub-budget {:?} may have {}: ask for less, or raise its limit (SubBudget::set_limits)",
            account.path,
            limits.hard_bytes.unwrap_or(u64::MAX).min(CEILINGS.0)
        )
    };
    Error::new(ErrorKind::CanNeverFit, OPERATION, message)
}

#[cold]
fn limit_reached(account: &Account, bytes: u64) -> Error {
    let SubBudgetUsage { live_bytes, live_count, limits, .. } = account.usage();
    let hard_bytes = limits.hard_bytes.unwrap_or(u64::MAX).min(CEILINGS.0);
    let hard_count = limits.hard_count.unwrap_or(u64::MAX).min(CEILINGS.1);
    // Others may have freed something meanwhile, so the count may not be the reason any more either.
    let what_is_live = if live_bytes.saturating_add(bytes) > hard_bytes {
        format!("{live_bytes} of at most {hard_bytes} bytes live, in {live_count} allocations")
    } else {
        format!("{live_count} of at most {hard_count} allocations live, of {live_bytes} bytes")
    };
    let message = format!(
        "{bytes} bytes asked for; sub-budget {:?} has {what_is_live}: free something of it, or raise its limit \
         (SubBudget::set_limits)",
        account.path
    );
    Error::new(ErrorKind::LimitReached, OPERATION, message)
}
