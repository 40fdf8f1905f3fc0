//! Addresses and memory apart: reservations, handles, mappings.

#![allow(non_snake_case)]

use crate::abi::{AccessDesc, Address, AllocationProp, Answer, Code, Handle, In, Location, Out};
use crate::context::contexts_of;
use crate::driver::{Driver, next_handle};
use crate::faults::enter;
use crate::pages::Pages;
use crate::space::{HostPointer, Kind, Memory, Physical, Region, Space};
use std::ffi::{c_int, c_uint, c_ulonglong, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// `CU_MEM_ALLOCATION_TYPE_PINNED` and `CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR`: all that there is.
const PINNED: c_uint = 1;
const FILE_DESCRIPTOR: c_uint = 1;

/// The ordinal of the device that the memory is to be of.
fn check_prop(driver: &Driver, prop: In<AllocationProp>) -> Answer<AllocationProp> {
    let prop = prop.get()?;
    if prop.kind != PINNED || prop.handle_types & !FILE_DESCRIPTOR != 0 || prop.reserved != [0; 4] {
        return Err(Code::INVALID_VALUE);
    }
    if prop.location.kind != Location::DEVICE {
        return Err(Code::NOT_SUPPORTED);
    }
    driver.device(prop.location.id)?;
    Ok(prop)
}

/// Not zero, and a multiple of the granularity, each of them.
fn check_granular(driver: &Driver, values: [u64; 2]) -> Answer {
    let are_whole =
        values.iter().all(|value| *value != 0 && value.is_multiple_of(driver.settings.granularity));
    if are_whole { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetAllocationGranularity(
    granularity: Out<usize>,
    prop: In<AllocationProp>,
    option: c_uint,
) -> c_int {
    enter("cuMemGetAllocationGranularity", |driver| {
        check_prop(driver, prop)?;
        if option > 1 {
            return Err(Code::INVALID_VALUE);
        }
        granularity.put(driver.settings.granularity as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemCreate(
    handle: Out<Handle>,
    len: usize,
    prop: In<AllocationProp>,
    flags: c_ulonglong,
) -> c_int {
    enter("cuMemCreate", |driver| {
        handle.check()?;
        let prop = check_prop(driver, prop)?;
        let granularity = driver.settings.granularity;
        check_granular(driver, [len as u64, granularity])?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let device = driver.device(prop.location.id)?;
        let charge = device.charge(len as u64)?;
        let pages = Pages::memory(len).ok_or(Code::OUT_OF_MEMORY)?;
        let physical = Physical {
            references: 1,
            mappings: 0,
            device: device.ordinal,
            len: len as u64,
            handle_types: prop.handle_types,
            is_rdma_capable: prop.rdma != 0,
            memory: Arc::new(Memory { pages, _charge: Some(charge) }),
        };
        let new = next_handle();
        driver.space.lock().handles.insert(new, physical);
        handle.put(new)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemRelease(handle: Handle) -> c_int {
    enter("cuMemRelease", |driver| {
        let mut space = driver.space.lock();
        let physical = space.handles.get_mut(&handle).filter(|physical| physical.references > 0);
        physical.ok_or(Code::INVALID_VALUE)?.references -= 1;
        forget_unused(&mut space, handle);
        Ok(())
    })
}

/// Physical memory goes when there is neither a reference nor a mapping.
fn forget_unused(space: &mut Space, handle: Handle) {
    let is_unused = |physical: &Physical| physical.references == 0 && physical.mappings == 0;
    if space.handles.get(&handle).is_some_and(is_unused) {
        space.handles.remove(&handle);
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemRetainAllocationHandle(handle: Out<Handle>, address: Address) -> c_int {
    enter("cuMemRetainAllocationHandle", |driver| {
        handle.check()?;
        let mut space = driver.space.lock();
        let mapping = space.at(address).filter(|region| region.kind == Kind::Mapping);
        let physical = mapping.ok_or(Code::INVALID_VALUE)?.physical;
        space.handles.get_mut(&physical).ok_or(Code::INVALID_VALUE)?.references += 1;
        handle.put(physical)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAddressReserve(
    address: Out<Address>,
    len: usize,
    align: usize,
    near: Address,
    flags: c_ulonglong,
) -> c_int {
    enter("cuMemAddressReserve", |driver| {
        address.check()?;
        let granularity = driver.settings.granularity;
        check_granular(driver, [len as u64, granularity])?;
        if flags != 0 || (align != 0 && !align.is_power_of_two()) {
            return Err(Code::INVALID_VALUE);
        }
        let align = align.max(granularity as usize);
        let addresses = Pages::addresses(len, align, near).ok_or(Code::OUT_OF_MEMORY)?;
        let start = addresses.base().addr() as Address;
        let reservation = crate::space::Reservation { len: len as u64, _addresses: addresses };
        driver.space.lock().reservations.insert(start, reservation);
        address.put(start)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAddressFree(address: Address, len: usize) -> c_int {
    enter("cuMemAddressFree", |driver| {
        let mut space = driver.space.lock();
        let is_whole = space.reservations.get(&address).is_some_and(|there| there.len == len as u64);
        if !is_whole || space.within(address, len as u64).next().is_some() {
            return Err(Code::INVALID_VALUE);
        }
        space.reservations.remove(&address);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemMap(
    address: Address,
    len: usize,
    offset: usize,
    handle: Handle,
    flags: c_ulonglong,
) -> c_int {
    enter("cuMemMap", |driver| {
        let len = len as u64;
        check_granular(driver, [address, len])?;
        if flags != 0 || offset != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let mut space = driver.space.lock();
        let physical = space.handles.get(&handle).filter(|physical| physical.references > 0);
        let physical = physical.ok_or(Code::INVALID_VALUE)?;
        if len > physical.len {
            return Err(Code::NOT_SUPPORTED);
        }
        let is_free =
            space.reservation(address, len).is_some() && space.within(address, len).next().is_none();
        if !is_free {
            return Err(Code::INVALID_VALUE);
        }
        let mapping = Region {
            kind: Kind::Mapping,
            start: address,
            len,
            device: physical.device,
            context: None,
            physical: handle,
            access: driver.devices.iter().map(|_| AtomicU8::new(0)).collect(),
            host: HostPointer(physical.memory.pages.base()),
            id: handle,
            is_ending: AtomicBool::new(false),
            _memory: Some(Arc::clone(&physical.memory)),
            _addresses: None,
        };
        space.insert(mapping);
        if let Some(physical) = space.handles.get_mut(&handle) {
            physical.mappings += 1;
        }
        Ok(())
    })
}

/// The mappings that a range is made of, without gaps and each whole.
fn whole_mappings(space: &Space, address: Address, len: u64) -> Answer<Vec<Arc<Region>>> {
    let mappings: Vec<_> = space.within(address, len).cloned().collect();
    let end = mappings.iter().try_fold(address, |at, mapping| {
        (mapping.kind == Kind::Mapping && mapping.start == at).then_some(at + mapping.len)
    });
    let is_whole = len > 0 && end.is_some() && end == address.checked_add(len);
    if is_whole { Ok(mappings) } else { Err(Code::INVALID_VALUE) }
}

#[unsafe(no_mangle)]
extern "C" fn cuMemUnmap(address: Address, len: usize) -> c_int {
    enter("cuMemUnmap", |driver| {
        let mut space = driver.space.lock();
        for mapping in whole_mappings(&space, address, len as u64)? {
            space.remove(mapping.start, &[Kind::Mapping]);
            // Whoever else holds it is work that runs now.
            if Arc::strong_count(&mapping) > 1 {
                eprintln!("software-cuda: cuMemUnmap at {:#x} while work uses what is there", mapping.start);
                contexts_of(driver, mapping.device).iter().for_each(|c| c.lose(Code::ILLEGAL_ADDRESS));
            }
            if let Some(physical) = space.handles.get_mut(&mapping.physical) {
                physical.mappings -= 1;
            }
            forget_unused(&mut space, mapping.physical);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemSetAccess(address: Address, len: usize, descs: In<AccessDesc>, count: usize) -> c_int {
    enter("cuMemSetAccess", |driver| {
        let space = driver.space.lock();
        let mappings = whole_mappings(&space, address, len as u64)?;
        let descs = (0..count).map(|i| descs.get_at(i)).collect::<Answer<Vec<_>>>()?;
        if descs.is_empty() {
            return Err(Code::INVALID_VALUE);
        }
        for desc in &descs {
            if desc.location.kind != Location::DEVICE {
                return Err(Code::NOT_SUPPORTED);
            }
            let device = driver.device(desc.location.id)?.ordinal;
            let is_far = mappings.iter().any(|mapping| mapping.device != device);
            if !matches!(desc.flags, 0 | 1 | 3) {
                return Err(Code::INVALID_VALUE);
            }
            if is_far && !driver.settings.peers {
                return Err(Code::INVALID_DEVICE);
            }
        }
        for desc in descs {
            let access = mappings.iter().map(|mapping| &mapping.access[desc.location.id as usize]);
            access.for_each(|access| access.store(desc.flags as u8, Ordering::SeqCst));
        }
        Ok(())
    })
}

/// Between processes nothing is shared here.
#[unsafe(no_mangle)]
extern "C" fn cuMemExportToShareableHandle(
    _shareable: *mut c_void,
    handle: Handle,
    handle_type: c_uint,
    _flags: c_ulonglong,
) -> c_int {
    enter("cuMemExportToShareableHandle", |driver| {
        let space = driver.space.lock();
        let physical = space.handles.get(&handle).ok_or(Code::INVALID_VALUE)?;
        Err(if physical.handle_types & handle_type == 0 { Code::INVALID_VALUE } else { Code::NOT_SUPPORTED })
    })
}
