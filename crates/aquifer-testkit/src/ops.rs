//! What a program can do with a manager, one operation at a time, and a world in which it is done and checked.

use crate::{Oracle, Pattern, config_with_budget};
use aquifer_backend::{Backend, Capabilities};
use aquifer_core::{
    BucketLayout, Buffer, Clock, Error, ErrorKind, MemoryManager, MemoryOptions, Tag, ZeroPolicy,
};
use proptest::prelude::*;
use std::ops::Range;
use std::time::Duration;

/// One operation. Indices count live buffers, modulo how many there are; an operation on a buffer does nothing where
/// there is none. Positions are taken modulo what the buffer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Allocates and writes a pattern.
    Allocate {
        /// Requested bytes.
        bytes: u64,
        /// Logarithm of the alignment, taken modulo what the device gives.
        alignment_log2: u8,
        /// Which of the world's tags.
        tag_index: u8,
        /// Whether it must come zeroed.
        is_zeroed: bool,
    },
    /// Checks a buffer's content and frees it.
    Free {
        /// Which buffer.
        index: u16,
    },
    /// Writes a pattern to a part of a buffer.
    Write {
        /// Which buffer.
        index: u16,
        /// First byte.
        offset: u16,
        /// Length.
        bytes: u16,
        /// Of the pattern.
        seed: u8,
    },
    /// Sets a part of a buffer to one value.
    Fill {
        /// Which buffer.
        index: u16,
        /// First byte.
        offset: u16,
        /// Length.
        bytes: u16,
        /// The value.
        value: u8,
    },
    /// Copies a part of one buffer to another.
    Copy {
        /// Which buffer to copy from.
        from: u16,
        /// Which buffer to copy to; nothing is done if it is the same.
        to: u16,
        /// First byte of both.
        offset: u16,
        /// Length.
        bytes: u16,
    },
    /// Makes a view of a buffer, writes and reads through a part of it, and turns it back.
    View {
        /// Which buffer.
        index: u16,
        /// First byte of the part.
        offset: u16,
        /// Length.
        bytes: u16,
        /// Of the pattern.
        seed: u8,
    },
    /// Checks a buffer's content.
    Verify {
        /// Which buffer.
        index: u16,
    },
    /// Gives everything back that is not used.
    Trim,
    /// The same, down to an amount.
    TrimTo {
        /// In MiB.
        mib: u8,
    },
    /// Gives back what has been idle for long.
    ReleaseIdle,
    /// Makes idle blocks purgeable, where the backend can.
    MarkIdlePurgeable,
    /// Moves the clock on.
    Advance {
        /// By so much.
        milliseconds: u16,
    },
    /// Compares all statistics with the oracle.
    Check,
}

/// Programs of `length` operations that ask for up to `bytes_max` bytes at once.
pub fn ops(length: Range<usize>, bytes_max: u64) -> impl Strategy<Value = Vec<Op>> {
    let bits = bytes_max.ilog2();
    // Each power of two as likely as another, and often just at a power of two or next to it.
    let size = (0..=bits, any::<u64>(), 0..4_u8).prop_map(move |(bit, low, edge)| {
        let power = 1_u64 << bit;
        let bytes = match edge {
            0 => power + low % 3 - 1,
            _ => power + low % power,
        };
        bytes.clamp(1, bytes_max)
    });
    let allocate = (size, 0..13_u8, any::<bool>(), 0..4_u8, 0..6_u8).prop_map(
        |(bytes, alignment_log2, is_aligned, tag_index, zeroed)| Op::Allocate {
            bytes,
            alignment_log2: if is_aligned { alignment_log2 } else { 0 },
            tag_index,
            is_zeroed: zeroed == 0,
        },
    );
    let part = (any::<u16>(), any::<u16>(), any::<u16>(), any::<u8>());
    let op = prop_oneof![
        12 => allocate,
        9 => any::<u16>().prop_map(|index| Op::Free { index }),
        2 => part.prop_map(|(index, offset, bytes, seed)| Op::Write { index, offset, bytes, seed }),
        1 => part.prop_map(|(index, offset, bytes, value)| Op::Fill { index, offset, bytes, value }),
        2 => (any::<u16>(), any::<u16>(), any::<u16>(), any::<u16>())
            .prop_map(|(from, to, offset, bytes)| Op::Copy { from, to, offset, bytes }),
        1 => part.prop_map(|(index, offset, bytes, seed)| Op::View { index, offset, bytes, seed }),
        2 => any::<u16>().prop_map(|index| Op::Verify { index }),
        1 => Just(Op::Trim),
        1 => any::<u8>().prop_map(|mib| Op::TrimTo { mib }),
        1 => Just(Op::ReleaseIdle),
        1 => Just(Op::MarkIdlePurgeable),
        1 => (0..2000_u16).prop_map(|milliseconds| Op::Advance { milliseconds }),
        2 => Just(Op::Check),
    ];
    prop::collection::vec(op, length)
}

