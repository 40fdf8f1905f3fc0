//! Buffers as plain numbers, for callers that cannot own a value: a C interface, another language's runtime.
//!
//! A handle names a slot of the manager's table, how often that slot had been used before, and the manager. So a handle
//! that is used after its buffer has gone, or with another manager, is found out and refused. It is no secret: code that
//! makes handles up can hit upon another one's buffer, but never upon memory that is not one.
//!
//! The table costs nothing but an empty list where nobody uses it.

#[cfg(all(test, not(loom)))]
mod tests;

use super::MemoryManager;
use super::buffer::Buffer;
use aquifer_backend::{Backend, Error, ErrorKind};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SLOT_BITS: u32 = 28;
const GENERATION_BITS: u32 = 20;
const SLOT_COUNT_MAX: usize = 1 << SLOT_BITS;
/// A slot that has been used so often is not used again.
const GENERATION_MAX: u32 = (1 << GENERATION_BITS) - 1;

/// A buffer as a number, from [`Buffer::into_raw`]. Copying it copies the number, not the buffer.
///
/// It is good with its own manager until the buffer is taken back ([`MemoryManager::take_raw`]) or freed
/// ([`MemoryManager::free_raw`]); used after that, it is refused. (After 65,535 other managers of the process a manager's
/// number comes again; then a handle of the first may be taken for one of its own.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RawBuffer(u64);

impl RawBuffer {
    fn new(nonce: u16, generation: u32, slot: usize) -> Self {
        let low = u64::from(generation) << SLOT_BITS | slot as u64;
        Self(u64::from(nonce) << (SLOT_BITS + GENERATION_BITS) | low)
    }

    /// The number; never 0.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The handle of a number. Any number will do: one that is no handle is refused when it is used.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    fn nonce(self) -> u16 {
        (self.0 >> (SLOT_BITS + GENERATION_BITS)) as u16
    }

    fn generation(self) -> u32 {
        (self.0 >> SLOT_BITS) as u32 & GENERATION_MAX
    }

    fn slot(self) -> usize {
        (self.0 as usize) & (SLOT_COUNT_MAX - 1)
    }
}

/// What is wrong with a handle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wrong {
    Manager,
    Never,
    Gone,
    InUse,
}

impl Wrong {
    fn error(self, operation: &'static str, handle: RawBuffer) -> Error {
        let reason = match self {
            Self::Manager => "it is of another manager, or made up; use it with the manager of its buffer",
            Self::Never => "this manager has given out no such handle; it is made up",
            Self::Gone => "its buffer has been freed or taken already; use each handle until then",
            Self::InUse => "its buffer is being used under this handle; wait for that to end",
        };
        Error::new(ErrorKind::InvalidArgument, operation, format!("handle {:#018x}: {reason}", handle.0))
    }
}

#[derive(Debug)]
enum Content<T> {
    Empty,
    Held(Arc<T>),
    /// With somebody who may write it, and brings it back.
    Lent,
}

#[derive(Debug)]
struct Slot<T> {
    /// How often it has been emptied.
    generation: u32,
    content: Content<T>,
}

#[derive(Debug)]
struct Slots<T> {
    all: Vec<Slot<T>>,
    empty: Vec<usize>,
    is_closed: bool,
}

/// The values that are out as handles.
///
/// No code of the user's, and no value's drop, runs under the lock.
#[derive(Debug)]
pub(crate) struct RawTable<T> {
    nonce: u16,
    generation_max: u32,
    slots: Mutex<Slots<T>>,
}

impl<T> RawTable<T> {
    pub(crate) fn new() -> Arc<Self> {
        static MANAGERS: AtomicU64 = AtomicU64::new(0);
        let number = MANAGERS.fetch_add(1, Ordering::Relaxed) % u64::from(u16::MAX);
        // Not 0, so that no handle is 0.
        Arc::new(Self::with_limits(number as u16 + 1, GENERATION_MAX))
    }

    fn with_limits(nonce: u16, generation_max: u32) -> Self {
        let slots = Slots { all: Vec::new(), empty: Vec::new(), is_closed: false };
        Self { nonce, generation_max, slots: Mutex::new(slots) }
    }

