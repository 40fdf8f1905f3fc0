//! Commands, as the contract gives them: what they touch, which way they go, how long they take, and which bytes they move.

use crate::blocks::Side;
use crate::content::Motion;
use crate::schedule::Direction;
use crate::sim::SimBlock;
use crate::span::Span;
use crate::state::State;
use crate::{Access, Costs};
use aquifer_backend::{BlockRange, Command, CopyEnd};

/// A command, understood.
pub(crate) struct Order {
    pub(crate) what: &'static str,
    /// What it costs the host to enqueue it, in nanoseconds.
    pub(crate) call_ns: u64,
    pub(crate) accesses: Vec<Access>,
    pub(crate) bytes: u64,
    pub(crate) duration_ns: u64,
    pub(crate) direction: Option<Direction>,
    pub(crate) peer: Option<usize>,
    pub(crate) motion: Motion,
    /// What is wrong with it, in words.
    pub(crate) breach: Option<String>,
}

/// Where one end of a copy is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// In the memory of the device that copies.
    Own,
    /// In another device's.
    Peer(usize),
    /// In memory of the host's that the device reaches by itself.
    Pinned,
    /// In other memory of the host's.
    Pageable,
}

/// One end of a copy, understood.
struct End {
    reach: Reach,
    /// Its device address, if it lies in a block.
    address: Option<u64>,
    span: Option<Span>,
    /// The device that made the block, if it is named as one.
    maker: Option<usize>,
}

/// How a copy goes: how many bytes in a second, which way.
fn route(costs: &Costs, source: Reach, destination: Reach) -> (u64, Option<Direction>) {
    let host_rate = costs.host_copy_bytes_per_second;
    let is_device = |reach| matches!(reach, Reach::Own | Reach::Peer(_));
    match (source, destination) {
        (Reach::Peer(_), Reach::Own | Reach::Peer(_)) => {
            (costs.peer_copy_bytes_per_second, Some(Direction::FromPeer))
        }
        (from, to) if is_device(from) && is_device(to) => (costs.copy_bytes_per_second, None),
        (Reach::Pageable, to) if is_device(to) => {
            (costs.pageable_upload_bytes_per_second.unwrap_or(host_rate), Some(Direction::Up))
        }
        (from, Reach::Pageable) if is_device(from) => {
            (costs.pageable_download_bytes_per_second.unwrap_or(host_rate), Some(Direction::Down))
        }
        (_, to) if is_device(to) => (host_rate, Some(Direction::Up)),
        (from, _) if is_device(from) => (host_rate, Some(Direction::Down)),
        // From the host to the host.
        _ => (host_rate, None),
    }
}

