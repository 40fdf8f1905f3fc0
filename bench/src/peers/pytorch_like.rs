//! A reference policy: the rules of PyTorch's CUDA caching allocator with its default settings, without CUDA.
//!
//! - A size is rounded up to 512 bytes. Up to 1 MiB it is served from the small pool, else from the large one; each
//!   stream has its own two pools.
//! - Best fit: the smallest free block of the pool that fits, the lowest of equals. A free block that is larger is
//!   split if the rest is at least 512 bytes (small pool) or above 1 MiB (large pool), else it is handed out whole.
//! - If none fits a segment is allocated: 2 MiB for the small pool, 20 MiB for sizes below 10 MiB, else the size itself
//!   rounded up to 2 MiB.
//! - A freed block is joined with free neighbours in its segment. Segments are kept until a new one finds no memory: then all
//!   that are wholly free, of all streams and sizes, are given back, and it is tried once more.
//!
//! Expandable segments, limits on splitting, rounding to powers of two and garbage collection are not modelled; all are off by
//! default.
//!
//! Each segment lies below the one before it: addresses decide between blocks of equal size, and falling ones give the
//! figures that PyTorch itself recorded for our traces (rising ones are up to 2 % off).

use std::collections::{BTreeSet, HashMap};

use super::Replayer;

const MIB: u64 = 1 << 20;
const ROUND_BYTES: u64 = 512;
const SMALL_BYTES_MAX: u64 = MIB;
const SMALL_SEGMENT_BYTES: u64 = 2 * MIB;
const OWN_SEGMENT_BYTES_MIN: u64 = 10 * MIB;
const LARGE_SEGMENT_BYTES: u64 = 20 * MIB;
const SEGMENT_ROUND_BYTES: u64 = 2 * MIB;

/// Which free blocks an allocation may take.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Pool {
    stream: u64,
    small: bool,
}

impl Pool {
    /// The size of the segment to allocate for `bytes`.
    fn segment_bytes(self, bytes: u64) -> u64 {
        if self.small {
            SMALL_SEGMENT_BYTES
        } else if bytes < OWN_SEGMENT_BYTES_MIN {
            LARGE_SEGMENT_BYTES
        } else {
            bytes.next_multiple_of(SEGMENT_ROUND_BYTES)
        }
    }

    /// Whether a block leaves a block behind when `rest` bytes of it are left over.
    fn splits(self, rest: u64) -> bool {
        if self.small { rest >= ROUND_BYTES } else { rest > SMALL_BYTES_MAX }
    }
}

/// A part of a segment, used or free. A segment's blocks follow each other by `previous` and `next`.
struct Block {
    address: u64,
    bytes: u64,
    pool: Pool,
    free: bool,
    previous: Option<usize>,
    next: Option<usize>,
}

pub(crate) struct PytorchLike {
    blocks: Vec<Block>,
    /// Indices in `blocks` not in use.
    unused: Vec<usize>,
    /// (size, address, index) of each pool's free blocks.
    free: HashMap<Pool, BTreeSet<(u64, u64, usize)>>,
    /// Of the last segment.
    address: u64,
    budget_bytes: u64,
    reserved_bytes: u64,
    reserved_bytes_peak: u64,
}

