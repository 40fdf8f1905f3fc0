//! Aquifer's core: pools, caches, budgets, statistics and traces over any [`Backend`].
//!
//! Everything begins with a [`MemoryManager`]. Most programs use the facade crate `aquifer`, which brings the backends along. `ARCHITECTURE.md` in the repository
//! tells how the parts work together.

// The one exception is `raw`, which says why.
#![deny(unsafe_code)]

mod bell;
mod budget_group;
mod calls;
mod cancel;
mod clock;
mod hooks;
#[cfg(all(test, loom))]
mod loom_tests;
mod manager;
mod planted;
mod pool;
mod pressure;
mod range;
mod range_lock;
mod raw;
mod statistics;
mod sync;
mod timeline;
pub mod trace;
mod transfer;
mod waiters;

/// The traits and collections of allocators that [`PinnedAllocator`] goes with.
pub use allocator_api2;
pub use aquifer_backend::{
    Backend, Capabilities, Command, CopyEnd, DefaultDevice, DeviceMemory, Error, ErrorKind, Heap, HeapBudget,
    HostMemory, ImportError, MappingCosts, MemoryFlags, MemoryType, OutOfMemoryReport, PressureLevel,
    PressureNotifier, PressureReading, PressureSource, PressureWake, Properties, SyncBackend, TagUsage,
    Ticket,
};
pub use budget_group::{BudgetGroup, BudgetGroupDesc, GroupStatus, Lease, MemberStatus};
pub use cancel::CancelToken;
pub use clock::Clock;
pub use manager::{
    ANSWER_WITHIN, AllocateAsync, BUDGET_BYTES_MAX, Begun, Buffer, BufferView, Config, CopyDesc,
    DeviceAccess, ENVIRONMENT_VARIABLES, LeakReport, LiveAllocation, MemoryKind, MemoryManager,
    MemoryManagerBuilder, MemoryOptions, MemoryPool, Operation, OperationError, PinnedAllocator,
    PinnedBuffer, PinnedConfig, Policy, PressureEvents, PressureListener, PressureMonitor, Queue, RawBuffer,
    ReclaimHook, ReclaimRequest, Report, Side, SubBudget, Tracking, Transfer, TransferBuffer,
    TransferDestination, TransferMemory, TransferSource, Transfers, TypedView, UnifiedBuffer,
    UnifiedOnDevice, UnifiedRead, UnifiedWrite, ViewRead, ViewWrite, WhenRefused, ZeroPolicy, parse_bytes,
};
#[cfg(feature = "planted-bugs")]
pub use planted::{Bug, plant};
pub use pool::{BUCKET_BYTES_MAX, BucketLayout, GRANULE_BYTES};
pub use pressure::{
    Admission, GivenBack, PressureConfig, PressureDetail, PressureEvent, PressureResponse,
    PressureStatistics, SourceState, SourceStatistics,
};
pub use statistics::{
    ByteCounter, ClassStatistics, DriverCalls, Limits, MemoryBucket, PinnedStatistics, RemappingStatistics,
    Statistics, SubBudgetStatistics, SubBudgetUsage, Tag, TagStatistics,
};
pub use transfer::{
    HostCopy, Priority, Progress, Route, RouteStatistics, TransferConfig, TransferStatistics,
};
