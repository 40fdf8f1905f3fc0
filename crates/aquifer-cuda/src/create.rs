//! Blocks: made, mapped, destroyed.

use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use aquifer_backend::{
    BlockDesc, BlockRange, DestroyError, DeviceMemory, Error, ErrorKind, HostMemory, ImportError,
};

use crate::block::{Content, CudaBlock, HostAddress};
use crate::device::{Device, Place};
use crate::options::UnifiedMemory;
use crate::sys::{self, Code, Whose};
use crate::virtual_memory::{self as vm, Kind};

pub(crate) fn block(device: &Device, desc: &BlockDesc<'_>) -> Result<CudaBlock, Error> {
    let operation = "create_block";
    device.check(operation)?;
    let bytes = desc.bytes;
    let content = match device.place(desc.memory_type_index) {
        Place::Device => device_memory(device, bytes, operation)?,
        Place::Pinned | Place::Mapped => locked(device, bytes, operation)?,
        Place::Managed => managed(device, bytes, operation)?,
    };
    Ok(of(device, desc, content))
}

fn of(device: &Device, desc: &BlockDesc<'_>, content: Content) -> CudaBlock {
    CudaBlock { content, bytes: desc.bytes, ordinal: device.ordinal }
}

/// Whole physical pages are mapped behind addresses of their own, since what the driver's allocator gives makes whoever frees it wait
/// for all of the device's work.
fn device_memory(device: &Device, bytes: u64, operation: &'static str) -> Result<Content, Error> {
    let content = match device.physical {
        Some(kind) if bytes.is_multiple_of(device.properties.physical_page_bytes) => {
            whole(device, kind, bytes, operation)?
        }
        _ => {
            let address = device.call(operation, || sys::alloc(bytes));
            let address = address.map_err(|error| with_what_is_free(device, bytes, error))?;
            device.tell_sanitizer(|sanitizer| sanitizer.add_block(address, bytes));
            Content::Allocated { address }
        }
    };
    device.device_bytes.fetch_add(bytes, Ordering::Relaxed);
    Ok(content)
}

/// Adds to a refusal for want of memory what there was: other processes may have taken what the budget counts on.
fn with_what_is_free(device: &Device, bytes: u64, error: Error) -> Error {
    if error.kind() != ErrorKind::OutOfMemory {
        return error;
    }
    let Ok((free_bytes, total_bytes)) = device.call(error.operation(), sys::memory_info) else {
        return error;
    };
    let message = format!(
        "{} to {bytes} bytes; {free_bytes} of the device's {total_bytes} are free, and other processes may have the rest",
        error.message()
    );
    Error::new(error.kind(), error.operation(), message)
}

fn whole(device: &Device, kind: Kind, bytes: u64, operation: &'static str) -> Result<Content, Error> {
    let made = device.call(operation, || {
        let handle = kind.create(bytes)?;
        let address = vm::reserve(bytes).inspect_err(|_| {
            // SAFETY: it has just been made, and nobody has been given it.
            let _ = unsafe { vm::release(handle) };
        })?;
        // SAFETY: the addresses have just been reserved, so many as the memory has bytes.
        let mapped = unsafe { map_at(device, address, bytes, handle) };
        mapped.inspect_err(|_| {
            // SAFETY: nothing is mapped there, and nobody has been given either.
            let _ = unsafe { vm::unreserve(address, bytes) };
            // SAFETY: as above.
            let _ = unsafe { vm::release(handle) };
        })?;
        Ok(Content::Whole { address, handle })
    });
    made.map_err(|error| with_what_is_free(device, bytes, error))
}

fn locked(device: &Device, bytes: u64, operation: &'static str) -> Result<Content, Error> {
    let (start, address) = device.call(operation, || {
        let start = sys::host_alloc(bytes)?;
        let address = sys::device_pointer(start).inspect_err(|_| {
            // SAFETY: it has just been allocated, and nobody has been given it.
            let _ = unsafe { sys::host_free(start) };
        })?;
        Ok((start, address))
    })?;
    // The driver gives memory that the system has cleared, whose bytes are initialised.
    let host = HostAddress(NonNull::new(start).expect("the driver answers an address"));
    Ok(Content::Locked { host, address })
}

fn managed(device: &Device, bytes: u64, operation: &'static str) -> Result<Content, Error> {
    let UnifiedMemory::Managed { bytes_max } = device.options.unified else {
        unreachable!("there is no managed memory type without the option");
    };
    let has_room = |taken: u64| taken.checked_add(bytes).filter(|&all| all <= bytes_max.get());
    let charged = device.managed_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, has_room);
    if let Err(taken) = charged {
        let message = format!(
            "{bytes} bytes of managed memory asked for; {taken} of {bytes_max} that CudaOptions::unified allows are taken; \
             free some, or allow more"
        );
        return Err(Error::new(ErrorKind::OutOfMemory, operation, message));
    }
    let address = device.call(operation, || sys::alloc_managed(bytes)).inspect_err(|_| {
        device.managed_bytes.fetch_sub(bytes, Ordering::Relaxed);
    })?;
    let start = NonNull::new(std::ptr::with_exposed_provenance_mut(address as usize));
    Ok(Content::Managed { host: HostAddress(start.expect("the driver answers an address")) })
}

