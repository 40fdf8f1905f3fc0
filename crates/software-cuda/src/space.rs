//! Which addresses mean what. A device address is a key of these tables; what is behind it lies elsewhere in the process, where
//! only this library goes.

use crate::abi::{Address, Answer, Code, Handle};
use crate::context::Context;
use crate::devices::Charge;
use crate::pages::Pages;
use std::collections::BTreeMap;
use std::ffi::c_uint;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Of `cuMemAlloc`.
    Block,
    /// Of `cuMemAllocAsync`: the device's own pool, which no peer reaches.
    Pooled,
    /// Of `cuMemAllocManaged`.
    Managed,
    /// Of `cuMemHostAlloc`.
    Pinned,
    /// Of `cuMemHostRegister`.
    Registered,
    /// Of `cuMemMap`.
    Mapping,
}

/// Memory that somebody has a handle to, or a region.
#[derive(Debug)]
pub(crate) struct Memory {
    pub(crate) pages: Pages,
    /// What it takes of a device.
    pub(crate) _charge: Option<Charge>,
}

/// Addresses that something is behind.
#[derive(Debug)]
pub(crate) struct Region {
    pub(crate) kind: Kind,
    pub(crate) start: Address,
    pub(crate) len: u64,
    pub(crate) device: usize,
    /// What it ends with; `None` for mappings.
    pub(crate) context: Option<Handle>,
    /// Of mappings: the handle, and the `CUmemAccess_flags` of each device.
    pub(crate) physical: Handle,
    pub(crate) access: Box<[AtomicU8]>,
    /// Where the memory lies that this library reads and writes.
    pub(crate) host: HostPointer,
    /// A number that no other allocation had.
    pub(crate) id: Handle,
    /// Whether a stream has been given its end (`cuMemFreeAsync`).
    pub(crate) is_ending: AtomicBool,
    /// What keeps the memory and the addresses.
    pub(crate) _memory: Option<Arc<Memory>>,
    pub(crate) _addresses: Option<Pages>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct HostPointer(pub(crate) *mut u8);

// SAFETY: an address; those who go there answer for their access (`copies.rs`).
unsafe impl Send for HostPointer {}
// SAFETY: as above.
unsafe impl Sync for HostPointer {}

/// What work wants of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    CopyFrom,
    CopyTo,
    /// Fills, and values written and waited for: by the device itself, where copies may go by way of the host.
    Direct,
}

impl Region {
    fn end(&self) -> Address {
        self.start + self.len
    }

    /// Whether the host may touch it too.
    pub(crate) fn is_host_visible(&self) -> bool {
        !matches!(self.kind, Kind::Block | Kind::Pooled | Kind::Mapping)
    }

    fn allows(&self, who: &Context, what: Use) -> bool {
        match self.kind {
            Kind::Managed | Kind::Pinned | Kind::Registered => true,
            Kind::Block => what != Use::Direct || who.device == self.device || who.reaches(self.context),
            Kind::Pooled => who.device == self.device,
            Kind::Mapping => {
                let wanted = if what == Use::CopyFrom { 1 } else { 3 };
                self.access[who.device].load(Ordering::SeqCst) & wanted == wanted
            }
        }
    }
}

/// A part of a region. While it exists the memory does, whatever becomes of the region.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) host: HostPointer,
    pub(crate) len: u64,
    /// Of what is unmapped, this says that work is still using it.
    _region: Option<Arc<Region>>,
}

impl Span {
    /// Memory of the host that this library knows nothing of.
    pub(crate) fn foreign(host: HostPointer, len: u64) -> Self {
        Self { host, len, _region: None }
    }
}

/// Reserved addresses.
#[derive(Debug)]
pub(crate) struct Reservation {
    pub(crate) len: u64,
    pub(crate) _addresses: Pages,
}

