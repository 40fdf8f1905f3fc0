//! Sparse and physical blocks: which memory is behind which addresses.
//!
//! What is done to addresses is done to the memory behind them. So everything that names addresses is translated to places in
//! blocks of memory, where it is compared with the rest.

use super::ranges::overlapping;
use super::{Block, Checker};
use crate::violation::ViolationKind;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// A physical block behind addresses.
#[derive(Debug)]
struct Mapping {
    end: u64,
    /// Where the checker has the physical block.
    physical_address: u64,
    /// Tells it from a later one at the same address.
    physical_number: u64,
}

/// Addresses without memory of their own.
#[derive(Debug)]
pub(super) struct Sparse {
    end: u64,
    /// By the first address.
    mappings: BTreeMap<u64, Mapping>,
}

/// What a block of memory without addresses has more than others.
#[derive(Debug)]
pub(super) struct Physical {
    /// Behind which addresses it is, each the first of a mapping.
    mapped_at: BTreeSet<u64>,
    home: Home,
}

impl Physical {
    pub(super) fn home(&self) -> Home {
        self.home
    }
}

/// Of which device's memory a physical block is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home {
    pub(crate) device: usize,
    pub(crate) heap_index: usize,
    /// What has been released comes again by so many bytes, a power of two.
    pub(crate) granularity_bytes: u64,
}

/// A part of what is named by addresses, all of it in one block of memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) block_address: u64,
    /// Tells the block from a later one at the same address.
    pub(super) block_number: u64,
    pub(super) start: u64,
    pub(super) end: u64,
    /// The address by which the first byte was named.
    pub(super) seen: u64,
}

/// Why addresses name no memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hole {
    /// They do not lie in one block.
    OutOfBlock,
    /// Nothing is mapped from this address on.
    Unmapped(u64),
}

impl Hole {
    pub(super) fn kind(self) -> ViolationKind {
        match self {
            Self::OutOfBlock => ViolationKind::OutOfBlock,
            Self::Unmapped(_) => ViolationKind::UnmappedMemoryUsed,
        }
    }

    /// The rest of a sentence about what was named.
    pub(super) fn words(self) -> String {
        match self {
            Self::OutOfBlock => String::new(),
            Self::Unmapped(address) => format!(", behind which nothing is mapped from {address:#x} on"),
        }
    }
}

/// Mappings that went with their block.
pub(crate) struct Removed {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Checker {
    pub(crate) fn add_sparse(&mut self, address: u64, bytes: u64) {
        let old = self.sparse.insert(address, Sparse { end: address + bytes, mappings: BTreeMap::new() });
        assert!(old.is_none(), "two sparse blocks at {address:#x}");
    }

    pub(crate) fn add_physical(&mut self, address: u64, bytes: u64, home: Home) {
        self.insert_block(address, bytes, Some(Physical { mapped_at: BTreeSet::new(), home }));
    }

    /// Forgets a sparse block and what is mapped there, after a look at whether it may go.
    pub(crate) fn remove_sparse(&mut self, at_ns: u64, address: u64) -> Removed {
        let mut removed = Removed { count: 0, bytes: 0 };
        let Some(sparse) = self.sparse.remove(&address) else { return removed };
        for (start, mapping) in sparse.mappings {
            removed.count += 1;
            removed.bytes += mapping.end - start;
            self.take_away(at_ns, start, &mapping, "destroy_block");
        }
        removed
    }

    /// Notes that a physical block is behind `bytes` addresses from `start` on, in a sparse block, or says why it cannot be.
    pub(crate) fn map(
        &mut self,
        sparse_address: u64,
        start: u64,
        bytes: u64,
        physical_address: u64,
    ) -> Result<(), String> {
        let end = start + bytes;
        let sparse = self.sparse.get_mut(&sparse_address);
        let (Some(sparse), Some(block)) = (sparse, self.blocks.get_mut(&physical_address)) else {
            return Err(format!("{bytes} bytes at {start:#x}, of a block that has been destroyed"));
        };
        if let Some((other, _)) = overlapping(&sparse.mappings, start, end, |mapping| mapping.end).next() {
            return Err(format!("{bytes} bytes at {start:#x}, over what is mapped at {other:#x}"));
        }
        let physical_number = block.number;
        if let Some(physical) = &mut block.physical {
            physical.mapped_at.insert(start);
        }
        sparse.mappings.insert(start, Mapping { end, physical_address, physical_number });
        Ok(())
    }

