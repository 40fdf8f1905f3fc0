//! Contexts: what the driver's calls happen in.
//!
//! A thread has a current context, which is the program's business. Each call here makes the device's context current for as long as
//! the call takes, and leaves the thread as it was. It also lifts, for the thread, what the capture of a graph elsewhere forbids: without
//! that, a growing pool would spoil the capture of somebody who never meant it.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use aquifer_backend::Error;
use cudarc::driver::CudaContext;
use cudarc::driver::sys::{CUcontext, CUdevice, CUstreamCaptureMode};

use crate::status;
use crate::sys;

/// The context of a device, for as long as this lives.
pub(crate) struct Context {
    raw: CUcontext,
    owner: Owner,
    /// Where it was made: in a process that was forked from that one the driver must not be called.
    process: u32,
}

enum Owner {
    /// The device's primary one, which the runtime API and other libraries use too; given back at the end.
    Primary(CUdevice),
    /// The program's.
    Program { _context: Arc<CudaContext> },
    /// The program's, which vouches that it stays.
    Raw,
}

// SAFETY: a context is a handle, which any thread may make current.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("raw", &self.raw).finish_non_exhaustive()
    }
}

impl Context {
    fn new(raw: CUcontext, owner: Owner) -> Self {
        Self { raw, owner, process: std::process::id() }
    }

    /// The primary one.
    pub(crate) fn primary(device: CUdevice, operation: &'static str) -> Result<Self, Error> {
        let raw = sys::retain_primary_context(device).map_err(|code| status::error(operation, code))?;
        Ok(Self::new(raw, Owner::Primary(device)))
    }

    pub(crate) fn of_program(context: Arc<CudaContext>) -> Self {
        Self::new(context.cu_ctx(), Owner::Program { _context: context })
    }

    /// # Safety
    ///
    /// - The context lives for as long as this does.
    pub(crate) unsafe fn from_raw(raw: CUcontext) -> Self {
        Self::new(raw, Owner::Raw)
    }

    /// Whether the driver may be called for it.
    pub(crate) fn is_of_this_process(&self) -> bool {
        self.process == std::process::id()
    }

    pub(crate) fn raw(&self) -> CUcontext {
        self.raw
    }

    /// Makes the context current for this thread until the guard is dropped.
    pub(crate) fn enter(&self) -> Result<Current<'_>, sys::Code> {
        let is_pushed = sys::current_context()? != self.raw;
        if is_pushed {
            sys::push_context(self.raw)?;
        }
        let mode = sys::exchange_capture_mode(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED).ok();
        Ok(Current { is_pushed, mode, _context: PhantomData })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Owner::Primary(device) = self.owner
            && self.is_of_this_process()
        {
            // SAFETY: it was retained when this was made. An error says that the driver has gone before.
            let _ = unsafe { sys::release_primary_context(device) };
        }
    }
}

/// While it lives, its thread has the context. It stays on its thread.
#[derive(Debug)]
pub(crate) struct Current<'a> {
    is_pushed: bool,
    mode: Option<CUstreamCaptureMode>,
    _context: PhantomData<(&'a Context, *const ())>,
}

impl Drop for Current<'_> {
    fn drop(&mut self) {
        if let Some(mode) = self.mode {
            let _ = sys::exchange_capture_mode(mode);
        }
        if self.is_pushed {
            let _ = sys::pop_context();
        }
    }
}
