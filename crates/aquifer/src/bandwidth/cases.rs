//! What is measured: routes, and the memory at their ends.

use super::contests::{Between, Direction, Local, OnDevice, Pinned, Plain};
use super::driver::{self, Way};
use super::threads::CopyThreads;
use super::timing::Contest;
use super::{Drive, Memory, Reference};
use crate::{Error, MemoryManager, Route, SyncBackend};

/// A route of one manager's, or between two.
pub(super) enum Case<'a, B: SyncBackend> {
    Link(&'a MemoryManager<B>, Direction, Memory),
    Copy(&'a MemoryManager<B>),
    Fill(&'a MemoryManager<B>),
    Between { source: &'a MemoryManager<B>, destination: &'a MemoryManager<B> },
}

/// All that there are, in the order in which they are told.
pub(super) fn all<'a, B: SyncBackend>(
    manager: &'a MemoryManager<B>,
    pairs: &[(&'a MemoryManager<B>, &'a MemoryManager<B>)],
) -> Vec<Case<'a, B>> {
    let link =
        |direction| [Memory::Plain, Memory::Pinned].map(|memory| Case::Link(manager, direction, memory));
    let mut cases = Vec::new();
    cases.extend(link(Direction::ToDevice));
    cases.extend(link(Direction::ToHost));
    cases.extend([Case::Copy(manager), Case::Fill(manager)]);
    cases.extend(pairs.iter().map(|&(source, destination)| Case::Between { source, destination }));
    cases
}

impl<'a, B: SyncBackend> Case<'a, B> {
    /// The manager whose transfers are measured.
    fn manager(&self) -> &'a MemoryManager<B> {
        match *self {
            Self::Link(manager, ..) | Self::Copy(manager) | Self::Fill(manager) => manager,
            Self::Between { destination, .. } => destination,
        }
    }

    pub(super) fn route(&self) -> Route {
        match *self {
            Self::Link(_, Direction::ToDevice, _) => Route::HostToDevice,
            Self::Link(_, Direction::ToHost, _) => Route::DeviceToHost,
            Self::Copy(_) => Route::DeviceToDevice,
            Self::Fill(_) => Route::Fill,
            Self::Between { source, destination } => match driver::way(source, destination) {
                Way::Staged if !driver::is_visible(destination) => Route::PeerStaged,
                _ => Route::PeerDirect,
            },
        }
    }

    pub(super) fn memory(&self) -> Memory {
        match *self {
            Self::Link(.., memory) => memory,
            _ => Memory::Device,
        }
    }

    pub(super) fn reference(&self) -> Reference {
        match (self, driver::runs_on_host(self.manager())) {
            (Self::Fill(_), true) => Reference::Memset,
            (_, true) => Reference::Memcpy,
            (Self::Fill(_), false) => Reference::DriverFill,
            (Self::Link(..) | Self::Copy(_), false) => Reference::DriverCopy,
            (Self::Between { source, destination }, false) => match driver::way(source, destination) {
                Way::Peer | Way::Visible => Reference::DriverPeerCopy,
                Way::Staged => Reference::DriverTwoCopies,
            },
        }
    }

    /// Makes both ends, so long.
    pub(super) fn contest<'b>(
        &self,
        bytes: u64,
        threads: &'b CopyThreads,
        drive: Option<&'b Drive<'b, B>>,
    ) -> Result<Box<dyn Contest + 'b>, Error>
    where
        'a: 'b,
    {
        let threads = driver::runs_on_host(self.manager()).then_some(threads);
        Ok(match *self {
            Self::Link(manager, direction, Memory::Pinned) => {
                Box::new(Pinned::new(manager, direction, bytes, threads)?)
            }
            Self::Link(manager, direction, _) => {
                Box::new(Plain::new(manager, direction, bytes, threads, drive)?)
            }
            Self::Copy(manager) => Box::new(Local::new(manager, bytes, OnDevice::Copy, threads)?),
            Self::Fill(manager) => Box::new(Local::new(manager, bytes, OnDevice::Fill, threads)?),
            Self::Between { source, destination } => {
                Box::new(Between::new(source, destination, bytes, threads)?)
            }
        })
    }

    /// Gives back the memory that nothing uses any more.
    pub(super) fn give_back(&self) {
        self.manager().trim();
        if let Self::Between { source, .. } = self {
            source.trim();
        }
    }
}