    /// Keeps a value and names it. Once the table is closed the value is dropped, and its name is good for nothing.
    fn insert(&self, value: T) -> RawBuffer {
        let value = Arc::new(value);
        let mut slots = self.slots.lock();
        if slots.is_closed {
            drop(slots);
            drop(value);
            return RawBuffer::new(self.nonce, 0, SLOT_COUNT_MAX - 1);
        }
        let index = slots.empty.pop().unwrap_or_else(|| {
            // The last is never used: it is what a closed table answers.
            assert!(slots.all.len() < SLOT_COUNT_MAX - 1, "{SLOT_COUNT_MAX} buffers are raw at once");
            slots.all.push(Slot { generation: 0, content: Content::Empty });
            slots.all.len() - 1
        });
        let slot = &mut slots.all[index];
        slot.content = Content::Held(value);
        RawBuffer::new(self.nonce, slot.generation, index)
    }

    /// Does something with the slot that a handle names, if there is one.
    fn at<R>(
        &self,
        handle: RawBuffer,
        act: impl FnOnce(&mut Slots<T>, usize) -> Result<R, Wrong>,
    ) -> Result<R, Wrong> {
        if handle.nonce() != self.nonce {
            return Err(Wrong::Manager);
        }
        let slots = &mut *self.slots.lock();
        let Some(slot) = slots.all.get(handle.slot()) else { return Err(Wrong::Never) };
        let is_empty = matches!(slot.content, Content::Empty);
        match handle.generation().cmp(&slot.generation) {
            std::cmp::Ordering::Less => Err(Wrong::Gone),
            std::cmp::Ordering::Equal if !is_empty => act(slots, handle.slot()),
            _ => Err(Wrong::Never),
        }
    }

    /// The value, shared: it stays for as long as the answer does, whatever happens to the handle.
    fn share(&self, handle: RawBuffer) -> Result<Arc<T>, Wrong> {
        self.at(handle, |slots, index| match &slots.all[index].content {
            Content::Held(value) => Ok(Arc::clone(value)),
            _ => Err(Wrong::InUse),
        })
    }

    /// Takes the value out; from now on its handle is stale.
    fn remove(&self, handle: RawBuffer) -> Result<Arc<T>, Wrong> {
        self.at(handle, |slots, index| {
            match std::mem::replace(&mut slots.all[index].content, Content::Empty) {
                Content::Held(value) => {
                    self.retire(slots, index);
                    Ok(value)
                }
                other => {
                    slots.all[index].content = other;
                    Err(Wrong::InUse)
                }
            }
        })
    }

    /// As [`RawTable::remove`], but only if nobody shares the value.
    fn remove_unshared(&self, handle: RawBuffer) -> Result<T, Wrong> {
        self.at(handle, |slots, index| {
            match std::mem::replace(&mut slots.all[index].content, Content::Empty) {
                Content::Held(value) => match Arc::try_unwrap(value) {
                    Ok(value) => {
                        self.retire(slots, index);
                        Ok(value)
                    }
                    Err(shared) => {
                        slots.all[index].content = Content::Held(shared);
                        Err(Wrong::InUse)
                    }
                },
                other => {
                    slots.all[index].content = other;
                    Err(Wrong::InUse)
                }
            }
        })
    }

    /// Counts an emptied slot's use, and offers it again unless it is used up.
    fn retire(&self, slots: &mut Slots<T>, index: usize) {
        slots.all[index].generation += 1;
        if slots.all[index].generation < self.generation_max {
            slots.empty.push(index);
        }
    }

    /// Lends a value that nobody shares, to be written.
    fn lend(&self, handle: RawBuffer) -> Result<Lent<'_, T>, Wrong> {
        let value = self.at(handle, |slots, index| {
            match std::mem::replace(&mut slots.all[index].content, Content::Lent) {
                // New shares come from the table only, so that under its lock an only one stays the only one.
                Content::Held(value) if Arc::strong_count(&value) == 1 => Ok(value),
                other => {
                    slots.all[index].content = other;
                    Err(Wrong::InUse)
                }
            }
        })?;
        Ok(Lent { table: self, slot: handle.slot(), value: Some(value) })
    }

    /// Takes everything out, for good.
    pub(crate) fn close(&self) -> Vec<Arc<T>> {
        let mut slots = self.slots.lock();
        slots.is_closed = true;
        let all = std::mem::take(&mut slots.all);
        drop(slots);
        let held = |slot: Slot<T>| if let Content::Held(value) = slot.content { Some(value) } else { None };
        all.into_iter().filter_map(held).collect()
    }
}