/// The manager of a [`World`].
#[derive(Debug, Clone, Copy)]
pub struct WorldDesc {
    /// How sizes are rounded.
    pub layout: BucketLayout,
    /// The budget.
    pub budget_bytes: u64,
    /// When memory is cleared.
    pub zero_policy: ZeroPolicy,
    /// How many buffers are live at most; the oldest is freed to make room.
    pub live_max: usize,
}

/// How long blocks stay in a [`World`] that nobody uses.
const IDLE_DECAY_MS: u64 = 1000;
/// So many bytes at a buffer's start are modelled, and so many at its end.
const WINDOW_BYTES: u64 = 2048;

/// A live buffer and the bytes that it must hold.
struct Live<B: Backend> {
    buffer: Buffer<B>,
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl<B: Backend> Live<B> {
    fn tail_offset(&self) -> u64 {
        self.buffer.size_bytes() - self.tail.len() as u64
    }

    fn verify(&self) {
        for (offset, expected) in [(0, &self.head), (self.tail_offset(), &self.tail)] {
            let mut found = vec![0; expected.len()];
            self.buffer.read(offset, &mut found).expect("in bounds");
            assert!(found == *expected, "{:?} has changed behind {offset}", self.buffer);
        }
    }

    /// A part of the buffer that is modelled.
    fn part(&self, offset: u16, bytes: u16) -> Range<usize> {
        let size = self.head.len();
        let start = usize::from(offset) % size;
        start..start + usize::from(bytes) % (size - start + 1)
    }
}

/// A manager, its live buffers, and everything that must be true of them. Every operation checks what it can.
///
/// Memory must be visible to the host.
pub struct World<B: Backend> {
    manager: MemoryManager<B>,
    clock: Clock,
    oracle: Oracle,
    tags: Vec<Tag>,
    live: Vec<Live<B>>,
    desc: WorldDesc,
    next_seed: u64,
}

impl<B: Backend> std::fmt::Debug for World<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World")
            .field("desc", &self.desc)
            .field("live", &self.live.len())
            .finish_non_exhaustive()
    }
}

impl<B: Backend> World<B> {
    /// A world with nothing in it.
    ///
    /// # Panics
    ///
    /// If the manager cannot be made.
    #[must_use]
    pub fn new(backend: B, desc: WorldDesc) -> Self {
        let clock = Clock::manual();
        let mut config = config_with_budget(desc.budget_bytes);
        config.layout = desc.layout;
        config.zero_policy = desc.zero_policy;
        config.idle_decay = Some(Duration::from_millis(IDLE_DECAY_MS));
        config.clock = clock.clone();
        let manager = MemoryManager::with_config(backend, config).expect("the budget is given");
        let mut oracle = Oracle::new();
        let mut tags = vec![Tag::UNTAGGED];
        for name in ["weights", "activations", "scratch"] {
            let tag = manager.tag(name).expect("few tags");
            oracle.name_tag(tag, name);
            tags.push(tag);
        }
        Self { manager, clock, oracle, tags, live: Vec::new(), desc, next_seed: 0 }
    }

    /// Does one operation.
    ///
    /// # Panics
    ///
    /// If the manager does something that it must not.
    pub fn apply(&mut self, op: Op) {
        match op {
            Op::Allocate { bytes, alignment_log2, tag_index, is_zeroed } => {
                let most = self.manager.properties().alignment_bytes_min;
                let alignment = 1 << (u32::from(alignment_log2) % (most.ilog2() + 1));
                let tag = self.tags[usize::from(tag_index) % self.tags.len()];
                let options = MemoryOptions::DEFAULT.alignment(alignment).tag(tag).zeroed(is_zeroed);
                self.allocate(bytes, alignment, options, is_zeroed);
            }
            Op::Free { index } => {
                if let Some(place) = self.place(index) {
                    self.free(place);
                }
            }
            Op::Verify { index } => {
                if let Some(place) = self.place(index) {
                    self.live[place].verify();
                }
            }
            Op::Trim => self.trim_to(0),
            Op::TrimTo { mib } => self.trim_to(u64::from(mib) << 20),
            Op::ReleaseIdle => self.release_idle(),
            Op::MarkIdlePurgeable => self.mark_idle_purgeable(),
            Op::Advance { milliseconds } => self.clock.advance(Duration::from_millis(milliseconds.into())),
            Op::Check => self.oracle.check(&self.manager.statistics()),
            Op::Write { .. } | Op::Fill { .. } | Op::Copy { .. } | Op::View { .. } => {
                self.apply_to_content(op)
            }
        }
    }