impl PytorchLike {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self {
            blocks: Vec::new(),
            unused: Vec::new(),
            free: HashMap::new(),
            address: 1 << 62,
            budget_bytes,
            reserved_bytes: 0,
            reserved_bytes_peak: 0,
        }
    }

    fn add(&mut self, block: Block) -> usize {
        match self.unused.pop() {
            Some(index) => {
                self.blocks[index] = block;
                index
            }
            None => {
                self.blocks.push(block);
                self.blocks.len() - 1
            }
        }
    }

    fn free_blocks(&mut self, pool: Pool) -> &mut BTreeSet<(u64, u64, usize)> {
        self.free.entry(pool).or_default()
    }

    /// Takes the best free block off the pool's list.
    fn take_best(&mut self, pool: Pool, bytes: u64) -> Option<usize> {
        let list = self.free_blocks(pool);
        let best = *list.range((bytes, 0, 0)..).next()?;
        list.remove(&best);
        Some(best.2)
    }

    /// Allocates a segment, if need be after giving back what is free; none if the budget is too small for it even so.
    fn add_segment(&mut self, pool: Pool, bytes: u64) -> Option<usize> {
        let bytes = pool.segment_bytes(bytes);
        if self.reserved_bytes + bytes > self.budget_bytes {
            self.release_free_segments();
        }
        if self.reserved_bytes + bytes > self.budget_bytes {
            return None;
        }
        self.address -= bytes;
        self.reserved_bytes += bytes;
        self.reserved_bytes_peak = self.reserved_bytes_peak.max(self.reserved_bytes);
        Some(self.add(Block { address: self.address, bytes, pool, free: false, previous: None, next: None }))
    }

    fn release_free_segments(&mut self) {
        for list in self.free.values_mut() {
            list.retain(|&(bytes, _, index)| {
                let is_part = self.blocks[index].previous.is_some() || self.blocks[index].next.is_some();
                if !is_part {
                    self.reserved_bytes -= bytes;
                    self.unused.push(index);
                }
                is_part
            });
        }
    }

    /// Cuts what is beyond `bytes` off a block that is on no list, and makes it a free block.
    fn split(&mut self, index: usize, bytes: u64) {
        let Block { address, bytes: whole, pool, next, .. } = self.blocks[index];
        let rest = Block {
            address: address + bytes,
            bytes: whole - bytes,
            pool,
            free: true,
            previous: Some(index),
            next,
        };
        let entry = (rest.bytes, rest.address);
        let rest = self.add(rest);
        self.free_blocks(pool).insert((entry.0, entry.1, rest));
        if let Some(next) = next {
            self.blocks[next].previous = Some(rest);
        }
        self.blocks[index].bytes = bytes;
        self.blocks[index].next = Some(rest);
    }

    /// Makes `second`, which follows `first`, a part of it. Neither may be on a list.
    fn join(&mut self, first: usize, second: usize) {
        let Block { bytes, next, .. } = self.blocks[second];
        self.blocks[first].bytes += bytes;
        self.blocks[first].next = next;
        if let Some(next) = next {
            self.blocks[next].previous = Some(first);
        }
        self.unused.push(second);
    }

    /// Takes a neighbour off its pool's list if there is one and it is free.
    fn take_free(&mut self, neighbour: Option<usize>) -> Option<usize> {
        let index = neighbour.filter(|&index| self.blocks[index].free)?;
        let Block { bytes, address, pool, .. } = self.blocks[index];
        self.free_blocks(pool).remove(&(bytes, address, index));
        Some(index)
    }
}

impl Replayer for PytorchLike {
    type Handle = usize;

    fn allocate(&mut self, bytes: u64, stream: u64) -> Option<usize> {
        let bytes = bytes.next_multiple_of(ROUND_BYTES).max(ROUND_BYTES);
        let pool = Pool { stream, small: bytes <= SMALL_BYTES_MAX };
        let index = match self.take_best(pool, bytes) {
            Some(index) => index,
            None => self.add_segment(pool, bytes)?,
        };
        self.blocks[index].free = false;
        if pool.splits(self.blocks[index].bytes - bytes) {
            self.split(index, bytes);
        }
        Some(index)
    }

    fn free(&mut self, mut index: usize) {
        let Block { previous, next, pool, .. } = self.blocks[index];
        if let Some(next) = self.take_free(next) {
            self.join(index, next);
        }
        if let Some(previous) = self.take_free(previous) {
            self.join(previous, index);
            index = previous;
        }
        let block = &mut self.blocks[index];
        block.free = true;
        let entry = (block.bytes, block.address, index);
        self.free_blocks(pool).insert(entry);
    }

