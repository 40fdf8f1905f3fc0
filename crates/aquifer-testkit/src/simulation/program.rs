//! Programs: what a simulation does, as plain data that can be printed and cut.

use aquifer_sim::Call;

/// What a device and its manager are like for one program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setup {
    /// Decides what the device draws: delays and times of kernels.
    pub device_seed: u64,
    /// The manager's budget in MiB.
    pub budget_mib: u64,
    /// Whether commands are delayed wildly.
    pub is_late: bool,
    /// Whether kernels run long.
    pub has_long_kernels: bool,
    /// Whether calls of the driver take time.
    pub has_costs: bool,
    /// Whether parts of blocks can be given back.
    pub releases_ranges: bool,
    /// Whether new blocks are zero.
    pub zeroes_blocks: bool,
    /// Whether every allocation is cleared.
    pub clears_always: bool,
    /// Logarithm of the blocks' granularity in bytes.
    pub granularity_log2: u8,
    /// Sub-classes of each size bucket.
    pub sub_classes: u32,
    /// After so many milliseconds idle blocks are given back.
    pub idle_decay_ms: Option<u64>,
    /// Whether idle blocks can be made purgeable.
    pub has_purgeable: bool,
    /// After so many milliseconds they are by themselves.
    pub purgeable_after_ms: Option<u64>,
    /// What memory that is mapped behind addresses is like, if there is any.
    pub mapping: Option<MappingSetup>,
    /// How long an allocation waits for queues, in milliseconds.
    pub in_flight_wait_ms: u64,
    /// Whether the manager has a pressure monitor.
    pub has_monitor: bool,
    /// Whether the manager goes first in the end, and buffers later.
    pub outlives_manager: bool,
}

impl Setup {
    /// What memory comes in multiples of, in bytes.
    pub(super) fn page_bytes(&self) -> u64 {
        1 << self.mapping.map_or(self.granularity_log2, |mapping| mapping.page_log2)
    }
}

/// What mapping memory behind addresses is like on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MappingSetup {
    /// Logarithm of the physical pages' size in bytes, at least that of the granularity.
    pub page_log2: u8,
    /// How many mappings there may be.
    pub mapping_count_max: u64,
    /// How many MiB of addresses there are.
    pub address_mib: u64,
}

/// One action and the thread that does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The thread's number.
    pub thread: u8,
    /// What it does.
    pub action: Action,
}

/// A program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What it runs on.
    pub setup: Setup,
    /// What it does.
    pub steps: Vec<Step>,
}

/// How a reclaim callback behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookKind {
    /// Frees one thing from the shelf.
    FreesOne,
    /// Frees all on the shelf.
    FreesAll,
    /// Allocates, and keeps that on the shelf.
    Allocates,
    /// Panics.
    Panics,
    /// Frees one thing and unregisters itself.
    Leaves,
}