pub(crate) fn import(device: &Device, memory: HostMemory) -> Result<CudaBlock, ImportError> {
    let operation = "import_block";
    let (start, bytes) = (memory.start().as_ptr(), memory.bytes());
    let lock = || {
        device.check(operation)?;
        device.call(operation, || {
            // SAFETY: the memory's owner keeps it mapped and writable until the block is destroyed.
            unsafe { sys::host_register(start, bytes) }?;
            sys::device_pointer(start).inspect_err(|_| {
                // SAFETY: it has just been registered, and no device knows of it.
                let _ = unsafe { sys::host_unregister(start) };
            })
        })
    };
    match lock() {
        Ok(address) => {
            let content = Content::Imported { memory, address };
            Ok(CudaBlock { content, bytes, ordinal: device.ordinal })
        }
        Err(error) => Err(ImportError { memory, error }),
    }
}

pub(crate) fn import_device(
    device: &Device,
    memory: DeviceMemory,
) -> Result<CudaBlock, ImportError<DeviceMemory>> {
    let bytes = memory.bytes();
    match check_device_memory(device, &memory) {
        Ok(()) => {
            let content = Content::ImportedDevice { memory, context: Arc::clone(&device.context) };
            Ok(CudaBlock { content, bytes, ordinal: device.ordinal })
        }
        Err(error) => Err(ImportError { memory, error }),
    }
}

/// That its first and its last byte are memory of the device. (What lies between may be several allocations: mapped ones have no common
/// extent.)
fn check_device_memory(device: &Device, memory: &DeviceMemory) -> Result<(), Error> {
    let operation = "import_device_block";
    device.check(operation)?;
    let refuse = |message| Err(Error::new(ErrorKind::InvalidArgument, operation, message));
    for address in [memory.address(), memory.address() + (memory.bytes() - 1)] {
        match device.call(operation, || sys::whose(address))? {
            Whose::Device(ordinal) if ordinal == device.ordinal => {}
            Whose::Device(ordinal) => {
                return refuse(format!(
                    "{address:#x} is memory of device {ordinal}, not of device {}",
                    device.ordinal
                ));
            }
            Whose::Host => {
                return refuse(format!("{address:#x} is memory of the host; import it as such"));
            }
            Whose::Unknown => {
                return refuse(format!(
                    "the driver knows no memory at {address:#x}, of {} bytes from {:#x}",
                    memory.bytes(),
                    memory.address()
                ));
            }
        }
    }
    Ok(())
}

pub(crate) fn sparse(device: &Device, desc: &BlockDesc<'_>) -> Result<CudaBlock, Error> {
    let operation = "create_sparse_block";
    kind_of(device, desc, operation)?;
    let address = device.call(operation, || vm::reserve(desc.bytes))?;
    Ok(of(device, desc, Content::Sparse { address }))
}

pub(crate) fn physical(device: &Device, desc: &BlockDesc<'_>) -> Result<CudaBlock, Error> {
    let operation = "create_physical_block";
    let kind = kind_of(device, desc, operation)?;
    let handle = device.call(operation, || kind.create(desc.bytes));
    let handle = handle.map_err(|error| with_what_is_free(device, desc.bytes, error))?;
    device.device_bytes.fetch_add(desc.bytes, Ordering::Relaxed);
    Ok(of(device, desc, Content::Physical { handle }))
}

fn kind_of(device: &Device, desc: &BlockDesc<'_>, operation: &'static str) -> Result<Kind, Error> {
    device.check(operation)?;
    let kind = device.physical.filter(|_| device.place(desc.memory_type_index) == Place::Device);
    kind.ok_or_else(|| {
        let message = format!("memory type {} of the cuda backend cannot be sparse", desc.memory_type_index);
        Error::new(ErrorKind::Unsupported, operation, message)
    })
}

/// # Safety
///
/// - As for [`Backend::map`](aquifer_backend::Backend::map).
pub(crate) unsafe fn map(
    device: &Device,
    sparse: BlockRange<'_, CudaBlock>,
    physical: &CudaBlock,
) -> Result<(), Error> {
    device.check("map")?;
    let (&Content::Sparse { address }, &Content::Physical { handle }) =
        (&sparse.block.content, &physical.content)
    else {
        unreachable!("the core maps a physical block behind a sparse one");
    };
    // SAFETY: the caller vouches for it.
    device.call("map", || unsafe { map_at(device, address + sparse.offset, sparse.bytes, handle) })
}

