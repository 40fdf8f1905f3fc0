//! Pinned memory: few allocations, each counted, of memory that the system keeps where it is.
//!
//! The memory is pooled as all is, in the pool of its memory type. What is added to that is the count, the limits, what happens
//! where the driver locks no more, and the list of what is live by the host's address ([`registry`]). An allocation is claimed
//! before the pool is asked, so that a limit costs no call of the driver, and is listed before its user gets it. It is taken off
//! the list before its place is free.

mod allocator;
mod buffer;
mod registry;

pub use allocator::PinnedAllocator;
pub use buffer::PinnedBuffer;

pub(crate) use registry::PinnedRegistry;

use super::ladder::InFlight;
use super::options::MemoryOptions;
use super::shared::{Home, Shared, finish};
use crate::pool::{Place, Request};
use crate::raw::allocation::Owner;
use crate::sync::{AtomicBool, Ordering};
use aquifer_backend::{Backend, Error, ErrorKind};
use registry::{Live, Refusal};
use std::sync::Arc;
use tracing::warn;

/// What an allocation of pinned memory does where the driver locks no more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum WhenRefused {
    /// It fails, with what the driver said.
    #[default]
    Error,
    /// It takes memory that the host sees and that is not locked, which is counted
    /// ([`PinnedStatistics::unlocked_count`](crate::PinnedStatistics::unlocked_count)), and the manager's first such
    /// allocation writes a warning through `tracing`. Transfers are slower with it.
    UseUnlocked,
}

/// Limits of pinned memory. The system has one limit for all of a process, which says no late and for all; these say it early.
///
/// ```
/// use aquifer_core::{PinnedConfig, WhenRefused};
/// const PINNED: PinnedConfig = PinnedConfig::DEFAULT.count_max(8).when_refused(WhenRefused::UseUnlocked);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PinnedConfig {
    /// How many pinned allocations may be live at once: 64 by default.
    pub count_max: u64,
    /// The largest pinned allocation, in bytes as asked for: 256 MiB by default.
    pub bytes_max: u64,
    /// What happens where the driver locks no more memory.
    pub when_refused: WhenRefused,
}

impl Default for PinnedConfig {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl PinnedConfig {
    /// 64 allocations of up to 256 MiB, and an error where the driver refuses.
    pub const DEFAULT: Self = Self { count_max: 64, bytes_max: 256 << 20, when_refused: WhenRefused::Error };

    /// [`PinnedConfig::count_max`].
    #[must_use]
    pub const fn count_max(self, count: u64) -> Self {
        Self { count_max: count, ..self }
    }

    /// [`PinnedConfig::bytes_max`].
    #[must_use]
    pub const fn bytes_max(self, bytes: u64) -> Self {
        Self { bytes_max: bytes, ..self }
    }

    /// [`PinnedConfig::when_refused`].
    #[must_use]
    pub const fn when_refused(self, when_refused: WhenRefused) -> Self {
        Self { when_refused, ..self }
    }
}

/// What a manager keeps of its pinned memory.
#[derive(Debug)]
pub(crate) struct Pinned {
    registry: PinnedRegistry,
    /// Whether it has been told that memory is not locked.
    is_fallback_told: AtomicBool,
}

impl Pinned {
    pub(super) fn new(config: PinnedConfig) -> Self {
        Self { registry: PinnedRegistry::new(config), is_fallback_told: AtomicBool::new(false) }
    }

    pub(super) fn registry(&self) -> &PinnedRegistry {
        &self.registry
    }
}

/// Allocates pinned memory, which a request has been checked for and which is at home at `home`; on return that is where it was
/// made in fact. Its place may be one of `replaced` others that are freed next.
#[track_caller]
pub(super) fn allocate<B: Backend>(
    owner: &Owner<B>,
    home: &mut Home,
    bytes: u64,
    options: MemoryOptions,
    in_flight: InFlight,
    replaced: u64,
) -> Result<Place, Error> {
    let registry = &owner.pinned.registry;
    let mut request = owner.request(*home, bytes, options);
    let claim = registry.claim(bytes, replaced).map_err(|refusal| {
        let refusal = owner.over_limit(refusal, request);
        registry.note_refusal(&refusal);
        refusal
    })?;
    let found = match owner.find(*home, request, in_flight) {
        Err(refusal) if is_refusal_to_lock(&refusal) => {
            registry.count_refused_by_system();
            registry.note_refusal(&refusal);
            *home = owner.unlocked_home(*home, refusal)?;
            request = owner.request(*home, bytes, options);
            owner.find(*home, request, in_flight)
        }
        found => found,
    };
    let (place, is_fresh) = found?;
    let live = Live { place, request, is_locked: owner.is_locked(request) };
    claim.keep(owner.host_address(place, request), live);
    finish(owner, *home, (place, request), options, is_fresh)
}

/// Whether an answer to a request for pinned memory says that the driver has none, and not that the manager's own limits do or that
/// all is over.
fn is_refusal_to_lock(error: &Error) -> bool {
    use std::error::Error as _;
    match error.kind() {
        // What the driver said comes with it; the budget says nothing.
        ErrorKind::OutOfMemory => error.source().is_some(),
        kind => matches!(kind, ErrorKind::Unsupported | ErrorKind::Driver),
    }
}

impl<B: Backend> Shared<B> {
    /// Whether a pinned allocation's memory is of the type that is locked.
    pub(crate) fn is_locked(&self, request: Request) -> bool {
        self.kind_types.pinned == Some(request.memory_type())
    }

