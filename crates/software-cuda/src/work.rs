//! What streams do.

use crate::abi::{Address, Answer, Code, HostFn};
use crate::context::Context;
use crate::driver::driver;
use crate::events::Event;
use crate::faults::IN_HOST_FUNCTION;
use crate::space::{HostPointer, Kind, Span, Use};
use crate::stream::Stream;
use std::ffi::{c_uint, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// An end of a copy.
#[derive(Debug)]
pub(crate) enum End {
    /// Addresses of the driver's, as seen by a context.
    Known(Address, Arc<Context>),
    /// The host's own memory. The caller waits for the copy.
    Pageable(HostPointer),
    /// What was in the host's own memory when the call was made.
    Staged(Vec<u8>),
}

/// What a host function is called with. The program answers for what is behind it.
#[derive(Debug)]
pub(crate) struct UserData(pub(crate) *mut c_void);

// SAFETY: the pointer is not followed here, and whoever gives it to `cuLaunchHostFunc` expects it on another thread.
unsafe impl Send for UserData {}

#[derive(Debug)]
pub(crate) enum Work {
    Copy { to: End, from: End, len: u64 },
    Fill { at: Address, value: u8, len: u64 },
    Write { at: Address, value: u64 },
    Wait { at: Address, value: u64, how: c_uint },
    Call { function: HostFn, data: UserData },
    Record { event: Arc<Event>, number: u64 },
    Await { event: Arc<Event>, number: u64 },
    After { stream: Arc<Stream>, number: u64 },
    Free { start: Address },
}

impl Work {
    /// Does the work. In a lost context nothing but records is done, and memory freed. An error is one that loses the context.
    pub(crate) fn run(&self, context: &Context) -> Answer {
        if let Self::Record { event, number } = self {
            event.complete(*number);
            return Ok(());
        }
        if let Self::Free { start } = self {
            driver()?.space.lock().remove(*start, &[Kind::Pooled]);
            return Ok(());
        }
        if context.check().is_err() {
            return Ok(());
        }
        let outcome = self.run_whole(context);
        if let Err(code) = outcome {
            eprintln!("software-cuda: error {} ends context {:#x}: {self:x?}", code.0, context.handle);
        }
        outcome
    }

    pub(crate) fn waits_for_streams(&self) -> bool {
        matches!(self, Self::Await { .. } | Self::After { .. })
    }

    fn run_whole(&self, context: &Context) -> Answer {
        match self {
            Self::Copy { to, from, len } => {
                let from = from.spans(*len, Use::CopyFrom)?;
                let to = to.spans(*len, Use::CopyTo)?;
                copy(&to, &from);
            }
            Self::Fill { at, value, len } => fill(&resolve(*at, *len, context, Use::Direct)?, *value),
            Self::Write { at, value } => with_word(*at, context, |word| {
                word.store(*value, Ordering::SeqCst);
            })?,
            Self::Wait { at, value, how } => with_word(*at, context, |word| {
                wait_for(word, *value, *how, context);
            })?,
            Self::Call { function, data } => {
                IN_HOST_FUNCTION.set(true);
                if let Some(function) = function {
                    // SAFETY: the program gave this function and its argument to be called once, here.
                    unsafe { function(data.0) };
                }
                IN_HOST_FUNCTION.set(false);
            }
            Self::Await { event, number } => event.wait_unless_lost(*number, context),
            Self::After { stream, number } => stream.wait_unless_lost(*number, context),
            Self::Record { .. } | Self::Free { .. } => {}
        }
        Ok(())
    }
}

impl End {
    fn spans(&self, len: u64, what: Use) -> Answer<Vec<Span>> {
        match self {
            Self::Known(address, context) => resolve(*address, len, context, what),
            Self::Pageable(host) => Ok(vec![Span::foreign(*host, len)]),
            Self::Staged(bytes) => Ok(vec![Span::foreign(HostPointer(bytes.as_ptr().cast_mut()), len)]),
        }
    }
}

fn resolve(at: Address, len: u64, context: &Context, what: Use) -> Answer<Vec<Span>> {
    driver()?.space.lock().resolve(at, len, context, what)
}

/// Copies between two lists of spans of the same length together.
fn copy(to: &[Span], from: &[Span]) {
    let (mut to, mut from) = (to.iter(), from.iter());
    let (mut into, mut out) = (HostPointer(std::ptr::null_mut()), HostPointer(std::ptr::null_mut()));
    let (mut room, mut left) = (0_u64, 0_u64);
    loop {
        if room == 0 {
            let Some(span) = to.next() else { return };
            (into, room) = (span.host, span.len);
        }
        if left == 0 {
            let Some(span) = from.next() else { return };
            (out, left) = (span.host, span.len);
        }
        let len = room.min(left);
        // SAFETY: both are of spans, which keep the driver's memory alive; of the host's own memory the program answers that it is
        // there until the call returns. One memory may be behind both, hence no `copy_nonoverlapping`.
        unsafe { into.0.copy_from(out.0, len as usize) };
        into.0 = into.0.wrapping_add(len as usize);
        out.0 = out.0.wrapping_add(len as usize);
        room -= len;
        left -= len;
    }
}

fn fill(spans: &[Span], value: u8) {
    for span in spans {
        // SAFETY: the span keeps the memory alive, `len` bytes of it.
        unsafe { span.host.0.write_bytes(value, span.len as usize) };
    }
}

/// Lends the word at an address, which was found to be a multiple of 8.
fn with_word(at: Address, context: &Context, use_it: impl FnOnce(&AtomicU64)) -> Answer {
    let spans = resolve(at, 8, context, Use::Direct)?;
    let [span] = &*spans else { return Err(Code::ILLEGAL_ADDRESS) };
    // SAFETY: aligned, since what is not at its own address begins at multiples of 512 there and here; the span keeps it alive.
    // Programs that share it with work use atomic accesses.
    use_it(unsafe { AtomicU64::from_ptr(span.host.0.cast()) });
    Ok(())
}

/// Blocks until the word is as wanted, or the context is lost. Nothing rings when the host stores into a word, so this looks.
fn wait_for(word: &AtomicU64, value: u64, how: c_uint, context: &Context) {
    let is_met = |now: u64| match how {
        0 => now.wrapping_sub(value) as i64 >= 0,
        1 => now == value,
        2 => now & value != 0,
        _ => !(now | value) != 0,
    };
    let mut looks = 0;
    while !is_met(word.load(Ordering::SeqCst)) && context.check().is_ok() {
        looks += 1;
        if looks < 100 { std::hint::spin_loop() } else { std::thread::sleep(Duration::from_micros(20)) }
    }
}