impl State<'_> {
    /// How this device reaches what is at a device address of some block.
    fn reach(&self, address: u64) -> Reach {
        match self.blocks.find(address, 0).map(|(_, placed)| placed.side) {
            Some(Side::Host) => Reach::Pinned,
            Some(Side::Device(index)) if index != self.device => Reach::Peer(index),
            // What lies in no block is a violation of its own.
            Some(Side::Device(_)) | None => Reach::Own,
        }
    }

    fn block_end(&self, block: &SimBlock, offset: u64, bytes: u64) -> End {
        let address = block.address.saturating_add(offset);
        let span = block.content.as_ref().and_then(|content| content.span(offset, bytes));
        let reach = self.reach(block.address);
        End { reach, address: Some(address), span, maker: Some(block.device) }
    }

    /// An end of a copy. Memory of the host's that lies in a block is the block's.
    fn end(&self, end: &CopyEnd<'_, SimBlock>, bytes: u64, has_content: bool) -> End {
        let start = match *end {
            CopyEnd::Block { block, offset } => return self.block_end(block, offset, bytes),
            CopyEnd::Host(start) => start,
        };
        let nowhere = End { reach: Reach::Pageable, address: None, span: None, maker: None };
        if !has_content {
            return nowhere;
        }
        let Some(address) = self.blocks.address_of_host(start.addr().get(), bytes) else {
            return End { span: Span::host(start, bytes), ..nowhere };
        };
        // Another device's unified memory is the host's as well.
        let reach = match self.reach(address) {
            Reach::Peer(_) => Reach::Pinned,
            other => other,
        };
        End {
            reach,
            address: Some(address),
            span: self.blocks.span_of(Access::read(address, bytes)),
            maker: None,
        }
    }

    /// What is wrong with the ends of a copy, if anything.
    fn copy_breach(&self, source: &End, destination: &End, bytes: u64) -> Option<String> {
        let is_foreign = |end: &End| end.maker.is_some_and(|maker| maker != self.device);
        if is_foreign(destination) {
            return Some(format!("copy of {bytes} bytes into a block of another device"));
        }
        if is_foreign(source) && !self.own().reads_peers {
            return Some(format!(
                "copy of {bytes} bytes from a block of a peer that the device does not read"
            ));
        }
        let (from, to) = (source.address?, destination.address?);
        let overlaps = self.schedule.checker.share_memory(from, to, bytes);
        overlaps.then(|| format!("copy of {bytes} bytes from {from:#x} to {to:#x}: the ends overlap"))
    }

    /// Understands a command for this device.
    pub(crate) fn order(&self, command: &Command<'_, SimBlock>, has_content: bool) -> Order {
        match command {
            Command::Copy { source, destination, bytes } => {
                let source = self.end(source, *bytes, has_content);
                let destination = self.end(destination, *bytes, has_content);
                self.copy_order(source, destination, *bytes)
            }
            Command::Fill { destination, value } => self.fill_order(destination, *value),
        }
    }

    fn copy_order(&self, source: End, destination: End, bytes: u64) -> Order {
        let costs = &self.own().costs;
        let (rate, direction) = route(costs, source.reach, destination.reach);
        let reaches = [source.reach, destination.reach];
        let has_host = reaches.iter().any(|reach| matches!(reach, Reach::Pinned | Reach::Pageable));
        let breach = self.copy_breach(&source, &destination, bytes);
        let peer = match source.reach {
            Reach::Peer(index) => Some(index),
            Reach::Own | Reach::Pinned | Reach::Pageable => None,
        };
        let read = source.address.map(|address| Access::read(address, bytes));
        let written = destination.address.map(|address| Access::write(address, bytes));
        let motion = match (source.span, destination.span) {
            (Some(source), Some(destination)) => Motion::Copy { source, destination },
            _ => Motion::None,
        };
        Order {
            what: "copy",
            call_ns: if has_host { costs.enqueue_host_copy_ns } else { costs.enqueue_copy_ns },
            accesses: read.into_iter().chain(written).collect(),
            bytes,
            duration_ns: costs.transfer_ns(bytes, rate),
            direction,
            peer,
            motion,
            breach,
        }
    }

    fn fill_order(&self, destination: &BlockRange<'_, SimBlock>, value: u8) -> Order {
        let BlockRange { block, offset, bytes } = *destination;
        let costs = &self.own().costs;
        let end = self.block_end(block, offset, bytes);
        let (rate, direction) = match end.reach {
            Reach::Pinned => (costs.host_copy_bytes_per_second, Some(Direction::Down)),
            Reach::Own | Reach::Peer(_) | Reach::Pageable => (costs.fill_bytes_per_second, None),
        };
        let is_foreign = block.device != self.device;
        Order {
            what: "fill",
            call_ns: costs.enqueue_fill_ns,
            accesses: vec![Access::write(block.address.saturating_add(offset), bytes)],
            bytes,
            duration_ns: costs.transfer_ns(bytes, rate),
            direction,
            peer: None,
            motion: end.span.map_or(Motion::None, |destination| Motion::Fill { destination, value }),
            breach: is_foreign.then(|| format!("fill of {bytes} bytes in a block of another device")),
        }
    }
}