/// Physical memory, for as long as there are references or mappings.
#[derive(Debug)]
pub(crate) struct Physical {
    pub(crate) references: u64,
    pub(crate) mappings: u64,
    pub(crate) device: usize,
    pub(crate) len: u64,
    pub(crate) handle_types: c_uint,
    pub(crate) is_rdma_capable: bool,
    pub(crate) memory: Arc<Memory>,
}

#[derive(Debug, Default)]
pub(crate) struct Space {
    regions: BTreeMap<Address, Arc<Region>>,
    pub(crate) reservations: BTreeMap<Address, Reservation>,
    pub(crate) handles: BTreeMap<Handle, Physical>,
}

impl Space {
    pub(crate) fn regions(&self) -> impl Iterator<Item = &Region> {
        self.regions.values().map(|region| &**region)
    }

    pub(crate) fn physical(&self) -> impl Iterator<Item = &Physical> {
        self.handles.values()
    }

    pub(crate) fn reservation_count(&self) -> u64 {
        self.reservations.len() as u64
    }

    /// The region that an address is in.
    pub(crate) fn at(&self, address: Address) -> Option<&Arc<Region>> {
        let (_, region) = self.regions.range(..=address).next_back()?;
        (address < region.end()).then_some(region)
    }

    /// The regions that share an address with a range, lowest first.
    pub(crate) fn within(&self, start: Address, len: u64) -> impl Iterator<Item = &Arc<Region>> {
        let first = self.at(start).map_or(start, |region| region.start);
        self.regions.range(first..start.saturating_add(len)).map(|(_, region)| region)
    }

    pub(crate) fn insert(&mut self, region: Region) {
        self.regions.insert(region.start, Arc::new(region));
    }

    /// Takes the region that starts at an address out, if it is of one of these kinds.
    pub(crate) fn remove(&mut self, start: Address, kinds: &[Kind]) -> Option<Arc<Region>> {
        self.regions.get(&start).filter(|region| kinds.contains(&region.kind))?;
        self.regions.remove(&start)
    }

    /// Takes out all that ends with a context.
    pub(crate) fn remove_all_of(&mut self, context: Handle) {
        self.regions.retain(|_, region| region.context != Some(context));
    }

    /// The reservation that a whole range is in.
    pub(crate) fn reservation(&self, start: Address, len: u64) -> Option<&Reservation> {
        let (base, reservation) = self.reservations.range(..=start).next_back()?;
        let end = start.checked_add(len)?;
        (end <= base + reservation.len).then_some(reservation)
    }

    /// Whether a whole range is one that a device may be told to use: of one allocation, or reserved.
    pub(crate) fn is_device_range(&self, start: Address, len: u64) -> bool {
        match self.at(start) {
            Some(region) if region.kind != Kind::Mapping => start.checked_add(len) <= Some(region.end()),
            _ => self.reservation(start, len).is_some(),
        }
    }

    /// Whether nothing of a range is known here, so that it is the host's own.
    pub(crate) fn is_pageable(&self, start: Address, len: u64) -> bool {
        let reserved = self
            .reservations
            .range(..start.saturating_add(len))
            .next_back()
            .is_some_and(|(base, reservation)| base + reservation.len > start);
        !reserved && self.within(start, len).next().is_none()
    }

    /// What is behind a range, for work of a context: `ILLEGAL_ADDRESS` where it may not go.
    pub(crate) fn resolve(&self, start: Address, len: u64, who: &Context, what: Use) -> Answer<Vec<Span>> {
        let (mut spans, mut from, mut left) = (Vec::new(), start, len);
        while left > 0 {
            let region = self.at(from).filter(|region| region.allows(who, what));
            let region = region.ok_or(Code::ILLEGAL_ADDRESS)?;
            let offset = from - region.start;
            let part = left.min(region.len - offset);
            let host = HostPointer(region.host.0.wrapping_add(offset as usize));
            spans.push(Span { host, len: part, _region: Some(Arc::clone(region)) });
            from += part;
            left -= part;
        }
        Ok(spans)
    }
}
