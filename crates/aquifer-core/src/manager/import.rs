//! Buffers made of memory that the user brings, without a copy.

use super::MemoryManager;
use super::buffer::Buffer;
use super::importable::Importable;
use super::kinds::MemoryKind;
use super::options::MemoryOptions;
use super::queues::lost;
use super::shared::Shared;
use crate::pool::{Place, Request, Uses};
use crate::raw::allocation::destroy_block;
use crate::raw::local;
use crate::statistics::Tag;
use crate::sync::Ordering;
use aquifer_backend::{Backend, DestroyError, DeviceMemory, Error, ErrorKind, HostMemory, ImportError};
use std::convert::Infallible;
use tracing::{debug, error, warn};

impl<B: Backend> MemoryManager<B> {
    /// Makes a buffer of memory that the caller brings, without a copy: the device works in that very memory. Untagged.
    ///
    /// It is a buffer like any other. When it has been freed and no queue may use it any more, the driver lets go of the
    /// memory and its owner is dropped: at the free, if nothing is in flight, else when the queues have passed
    /// ([`MemoryManager::settle`], the reaper, or whoever next has to make room, imports something or frees
    /// what was imported). The memory serves no other
    /// allocation and is never moved. If the driver will not let go, the owner stays, and the driver is asked again at the next import or free of one,
    /// [`MemoryManager::trim`], and when the manager goes. A buffer that is forgotten keeps its owner, and the manager's
    /// memory, for good.
    ///
    /// The owner is dropped on the thread that frees the buffer or on one of the manager's, under no lock of the manager. It may
    /// do anything there, but should not wait for others. It should not keep a handle of this manager, which may then never
    /// be dropped.
    ///
    /// Start and size must be multiples of
    /// [`import_alignment_bytes`](aquifer_backend::Properties::import_alignment_bytes). The memory is of the first type that
    /// the host can see. It is in no budget, and counted as [`Statistics::imported`](crate::Statistics::imported) and under
    /// its tag only. Recordings leave it out.
    ///
    /// Calls the driver, and may block for as long as that does.
    ///
    /// ```
    /// # #[cfg(unix)]
    /// # mod example {
    /// use aquifer_core::{Backend, Buffer, HostMemory, MemoryManager};
    /// use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
    /// use std::{error::Error, ffi::c_void, fs::File, ptr::NonNull};
    ///
    /// /// A file in memory. Unmapped when dropped.
    /// struct MappedFile {
    ///     start: NonNull<c_void>,
    ///     bytes: usize,
    /// }
    ///
    /// // SAFETY: a mapping belongs to the process, and only `drop` does anything with it.
    /// unsafe impl Send for MappedFile {}
    /// // SAFETY: as above.
    /// unsafe impl Sync for MappedFile {}
    ///
    /// impl Drop for MappedFile {
    ///     fn drop(&mut self) {
    ///         // SAFETY: the mapping is this value's, and nothing is made of it any more.
    ///         let _ = unsafe { munmap(self.start.as_ptr(), self.bytes) };
    ///     }
    /// }
    ///
    /// /// The weights in `file`, of which only the parts that are used are ever read.
    /// ///
    /// /// # Safety
    /// ///
    /// /// - Nobody writes to the file or makes it shorter while the buffer lives.
    /// pub unsafe fn weights<B: Backend>(
    ///     manager: &MemoryManager<B>,
    ///     file: &File,
    /// ) -> Result<Buffer<B>, Box<dyn Error>> {
    ///     // Whole pages: the last one is filled up with zeros.
    ///     let alignment = manager.properties().import_alignment_bytes.max(1);
    ///     let bytes = file.metadata()?.len().next_multiple_of(alignment);
    ///     // Private and writable: what is written to the buffer does not get into the file.
    ///     let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
    ///     // SAFETY: the system chooses the address, so no other mapping is touched.
    ///     let start = unsafe { mmap(std::ptr::null_mut(), bytes as usize, access, flags, file, 0) }?;
    ///     let start = NonNull::new(start).ok_or("no mapping begins at null")?;
    ///     let owner = MappedFile { start, bytes: bytes as usize };
    ///     // SAFETY: the mapping is readable, writable, known to nobody else, and stays until the owner's drop; the caller
    ///     // looks after the file.
    ///     let memory = unsafe { HostMemory::new(start.cast(), bytes, owner) };
    ///     Ok(manager.import(memory)?)
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// The memory itself, and why it is no buffer:
    ///
    /// - [`ErrorKind::Unsupported`] if the backend imports no memory ([`Capabilities::IMPORT`](aquifer_backend::Capabilities::IMPORT)), or this device has no memory that
    ///   the host sees.
    /// - [`ErrorKind::InvalidArgument`] for no bytes, or a start or size that is not aligned.
    /// - [`ErrorKind::OutOfMemory`] if there are as many blocks as the driver makes
    ///   ([`block_count_max`](aquifer_backend::Properties::block_count_max)), and all of them are in use.
    /// - [`ErrorKind::Driver`], or what else it says, if the driver refused.
    /// - [`ErrorKind::DeviceLost`] or [`ErrorKind::Forked`].
    #[track_caller]
    pub fn import(&self, memory: HostMemory) -> Result<Buffer<B>, ImportError> {
        self.import_with(memory, MemoryOptions::DEFAULT)
    }

