//! The transfers and their references, in memory that both use.

use super::Drive;
use super::driver::{PeerQueues, Way, way};
use super::threads::CopyThreads;
use super::timing::Contest;
use crate::{Buffer, Error, ErrorKind, MemoryManager, MemoryOptions, OperationError, SyncBackend, Transfers};

/// Which way over the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    ToDevice,
    ToHost,
}

/// A buffer whose memory has been touched.
fn touched<B: SyncBackend>(
    manager: &MemoryManager<B>,
    bytes: u64,
    options: MemoryOptions,
) -> Result<Buffer<B>, Error> {
    let mut buffer = manager.allocate_with(bytes, options)?;
    buffer.fill(1)?;
    Ok(buffer)
}

/// Pinned memory, as a buffer.
fn pinned<B: SyncBackend>(manager: &MemoryManager<B>, bytes: u64) -> Result<Buffer<B>, Error> {
    let buffer = manager.pinned().allocate(bytes)?;
    if !buffer.is_locked() {
        let message = "the driver locks no more memory, and unlocked memory stands in for it";
        return Err(Error::new(ErrorKind::OutOfMemory, "measure", message));
    }
    let mut buffer = buffer.into_buffer();
    buffer.fill(1)?;
    Ok(buffer)
}

/// Plain memory of the host, touched.
fn plain(bytes: u64) -> Result<Vec<u8>, Error> {
    let refuse = || {
        let message = format!("the host has no {bytes} bytes of plain memory; measure smaller sizes");
        Error::new(ErrorKind::OutOfMemory, "measure", message)
    };
    let count = usize::try_from(bytes).map_err(|_| refuse())?;
    let mut memory = Vec::new();
    memory.try_reserve_exact(count).map_err(|_| refuse())?;
    memory.resize(count, 1);
    Ok(memory)
}

/// The driver's copy of all of one buffer to another as long.
fn copy_by_driver<B: SyncBackend>(source: &Buffer<B>, destination: &mut Buffer<B>) -> Result<(), Error> {
    destination.copy_from(0, source, 0, source.size_bytes())
}

/// Between plain memory of the host and a device.
pub(super) struct Plain<'a, B: SyncBackend> {
    transfers: Transfers<B>,
    direction: Direction,
    /// `None` only while a transfer owns them, or has failed.
    ends: Option<(Vec<u8>, Buffer<B>)>,
    reference: PlainReference<'a, B>,
    drive: Option<&'a Drive<'a, B>>,
}

enum PlainReference<'a, B: SyncBackend> {
    Threads(&'a CopyThreads),
    /// From or to this pinned buffer.
    Driver(Buffer<B>),
}

impl<'a, B: SyncBackend> Plain<'a, B> {
    pub(super) fn new(
        manager: &MemoryManager<B>,
        direction: Direction,
        bytes: u64,
        threads: Option<&'a CopyThreads>,
        drive: Option<&'a Drive<'a, B>>,
    ) -> Result<Self, Error> {
        let device = touched(manager, bytes, MemoryOptions::DEFAULT)?;
        let reference = match threads {
            Some(threads) => PlainReference::Threads(threads),
            None => PlainReference::Driver(pinned(manager, bytes)?),
        };
        let ends = Some((plain(bytes)?, device));
        Ok(Self { transfers: manager.transfers(), direction, ends, reference, drive })
    }
}

fn used_up() -> Error {
    Error::new(ErrorKind::Driver, "measure", "the transfer before this one failed and kept its memory")
}

impl<B: SyncBackend> Contest for Plain<'_, B> {
    fn transfer(&mut self) -> Result<(), Error> {
        let Some(drive) = self.drive else {
            let (memory, device) = self.ends.as_mut().ok_or_else(used_up)?;
            let done = match self.direction {
                Direction::ToDevice => self.transfers.upload(memory, device, 0),
                Direction::ToHost => self.transfers.download(&*device, 0, memory),
            };
            return done.map_err(OperationError::into_error);
        };
        let (memory, device) = self.ends.take().ok_or_else(used_up)?;
        self.ends = Some(match self.direction {
            Direction::ToDevice => {
                let transfer =
                    self.transfers.upload_async(memory, device, 0).map_err(OperationError::into_error)?;
                drive(&self.transfers, &|| transfer.is_over());
                let (device, memory) = transfer.wait().map_err(OperationError::into_error)?;
                (memory, device)
            }
            Direction::ToHost => {
                let transfer =
                    self.transfers.download_async(device, 0, memory).map_err(OperationError::into_error)?;
                drive(&self.transfers, &|| transfer.is_over());
                let (device, memory) = transfer.wait().map_err(OperationError::into_error)?;
                (memory, device)
            }
        });
        Ok(())
    }

    fn reference(&mut self) -> Result<(), Error> {
        let (memory, device) = self.ends.as_mut().ok_or_else(used_up)?;
        match (&mut self.reference, self.direction) {
            (PlainReference::Threads(threads), Direction::ToDevice) => {
                threads.copy(memory, device.as_mut_slice()?);
            }
            (PlainReference::Threads(threads), Direction::ToHost) => threads.copy(device.as_slice()?, memory),
            (PlainReference::Driver(pinned), Direction::ToDevice) => copy_by_driver(pinned, device)?,
            (PlainReference::Driver(pinned), Direction::ToHost) => copy_by_driver(device, pinned)?,
        }
        Ok(())
    }
}