/// Maps, lets all devices use it that are to, and notes it. In the device's context.
///
/// # Safety
///
/// - The addresses are reserved, with nothing mapped; the handle is alive and of that many bytes.
unsafe fn map_at(device: &Device, address: u64, bytes: u64, handle: u64) -> Result<(), Code> {
    let mut mapped = device.mapped.lock();
    let mut ordinals = vec![device.ordinal];
    ordinals.extend(&mapped.peers);
    // SAFETY: the caller vouches for it.
    unsafe { vm::map(address, bytes, handle) }?;
    vm::allow(address, bytes, &ordinals).inspect_err(|_| {
        // SAFETY: it has just been mapped, and nobody uses it.
        let _ = unsafe { vm::unmap(address, bytes) };
    })?;
    mapped.extents.insert(address, bytes);
    Ok(())
}

/// # Safety
///
/// - As for [`Backend::unmap`](aquifer_backend::Backend::unmap).
pub(crate) unsafe fn unmap(device: &Device, sparse: BlockRange<'_, CudaBlock>) -> Result<(), Error> {
    device.check("unmap")?;
    let address = sparse.block.address().expect("a sparse block has addresses") + sparse.offset;
    // SAFETY: the caller vouches for it.
    device.call("unmap", || unsafe { unmap_at(device, address, sparse.bytes) })
}

/// In the device's context.
///
/// # Safety
///
/// - The range is one of [`map_at`], and nobody uses it.
unsafe fn unmap_at(device: &Device, address: u64, bytes: u64) -> Result<(), Code> {
    let mut mapped = device.mapped.lock();
    // SAFETY: the caller vouches for it.
    unsafe { vm::unmap(address, bytes) }?;
    mapped.extents.remove(&address);
    Ok(())
}

/// # Safety
///
/// - As for [`Backend::destroy_block`](aquifer_backend::Backend::destroy_block).
pub(crate) unsafe fn destroy(device: &Device, block: CudaBlock) -> Result<(), DestroyError<CudaBlock>> {
    let operation = "destroy_block";
    // SAFETY: the caller vouches that nobody uses it.
    let answer = unsafe { give_back(device, &block, operation) };
    if let Err(error) = answer {
        return Err(DestroyError { block, error });
    }
    match block.content {
        Content::Allocated { .. } | Content::Whole { .. } | Content::Physical { .. } => {
            device.device_bytes.fetch_sub(block.bytes, Ordering::Relaxed);
        }
        Content::Managed { .. } => {
            device.managed_bytes.fetch_sub(block.bytes, Ordering::Relaxed);
        }
        Content::Sparse { .. }
        | Content::Locked { .. }
        | Content::Imported { .. }
        | Content::ImportedDevice { .. } => {}
    }
    Ok(())
}

/// # Safety
///
/// - Nobody uses the block, now or later, if the answer is that it has been given back.
unsafe fn give_back(device: &Device, block: &CudaBlock, operation: &'static str) -> Result<(), Error> {
    let bytes = block.bytes;
    match &block.content {
        &Content::Allocated { address } => {
            device.tell_sanitizer(|sanitizer| sanitizer.remove_block(address));
            // SAFETY: the caller vouches for it, here and below.
            let freed = device.call(operation, || unsafe { sys::free(address) });
            if freed.is_err() {
                device.tell_sanitizer(|sanitizer| sanitizer.add_block(address, bytes));
            }
            freed
        }
        &Content::Whole { address, handle } => device.call(operation, || {
            if device.mapped.lock().extents.contains_key(&address) {
                // SAFETY: it was mapped when the block was made, and nobody uses it.
                unsafe { unmap_at(device, address, bytes) }?;
            }
            // From here on the block is of no use, so it is not given back to the core whatever the driver says.
            // SAFETY: as above.
            let _ = unsafe { vm::release(handle) };
            // SAFETY: nothing is mapped there any more.
            let _ = unsafe { vm::unreserve(address, bytes) };
            Ok(())
        }),
        &Content::Sparse { address } => device.call(operation, || {
            let inside: Vec<_> = device
                .mapped
                .lock()
                .extents
                .range(address..address + bytes)
                .map(|(&at, &len)| (at, len))
                .collect();
            for (at, len) in inside {
                // SAFETY: it lies behind the block, which nobody uses.
                unsafe { unmap_at(device, at, len) }?;
            }
            // SAFETY: nothing is mapped there.
            unsafe { vm::unreserve(address, bytes) }
        }),
        // SAFETY: as above.
        &Content::Physical { handle } => device.call(operation, || unsafe { vm::release(handle) }),
        // SAFETY: as above.
        Content::Locked { host, .. } => device.call(operation, || unsafe { sys::host_free(host.0.as_ptr()) }),
        Content::Managed { host } => {
            let address = host.0.addr().get() as u64;
            // SAFETY: as above.
            device.call(operation, || unsafe { sys::free(address) })
        }
        // Its owner's, who is dropped with the block.
        Content::ImportedDevice { .. } => Ok(()),
        Content::Imported { memory, .. } => {
            let start = memory.start().as_ptr();
            // SAFETY: as above.
            device.call(operation, || unsafe { sys::host_unregister(start) })
        }
    }
}
