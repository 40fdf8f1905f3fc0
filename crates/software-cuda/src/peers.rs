//! Devices that reach each other's memory.

#![allow(non_snake_case)]

use crate::abi::{Code, Handle, Out};
use crate::context::{current, find};
use crate::faults::enter;
use std::ffi::{c_int, c_uint};

#[unsafe(no_mangle)]
extern "C" fn cuDeviceCanAccessPeer(can: Out<c_int>, device: c_int, peer: c_int) -> c_int {
    enter("cuDeviceCanAccessPeer", |driver| {
        let (device, peer) = (driver.device(device)?, driver.device(peer)?);
        can.put(c_int::from(driver.settings.peers && device.ordinal != peer.ordinal))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxEnablePeerAccess(peer: Handle, flags: c_uint) -> c_int {
    enter("cuCtxEnablePeerAccess", |driver| {
        let context = current(driver)?;
        let peer = find(driver, peer)?;
        if flags != 0 {
            return Err(Code::INVALID_VALUE);
        }
        if peer.handle == context.handle {
            return Err(Code::INVALID_CONTEXT);
        }
        if peer.device == context.device || !driver.settings.peers {
            return Err(Code::PEER_ACCESS_UNSUPPORTED);
        }
        let is_new = context.peers.lock().insert(peer.handle);
        if is_new { Ok(()) } else { Err(Code::PEER_ACCESS_ALREADY_ENABLED) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDisablePeerAccess(peer: Handle) -> c_int {
    enter("cuCtxDisablePeerAccess", |driver| {
        let context = current(driver)?;
        let peer = find(driver, peer)?;
        let was_there = context.peers.lock().remove(&peer.handle);
        if was_there { Ok(()) } else { Err(Code::PEER_ACCESS_NOT_ENABLED) }
    })
}
