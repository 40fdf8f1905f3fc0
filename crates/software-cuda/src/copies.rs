//! Copies and fills.

#![allow(non_snake_case)]

use crate::abi::{Address, Answer, Code, Handle};
use crate::context::{Context, current, find};
use crate::driver::Driver;
use crate::faults::enter;
use crate::space::HostPointer;
use crate::stream::{self, Stream};
use crate::work::{End, Work};
use std::ffi::c_int;
use std::sync::Arc;

/// Up to how many bytes the driver takes from pageable memory before it has come to the copy.
const STAGED_MAX: u64 = 64 << 10;

fn host(address: Address) -> HostPointer {
    HostPointer(std::ptr::with_exposed_provenance_mut(address as usize))
}

/// An end that the program said to be the device's.
fn device_end(driver: &Driver, address: Address, len: u64, context: &Arc<Context>) -> Answer<End> {
    if !driver.space.lock().is_device_range(address, len) {
        return Err(Code::INVALID_VALUE);
    }
    Ok(End::Known(address, Arc::clone(context)))
}

/// An end that may be anywhere: what is not the driver's is the host's.
fn any_end(driver: &Driver, address: Address, len: u64, context: &Arc<Context>) -> Answer<End> {
    if address == 0 {
        return Err(Code::INVALID_VALUE);
    }
    if driver.space.lock().is_pageable(address, len) {
        return Ok(End::Pageable(host(address)));
    }
    device_end(driver, address, len, context)
}

/// Enqueues a copy as the driver does: into pageable memory it has ended when the call returns, and from there the source has been read.
fn enqueue(context: &Context, stream: &Stream, to: End, mut from: End, len: u64) -> Answer {
    if let End::Pageable(pageable) = &from
        && len <= STAGED_MAX
    {
        // SAFETY: the program says that it has `len` bytes there.
        from = End::Staged(unsafe { std::slice::from_raw_parts(pageable.0, len as usize) }.to_vec());
    }
    let waits = [&to, &from].into_iter().any(|end| matches!(end, End::Pageable(_)));
    let number = stream.enqueue(Work::Copy { to, from, len });
    if !waits {
        return Ok(());
    }
    stream.wait_for(number);
    context.check()
}

/// Which ends a call says to be the host's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    HostToDevice,
    DeviceToHost,
    DeviceToDevice,
    Any,
}

fn copy(driver: &Driver, to: Address, from: Address, len: u64, stream: Handle, way: Way) -> Answer {
    let context = current(driver)?;
    let stream = stream::find(driver, &context, stream)?;
    if len == 0 {
        return Ok(());
    }
    let end = |address, is_host| {
        if is_host || way == Way::Any {
            any_end(driver, address, len, &context)
        } else {
            device_end(driver, address, len, &context)
        }
    };
    let to = end(to, way == Way::DeviceToHost)?;
    let from = end(from, way == Way::HostToDevice)?;
    enqueue(&context, &stream, to, from, len)
}

/// On the null stream, and waited for.
fn copy_and_wait(driver: &Driver, to: Address, from: Address, len: u64, way: Way) -> Answer {
    copy(driver, to, from, len, 0, way)?;
    let context = current(driver)?;
    let stream = stream::find(driver, &context, 0)?;
    stream.wait_for(stream.tail());
    context.check()
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoDAsync_v2(to: Address, from: Address, len: usize, stream: Handle) -> c_int {
    enter("cuMemcpyHtoDAsync_v2", |driver| copy(driver, to, from, len as u64, stream, Way::HostToDevice))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoHAsync_v2(to: Address, from: Address, len: usize, stream: Handle) -> c_int {
    enter("cuMemcpyDtoHAsync_v2", |driver| copy(driver, to, from, len as u64, stream, Way::DeviceToHost))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoDAsync_v2(to: Address, from: Address, len: usize, stream: Handle) -> c_int {
    enter("cuMemcpyDtoDAsync_v2", |driver| copy(driver, to, from, len as u64, stream, Way::DeviceToDevice))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyAsync(to: Address, from: Address, len: usize, stream: Handle) -> c_int {
    enter("cuMemcpyAsync", |driver| copy(driver, to, from, len as u64, stream, Way::Any))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyHtoD_v2(to: Address, from: Address, len: usize) -> c_int {
    enter("cuMemcpyHtoD_v2", |driver| copy_and_wait(driver, to, from, len as u64, Way::HostToDevice))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyDtoH_v2(to: Address, from: Address, len: usize) -> c_int {
    enter("cuMemcpyDtoH_v2", |driver| copy_and_wait(driver, to, from, len as u64, Way::DeviceToHost))
}

#[unsafe(no_mangle)]
extern "C" fn cuMemcpyPeerAsync(
    to: Address,
    to_context: Handle,
    from: Address,
    from_context: Handle,
    len: usize,
    stream: Handle,
) -> c_int {
    enter("cuMemcpyPeerAsync", |driver| {
        let context = current(driver)?;
        let stream = stream::find(driver, &context, stream)?;
        let (to_context, from_context) = (find(driver, to_context)?, find(driver, from_context)?);
        let len = len as u64;
        if len == 0 {
            return Ok(());
        }
        let to = device_end(driver, to, len, &to_context)?;
        let from = device_end(driver, from, len, &from_context)?;
        enqueue(&context, &stream, to, from, len)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuMemsetD8Async(to: Address, value: u8, len: usize, stream: Handle) -> c_int {
    enter("cuMemsetD8Async", |driver| {
        let context = current(driver)?;
        let stream = stream::find(driver, &context, stream)?;
        let len = len as u64;
        if len == 0 {
            return Ok(());
        }
        device_end(driver, to, len, &context)?;
        stream.enqueue(Work::Fill { at: to, value, len });
        Ok(())
    })
}