    /// As [`MemoryManager::import`], under a tag. An alignment is one that the memory must have already.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::import`]; also [`ErrorKind::InvalidArgument`] if the memory does not start at a multiple of the
    /// alignment, if it is to be zeroed (what is imported keeps what it holds), or if the options ask for a kind of memory.
    #[track_caller]
    pub fn import_with(&self, memory: HostMemory, options: MemoryOptions) -> Result<Buffer<B>, ImportError> {
        self.import_any(memory, options)
    }

    /// Makes a buffer of memory of the device that something else allocated: another allocator's, or what a library has answered.
    /// Untagged.
    ///
    /// All that [`MemoryManager::import`] says of the buffer, of its owner and of what is counted holds here too; start and size may be
    /// any. Queues do not know of work that uses the memory already: wait for it, or order the queue behind it.
    ///
    /// Calls the driver, and may block for as long as that does.
    ///
    /// # Errors
    ///
    /// The memory itself, and why it is no buffer:
    ///
    /// - [`ErrorKind::Unsupported`] if the backend imports no memory of the device ([`Capabilities::IMPORT_DEVICE`](aquifer_backend::Capabilities::IMPORT_DEVICE)).
    /// - [`ErrorKind::InvalidArgument`] for no bytes, an address beyond the last one, or memory that is not the device's.
    /// - Otherwise as [`MemoryManager::import`].
    #[track_caller]
    pub fn import_device(&self, memory: DeviceMemory) -> Result<Buffer<B>, ImportError<DeviceMemory>> {
        self.import_device_with(memory, MemoryOptions::DEFAULT)
    }

    /// As [`MemoryManager::import_device`], under a tag. An alignment is one that the memory must have already.
    ///
    /// # Errors
    ///
    /// As [`MemoryManager::import_device`] and [`MemoryManager::import_with`].
    #[track_caller]
    pub fn import_device_with(
        &self,
        memory: DeviceMemory,
        options: MemoryOptions,
    ) -> Result<Buffer<B>, ImportError<DeviceMemory>> {
        self.import_any(memory, options)
    }

