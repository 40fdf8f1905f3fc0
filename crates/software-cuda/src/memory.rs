//! Memory that is allocated whole: of the device, managed, and of the host.

#![allow(non_snake_case)]

use crate::abi::{Address, Answer, Code, Handle, Out};
use crate::context::{Context, current, wait_for_device};
use crate::devices::Charge;
use crate::driver::{Driver, next_handle};
use crate::faults::enter;
use crate::pages::{Pages, is_mapped};
use crate::space::{HostPointer, Kind, Memory, Region};
use crate::stream;
use crate::work::Work;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What addresses and sizes of blocks are multiples of, in bytes. Small blocks start no better than this.
const GRAIN: u64 = 512;
/// From this size on blocks start at its multiples.
const LARGE: u64 = 2 << 20;
const PAGE: u64 = 4096;

/// Memory and, if it is not the host's too, addresses for it.
fn region(context: &Context, kind: Kind, len: u64, charge: Option<Charge>) -> Answer<Region> {
    let host_len = usize::try_from(len).map_err(|_| Code::OUT_OF_MEMORY)?;
    let pages = Pages::memory(host_len).ok_or(Code::OUT_OF_MEMORY)?;
    let host = pages.base();
    let (start, addresses) = if matches!(kind, Kind::Block | Kind::Pooled) {
        let (align, shift) = if len >= LARGE { (LARGE, 0) } else { (PAGE, GRAIN) };
        let room = len.checked_add(shift).ok_or(Code::OUT_OF_MEMORY)? as usize;
        let addresses = Pages::addresses(room, align as usize, 0).ok_or(Code::OUT_OF_MEMORY)?;
        (addresses.base().addr() as Address + shift, Some(addresses))
    } else {
        (host.expose_provenance() as Address, None)
    };
    Ok(Region {
        kind,
        start,
        len,
        device: context.device,
        context: Some(context.handle),
        physical: 0,
        access: Box::default(),
        host: HostPointer(host),
        id: next_handle(),
        is_ending: AtomicBool::new(false),
        _memory: Some(Arc::new(Memory { pages, _charge: charge })),
        _addresses: addresses,
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) -> c_int {
    enter("cuMemGetInfo_v2", |driver| {
        let device = &driver.devices[current(driver)?.device];
        free.put(device.free() as usize)?;
        total.put(device.total() as usize)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAlloc_v2(address: Out<Address>, len: usize) -> c_int {
    enter("cuMemAlloc_v2", |driver| {
        address.check()?;
        let context = current(driver)?;
        alloc(driver, &context, Kind::Block, address, len)
    })
}

fn alloc(driver: &'static Driver, context: &Context, kind: Kind, to: Out<Address>, len: usize) -> Answer {
    if len == 0 {
        return Err(Code::INVALID_VALUE);
    }
    let whole = (len as u64).checked_next_multiple_of(GRAIN).ok_or(Code::OUT_OF_MEMORY)?;
    let charge = driver.devices[context.device].charge(whole)?;
    let block = region(context, kind, len as u64, Some(charge))?;
    let start = block.start;
    driver.space.lock().insert(block);
    to.put(start)
}

/// The memory is there at once, which is earlier than the stream's work is entitled to it. Pools keep nothing.
#[unsafe(no_mangle)]
extern "C" fn cuMemAllocAsync(address: Out<Address>, len: usize, stream: Handle) -> c_int {
    enter("cuMemAllocAsync", |driver| {
        address.check()?;
        let context = current(driver)?;
        stream::find(driver, &context, stream)?;
        alloc(driver, &context, Kind::Pooled, address, len)
    })
}

/// The memory goes when the stream has come to it. From now on nobody else may free it.
#[unsafe(no_mangle)]
extern "C" fn cuMemFreeAsync(address: Address, stream: Handle) -> c_int {
    enter("cuMemFreeAsync", |driver| {
        let context = current(driver)?;
        let stream = stream::find(driver, &context, stream)?;
        {
            let space = driver.space.lock();
            let region =
                space.at(address).filter(|region| region.start == address && region.kind == Kind::Pooled);
            if region.ok_or(Code::INVALID_VALUE)?.is_ending.swap(true, Ordering::SeqCst) {
                return Err(Code::INVALID_VALUE);
            }
        }
        stream.enqueue(Work::Free { start: address });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemAllocManaged(address: Out<Address>, len: usize, flags: c_uint) -> c_int {
    enter("cuMemAllocManaged", |driver| {
        address.check()?;
        let context = current(driver)?;
        // Attached to all, or to the host.
        if len == 0 || !matches!(flags, 1 | 2) {
            return Err(Code::INVALID_VALUE);
        }
        let block = region(&context, Kind::Managed, len as u64, None)?;
        let start = block.start;
        driver.space.lock().insert(block);
        address.put(start)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFree_v2(address: Address) -> c_int {
    enter("cuMemFree_v2", |driver| {
        let context = current(driver)?;
        free(driver, &context, address, &[Kind::Block, Kind::Pooled, Kind::Managed], Code::INVALID_VALUE)
    })
}

/// Waits for all work of the region's device, as the driver does, and ends the region.
fn free(driver: &Driver, context: &Context, start: Address, kinds: &[Kind], unknown: Code) -> Answer {
    let device = {
        let space = driver.space.lock();
        let region = space.at(start).filter(|region| region.start == start && kinds.contains(&region.kind));
        let region = region.filter(|region| !region.is_ending.load(Ordering::SeqCst));
        region.ok_or(unknown)?.device
    };
    wait_for_device(driver, device);
    context.check()?;
    let region = driver.space.lock().remove(start, kinds);
    region.map(drop).ok_or(unknown)
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostAlloc(pointer: Out<Address>, len: usize, flags: c_uint) -> c_int {
    enter("cuMemHostAlloc", |driver| {
        pointer.check()?;
        let context = current(driver)?;
        // Portable, mapped, write-combined: with unified addresses all is portable and mapped.
        if len == 0 || flags & !7 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        let pinned = region(&context, Kind::Pinned, len as u64, None)?;
        let start = pinned.start;
        driver.space.lock().insert(pinned);
        pointer.put(start)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemFreeHost(pointer: Address) -> c_int {
    enter("cuMemFreeHost", |driver| {
        let context = current(driver)?;
        free(driver, &context, pointer, &[Kind::Pinned], Code::INVALID_VALUE)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostGetDevicePointer_v2(address: Out<Address>, pointer: Address, flags: c_uint) -> c_int {
    enter("cuMemHostGetDevicePointer_v2", |driver| {
        current(driver)?;
        let space = driver.space.lock();
        let region =
            space.at(pointer).filter(|region| matches!(region.kind, Kind::Pinned | Kind::Registered));
        if flags != 0 || region.is_none() {
            return Err(Code::INVALID_VALUE);
        }
        address.put(pointer)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostRegister_v2(pointer: *mut c_void, len: usize, flags: c_uint) -> c_int {
    const IO_MEMORY: c_uint = 4;
    enter("cuMemHostRegister_v2", |driver| {
        let context = current(driver)?;
        let start = pointer.expose_provenance() as Address;
        if start == 0 || len == 0 || flags & !15 != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if flags & IO_MEMORY != 0 {
            return Err(Code::NOT_SUPPORTED);
        }
        // Pages are locked whole: no two ranges share one.
        let first = start - start % PAGE;
        let end = start.checked_add(len as u64).and_then(|end| end.checked_next_multiple_of(PAGE));
        let pages = end.ok_or(Code::INVALID_VALUE)? - first;
        let mut space = driver.space.lock();
        if !space.is_pageable(first, pages) {
            return Err(Code::HOST_MEMORY_ALREADY_REGISTERED);
        }
        if !is_mapped(first, pages) {
            return Err(Code::INVALID_VALUE);
        }
        space.insert(Region {
            kind: Kind::Registered,
            start,
            len: len as u64,
            device: context.device,
            context: Some(context.handle),
            physical: 0,
            access: Box::default(),
            host: HostPointer(pointer.cast()),
            id: next_handle(),
            is_ending: AtomicBool::new(false),
            _memory: None,
            _addresses: None,
        });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemHostUnregister(pointer: Address) -> c_int {
    enter("cuMemHostUnregister", |driver| {
        let context = current(driver)?;
        free(driver, &context, pointer, &[Kind::Registered], Code::HOST_MEMORY_NOT_REGISTERED)
    })
}
