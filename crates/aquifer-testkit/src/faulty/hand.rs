//! What fails, and the books.

#[cfg(doc)]
use aquifer_backend::Backend;
use aquifer_backend::{Error, ErrorKind};
use parking_lot::{Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A kind of call that can fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DriverCall {
    /// [`Backend::budget`].
    Budget,
    /// [`Backend::create_block`].
    Create,
    /// [`Backend::destroy_block`].
    Destroy,
    /// [`Backend::release_range`].
    Release,
    /// [`Backend::copy`].
    Copy,
    /// [`Backend::fill`].
    Fill,
    /// [`Backend::create_queue`].
    CreateQueue,
    /// [`Backend::enqueue`].
    Enqueue,
    /// [`Backend::signal`].
    Signal,
    /// [`Backend::wait_on_queue`].
    WaitOnQueue,
    /// [`Backend::make_purgeable`].
    MakePurgeable,
    /// [`Backend::make_nonpurgeable`].
    MakeNonpurgeable,
    /// [`Backend::import_block`], [`Backend::import_device_block`].
    Import,
    /// [`Backend::create_physical_block`].
    CreatePhysical,
    /// [`Backend::create_sparse_block`].
    CreateSparse,
    /// [`Backend::map`].
    Map,
    /// [`Backend::unmap`].
    Unmap,
}

/// How many kinds there are.
const CALL_KINDS: usize = DriverCall::Unmap as usize + 1;

/// Which calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultMode {
    /// One.
    Once,
    /// One and all after it.
    FromThenOn,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    call_number: u64,
    mode: FaultMode,
    create_kind: ErrorKind,
}

#[derive(Debug, Clone, Copy)]
struct LiveBlock {
    bytes: u64,
    /// Whether the last word on it was a refusal to take it back.
    is_refused: bool,
    is_purgeable: bool,
    is_pinned: bool,
}

#[derive(Debug, Default)]
struct State {
    plan: Option<Plan>,
    calls: u64,
    failed: u64,
    counts: [u64; CALL_KINDS],
    live: BTreeMap<u64, LiveBlock>,
    live_bytes_peak: u64,
    next_id: u64,
    /// The most bytes that pinned blocks may have together, if there is a limit.
    lockable_bytes: Option<u64>,
}

impl State {
    fn live_bytes(&self) -> u64 {
        self.live.values().map(|block| block.bytes).sum()
    }
}

/// The hand on a [`Faulty`](super::Faulty) driver: says what fails, and knows what happened. Clones are the same hand.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<State>>);

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock()
    }

    /// From now on, fails the call with the number `call_number`, counted from 0 over all kinds and from this moment.
    ///
    /// A call that creates a block or makes one nonpurgeable fails with `create_kind`. The others fail with
    /// [`ErrorKind::Driver`], the one kind that the contract allows them all.
    pub fn fail(&self, call_number: u64, mode: FaultMode, create_kind: ErrorKind) {
        let mut state = self.state();
        state.plan = Some(Plan { call_number, mode, create_kind });
        state.calls = 0;
    }

    /// Fails nothing from now on.
    pub fn stop(&self) {
        self.state().plan = None;
    }

    /// How many calls there were, since the last [`Faults::fail`] if there was one.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// How many calls of one kind there have ever been, failed ones too.
    #[must_use]
    pub fn calls_of(&self, call: DriverCall) -> u64 {
        self.state().counts[call as usize]
    }

    /// How many calls failed because they were told to.
    #[must_use]
    pub fn failed_count(&self) -> u64 {
        self.state().failed
    }

    /// How many blocks exist.
    #[must_use]
    pub fn live_blocks(&self) -> u64 {
        self.state().live.len() as u64
    }

    /// Their bytes.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.state().live_bytes()
    }

    /// The highest their bytes have been.
    #[must_use]
    pub fn live_bytes_peak(&self) -> u64 {
        self.state().live_bytes_peak
    }

    /// From now on, refuses every new block of pinned memory with which there would be more than so many bytes of it.
    pub fn lock_at_most(&self, bytes: u64) {
        self.state().lockable_bytes = Some(bytes);
    }

    /// The bytes of the pinned blocks that exist.
    #[must_use]
    pub fn locked_bytes(&self) -> u64 {
        self.state().live.values().filter(|block| block.is_pinned).map(|block| block.bytes).sum()
    }

    /// How many of the blocks that exist are purgeable.
    #[must_use]
    pub fn purgeable_blocks(&self) -> u64 {
        self.state().live.values().filter(|block| block.is_purgeable).count() as u64
    }

    /// How many of the blocks that exist the driver has refused to take back, when it was last asked.
    #[must_use]
    pub fn refused_blocks(&self) -> u64 {
        self.state().live.values().filter(|block| block.is_refused).count() as u64
    }

    /// Counts a call, and the error it is to fail with.
    pub(super) fn call(&self, call: DriverCall, operation: &'static str) -> Result<(), Error> {
        let mut state = self.state();
        let call_number = state.calls;
        state.calls += 1;
        state.counts[call as usize] += 1;
        let Some(plan) = state.plan else { return Ok(()) };
        let is_hit = match plan.mode {
            FaultMode::Once => call_number == plan.call_number,
            FaultMode::FromThenOn => call_number >= plan.call_number,
        };
        if !is_hit {
            return Ok(());
        }
        state.failed += 1;
        let takes_memory = matches!(
            call,
            DriverCall::Create
                | DriverCall::CreateSparse
                | DriverCall::CreatePhysical
                | DriverCall::MakeNonpurgeable
        );
        let kind = if takes_memory { plan.create_kind } else { ErrorKind::Driver };
        Err(Error::new(kind, operation, format!("call {call_number} was told to fail")))
    }

    /// Whether pinned memory of so many bytes more may be had.
    pub(super) fn check_lockable(&self, bytes: u64) -> Result<(), Error> {
        let locked = self.locked_bytes();
        let mut state = self.state();
        match state.lockable_bytes {
            Some(most) if locked + bytes > most => {
                state.failed += 1;
                let message = format!("{bytes} bytes more asked for; {locked} of {most} are locked");
                Err(Error::new(ErrorKind::OutOfMemory, "create_block", message))
            }
            _ => Ok(()),
        }
    }

    /// Takes note of a new block: its number.
    pub(super) fn created(&self, bytes: u64, is_pinned: bool) -> u64 {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.live.insert(id, LiveBlock { bytes, is_refused: false, is_purgeable: false, is_pinned });
        state.live_bytes_peak = state.live_bytes_peak.max(state.live_bytes());
        id
    }

    pub(super) fn destroyed(&self, id: u64) {
        self.state().live.remove(&id).expect("a block that is destroyed exists");
    }

    fn change(&self, id: u64, change: impl FnOnce(&mut LiveBlock)) {
        change(self.state().live.get_mut(&id).expect("the block exists"));
    }

    pub(super) fn refused(&self, id: u64) {
        self.change(id, |block| block.is_refused = true);
    }

    pub(super) fn released(&self, id: u64, bytes: u64) {
        self.change(id, |block| block.bytes -= bytes);
    }

    pub(super) fn purged(&self, id: u64, is_purgeable: bool) {
        self.change(id, |block| block.is_purgeable = is_purgeable);
    }

    /// Fails if a block is purgeable: nobody may use it then.
    pub(super) fn check_usable(&self, id: u64) {
        self.change(id, |block| assert!(!block.is_purgeable, "a purgeable block is used"));
    }
}
