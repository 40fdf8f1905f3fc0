//! Memory of heaps and buffers, as work sees it.

use crate::pages::Pages;
use crate::purge::Purgeable;
use crate::sparse::Mappings;
use crate::state::State;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What fresh heap memory is filled with: Metal promises zeros for buffers of the device only.
const FRESH_HEAP: u8 = 0xa5;

static IDS: AtomicU64 = AtomicU64::new(1);

/// A number that names an allocation, unique in the process.
pub(crate) fn next_id() -> u64 {
    IDS.fetch_add(1, Ordering::Relaxed)
}

/// How many bytes a device has given out.
#[derive(Debug, Default)]
pub(crate) struct Account {
    bytes: AtomicU64,
}

impl Account {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }
}

/// Bytes of a device's memory, given back when dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    state: Arc<State>,
    bytes: u64,
}

impl Charge {
    /// `None` if the device has not as many bytes left.
    pub(crate) fn new(state: &Arc<State>, bytes: usize) -> Option<Self> {
        let bytes = bytes as u64;
        let room = state.faults.memory().checked_sub(state.faults.foreign_bytes())?;
        let charge = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= room);
        state.account.bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, charge).ok()?;
        Some(Self { state: Arc::clone(state), bytes })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.state.account.bytes.fetch_sub(self.bytes, Ordering::SeqCst);
    }
}

/// A heap's memory.
#[derive(Debug)]
pub(crate) struct HeapMemory {
    pub(crate) id: u64,
    pub(crate) len: usize,
    pub(crate) store: Arc<Purgeable>,
    pub(crate) charge: Charge,
}

impl HeapMemory {
    /// Memory with arbitrary contents; `None` if there is too little.
    pub(crate) fn new(state: &Arc<State>, len: usize) -> Option<Self> {
        let charge = Charge::new(state, len.checked_next_multiple_of(state.desc.page_bytes())?)?;
        let pages = Pages::new(len)?;
        pages.fill_ends(FRESH_HEAP);
        let store = Arc::new(Purgeable::new(pages));
        state.faults.watch(&store);
        Some(Self { id: next_id(), len, store, charge })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.store.pages().base()
    }
}

/// Where a buffer's bytes are.
#[derive(Debug)]
pub(crate) enum Place {
    /// In memory of its own.
    Own { store: Arc<Purgeable>, charge: Charge },
    /// In memory that the client gave and keeps valid.
    Foreign { base: NonNull<u8>, charge: Charge },
    /// On a heap, from an offset.
    Heap { heap: Arc<HeapMemory>, offset: usize },
    /// In tiles of heaps.
    Sparse(Mappings),
    /// In a buffer of another device.
    Remote(Arc<Memory>),
}

/// A buffer's memory.
#[derive(Debug)]
pub(crate) struct Memory {
    /// What residency sets and hazard tracking know the buffer by.
    pub(crate) id: u64,
    pub(crate) len: usize,
    pub(crate) place: Place,
    /// Whether the device orders accesses to it.
    pub(crate) is_tracked: bool,
    /// Whether the buffer has been deallocated.
    freed: AtomicBool,
}

// SAFETY: the pointer in `Place::Foreign` may be used from any thread: the client promised that with `newBufferWithBytesNoCopy`.
unsafe impl Send for Memory {}
// SAFETY: as above; the bytes behind it are accessed through raw pointers only, in the order that the client's commands have.
unsafe impl Sync for Memory {}

impl Memory {
    pub(crate) fn new(place: Place, len: usize, is_tracked: bool) -> Arc<Self> {
        Arc::new(Self { id: next_id(), len, place, is_tracked, freed: AtomicBool::new(false) })
    }

    /// The lowest address, valid or not.
    pub(crate) fn address(&self) -> NonNull<u8> {
        match &self.place {
            Place::Own { store, .. } => store.pages().base(),
            Place::Foreign { base, .. } => *base,
            // SAFETY: the buffer was placed inside the heap, so the offset is inside its mapping.
            Place::Heap { heap, offset } => unsafe { heap.base().add(*offset) },
            Place::Sparse(mappings) => mappings.address(),
            Place::Remote(other) => other.address(),
        }
    }