    /// Frees everything, and checks that the driver gets all of it back.
    ///
    /// # Panics
    ///
    /// If it does not.
    pub fn finish(mut self) {
        while !self.live.is_empty() {
            self.free(self.live.len() - 1);
        }
        self.oracle.check(&self.manager.statistics());
        self.manager.trim();
        let statistics = self.manager.statistics();
        self.oracle.check(&statistics);
        assert_eq!((statistics.reserved.current, statistics.cached_bytes, statistics.free_bytes), (0, 0, 0));
    }

    fn place(&self, index: u16) -> Option<usize> {
        (!self.live.is_empty()).then(|| usize::from(index) % self.live.len())
    }

    fn allocate(&mut self, bytes: u64, alignment: u64, options: MemoryOptions, is_zeroed: bool) {
        if self.live.len() == self.desc.live_max {
            self.free(0);
        }
        let mut buffer = match self.manager.allocate_with(bytes, options) {
            Ok(buffer) => buffer,
            Err(error) => return self.check_refusal(bytes, alignment, options, &error),
        };
        self.oracle.allocated(&buffer, bytes, alignment);
        assert_eq!(Some(buffer.allocated_bytes()), self.desc.layout.round_up(bytes));
        let head_bytes = bytes.min(WINDOW_BYTES);
        let tail_bytes = (bytes - head_bytes).min(WINDOW_BYTES);
        let (mut head, mut tail) = (vec![0; head_bytes as usize], vec![0; tail_bytes as usize]);
        if is_zeroed || self.desc.zero_policy == ZeroPolicy::OnReuse {
            // The model says zero so far, and so must the buffer.
            let live = Live { buffer, head, tail };
            live.verify();
            self.live.push(live);
            return;
        }
        let pattern = Pattern::new(self.next_seed);
        self.next_seed += 1;
        pattern.bytes(0, &mut head);
        pattern.bytes(bytes, &mut tail);
        buffer.write(0, &head).expect("in bounds");
        buffer.write(bytes - tail_bytes, &tail).expect("in bounds");
        self.live.push(Live { buffer, head, tail });
    }

    /// Checks that a refusal was right: the kind says the truth, the report is true, and trimming would not have helped.
    fn check_refusal(&self, bytes: u64, alignment: u64, options: MemoryOptions, error: &Error) {
        let statistics = self.manager.statistics();
        self.oracle.check(&statistics);
        match error.kind() {
            ErrorKind::CanNeverFit => {
                let rounded = self.desc.layout.round_up(bytes).expect("a size that was generated");
                let granularity = self.manager.properties().block_granularity_bytes;
                let least = rounded.next_multiple_of(granularity);
                assert!(least > self.desc.budget_bytes, "{bytes} bytes can fit: {error}");
            }
            ErrorKind::OutOfMemory => {
                let report = error.out_of_memory().expect("every such error has a report");
                assert_eq!((report.requested_bytes, report.live_bytes), (bytes, self.oracle.live_bytes()));
                assert_eq!(report.budget_bytes, self.desc.budget_bytes);
                assert_eq!(
                    report.live_bytes + report.cached_bytes + report.free_bytes,
                    report.reserved_bytes
                );
                let needed = self.desc.layout.round_up(bytes).expect("a size that was generated");
                // An aligned request may need more than its size; of any other, no hole may be large enough.
                assert!(
                    alignment > 256 || report.largest_free_bytes < needed,
                    "{bytes} bytes fit a hole: {error}"
                );
                self.manager.trim();
                let granularity = self.manager.properties().block_granularity_bytes;
                let room = self.desc.budget_bytes - self.manager.statistics().reserved.current;
                assert!(room < needed.next_multiple_of(granularity), "{bytes} bytes fit the budget: {error}");
                assert!(
                    self.manager.allocate_with(bytes, options).is_err(),
                    "{bytes} bytes fit after trim: {error}"
                );
            }
            kind => panic!("{kind:?} for a request of {bytes} bytes: {error}"),
        }
    }

