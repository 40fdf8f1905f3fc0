//! Sparse blocks: which memory is behind which addresses.

use super::Checker;
use super::ranges::overlapping;
use std::collections::BTreeMap;

/// A physical block behind addresses.
#[derive(Debug)]
struct Mapping {
    end: u64,
    /// Where the checker has the physical block.
    physical_address: u64,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Sparse {
    end: u64,
    /// By the first address.
    mappings: BTreeMap<u64, Mapping>,
}

/// Mappings that went with their block.
pub(crate) struct Removed {
    pub(crate) count: u64,
    pub(crate) bytes: u64,
}

impl Checker {
    pub(crate) fn add_sparse(&mut self, address: u64, bytes: u64) {
        self.sparse.insert(address, Sparse { end: address + bytes, mappings: BTreeMap::new() });
        self.add_block(address, bytes);
    }

    /// Forgets a sparse block and what is mapped there.
    pub(crate) fn remove_sparse(&mut self, at_ns: u64, address: u64) -> Removed {
        self.remove_block(at_ns, address);
        let mut removed = Removed { count: 0, bytes: 0 };
        let Some(sparse) = self.sparse.remove(&address) else { return removed };
        for (start, mapping) in sparse.mappings {
            removed.count += 1;
            removed.bytes += mapping.end - start;
        }
        removed
    }

    /// Notes that a physical block is behind `place`, in a sparse block, or says why it cannot be.
    pub(crate) fn map(
        &mut self,
        sparse_address: u64,
        place: (u64, u64),
        physical_address: u64,
    ) -> Result<(), String> {
        let (start, bytes) = place;
        let end = start + bytes;
        let Some(sparse) = self.sparse.get_mut(&sparse_address) else {
            return Err(format!("{bytes} bytes at {start:#x}, which is in no sparse block"));
        };
        if let Some((other, _)) = overlapping(&sparse.mappings, start, end, |mapping| mapping.end).next() {
            return Err(format!("{bytes} bytes at {start:#x}, over what is mapped at {other:#x}"));
        }
        sparse.mappings.insert(start, Mapping { end, physical_address });
        Ok(())
    }

    /// Notes that nothing is behind `place` any more, or says why there is no such mapping.
    pub(crate) fn unmap(&mut self, at_ns: u64, sparse_address: u64, place: (u64, u64)) -> Result<(), String> {
        let (start, bytes) = place;
        let sparse = self.sparse.get_mut(&sparse_address);
        let mappings = sparse.map(|sparse| &mut sparse.mappings);
        let is_whole = mappings.as_ref().and_then(|mappings| mappings.get(&start));
        if is_whole.is_none_or(|mapping| mapping.end - start != bytes) {
            return Err(format!("{bytes} bytes at {start:#x}, which is not one whole mapping"));
        }
        mappings.and_then(|mappings| mappings.remove(&start));
        let _ = at_ns;
        Ok(())
    }
}