    /// How many bytes it takes of the device's memory on its own account, or occupies on its heap.
    pub(crate) fn allocated_size(&self) -> usize {
        match &self.place {
            Place::Own { charge, .. } | Place::Foreign { charge, .. } => charge.bytes(),
            Place::Heap { .. } => self.len,
            Place::Sparse(_) | Place::Remote(_) => 0,
        }
    }

    /// The allocation that has to be resident for it: its heap or itself.
    pub(crate) fn allocation_id(&self) -> u64 {
        match &self.place {
            Place::Heap { heap, .. } => heap.id,
            Place::Remote(other) => other.allocation_id(),
            _ => self.id,
        }
    }

    /// The size of that allocation, in bytes.
    pub(crate) fn allocation_bytes(&self) -> usize {
        match &self.place {
            Place::Heap { heap, .. } => heap.charge.bytes(),
            _ => self.allocated_size(),
        }
    }

    /// Whether neither it nor its heap is volatile or empty.
    pub(crate) fn is_usable(&self) -> bool {
        match &self.place {
            Place::Own { store, .. } => store.is_usable(),
            Place::Heap { heap, .. } => heap.store.is_usable(),
            Place::Remote(other) => other.is_usable(),
            Place::Foreign { .. } | Place::Sparse(_) => true,
        }
    }

    /// The client let go of the buffer.
    pub(crate) fn set_freed(&self) {
        self.freed.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_freed(&self) -> bool {
        self.freed.load(Ordering::SeqCst)
    }

    /// Where byte `offset` is, and how many bytes follow it there; no address: an unmapped tile, which reads zero.
    ///
    /// # Errors
    /// Says what is mapped there and no longer exists.
    pub(crate) fn at(&self, offset: usize) -> Result<Span, String> {
        match &self.place {
            Place::Sparse(mappings) => mappings.at(offset),
            Place::Remote(other) => other.at(offset),
            _ => Ok(Span {
                address: Some(self.address().as_ptr().wrapping_add(offset)),
                len: self.len - offset,
                _heap: None,
            }),
        }
    }
}

/// A stretch of a buffer's bytes that lies together.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) address: Option<*mut u8>,
    pub(crate) len: usize,
    /// Keeps the tiles mapped while they are accessed.
    pub(crate) _heap: Option<Arc<HeapMemory>>,
}

/// Copies `len` bytes from one buffer to another, over unmapped tiles too.
///
/// # Errors
/// Says what is no longer there.
pub(crate) fn copy(from: (&Memory, usize), to: (&Memory, usize), len: usize) -> Result<(), String> {
    let mut done = 0;
    while done < len {
        let (source, target) = (from.0.at(from.1 + done)?, to.0.at(to.1 + done)?);
        let n = source.len.min(target.len).min(len - done);
        match (source.address, target.address) {
            // SAFETY: both spans are inside memory that the callers hold, checked when the copy was encoded.
            (Some(source), Some(target)) => unsafe { std::ptr::copy(source, target, n) },
            // SAFETY: as above. An unmapped source reads as zeros.
            (None, Some(target)) => unsafe { target.write_bytes(0, n) },
            // Writes to unmapped tiles vanish.
            (_, None) => {}
        }
        done += n;
    }
    Ok(())
}

/// Fills `len` bytes of a buffer.
///
/// # Errors
/// Says what is no longer there.
pub(crate) fn fill(memory: &Memory, offset: usize, len: usize, value: u8) -> Result<(), String> {
    let mut done = 0;
    while done < len {
        let span = memory.at(offset + done)?;
        let n = span.len.min(len - done);
        if let Some(address) = span.address {
            // SAFETY: the span is inside memory that the caller holds, checked when the fill was encoded.
            unsafe { address.write_bytes(value, n) };
        }
        done += n;
    }
    Ok(())
}
