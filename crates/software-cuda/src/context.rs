//! Contexts: primary ones and others, and which is current on a thread.

#![allow(non_snake_case)]

use crate::abi::{Answer, Code, Handle, Out};
use crate::devices::Device;
use crate::driver::{Driver, next_handle};
use crate::faults::enter;
use crate::stream::Stream;
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ffi::{c_int, c_uint};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) handle: Handle,
    pub(crate) device: usize,
    is_primary: bool,
    /// The error after which nothing works any more, or 0.
    lost: AtomicI32,
    /// All streams that have work or may get some: destroyed ones until they have ended.
    pub(crate) streams: Mutex<Vec<Arc<Stream>>>,
    pub(crate) null: Mutex<Option<Arc<Stream>>>,
    /// The contexts whose memory this one's device may use directly.
    pub(crate) peers: Mutex<BTreeSet<Handle>>,
}

/// The state of a device's primary context.
#[derive(Debug, Default)]
pub(crate) struct Primary {
    retained: u64,
    context: Option<Arc<Context>>,
}

/// A thread's contexts, the current one last. It needs no destructor, so that a thread that ends may still call.
#[derive(Clone, Copy, Debug)]
struct Stack {
    len: usize,
    contexts: [Handle; 16],
}

impl Stack {
    fn top(&self) -> Option<Handle> {
        self.len.checked_sub(1).map(|last| self.contexts[last])
    }

    fn push(&mut self, context: Handle) -> Answer {
        *self.contexts.get_mut(self.len).ok_or(Code::OUT_OF_MEMORY)? = context;
        self.len += 1;
        Ok(())
    }

    fn pop(&mut self) -> Option<Handle> {
        let top = self.top()?;
        self.len -= 1;
        Some(top)
    }
}

/// Changes the thread's contexts.
fn with_stack<T>(change: impl FnOnce(&mut Stack) -> T) -> T {
    let mut stack = STACK.get();
    let changed = change(&mut stack);
    STACK.set(stack);
    changed
}

thread_local! {
    static STACK: Cell<Stack> = const { Cell::new(Stack { len: 0, contexts: [0; 16] }) };
    static CAPTURE_MODE: Cell<c_uint> = const { Cell::new(0) };
}

impl Context {
    fn create(driver: &Driver, device: usize, is_primary: bool) -> Arc<Self> {
        let context = Arc::new(Self {
            handle: next_handle(),
            device,
            is_primary,
            lost: AtomicI32::new(0),
            streams: Mutex::default(),
            null: Mutex::default(),
            peers: Mutex::default(),
        });
        driver.contexts.lock().insert(context.handle, Arc::clone(&context));
        context
    }

    /// From now on all work and all calls end with `code`.
    pub(crate) fn lose(&self, code: Code) {
        let _ = self.lost.compare_exchange(0, code.0, Ordering::SeqCst, Ordering::SeqCst);
    }

    pub(crate) fn check(&self) -> Answer {
        match self.lost.load(Ordering::SeqCst) {
            0 => Ok(()),
            code => Err(Code(code)),
        }
    }

    pub(crate) fn reaches(&self, other: Option<Handle>) -> bool {
        other.is_some_and(|other| self.peers.lock().contains(&other))
    }

    /// Waits for all that is in the context's streams now.
    pub(crate) fn wait(&self) {
        let streams: Vec<_> = self.streams.lock().clone();
        streams.iter().for_each(|stream| stream.wait_for(stream.tail()));
    }

    /// Ends a context: its work first, then all that belongs to it.
    fn destroy(&self, driver: &Driver) {
        if driver.contexts.lock().remove(&self.handle).is_none() {
            return;
        }
        self.wait();
        driver.streams.lock().retain(|_, stream| stream.context.handle != self.handle);
        driver.events.lock().retain(|_, event| event.context.handle != self.handle);
        self.streams.lock().iter().for_each(|stream| stream.close());
        self.null.lock().take();
        driver.space.lock().remove_all_of(self.handle);
    }
}

/// The thread's current context, whole or lost.
fn current_or_lost(driver: &Driver) -> Answer<Arc<Context>> {
    let top = STACK.get().top().ok_or(Code::INVALID_CONTEXT)?;
    driver.contexts.lock().get(&top).cloned().ok_or(Code::CONTEXT_IS_DESTROYED)
}

/// The thread's current context. A lost one answers its error.
pub(crate) fn current(driver: &Driver) -> Answer<Arc<Context>> {
    let context = current_or_lost(driver)?;
    context.check()?;
    Ok(context)
}