/// One thing that a program does. Numbers count what there is, modulo how many there are; where there is nothing of the
/// kind, nothing is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Allocates: on a queue, or on none if `queue` is beyond the last.
    Allocate {
        /// Which queue.
        queue: u8,
        /// How much.
        bytes: u64,
        /// Logarithm of the alignment.
        alignment_log2: u8,
        /// Which tag.
        tag: u8,
        /// Whether it must be zero.
        is_zeroed: bool,
    },
    /// Frees a buffer.
    Free {
        /// Which buffer.
        buffer: u16,
    },
    /// Frees many buffers in a row.
    FreeMany {
        /// From which on.
        buffer: u16,
        /// How many.
        count: u8,
    },
    /// Runs a kernel on a queue that uses some buffers.
    Kernel {
        /// Which queue.
        queue: u8,
        /// Which buffer.
        first: u16,
        /// Which other one, if any.
        second: Option<u16>,
        /// How long, if the device does not decide, in microseconds.
        lasts_us: Option<u32>,
    },
    /// Runs a kernel on a buffer's home.
    HomeKernel {
        /// Which buffer.
        buffer: u16,
        /// How long, if the device does not decide, in microseconds.
        lasts_us: Option<u32>,
    },
    /// Records a use, and does nothing else.
    Record {
        /// Which queue.
        queue: u8,
        /// Which buffer.
        buffer: u16,
    },
    /// Begins a fill.
    Fill {
        /// On which queue.
        queue: u8,
        /// Which buffer.
        buffer: u16,
    },
    /// Begins a copy.
    Copy {
        /// On which queue.
        queue: u8,
        /// From which buffer.
        from: u16,
        /// To which.
        to: u16,
    },
    /// Begins an upload.
    Upload {
        /// On which queue.
        queue: u8,
        /// Which buffer.
        buffer: u16,
        /// How many bytes at most.
        bytes: u16,
    },
    /// Begins a download.
    Download {
        /// On which queue.
        queue: u8,
        /// Which buffer.
        buffer: u16,
        /// How many bytes at most.
        bytes: u16,
    },
    /// Waits for an operation.
    WaitOperation {
        /// Which operation.
        operation: u8,
    },
    /// Polls an operation.
    PollOperation {
        /// Which operation.
        operation: u8,
    },
    /// Drops an operation's future.
    Detach {
        /// Which operation.
        operation: u8,
    },
    /// Cancels an operation.
    CancelOperation {
        /// Which operation.
        operation: u8,
    },
    /// Fills a buffer and waits.
    HostFill {
        /// Which buffer.
        buffer: u16,
    },
    /// Copies a buffer and waits.
    HostCopy {
        /// From which buffer.
        from: u16,
        /// To which.
        to: u16,
    },
    /// Waits for a queue.
    Synchronize {
        /// Which queue.
        queue: u8,
        /// How long at most, in microseconds.
        timeout_us: u32,
    },
    /// Puts a marker into a queue.
    Signal {
        /// Which queue.
        queue: u8,
    },
    /// Orders a queue after another.
    WaitOn {
        /// Which queue.
        queue: u8,
        /// After which.
        other: u8,
    },
    /// Asks for a queue.
    NewQueue,
    /// Drops a queue's handle.
    DropQueue {
        /// Which queue.
        queue: u8,
    },
    /// Begins to wait for memory.
    AllocateAsync {
        /// On which queue, or none.
        queue: u8,
        /// How much.
        bytes: u64,
        /// How long at most, in milliseconds.
        timeout_ms: Option<u16>,
        /// With which token, if any.
        token: Option<u8>,
    },
    /// Polls one who waits for memory.
    PollRequest {
        /// Which.
        request: u8,
    },
    /// Polls all that have been woken.
    PollWoken,
    /// Drops one who waits for memory.
    DropRequest {
        /// Which.
        request: u8,
    },
    /// Never polls one again who waits for memory.
    ForgetRequest {
        /// Which.
        request: u8,
    },
    /// Cancels a token, and makes another.
    CancelToken {
        /// Which token.
        token: u8,
    },
    /// Makes memory ready.
    Preallocate {
        /// For buffers of so many bytes,
        bytes: u64,
        /// and for so many of them.
        count: u8,
    },
    /// Gives everything back.
    Trim,
    /// Gives back all beyond so much.
    TrimTo {
        /// How much stays, in MiB.
        mib: u8,
    },
    /// Gives back what is idle.
    ReleaseIdle,
    /// Makes purgeable what is idle.
    MarkIdlePurgeable,
    /// The system takes all purgeable memory.
    Purge,
    /// Does the reaper's work.
    Settle,
    /// Registers a reclaim callback.
    Hook {
        /// Its priority.
        priority: i8,
        /// What it does.
        kind: HookKind,
    },
    /// Unregisters one.
    DropHook {
        /// Which.
        hook: u8,
    },
    /// Puts a buffer on the shelf, for callbacks to free.
    Shelve {
        /// Which buffer.
        buffer: u16,
    },
    /// Lets time pass.
    Advance {
        /// How much, in microseconds.
        us: u32,
    },
    /// Lets everything in all queues run.
    RunAll,
    /// Plans that a call fails.
    Fault {
        /// Which call; any if there is none.
        call: Option<Call>,
        /// After how many.
        number: u8,
        /// Whether creating a block finds no memory, rather than fail.
        is_memory: bool,
    },
    /// Plans that a command fails.
    CommandFault {
        /// After how many.
        number: u8,
    },
    /// Plans that all blocks are refused from now on.
    RefuseBlocks,
    /// Forgets all planned faults.
    ClearFaults,
    /// Loses the device.
    LoseDevice,
    /// Loses it during a call to come.
    LoseLater {
        /// After how many calls.
        number: u8,
    },
    /// Lets a queue hang.
    Hang {
        /// Which queue.
        queue: u8,
        /// When the driver gives up, in milliseconds.
        lost_after_ms: Option<u16>,
    },
    /// Lets all queues go on that hang.
    Resume,
    /// Another process takes memory.
    Pressure {
        /// How much it leaves, in MiB.
        left_mib: u16,
    },
    /// The system tells a level of pressure.
    Tell {
        /// Which.
        level: u8,
    },
    /// The monitor looks.
    Look,
    /// Checks what the manager has counted.
    Check,
}