    #[track_caller]
    fn import_any<M: Importable<B>>(
        &self,
        memory: M,
        options: MemoryOptions,
    ) -> Result<Buffer<B>, ImportError<M>> {
        let owner = &self.owner;
        let memory_type = match owner.check_import(&memory, &options) {
            Ok(memory_type) => memory_type,
            Err(error) => return Err(ImportError { memory, error }),
        };
        owner.let_go_of_imported();
        let (_, bytes) = memory.extent();
        let block = owner.import_block(memory, memory_type)?;
        let place = Place::new(0, owner.imported.insert(block, bytes), 0);
        let request = Request::imported(memory_type, bytes, options.tag);
        owner.count_tagged(options.tag, bytes as i64);
        // From here on it is freed if anything panics.
        let allocation = owner.adopt_imported(place, request);
        if owner.observers.are_active() {
            owner.observers.imported(place, request);
        }
        Ok(Buffer::new(allocation))
    }
}

impl<B: Backend> Shared<B> {
    /// Checks memory that is to be imported, and answers its memory type.
    fn check_import<M: Importable<B>>(&self, memory: &M, options: &MemoryOptions) -> Result<usize, Error> {
        let refuse = |kind, message| Err(Error::new(kind, "import", message));
        let properties = self.backend.properties();
        let Some(memory_type) = M::memory_type(properties) else {
            let message = format!("the {} backend {}", properties.backend, M::LACK);
            return refuse(ErrorKind::Unsupported, message);
        };
        let (start, bytes) = memory.extent();
        let (needed, most) = M::limits(properties);
        if bytes == 0 || bytes > most {
            let message = format!("{bytes} bytes given; give at least {needed}, and at most {most}");
            return refuse(ErrorKind::InvalidArgument, message);
        }
        if start.checked_add(bytes).is_none() {
            let message = format!("{bytes} bytes from {start:#x} given; there are no such addresses");
            return refuse(ErrorKind::InvalidArgument, message);
        }
        if !start.is_multiple_of(needed) || !bytes.is_multiple_of(needed) {
            let message = format!(
                "{bytes} bytes from {start:#x} given; give memory whose start and size are multiples of {needed}"
            );
            return refuse(ErrorKind::InvalidArgument, message);
        }
        let alignment = options.alignment_bytes();
        if !alignment.is_power_of_two() || !start.is_multiple_of(alignment) {
            let message = format!(
                "alignment of {alignment} bytes asked for, of memory from {start:#x}; memory is imported where it is"
            );
            return refuse(ErrorKind::InvalidArgument, message);
        }
        if options.is_zeroed() {
            let message = "zeros asked for; imported memory keeps what it holds: fill the buffer".into();
            return refuse(ErrorKind::InvalidArgument, message);
        }
        let kind = options.memory_kind();
        if kind != MemoryKind::Device {
            let message =
                format!("{kind:?} memory asked for; imported memory is what it is: ask for no kind");
            return refuse(ErrorKind::InvalidArgument, message);
        }
        if self.is_lost() {
            return Err(lost("import"));
        }
        self.check_process("import")?;
        Ok(memory_type)
    }

    /// Counts a block that is to be imported. If there are as many as the driver makes, one that holds nothing goes first, or
    /// nothing but what is preallocated. Under no lock.
    fn charge_imported(&self, bytes: u64, memory_type: usize) -> Result<(), Error> {
        let make_room = || {
            self.pools.iter().any(|typed| {
                let growing = &mut typed.lock_growth();
                self.flush_and_settle(growing);
                self.release_one(growing);
                self.block_count.charge()
            })
        };
        let give_up = || self.pools.iter().any(|typed| typed.pool.free_preallocated());
        let is_charged = self.block_count.charge() || make_room() || (give_up() && make_room());
        self.bell.tell_news();
        if is_charged {
            return Ok(());
        }
        let (message, heap_index) = (self.too_many_blocks(), self.pools[memory_type].heap_index);
        Err(self.out_of_memory_in("import", ErrorKind::OutOfMemory, message, heap_index, bytes))
    }