/// All contexts of a device.
pub(crate) fn contexts_of(driver: &Driver, device: usize) -> Vec<Arc<Context>> {
    driver.contexts.lock().values().filter(|context| context.device == device).cloned().collect()
}

/// Waits for all work of a device.
pub(crate) fn wait_for_device(driver: &Driver, device: usize) {
    contexts_of(driver, device).iter().for_each(|context| context.wait());
}

pub(crate) fn find(driver: &Driver, context: Handle) -> Answer<Arc<Context>> {
    driver.contexts.lock().get(&context).cloned().ok_or(Code::INVALID_CONTEXT)
}

fn reset(driver: &Driver, device: &Device) {
    let context = device.primary.lock().context.take();
    if let Some(context) = context {
        context.destroy(driver);
    }
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRetain(context: Out<Handle>, device: c_int) -> c_int {
    enter("cuDevicePrimaryCtxRetain", |driver| {
        context.check()?;
        let device = driver.device(device)?;
        let mut primary = device.primary.lock();
        primary.retained += 1;
        let now = primary.context.get_or_insert_with(|| Context::create(driver, device.ordinal, true));
        context.put(now.handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxRelease_v2(device: c_int) -> c_int {
    enter("cuDevicePrimaryCtxRelease_v2", |driver| {
        let device = driver.device(device)?;
        let mut primary = device.primary.lock();
        primary.retained = primary.retained.checked_sub(1).ok_or(Code::INVALID_CONTEXT)?;
        let is_last = primary.retained == 0;
        drop(primary);
        if is_last {
            reset(driver, device);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxReset_v2(device: c_int) -> c_int {
    enter("cuDevicePrimaryCtxReset_v2", |driver| {
        reset(driver, driver.device(device)?);
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: Out<c_uint>, active: Out<c_int>) -> c_int {
    enter("cuDevicePrimaryCtxGetState", |driver| {
        let is_active = driver.device(device)?.primary.lock().context.is_some();
        flags.put(0)?;
        active.put(c_int::from(is_active))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxCreate_v2(context: Out<Handle>, _flags: c_uint, device: c_int) -> c_int {
    enter("cuCtxCreate_v2", |driver| {
        context.check()?;
        let new = Context::create(driver, driver.device(device)?.ordinal, false);
        with_stack(|stack| stack.push(new.handle))?;
        context.put(new.handle)
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxDestroy_v2(context: Handle) -> c_int {
    enter("cuCtxDestroy_v2", |driver| {
        let found = find(driver, context)?;
        if found.is_primary {
            return Err(Code::INVALID_CONTEXT);
        }
        found.destroy(driver);
        if STACK.get().top() == Some(context) {
            with_stack(Stack::pop);
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSetCurrent(context: Handle) -> c_int {
    enter("cuCtxSetCurrent", |driver| {
        if context != 0 {
            find(driver, context)?;
        }
        with_stack(|stack| {
            stack.pop();
            if context == 0 { Ok(()) } else { stack.push(context) }
        })
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetCurrent(context: Out<Handle>) -> c_int {
    enter("cuCtxGetCurrent", |_| context.put(STACK.get().top().unwrap_or_default()))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPushCurrent_v2(context: Handle) -> c_int {
    enter("cuCtxPushCurrent_v2", |driver| {
        find(driver, context)?;
        with_stack(|stack| stack.push(context))
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxPopCurrent_v2(context: Out<Handle>) -> c_int {
    enter("cuCtxPopCurrent_v2", |_| {
        let top = with_stack(Stack::pop).ok_or(Code::INVALID_CONTEXT)?;
        if context.is_null() { Ok(()) } else { context.put(top) }
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxGetDevice(device: Out<c_int>) -> c_int {
    enter("cuCtxGetDevice", |driver| device.put(current_or_lost(driver)?.device as c_int))
}

#[unsafe(no_mangle)]
extern "C" fn cuCtxSynchronize() -> c_int {
    enter("cuCtxSynchronize", |driver| {
        let context = current(driver)?;
        context.wait();
        context.check()
    })
}

#[unsafe(no_mangle)]
extern "C" fn cuThreadExchangeStreamCaptureMode(mode: Out<c_uint>) -> c_int {
    enter("cuThreadExchangeStreamCaptureMode", |_| {
        let new = mode.get()?;
        if new > 2 {
            return Err(Code::INVALID_VALUE);
        }
        mode.put(CAPTURE_MODE.replace(new))
    })
}
