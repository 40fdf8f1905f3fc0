//! Blocks by themselves, without a manager.

use super::{Metal, signal};
use aquifer_backend::{Backend, BlockDesc, BlockRange, Error, Ticket};
use aquifer_metal::objc2_metal::{
    MTLBlitCommandEncoder, MTLBuffer, MTLCommandBuffer, MTLCommandEncoder as _,
};
use aquifer_metal::{MetalBlock, MetalQueue};
use aquifer_testkit::Pattern;
use objc2::runtime::ProtocolObject;
use objc2_foundation::NSRange;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Nothing here takes so long, unless it hangs.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A block that is given back when it is dropped. Only its test knows it, so nobody else uses it.
#[derive(Debug)]
pub(crate) struct OwnBlock {
    metal: Metal,
    block: Option<MetalBlock>,
}

impl Drop for OwnBlock {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            // SAFETY: everything that the test does with a block has ended when it drops it.
            unsafe { self.metal.destroy_block(block) }.expect("Metal takes every block back");
            self.metal.flush_destroyed();
        }
    }
}

impl std::ops::Deref for OwnBlock {
    type Target = MetalBlock;

    fn deref(&self) -> &MetalBlock {
        self.block.as_ref().expect("it is there until it is dropped")
    }
}

impl OwnBlock {
    /// A block that will be cut.
    #[track_caller]
    pub(crate) fn new(metal: &Metal, bytes: u64, memory_type_index: usize) -> Self {
        Self::try_new(metal, &BlockDesc::new(bytes, memory_type_index)).expect("a block")
    }

    pub(crate) fn try_new(metal: &Metal, desc: &BlockDesc<'_>) -> Result<Self, Error> {
        metal.create_block(desc).map(|block| Self::of(metal, block))
    }

    /// A block made by other means than [`OwnBlock::new`].
    pub(crate) fn of(metal: &Metal, block: MetalBlock) -> Self {
        Self { metal: metal.clone(), block: Some(block) }
    }

    pub(crate) fn range(&self, offset: u64, bytes: u64) -> BlockRange<'_, MetalBlock> {
        BlockRange { block: self, offset, bytes }
    }

    /// All of it.
    pub(crate) fn all(&self) -> BlockRange<'_, MetalBlock> {
        self.range(0, self.bytes())
    }

    /// Writes as the backend copies, whether the host sees the block or not.
    #[track_caller]
    pub(crate) fn write(&self, offset: u64, content: &[u8]) {
        let bytes = content.len() as u64;
        let staged = self.visible(bytes);
        let start = self.metal.host_pointer(&staged).expect("it is visible");
        // SAFETY: the block is that long, and nobody else knows it.
        unsafe { start.as_ptr().copy_from_nonoverlapping(content.as_ptr(), content.len()) };
        // SAFETY: both ranges lie in blocks that nobody else uses.
        unsafe { self.metal.copy(staged.range(0, bytes), self.range(offset, bytes)) }.expect("a copy");
    }

    /// Reads as the backend copies, whether the host sees the block or not.
    #[track_caller]
    pub(crate) fn read(&self, part: Range<u64>) -> Vec<u8> {
        let bytes = part.end - part.start;
        let staged = self.visible(bytes);
        // SAFETY: both ranges lie in blocks that nobody else uses.
        unsafe { self.metal.copy(self.range(part.start, bytes), staged.range(0, bytes)) }.expect("a copy");
        let start = self.metal.host_pointer(&staged).expect("it is visible");
        // SAFETY: the block is that long, and nobody writes it any more.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), bytes as usize) }.to_vec()
    }

    /// A block that the host sees, of so many bytes or a few more.
    fn visible(&self, bytes: u64) -> Self {
        let granularity = self.metal.properties().block_granularity_bytes;
        Self::new(&self.metal, bytes.max(1).next_multiple_of(granularity), visible_type(&self.metal))
    }

    #[track_caller]
    pub(crate) fn fill(&self, part: Range<u64>, value: u8) {
        // SAFETY: the range lies in the block, and nobody else uses it.
        unsafe { self.metal.fill(self.range(part.start, part.end - part.start), value) }.expect("a fill");
    }
}

/// The first bytes of a pattern.
pub(crate) fn pattern(seed: u64, bytes: u64) -> Vec<u8> {
    let mut content = vec![0; bytes as usize];
    Pattern::new(seed).bytes(0, &mut content);
    content
}

/// Whether the content is that of a pattern from `offset` on.
pub(crate) fn holds_pattern(seed: u64, offset: u64, content: &[u8]) -> bool {
    let mut expected = vec![0; content.len()];
    Pattern::new(seed).bytes(offset, &mut expected);
    expected == content
}

/// Waits until something is so: what Metal lets go of a moment after the work has ended.
#[track_caller]
pub(crate) fn await_that(is_so: impl Fn() -> bool) {
    let end = Instant::now() + LONG;
    while !is_so() {
        assert!(Instant::now() < end, "it never came to that");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// The memory type that the host sees.
pub(crate) fn visible_type(metal: &Metal) -> usize {
    (0..2).find(|&index| is_visible(metal, index)).expect("every device has such memory")
}

/// The memory type that only the device sees.
pub(crate) fn private_type(metal: &Metal) -> usize {
    1 - visible_type(metal)
}

pub(crate) fn is_visible(metal: &Metal, memory_type_index: usize) -> bool {
    let flags = metal.properties().memory_types[memory_type_index].flags;
    flags.contains(aquifer_backend::MemoryFlags::HOST_VISIBLE)
}

/// Fills a part of a Metal buffer by a blit of the program's own, and returns when it is done.
pub(crate) fn blit_fill(
    metal: &Metal,
    queue: &MetalQueue,
    buffer: &ProtocolObject<dyn MTLBuffer>,
    range: NSRange,
    value: u8,
    marker: u64,
) {
    let ticket = Arc::new(Ticket::default());
    let encode = |commands: &ProtocolObject<dyn MTLCommandBuffer>| {
        let encoder = commands.blitCommandEncoder().expect("an encoder");
        encoder.fillBuffer_range_value(buffer, range, value);
        encoder.endEncoding();
    };
    // SAFETY: the range is the test's own, and it waits for the end.
    unsafe { queue.submit(&ticket, encode) }.expect("work");
    signal(metal, queue, marker).expect("a marker");
    assert!(metal.wait(queue, marker, LONG).expect("the device works"));
    assert!(ticket.take_error().is_none());
}