    /// Index of the memory type of pinned memory, if there is one.
    pub(crate) fn pinned_type(&self) -> Option<usize> {
        self.kind_types.pinned
    }

    /// Takes a pinned allocation off the list. It is about to be freed.
    pub(crate) fn forget_pinned(&self, place: Place, request: Request) {
        let address = self.host_address(place, request);
        self.pinned.registry.remove(address, request.requested_bytes, self.is_locked(request));
    }

    /// The block and the first byte there of host memory that lies in one live pinned allocation of this manager, all of it, and
    /// is locked; `None` for all other memory. Costs a load where no pinned memory is live.
    ///
    /// The caller has a reference to the memory, so its allocation stays live, and gives the block up while it still has.
    pub(crate) fn find_pinned(&self, address: usize, bytes: usize) -> Option<(Arc<B::Block>, u64)> {
        let (live, skipped) = self.pinned.registry.find(address, bytes)?;
        let Live { place, request, is_locked } = live;
        is_locked.then(|| (self.pools[request.memory_type()].block(place.block()), place.offset + skipped))
    }

    /// Where the host sees a live place.
    fn host_address(&self, place: Place, request: Request) -> Option<usize> {
        let start = self.pools[request.memory_type()].host_pointer(place.block())?;
        Some(start.addr().get() + place.offset as usize)
    }

    /// Why a claim was refused, in words.
    #[cold]
    fn over_limit(&self, refusal: Refusal, request: Request) -> Error {
        let now = self.pinned.registry.statistics();
        let bytes = request.requested_bytes;
        match refusal {
            Refusal::Size => {
                let message = format!(
                    "{bytes} bytes of pinned memory asked for; Config::pinned.bytes_max allows {} for one allocation: \
                     ask for less and use it piece by piece, or raise the setting",
                    now.bytes_max
                );
                Error::new(ErrorKind::CanNeverFit, "allocate", message)
            }
            Refusal::Count if now.count_max == 0 => {
                let message = "pinned memory asked for; Config::pinned.count_max is 0: raise the setting";
                Error::new(ErrorKind::CanNeverFit, "allocate", message)
            }
            Refusal::Count => {
                let message = format!(
                    "{} pinned allocations are live, of {} bytes in all; Config::pinned.count_max allows {}: drop one, \
                     use parts of a larger one, or raise the setting",
                    now.live_count, now.live_bytes, now.count_max
                );
                let heap_index = self.pools[request.memory_type()].heap_index;
                self.out_of_memory(ErrorKind::OutOfMemory, message, heap_index, request)
            }
        }
    }

    /// Where unlocked memory is made instead, if the configuration wants that; else the driver's refusal and what could be
    /// done.
    #[cold]
    fn unlocked_home(&self, home: Home, refusal: Error) -> Result<Home, Error> {
        let unlocked = match self.config.pinned.when_refused {
            WhenRefused::Error => None,
            WhenRefused::UseUnlocked => self.kind_types.unlocked,
        };
        if let Some(memory_type) = unlocked {
            if !self.pinned.is_fallback_told.swap(true, Ordering::Relaxed) {
                warn!(%refusal, "the driver locks no more memory; unlocked memory is used, which makes transfers slower");
            }
            return Ok(self.home_in(memory_type, home.queue));
        }
        let advice = match self.config.pinned.when_refused {
            WhenRefused::Error => {
                "raise the system's limit on locked memory (ulimit -l), free some, or let Config::pinned.when_refused be \
                 WhenRefused::UseUnlocked"
            }
            WhenRefused::UseUnlocked => {
                "the device has no other memory that the host sees, to use it unlocked"
            }
        };
        let message = format!("{}; no more memory could be locked: {advice}", refusal.message());
        let report = refusal.out_of_memory().cloned();
        let error = Error::new(refusal.kind(), "allocate", message).with_source(refusal);
        Err(match report {
            Some(report) => error.with_out_of_memory(report),
            None => error,
        })
    }
}
