//! The driver's state: one for the process, there from the first `cuInit` on.

use crate::abi::{Answer, Code, Handle};
use crate::context::Context;
use crate::devices::Device;
use crate::events::Event;
use crate::settings::{Live, Settings};
use crate::space::{Kind, Space};
use crate::stream::Stream;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::ffi::{c_int, c_uint};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Objects that programs name by handle. Numbers are never used twice, so a stale handle is found out.
pub(crate) type Table<T> = Mutex<BTreeMap<Handle, Arc<T>>>;

#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) settings: Settings,
    pub(crate) devices: Vec<Device>,
    pub(crate) contexts: Table<Context>,
    pub(crate) streams: Table<Stream>,
    pub(crate) events: Table<Event>,
    pub(crate) space: Mutex<Space>,
}

static SETTINGS: Mutex<Option<Settings>> = Mutex::new(None);
static DRIVER: OnceLock<Driver> = OnceLock::new();

/// A number that no object had before. It looks like an address, and nothing is there.
pub(crate) fn next_handle() -> Handle {
    static NEXT: AtomicUsize = AtomicUsize::new(0x5c00_0000_0010);
    NEXT.fetch_add(16, Ordering::Relaxed)
}

/// The driver, once it is initialised.
pub(crate) fn driver() -> Answer<&'static Driver> {
    DRIVER.get().ok_or(Code::NOT_INITIALIZED)
}

/// What the driver is like, or will be.
pub(crate) fn settings() -> Settings {
    SETTINGS.lock().unwrap_or_default()
}

/// `false`: it is too late.
pub(crate) fn configure(settings: Settings) -> bool {
    let mut place = SETTINGS.lock();
    let in_time = DRIVER.get().is_none();
    if in_time {
        *place = Some(settings);
    }
    in_time
}

pub(crate) fn initialise(flags: c_uint) -> Answer {
    if flags != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let place = SETTINGS.lock();
    let settings = place.unwrap_or_default();
    if settings.device_count == 0 {
        return Err(Code::NO_DEVICE);
    }
    DRIVER.get_or_init(|| Driver {
        settings,
        devices: (0..settings.device_count as usize).map(|i| Device::new(i, &settings)).collect(),
        contexts: Table::default(),
        streams: Table::default(),
        events: Table::default(),
        space: Mutex::default(),
    });
    Ok(())
}

impl Driver {
    pub(crate) fn device(&self, ordinal: c_int) -> Answer<&Device> {
        usize::try_from(ordinal).ok().and_then(|i| self.devices.get(i)).ok_or(Code::INVALID_DEVICE)
    }

    /// What is live, of one device or of all.
    pub(crate) fn live(&self, device: Option<usize>) -> Live {
        let here = |other: usize| device.is_none_or(|device| device == other);
        let count = |values: &mut dyn Iterator<Item = usize>| values.filter(|d| here(*d)).count() as u64;
        let contexts = count(&mut self.contexts.lock().values().map(|context| context.device));
        let streams = count(&mut self.streams.lock().values().map(|stream| stream.context.device));
        let events = count(&mut self.events.lock().values().map(|event| event.context.device));
        let space = self.space.lock();
        let regions = |kinds: &[Kind]| {
            count(&mut space.regions().filter(|r| kinds.contains(&r.kind)).map(|region| region.device))
        };
        let handles = space.physical().filter(|p| here(p.device)).map(|p| p.references).sum();
        Live {
            contexts,
            blocks: regions(&[Kind::Block, Kind::Pooled, Kind::Managed]),
            pinned: regions(&[Kind::Pinned]),
            registered: regions(&[Kind::Registered]),
            handles,
            reservations: space.reservation_count(),
            mappings: regions(&[Kind::Mapping]),
            streams,
            events,
            device_bytes: self.devices.iter().filter(|d| here(d.ordinal)).map(Device::used).sum(),
        }
    }
}
