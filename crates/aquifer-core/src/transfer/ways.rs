//! Which way a transfer goes.

use super::desc::{EntryDesc, HopQueue, Way};
use super::engine::QueueUse;
use super::{Route, TransferOptions};
use crate::manager::Shared;
use crate::raw::allocation::SharedPtr;
use crate::raw::transfer::{From, Reach, ReachMut};
use aquifer_backend::{Backend, Capabilities, Error, ErrorKind, MemoryFlags};

/// Up to so many bytes a processor does what a queue could do too, if it sees both ends: to give a queue work and wait for it takes
/// as long as copying some hundred KiB.
const BY_PROCESSOR_BYTES_MAX: u64 = 256 << 10;
/// What a queue copies over the link at a time where nothing is staged, and within a device: long enough that it does not matter how long a
/// command takes to begin (on an H200 1.6 us, in which 90 KiB go over the link, and 3 MiB within).
const LINK_CHUNK_BYTES: u64 = 16 << 20;
const LOCAL_CHUNK_BYTES: u64 = 128 << 20;

/// A way, and the queues that it takes: of which manager, and for what.
struct Chosen<'a, B: Backend> {
    way: Way,
    route: Route,
    near: Option<(&'a SharedPtr<B>, QueueUse)>,
    far: Option<(&'a SharedPtr<B>, QueueUse)>,
}

fn is_one<B: Backend>(one: &Shared<B>, other: &Shared<B>) -> bool {
    std::ptr::eq(one, other)
}

fn has<B: Backend>(shared: &Shared<B>, capability: Capabilities) -> bool {
    shared.backend.properties().capabilities.contains(capability)
}

/// Whether memory is the host's rather than the device's: it came so, or lies in a block that is.
fn is_of_host<B: Backend>(shared: &Shared<B>, reach: &Reach<'_, B>) -> bool {
    let flags = shared.backend.properties().memory_types[reach.memory_type].flags;
    let is_block_of_host =
        flags.contains(MemoryFlags::HOST_VISIBLE) && !flags.contains(MemoryFlags::DEVICE_LOCAL);
    reach.is_host_memory || is_block_of_host
}

/// Whether processors should do what a queue of the device could do as well.
fn is_for_processor<B: Backend>(shared: &Shared<B>, bytes: u64) -> bool {
    has(shared, Capabilities::RUNS_ON_HOST) || bytes <= BY_PROCESSOR_BYTES_MAX
}

fn local_route<B: Backend>(
    shared: &Shared<B>,
    source: &Reach<'_, B>,
    destination: &Reach<'_, B>,
) -> (Route, QueueUse) {
    match (is_of_host(shared, source), is_of_host(shared, destination)) {
        (true, false) => (Route::HostToDevice, QueueUse::Upload),
        (false, true) => (Route::DeviceToHost, QueueUse::Download),
        _ => (Route::DeviceToDevice, QueueUse::Local),
    }
}

impl<'a, B: Backend> Chosen<'a, B> {
    fn by_processor(route: Route) -> Self {
        Self { way: Way::Processor, route, near: None, far: None }
    }

    fn direct(route: Route, on: &'a SharedPtr<B>, of: QueueUse) -> Self {
        Self { way: Way::Direct, route, near: None, far: Some((on, of)) }
    }

    /// A fill.
    fn fill(destination: &Reach<'a, B>, shared: &'a SharedPtr<B>) -> Self {
        if destination.is_visible() && is_for_processor(shared, destination.bytes) {
            return Self::by_processor(Route::Fill);
        }
        Self::direct(Route::Fill, shared, QueueUse::Local)
    }

    /// Within one device.
    fn local(source: &Reach<'a, B>, destination: &Reach<'a, B>, shared: &'a SharedPtr<B>) -> Self {
        let (route, of) = local_route(shared, source, destination);
        let are_visible = source.is_visible() && destination.is_visible();
        if are_visible && is_for_processor(shared, source.bytes) {
            return Self::by_processor(route);
        }
        Self::direct(route, shared, of)
    }

    /// From plain memory of the host.
    fn upload(destination: &Reach<'a, B>, shared: &'a SharedPtr<B>) -> Self {
        let far = Some((shared, QueueUse::Upload));
        match destination.is_visible() {
            true => Self::by_processor(Route::HostToDevice),
            false if shared.pinned_type().is_some() => {
                Self { way: Way::StageIn, route: Route::HostToDevice, near: None, far }
            }
            false => Self::direct(Route::HostToDevice, shared, QueueUse::Upload),
        }
    }

    /// To plain memory of the host.
    fn download(source: &Reach<'a, B>, shared: &'a SharedPtr<B>) -> Self {
        let near = Some((shared, QueueUse::Download));
        match source.is_visible() {
            true => Self::by_processor(Route::DeviceToHost),
            false if shared.pinned_type().is_some() => {
                Self { way: Way::StageOut, route: Route::DeviceToHost, near, far: None }
            }
            false => Self::direct(Route::DeviceToHost, shared, QueueUse::Download),
        }
    }

    /// From one manager's block to another's.
    fn between(
        source: &mut Reach<'a, B>,
        destination: &mut Reach<'a, B>,
        (from, to): (&'a SharedPtr<B>, &'a SharedPtr<B>),
    ) -> Self {
        if source.is_visible() && destination.is_visible() {
            return Self::by_processor(Route::PeerDirect);
        }
        if to.backend.reads_peer(&from.backend, source.memory_type) {
            return Self::direct(Route::PeerDirect, to, QueueUse::Local);
        }
        // What the host sees of one device, the other may copy as it copies all memory of the host.
        if source.is_visible() {
            source.become_host();
            return Self::direct(Route::PeerDirect, to, QueueUse::Upload);
        }
        if destination.is_visible() {
            destination.become_host();
            return Self::direct(Route::PeerDirect, from, QueueUse::Download);
        }
        let near = Some((from, QueueUse::Download));
        Self { way: Way::StagePeer, route: Route::PeerStaged, near, far: Some((to, QueueUse::Upload)) }
    }
}

/// How a transfer is done with these ends, by the manager `own`. The ends become what that way wants.
///
/// # Errors
///
/// [`ErrorKind::InvalidArgument`] if neither end is `own`'s; [`ErrorKind::Unsupported`] if there is no way, or there are no queues; what the driver says
/// when it makes a queue.
pub(crate) fn describe<'a, B: Backend>(
    own: &SharedPtr<B>,
    from: &mut From<'a, B>,
    to: &mut ReachMut<'a, B>,
    options: &TransferOptions,
) -> Result<EntryDesc<B>, Error> {
    let destination = &mut to.0;
    let shared = (
        match from {
            From::Memory(source) => source.shared,
            From::Value(_) => None,
        },
        destination.shared,
    );
    let is_own = |shared: Option<&SharedPtr<B>>| shared.is_some_and(|shared| is_one(shared, own));
    if !is_own(shared.0) && !is_own(shared.1) {
        let message = "no buffer of this manager is an end of the transfer; use a manager whose buffer is";
        return Err(Error::new(ErrorKind::InvalidArgument, "transfer", message));
    }
    let chosen = match (from, shared) {
        (From::Value(_), (_, Some(shared))) => Chosen::fill(destination, shared),
        (From::Memory(source), (Some(one), Some(other))) if is_one(one, other) => {
            Chosen::local(source, destination, one)
        }
        (From::Memory(source), (Some(one), Some(other))) => {
            Chosen::between(source, destination, (one, other))
        }
        (From::Memory(_), (None, Some(shared))) => Chosen::upload(destination, shared),
        (From::Memory(source), (Some(shared), None)) => Chosen::download(source, shared),
        (_, (_, None)) => Chosen::by_processor(Route::Fill),
    };
    let hop = |of: Option<(&SharedPtr<B>, QueueUse)>| {
        let Some((shared, of)) = of else { return Ok(None) };
        let queue = shared.transfers.queue(shared, of)?;
        let foreign = (!is_one(shared, own)).then(|| shared.keeper());
        Ok::<_, Error>(Some(HopQueue { queue, foreign }))
    };
    let staged_bytes = own.config.transfers.chunk_bytes();
    let chunk_bytes = match (chosen.way, chosen.far) {
        (Way::Direct, Some((_, QueueUse::Local))) => LOCAL_CHUNK_BYTES.max(staged_bytes),
        (Way::Direct, _) => LINK_CHUNK_BYTES.max(staged_bytes),
        _ => staged_bytes,
    };
    if chosen.way.is_staged() && own.pinned_type().is_none() {
        let message = "the devices cannot reach each other, and this one has no pinned memory to go through; download and upload";
        return Err(Error::new(ErrorKind::Unsupported, "transfer", message));
    }
    Ok(EntryDesc {
        way: chosen.way,
        route: chosen.route,
        near: hop(chosen.near)?,
        far: hop(chosen.far)?,
        chunk_bytes,
        options: options.clone(),
        after: Vec::new(),
        manager: None,
        needs_ring: None,
    })
}
