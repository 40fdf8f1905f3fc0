//! The calls about streams that move no bytes.

#![allow(non_snake_case)]

use crate::abi::{Address, Answer, Code, Handle, HostFn, Out};
use crate::context::{Context, current};
use crate::driver::Driver;
use crate::faults::enter;
use crate::stream::{self, Stream};
use crate::work::{UserData, Work};
use std::ffi::{c_int, c_uint, c_void};
use std::sync::Arc;

const NON_BLOCKING: c_uint = 1;

fn create(driver: &Driver, to: Out<Handle>, flags: c_uint) -> Answer {
    to.check()?;
    let context = current(driver)?;
    if flags & !NON_BLOCKING != 0 {
        return Err(Code::INVALID_VALUE);
    }
    let stream = Stream::start(&context, flags & NON_BLOCKING == 0)?;
    let handle = stream.handle;
    driver.streams.lock().insert(handle, stream);
    to.put(handle)
}

fn current_and(driver: &Driver, stream: Handle) -> Answer<(Arc<Context>, Arc<Stream>)> {
    let context = current(driver)?;
    let stream = stream::find(driver, &context, stream)?;
    Ok((context, stream))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamCreate(stream: Out<Handle>, flags: c_uint) -> c_int {
    enter("cuStreamCreate", |driver| create(driver, stream, flags))
}

/// All priorities are alike: CUDA makes them hints, and takes those out of range for the nearest in it.
#[unsafe(no_mangle)]
extern "C" fn cuStreamCreateWithPriority(stream: Out<Handle>, flags: c_uint, _priority: c_int) -> c_int {
    enter("cuStreamCreateWithPriority", |driver| create(driver, stream, flags))
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamDestroy_v2(stream: Handle) -> c_int {
    enter("cuStreamDestroy_v2", |driver| {
        let stream = driver.streams.lock().remove(&stream).ok_or(Code::INVALID_HANDLE)?;
        stream.close();
        stream.context.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamQuery(stream: Handle) -> c_int {
    enter("cuStreamQuery", |driver| {
        let (_, stream) = current_and(driver, stream)?;
        if stream.has_passed(stream.tail()) { Ok(()) } else { Err(Code::NOT_READY) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamSynchronize(stream: Handle) -> c_int {
    enter("cuStreamSynchronize", |driver| {
        let (context, stream) = current_and(driver, stream)?;
        stream.wait_for(stream.tail());
        context.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamIsCapturing(stream: Handle, status: Out<c_uint>) -> c_int {
    enter("cuStreamIsCapturing", |driver| {
        current_and(driver, stream)?;
        status.put(0)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamGetCtx(stream: Handle, context: Out<Handle>) -> c_int {
    enter("cuStreamGetCtx", |driver| {
        let (current, _) = current_and(driver, stream)?;
        context.put(current.handle)
    })
}

/// Checks what both operations on words want of the address.
fn check_word(driver: &Driver, address: Address) -> Answer {
    let is_word = address.is_multiple_of(8) && driver.space.lock().is_device_range(address, 8);
    if is_word { Ok(()) } else { Err(Code::INVALID_VALUE) }
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWriteValue64_v2(stream: Handle, address: Address, value: u64, flags: c_uint) -> c_int {
    enter("cuStreamWriteValue64_v2", |driver| {
        let (_, stream) = current_and(driver, stream)?;
        check_word(driver, address)?;
        // Without a barrier it is as with one, which is allowed.
        if flags > 1 {
            return Err(Code::INVALID_VALUE);
        }
        stream.enqueue(Work::Write { at: address, value });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuStreamWaitValue64_v2(stream: Handle, address: Address, value: u64, flags: c_uint) -> c_int {
    const FLUSH: c_uint = 1 << 30;
    enter("cuStreamWaitValue64_v2", |driver| {
        let (_, stream) = current_and(driver, stream)?;
        check_word(driver, address)?;
        match flags {
            0..=3 => {}
            _ if flags & FLUSH != 0 => return Err(Code::NOT_SUPPORTED),
            _ => return Err(Code::INVALID_VALUE),
        }
        stream.enqueue(Work::Wait { at: address, value, how: flags });
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuLaunchHostFunc(stream: Handle, function: HostFn, data: *mut c_void) -> c_int {
    enter("cuLaunchHostFunc", |driver| {
        let (_, stream) = current_and(driver, stream)?;
        if function.is_none() {
            return Err(Code::INVALID_VALUE);
        }
        stream.enqueue(Work::Call { function, data: UserData(data) });
        Ok(())
    })
}
