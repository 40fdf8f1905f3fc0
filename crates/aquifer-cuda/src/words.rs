//! Words of host memory that devices read and write: queues' values, and what holds a queue back.
//!
//! The memory is this crate's own, registered with the driver, and not the driver's: so it stays readable when somebody destroys the
//! context, and asking for a queue's value is a load that cannot fault.

mod memory;

use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aquifer_backend::{Error, ErrorKind};
use parking_lot::Mutex;

use crate::context::Context;
use crate::device::Device;
use crate::sys;

use memory::Memory;

/// Page-locking goes by pages of the system.
const PAGE_BYTES: usize = 64 << 10;
/// Each word has a cache line of its own, and its neighbour's, which processors fetch together.
const WORD_BYTES: usize = 128;

/// A page of words.
struct Page {
    memory: ManuallyDrop<Memory>,
    device_start: u64,
    context: Arc<Context>,
    free: Mutex<Vec<usize>>,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Page").field("memory", &self.memory).finish_non_exhaustive()
    }
}

impl Page {
    fn new(device: &Device, operation: &'static str) -> Result<Arc<Self>, Error> {
        let memory = Memory::new(PAGE_BYTES).ok_or_else(|| {
            let message = format!("the host has no {PAGE_BYTES} bytes for queues' values");
            Error::new(ErrorKind::OutOfMemory, operation, message)
        })?;
        let start = memory.start().as_ptr();
        let device_start = device.call(operation, || {
            // SAFETY: the bytes are this function's, and are given back only when they have been unregistered.
            unsafe { sys::host_register(start, PAGE_BYTES as u64) }?;
            sys::device_pointer(start).inspect_err(|_| {
                // SAFETY: they have just been registered, and nobody knows of it.
                let _ = unsafe { sys::host_unregister(start) };
            })
        })?;
        let free = Mutex::new((0..PAGE_BYTES / WORD_BYTES).rev().collect());
        let (memory, context) = (ManuallyDrop::new(memory), Arc::clone(&device.context));
        Ok(Arc::new(Self { memory, device_start, context, free }))
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        let is_unregistered = self.context.is_of_this_process()
            && self.context.enter().is_ok_and(|_current| {
                // SAFETY: registered when it was made; no word of it is in use.
                unsafe { sys::host_unregister(self.memory.start().as_ptr()) }.is_ok()
            });
        // What a device may still know of stays.
        if is_unregistered {
            // SAFETY: it is dropped here only.
            unsafe { ManuallyDrop::drop(&mut self.memory) };
        }
    }
}

/// Words of a device, to be had again when they have been dropped.
#[derive(Debug, Default)]
pub(crate) struct Words {
    pages: Mutex<Vec<Arc<Page>>>,
}

impl Words {
    /// A word that is 0.
    pub(crate) fn take(&self, device: &Device, operation: &'static str) -> Result<Word, Error> {
        let word = self.take_as_it_is(device, operation)?;
        word.value().store(0, Ordering::Relaxed);
        Ok(word)
    }

    /// A word that is 0, or what its last owner left.
    pub(crate) fn take_as_it_is(&self, device: &Device, operation: &'static str) -> Result<Word, Error> {
        let mut pages = self.pages.lock();
        let found = pages.iter().find_map(|page| Some((Arc::clone(page), page.free.lock().pop()?)));
        let (page, index) = match found {
            Some(found) => found,
            None => {
                let page = Page::new(device, operation)?;
                let index = page.free.lock().pop().expect("a new page has free words");
                pages.push(Arc::clone(&page));
                (page, index)
            }
        };
        Ok(Word { page, index })
    }
}

/// A word that host and device share. To be dropped when no stream writes or reads it any more.
#[derive(Debug)]
pub(crate) struct Word {
    page: Arc<Page>,
    index: usize,
}

impl Word {
    pub(crate) fn value(&self) -> &AtomicU64 {
        // SAFETY: the index is inside the page.
        let word = unsafe { self.page.memory.start().add(self.index * WORD_BYTES) };
        // SAFETY: it is aligned and initialised, lives as long as the page, and everybody uses it as a whole word.
        unsafe { word.cast::<AtomicU64>().as_ref() }
    }

    /// Its address for the device.
    pub(crate) fn address(&self) -> u64 {
        self.page.device_start + (self.index * WORD_BYTES) as u64
    }
}

impl Drop for Word {
    fn drop(&mut self) {
        self.page.free.lock().push(self.index);
    }
}