/// A value that goes back to its slot when this is dropped.
struct Lent<'a, T> {
    table: &'a RawTable<T>,
    slot: usize,
    value: Option<Arc<T>>,
}

impl<T> Lent<'_, T> {
    fn value(&mut self) -> Option<&mut T> {
        self.value.as_mut().and_then(Arc::get_mut)
    }
}

impl<T> Drop for Lent<'_, T> {
    fn drop(&mut self) {
        let Some(value) = self.value.take() else { return };
        self.table.slots.lock().all[self.slot].content = Content::Held(value);
    }
}

impl<B: Backend> Buffer<B> {
    /// Turns the buffer into a number, for callers that cannot own it. It stays live until its manager is asked to take it
    /// back or free it ([`MemoryManager::take_raw`], [`MemoryManager::free_raw`]), or until the last handle of the manager is
    /// dropped: nobody could free it after that, so it is freed then, after the leak report has named it. If that has been
    /// already, the buffer is freed at once. Takes a short lock.
    ///
    /// # Panics
    ///
    /// With 268,435,455 buffers of one manager raw at once.
    #[must_use = "only the number can free the buffer before its manager goes"]
    pub fn into_raw(self) -> RawBuffer {
        // A share of the table, since another thread may free the buffer, and the manager go, before this returns.
        let table = Arc::clone(&self.allocation().shared().raw_buffers);
        table.insert(self)
    }
}

impl<B: Backend> MemoryManager<B> {
    /// Turns a number from [`Buffer::into_raw`] back into its buffer. The number is stale from then on. Takes a short lock.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidArgument`] if the buffer has been taken or freed already, if the number is of another manager or
    /// made up, or if another call uses the buffer by its number right now; the message says which. Nothing changes then.
    pub fn take_raw(&self, handle: RawBuffer) -> Result<Buffer<B>, Error> {
        self.owner.raw_buffers.remove_unshared(handle).map_err(|wrong| wrong.error("take_raw", handle))
    }

    /// Frees a buffer by its number, which is stale from then on. If a [`MemoryManager::with_raw`] uses it right now, the
    /// buffer is freed when that has ended. Takes a short lock; freeing itself as in dropping a buffer.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::take_raw`]: freed twice, of another manager, made up; or lent to a
    /// [`MemoryManager::with_raw_mut`].
    pub fn free_raw(&self, handle: RawBuffer) -> Result<(), Error> {
        self.owner.raw_buffers.remove(handle).map(drop).map_err(|wrong| wrong.error("free_raw", handle))
    }

    /// Calls `work` with the buffer of a number, which stays as it is. Several threads may do so at once. The buffer
    /// lives until `work` returns, also if it is freed meanwhile, by `work` itself too. No lock is held while `work` runs.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::take_raw`]; in use is only what is lent to a [`MemoryManager::with_raw_mut`].
    pub fn with_raw<R>(&self, handle: RawBuffer, work: impl FnOnce(&Buffer<B>) -> R) -> Result<R, Error> {
        let buffer = self.owner.raw_buffers.share(handle).map_err(|wrong| wrong.error("with_raw", handle))?;
        Ok(work(&buffer))
    }

    /// Calls `work` with the buffer of a number, to be written. Meanwhile the number is refused everywhere else, in `work` too.
    /// No lock is held while `work` runs; if it panics, the buffer stays.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::take_raw`].
    pub fn with_raw_mut<R>(
        &self,
        handle: RawBuffer,
        work: impl FnOnce(&mut Buffer<B>) -> R,
    ) -> Result<R, Error> {
        let wrong = |wrong: Wrong| wrong.error("with_raw_mut", handle);
        let mut lent = self.owner.raw_buffers.lend(handle).map_err(wrong)?;
        let buffer = lent.value().ok_or_else(|| wrong(Wrong::InUse))?;
        Ok(work(buffer))
    }
}