    /// Notes that nothing is behind `bytes` addresses from `start` on any more, after a look at whether that may be, or says why
    /// there is no such mapping.
    pub(crate) fn unmap(
        &mut self,
        at_ns: u64,
        sparse_address: u64,
        start: u64,
        bytes: u64,
    ) -> Result<(), String> {
        let mappings = self.sparse.get_mut(&sparse_address).map(|sparse| &mut sparse.mappings);
        let mapping = mappings.and_then(|mappings| {
            let is_whole = mappings.get(&start).is_some_and(|mapping| mapping.end - start == bytes);
            if is_whole { mappings.remove(&start) } else { None }
        });
        let not_whole = || format!("{bytes} bytes at {start:#x}, which are not one whole mapping");
        self.take_away(at_ns, start, &mapping.ok_or_else(not_whole)?, "unmap");
        Ok(())
    }

    /// A mapping goes: what is used or held by these very addresses must not be.
    fn take_away(&mut self, at_ns: u64, start: u64, mapping: &Mapping, call: &str) {
        let Some(block) = self.physical_mut(mapping) else { return };
        let place = (mapping.physical_address, block.end);
        if let Some(physical) = &mut block.physical {
            physical.mapped_at.remove(&start);
        }
        let seen = start..mapping.end;
        self.check_given_back(at_ns, mapping.physical_address, place, Some(seen), call);
    }

    /// A physical block goes: it must be behind no addresses.
    pub(super) fn check_unmapped(&mut self, at_ns: u64, block_address: u64) {
        let physical = self.blocks.get(&block_address).and_then(|block| block.physical.as_ref());
        let Some(physical) = physical else { return };
        let Some(&first) = physical.mapped_at.first() else { return };
        let bytes = self.blocks[&block_address].end - block_address;
        let message = format!("destroy_block while it is mapped at {} places", physical.mapped_at.len());
        self.report(ViolationKind::GivenBackWhileMapped, at_ns, (first, bytes), message);
    }

    /// The block behind a mapping, if it has not been destroyed.
    fn physical_mut(&mut self, mapping: &Mapping) -> Option<&mut Block> {
        let block = self.blocks.get_mut(&mapping.physical_address);
        block.filter(|block| block.number == mapping.physical_number)
    }

    /// The sparse block in which addresses lie wholly.
    fn sparse_of(&self, address: u64, bytes: u64) -> Option<&Sparse> {
        let (_, sparse) = self.sparse.range(..=address).next_back()?;
        (address < sparse.end && address.checked_add(bytes)? <= sparse.end).then_some(sparse)
    }

    /// The memory that addresses name, in their order, and the first hole if there is one. What is mapped beside it is answered all
    /// the same.
    pub(super) fn places(&self, address: u64, bytes: u64, places: &mut Vec<Place>) -> Option<Hole> {
        if let Some(block_address) = self.block_of(address, bytes) {
            let block_number = self.blocks[&block_address].number;
            let end = address + bytes;
            places.push(Place { block_address, block_number, start: address, end, seen: address });
            return None;
        }
        let Some(sparse) = self.sparse_of(address, bytes) else { return Some(Hole::OutOfBlock) };
        let end = address + bytes;
        let (mut cursor, mut hole) = (address, None);
        for (&start, mapping) in overlapping(&sparse.mappings, address, end, |mapping| mapping.end) {
            let Mapping { physical_address, physical_number, .. } = *mapping;
            let block = self.blocks.get(&physical_address);
            let is_there = block.is_some_and(|block| block.number == physical_number);
            if start > cursor || !is_there {
                hole = hole.or(Some(Hole::Unmapped(cursor)));
            }
            let (seen, seen_end) = (start.max(address), mapping.end.min(end));
            cursor = seen_end;
            if is_there {
                places.push(Place {
                    block_address: physical_address,
                    block_number: physical_number,
                    start: physical_address + (seen - start),
                    end: physical_address + (seen_end - start),
                    seen,
                });
            }
        }
        hole.or((cursor < end).then_some(Hole::Unmapped(cursor)))
    }

    /// Whether two ranges of addresses name a byte of memory that is the same.
    pub(crate) fn share_memory(&self, one: u64, other: u64, bytes: u64) -> bool {
        let mut parts: BTreeMap<u64, Vec<Range<u64>>> = BTreeMap::new();
        let (mut ones, mut others) = (Vec::new(), Vec::new());
        self.places(one, bytes, &mut ones);
        self.places(other, bytes, &mut others);
        for place in ones {
            parts.entry(place.block_address).or_default().push(place.start..place.end);
        }
        others.iter().any(|place| {
            let parts = parts.get(&place.block_address).into_iter().flatten();
            parts.into_iter().any(|part| part.start < place.end && place.start < part.end)
        })
    }
}