/// Between pinned memory and a device.
pub(super) struct Pinned<'a, B: SyncBackend> {
    transfers: Transfers<B>,
    direction: Direction,
    memory: Buffer<B>,
    device: Buffer<B>,
    threads: Option<&'a CopyThreads>,
}

impl<'a, B: SyncBackend> Pinned<'a, B> {
    pub(super) fn new(
        manager: &MemoryManager<B>,
        direction: Direction,
        bytes: u64,
        threads: Option<&'a CopyThreads>,
    ) -> Result<Self, Error> {
        let memory = pinned(manager, bytes)?;
        let device = touched(manager, bytes, MemoryOptions::DEFAULT)?;
        Ok(Self { transfers: manager.transfers(), direction, memory, device, threads })
    }
}

impl<B: SyncBackend> Contest for Pinned<'_, B> {
    fn transfer(&mut self) -> Result<(), Error> {
        let done = match self.direction {
            Direction::ToDevice => self.transfers.upload(self.memory.as_slice::<u8>()?, &mut self.device, 0),
            Direction::ToHost => self.transfers.download(&self.device, 0, self.memory.as_mut_slice::<u8>()?),
        };
        done.map_err(OperationError::into_error)
    }

    fn reference(&mut self) -> Result<(), Error> {
        let (source, destination) = match self.direction {
            Direction::ToDevice => (&self.memory, &mut self.device),
            Direction::ToHost => (&self.device, &mut self.memory),
        };
        match self.threads {
            Some(threads) => threads.copy(source.as_slice()?, destination.as_mut_slice()?),
            None => copy_by_driver(source, destination)?,
        }
        Ok(())
    }
}

/// What is done within a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnDevice {
    Copy,
    Fill,
}

/// Within a device.
pub(super) struct Local<'a, B: SyncBackend> {
    transfers: Transfers<B>,
    /// `None` for a fill.
    source: Option<Buffer<B>>,
    destination: Buffer<B>,
    threads: Option<&'a CopyThreads>,
}

/// What fills write.
const VALUE: u8 = 0x5a;

impl<'a, B: SyncBackend> Local<'a, B> {
    pub(super) fn new(
        manager: &MemoryManager<B>,
        bytes: u64,
        what: OnDevice,
        threads: Option<&'a CopyThreads>,
    ) -> Result<Self, Error> {
        let one = || touched(manager, bytes, MemoryOptions::DEFAULT);
        let source = if what == OnDevice::Copy { Some(one()?) } else { None };
        Ok(Self { transfers: manager.transfers(), source, destination: one()?, threads })
    }
}

impl<B: SyncBackend> Contest for Local<'_, B> {
    fn transfer(&mut self) -> Result<(), Error> {
        let bytes = self.destination.size_bytes();
        let done = match &self.source {
            Some(source) => self.transfers.copy(source, &mut self.destination),
            None => self.transfers.fill(&mut self.destination, 0..bytes, VALUE),
        };
        done.map_err(OperationError::into_error)
    }

    fn reference(&mut self) -> Result<(), Error> {
        match (&self.source, self.threads) {
            (Some(source), Some(threads)) => {
                threads.copy(source.as_slice()?, self.destination.as_mut_slice()?);
            }
            (Some(source), None) => copy_by_driver(source, &mut self.destination)?,
            (None, Some(threads)) => threads.fill(self.destination.as_mut_slice()?, VALUE),
            (None, None) => self.destination.fill(VALUE)?,
        }
        Ok(())
    }
}

/// From one device to another.
pub(super) struct Between<'a, B: SyncBackend> {
    transfers: Transfers<B>,
    source: Buffer<B>,
    destination: Buffer<B>,
    reference: PeerReference<'a, B>,
}

enum PeerReference<'a, B: SyncBackend> {
    Threads(&'a CopyThreads),
    Copy(PeerQueues<B>, Way),
    /// By way of this buffer.
    TwoCopies(PeerQueues<B>, Buffer<B>),
}

impl<'a, B: SyncBackend> Between<'a, B> {
    pub(super) fn new(
        source: &MemoryManager<B>,
        destination: &MemoryManager<B>,
        bytes: u64,
        threads: Option<&'a CopyThreads>,
    ) -> Result<Self, Error> {
        let queues = || PeerQueues::new(source, destination);
        let reference = match (threads, way(source, destination)) {
            (Some(threads), _) => PeerReference::Threads(threads),
            (None, Way::Staged) => PeerReference::TwoCopies(queues()?, pinned(source, bytes)?),
            (None, way) => PeerReference::Copy(queues()?, way),
        };
        Ok(Self {
            transfers: destination.transfers(),
            source: touched(source, bytes, MemoryOptions::DEFAULT)?,
            destination: touched(destination, bytes, MemoryOptions::DEFAULT)?,
            reference,
        })
    }
}

impl<B: SyncBackend> Contest for Between<'_, B> {
    fn transfer(&mut self) -> Result<(), Error> {
        self.transfers.copy(&self.source, &mut self.destination).map_err(OperationError::into_error)
    }

    fn reference(&mut self) -> Result<(), Error> {
        match &mut self.reference {
            PeerReference::Threads(threads) => {
                threads.copy(self.source.as_slice()?, self.destination.as_mut_slice()?);
                Ok(())
            }
            PeerReference::Copy(queues, way) => queues.copy(&self.source, &mut self.destination, *way),
            PeerReference::TwoCopies(queues, pinned) => {
                queues.copy_out(&self.source, pinned)?;
                queues.copy(pinned, &mut self.destination, Way::Visible)
            }
        }
    }
}
