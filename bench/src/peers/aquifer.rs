//! Aquifer on host memory, the whole manager: budget, statistics and tags on, a buffer that frees itself. On no queue, or
//! at home on one.

use aquifer::{BucketLayout, Buffer, Config, Host, HostMemoryManager, Limits, MemoryOptions, Queue};

use super::{Peer, Replayer};

/// More than any live set; blocks cost address space only, since no peer's memory is touched.
const BUDGET_BYTES: u64 = 1 << 44;

#[derive(Clone)]
pub(crate) struct Aquifer {
    manager: HostMemoryManager,
    options: MemoryOptions,
}

impl Aquifer {
    pub(crate) fn new(layout: BucketLayout) -> Self {
        let mut config = Config::default();
        config.layout = layout;
        config.budget_bytes = Some(BUDGET_BYTES);
        let host = Host::new().expect("host memory can be had");
        let manager = HostMemoryManager::with_config(host, config).expect("the configuration is good");
        let tag = manager.tag("bench").expect("a first tag can be had");
        Self { manager, options: MemoryOptions::DEFAULT.tag(tag) }
    }

    /// Where every buffer counts against a sub-budget and those above it, so many levels in all.
    pub(crate) fn in_sub_budget(levels: u32) -> Self {
        let Self { manager, options } = Self::new(BucketLayout::default());
        let limits = Limits::NONE.hard_bytes(1 << 40).hard_count(1 << 21).soft_bytes(1 << 39);
        let mut innermost =
            manager.sub_budget("bench-limited", limits).expect("a first sub-budget can be had");
        for _ in 1..levels {
            innermost = innermost.sub_budget("below", limits).expect("few levels can be had");
        }
        Self { manager, options: options.tag(innermost.own_tag()) }
    }
}

impl Peer for Aquifer {
    type Handle = Buffer<Host>;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Buffer<Host>> {
        self.manager.allocate_with(bytes, self.options).ok()
    }

    #[inline]
    fn free(&mut self, buffer: Buffer<Host>) {
        drop(buffer);
    }

    #[inline]
    fn free_in_place(&mut self, buffer: &mut Option<Buffer<Host>>) {
        *buffer = None;
    }
}

/// The same, at home on a queue.
#[derive(Clone)]
pub(crate) struct AquiferOnQueue {
    queue: Queue<Host>,
    options: MemoryOptions,
}

impl AquiferOnQueue {
    pub(crate) fn new() -> Self {
        let Aquifer { manager, options } = Aquifer::new(BucketLayout::default());
        Self { queue: manager.queue().expect("a first queue can be had"), options }
    }
}

impl Peer for AquiferOnQueue {
    type Handle = Buffer<Host>;

    #[inline]
    fn allocate(&mut self, bytes: u64) -> Option<Buffer<Host>> {
        self.queue.allocate_with(bytes, self.options).ok()
    }

    #[inline]
    fn free(&mut self, buffer: Buffer<Host>) {
        drop(buffer);
    }

    #[inline]
    fn free_in_place(&mut self, buffer: &mut Option<Buffer<Host>>) {
        *buffer = None;
    }
}

impl Replayer for Aquifer {
    type Handle = Buffer<Host>;

    fn allocate(&mut self, bytes: u64, _: u64) -> Option<Buffer<Host>> {
        self.manager.allocate_with(bytes, self.options).ok()
    }

    fn free(&mut self, buffer: Buffer<Host>) {
        drop(buffer);
    }

    fn reserved_bytes_peak(&self) -> Option<u64> {
        Some(self.manager.statistics().reserved.peak)
    }
}