    /// Asks the driver. Memory that was checked.
    fn import_block<M: Importable<B>>(
        &self,
        memory: M,
        memory_type: usize,
    ) -> Result<B::Block, ImportError<M>> {
        let (_, bytes) = memory.extent();
        if let Err(error) = self.charge_imported(bytes, memory_type) {
            return Err(ImportError { memory, error });
        }
        match memory.import(&self.backend, memory_type) {
            Ok(block) => {
                self.calls.create.fetch_add(1, Ordering::Relaxed);
                debug!(call = "import_block", bytes, "driver call");
                Ok(block)
            }
            Err(ImportError { memory, error }) => {
                self.block_count.refund();
                self.calls.failed.fetch_add(1, Ordering::Relaxed);
                warn!(call = "import_block", bytes, refusal = %error, "the driver refused");
                let Err(error) = self.note::<Infallible>(Err(error));
                self.tell_loss();
                Err(ImportError { memory, error })
            }
        }
    }

    /// Frees an imported buffer: its block is destroyed at once, or when the queues that may use it have passed.
    pub(crate) fn free_imported(&self, place: Place, request: Request, uses: Uses) {
        let block = self.imported.remove(place.block(), request.requested_bytes);
        self.count_tagged(request.tag(), -(request.requested_bytes as i64));
        if self.is_forked() {
            // It is the parent's.
            return std::mem::forget(block);
        }
        self.let_go_of_imported();
        let values = if uses.are_recorded() { self.mark_recorded(uses) } else { Vec::new() };
        if !values.is_empty() {
            self.look();
        }
        if values.iter().all(|&(queue, value)| self.queues.get(queue).timeline.completed() >= value) {
            self.destroy_imported([block]);
        } else {
            self.imported.leave(block, values);
            self.bell.note_in_flight();
        }
    }

    /// Destroys the imported blocks that were freed and whose queues have passed, as their timelines say. Under no lock: it
    /// runs the users' code.
    pub(super) fn destroy_passed_imported(&self) {
        if !self.is_forked() {
            let completed = |queue| self.queues.get(queue).timeline.completed();
            self.destroy_imported(self.imported.take_passed(completed));
        }
    }

    /// Looks how far queues are, and tries to get rid of all imported blocks that were freed. Under no lock.
    pub(super) fn let_go_of_imported(&self) {
        if self.is_forked() {
            return;
        }
        if self.imported.has_in_flight() {
            self.look();
            self.destroy_passed_imported();
        }
        self.destroy_imported(self.imported.take_refused());
    }

    /// Destroys imported blocks that nobody uses; keeps those that the driver refuses.
    fn destroy_imported(&self, blocks: impl IntoIterator<Item = B::Block>) {
        let mut is_any_destroyed = false;
        for block in blocks {
            match destroy_block(&self.backend, block) {
                Ok(()) => {
                    self.calls.destroy.fetch_add(1, Ordering::Relaxed);
                    self.block_count.refund();
                    self.imported.note_destroyed();
                    is_any_destroyed = true;
                    debug!(call = "destroy_block", "driver call");
                }
                Err(DestroyError { block, error }) => {
                    self.calls.failed.fetch_add(1, Ordering::Relaxed);
                    self.imported.keep_refused(block);
                    warn!(call = "destroy_block", refusal = %error, "the driver refused imported memory");
                }
            }
        }
        if is_any_destroyed {
            self.backend.flush_destroyed();
        }
    }

    /// Destroys all imported blocks, now that no buffer is live and all queues are drained.
    pub(super) fn close_imported(&self) {
        self.destroy_passed_imported();
        self.destroy_imported(self.imported.take_refused());
        for block in self.imported.take_refused() {
            error!("imported memory is lost: the driver would not let go of it");
            // The driver may still work in it, so its owner must stay.
            std::mem::forget(block);
        }
    }

    /// Counts live bytes under a tag, of which this thread may have counted some that it has not told yet.
    fn count_tagged(&self, tag: Tag, bytes: i64) {
        local::with(self.ordinary.key.identity(), |cache| {
            cache.publish_one(tag);
            Some(())
        });
        self.tally.tags[tag.index()].add(bytes);
    }
}