    fn reserved_bytes_peak(&self) -> Option<u64> {
        Some(self.reserved_bytes_peak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_follow_the_three_size_rules() {
        for (bytes, segment) in [
            (1, 2 * MIB),
            (MIB, 2 * MIB),
            (MIB + 1, 20 * MIB),
            (10 * MIB, 10 * MIB),
            (11 * MIB - 3, 12 * MIB),
        ] {
            let mut allocator = PytorchLike::new(u64::MAX);
            allocator.allocate(bytes, 0);
            assert_eq!(allocator.reserved_bytes_peak(), Some(segment), "{bytes}");
        }
    }

    #[test]
    fn freed_neighbours_are_joined_and_streams_do_not_mix() {
        let mut allocator = PytorchLike::new(u64::MAX);
        let parts: Vec<_> = (0..4).filter_map(|_| allocator.allocate(5 * MIB, 0)).collect();
        assert_eq!(allocator.reserved_bytes_peak(), Some(20 * MIB));
        for index in [0, 2, 1, 3] {
            allocator.free(parts[index]);
        }
        allocator.allocate(20 * MIB, 0);
        assert_eq!(allocator.reserved_bytes_peak(), Some(20 * MIB));
        allocator.allocate(512, 0);
        allocator.allocate(512, 1);
        assert_eq!(allocator.reserved_bytes_peak(), Some(24 * MIB));
    }

    #[test]
    fn what_is_split_off_follows_the_pools_rules() {
        // 512 bytes are left of a small segment and used; 1 MiB is left of a large one, and is not cut off.
        let mut allocator = PytorchLike::new(u64::MAX);
        allocator.allocate(MIB, 0);
        allocator.allocate(MIB - 512, 0);
        allocator.allocate(512, 0);
        assert_eq!(allocator.reserved_bytes_peak(), Some(2 * MIB));
        let mut allocator = PytorchLike::new(u64::MAX);
        let parts: Vec<_> = [9, 9].into_iter().filter_map(|mib| allocator.allocate(mib * MIB, 0)).collect();
        assert_eq!(allocator.reserved_bytes_peak(), Some(20 * MIB));
        allocator.free(parts[1]);
        allocator.allocate(10 * MIB, 0);
        assert_eq!(allocator.reserved_bytes_peak(), Some(20 * MIB), "the rest of 11 MiB");
        allocator.allocate(MIB + 1, 0);
        assert_eq!(allocator.reserved_bytes_peak(), Some(40 * MIB), "1 MiB too much was handed out whole");
    }

    #[test]
    fn segments_that_are_wholly_free_go_when_the_budget_is_spent() {
        let mut allocator = PytorchLike::new(40 * MIB);
        let used = allocator.allocate(5 * MIB, 0);
        let unused: Vec<_> = [(12 * MIB, 1), (512, 2)]
            .into_iter()
            .filter_map(|(bytes, stream)| allocator.allocate(bytes, stream))
            .collect();
        assert_eq!(allocator.reserved_bytes, 34 * MIB);
        for index in unused {
            allocator.free(index);
        }
        assert_eq!(allocator.reserved_bytes, 34 * MIB, "they are kept");
        assert!(allocator.allocate(22 * MIB, 0).is_none(), "what is partly used stays");
        assert_eq!(allocator.reserved_bytes, 20 * MIB);
        let large = allocator.allocate(20 * MIB, 3).expect("there is just room");
        assert_eq!((allocator.reserved_bytes, allocator.reserved_bytes_peak()), (40 * MIB, Some(40 * MIB)));
        allocator.free(large);
        allocator.free(used.expect("there was room"));
        assert!(allocator.allocate(40 * MIB, 0).is_some());
        assert_eq!((allocator.reserved_bytes, allocator.blocks.len()), (40 * MIB, 5));
    }
}