    fn free(&mut self, place: usize) {
        let live = self.live.remove(place);
        live.verify();
        self.oracle.freed(&live.buffer);
    }

    fn trim_to(&self, reserved_bytes: u64) {
        let before = self.manager.statistics().reserved.current;
        let released = self.manager.trim_to(reserved_bytes);
        let statistics = self.manager.statistics();
        self.oracle.check(&statistics);
        assert_eq!(statistics.cached_bytes, 0, "trim empties caches");
        assert_eq!(before - statistics.reserved.current, released);
        if statistics.requested.current == 0 {
            assert!(statistics.reserved.current <= reserved_bytes);
        }
    }

    fn mark_idle_purgeable(&self) {
        let before = self.manager.statistics();
        let marked = self.manager.mark_idle_purgeable();
        let statistics = self.manager.statistics();
        self.oracle.check(&statistics);
        assert_eq!(statistics.purgeable_bytes - before.purgeable_bytes, marked);
        assert_eq!(statistics.reserved.current, before.reserved.current);
        if self.manager.properties().capabilities.contains(Capabilities::PURGEABLE) {
            let is_idle = statistics.requested.current == 0;
            assert!(!is_idle || statistics.purgeable_bytes == statistics.reserved.current);
            assert_eq!(self.manager.mark_idle_purgeable(), 0, "all are already");
        }
    }

    fn release_idle(&self) {
        let before = self.manager.statistics().reserved.current;
        let released = self.manager.release_idle();
        let statistics = self.manager.statistics();
        self.oracle.check(&statistics);
        assert_eq!(before - statistics.reserved.current, released);
        if statistics.requested.current == 0 {
            // All blocks are idle by now, and none of them stays beyond its time.
            self.clock.advance(Duration::from_millis(IDLE_DECAY_MS));
            self.manager.release_idle();
            assert_eq!(self.manager.statistics().reserved.current, 0);
        }
    }

    fn apply_to_content(&mut self, op: Op) {
        match op {
            Op::Write { index, offset, bytes, seed } => {
                let Some(place) = self.place(index) else { return };
                let live = &mut self.live[place];
                let part = live.part(offset, bytes);
                Pattern::new(seed.into()).bytes(0, &mut live.head[part.clone()]);
                live.buffer.write(part.start as u64, &live.head[part]).expect("in bounds");
            }
            Op::Fill { index, offset, bytes, value } => {
                let Some(place) = self.place(index) else { return };
                let live = &mut self.live[place];
                let part = live.part(offset, bytes);
                live.buffer.fill_range(part.start as u64..part.end as u64, value).expect("in bounds");
                live.head[part].fill(value);
            }
            Op::Copy { from, to, offset, bytes } => {
                let (Some(from), Some(to)) = (self.place(from), self.place(to)) else { return };
                let Ok([source, target]) = self.live.get_disjoint_mut([from, to]) else { return };
                let shorter = if source.head.len() < target.head.len() { &*source } else { &*target };
                let part = shorter.part(offset, bytes);
                let (start, length) = (part.start as u64, part.len() as u64);
                target.buffer.copy_from(start, &source.buffer, start, length).expect("in bounds");
                target.head[part.clone()].copy_from_slice(&source.head[part]);
            }
            Op::View { index, offset, bytes, seed } => {
                let Some(place) = self.place(index) else { return };
                let part = self.live[place].part(offset, bytes);
                let Live { buffer, mut head, tail } = self.live.swap_remove(place);
                let view = buffer.into_view();
                let cut = view.view(part.start as u64..part.end as u64).expect("in bounds");
                let beyond = cut.write(part.len() as u64, &[0_u8]).expect_err("beyond the view");
                assert_eq!(beyond.kind(), ErrorKind::OutOfBounds);
                Pattern::new(seed.into()).bytes(0, &mut head[part.clone()]);
                cut.write(0, &head[part]).expect("in bounds");
                drop(view);
                let buffer = cut.try_into_buffer().expect("it is the last view");
                self.live.push(Live { buffer, head, tail });
            }
            _ => unreachable!("{op:?} does not change content"),
        }
    }
}
