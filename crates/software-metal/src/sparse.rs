//! Which tiles of a sparse buffer are where.

use crate::memory::{HeapMemory, Span};
use crate::pages::Pages;
use parking_lot::Mutex;
use std::ptr::NonNull;
use std::sync::Weak;

/// A tile of a heap. The mapping does not keep the heap.
#[derive(Clone, Debug)]
struct Tile {
    heap: Weak<HeapMemory>,
    offset: usize,
}

/// A sparse buffer's tiles.
#[derive(Debug)]
pub(crate) struct Mappings {
    tile_bytes: usize,
    tiles: Mutex<Vec<Option<Tile>>>,
    addresses: Pages,
}

/// A change of mappings, in tiles.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Map { first: usize, count: usize, heap: Weak<HeapMemory>, heap_tile: usize },
    Unmap { first: usize, count: usize },
}

impl Mappings {
    /// Nothing is mapped. `None` if the process has no addresses left.
    pub(crate) fn new(len: usize, tile_bytes: usize) -> Option<Self> {
        let tiles = Mutex::new(vec![None; len.div_ceil(tile_bytes)]);
        Some(Self { tile_bytes, tiles, addresses: Pages::addresses(len)? })
    }

    pub(crate) fn tile_bytes(&self) -> usize {
        self.tile_bytes
    }

    pub(crate) fn tile_count(&self) -> usize {
        self.tiles.lock().len()
    }

    pub(crate) fn address(&self) -> NonNull<u8> {
        self.addresses.base()
    }

    /// Ranges were checked when the change was encoded.
    pub(crate) fn change(&self, change: &Change) {
        let mut tiles = self.tiles.lock();
        match change {
            Change::Map { first, count, heap, heap_tile } => {
                for i in 0..*count {
                    tiles[first + i] =
                        Some(Tile { heap: heap.clone(), offset: (heap_tile + i) * self.tile_bytes });
                }
            }
            Change::Unmap { first, count } => tiles[*first..first + count].fill(None),
        }
    }

    /// Maps what `other` has mapped from tile `from` on also here, from tile `to` on.
    pub(crate) fn copy_from(&self, other: &Mappings, from: usize, count: usize, to: usize) {
        let copied: Vec<_> = other.tiles.lock()[from..from + count].to_vec();
        self.tiles.lock()[to..to + count].clone_from_slice(&copied);
    }

    pub(crate) fn at(&self, offset: usize) -> Result<Span, String> {
        let inside = offset % self.tile_bytes;
        let len = self.tile_bytes - inside;
        let Some(tile) = self.tiles.lock()[offset / self.tile_bytes].clone() else {
            return Ok(Span { address: None, len, _heap: None });
        };
        let heap = tile.heap.upgrade().ok_or_else(|| {
            format!(
                "tile {} of a sparse buffer is mapped to a heap that has been freed",
                offset / self.tile_bytes
            )
        })?;
        let address = heap.base().as_ptr().wrapping_add(tile.offset + inside);
        Ok(Span { address: Some(address), len, _heap: Some(heap) })
    }
}
