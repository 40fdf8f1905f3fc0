//! A small libdispatch: the functions that dispatch2 needs for serial and global queues, and for sources that tell of
//! memory pressure.
//!
//! # Design notes
//!
//! - **Queues and sources are Objective-C objects**, of classes of libdispatch's names, so `dispatch_retain` and
//!   `objc_retain` are the same, and over-release and use after the last release are found as for any object.
//! - **A serial queue has a thread only while it has work.** The thread holds the queue, runs what there is in order,
//!   each piece in an autorelease pool of its own, and ends. Nothing is left behind by a queue that is released.
//! - **A global queue runs each piece of work on a new thread.** Suspending it has no effect, as in libdispatch.
//! - **`dispatch_sync` runs the work on the calling thread**, when the queue's turn has come. On the queue that it is
//!   called from it panics, where libdispatch deadlocks or traps.
//! - **A panic in submitted work ends the process**, for libdispatch can't unwind.
//! - **A source delivers nothing before it is activated**; memory pressure from before is not told later. While it is
//!   suspended, or while its handler waits or runs, events are OR-ed into one that is delivered afterwards. Handlers of
//!   one source never run at the same time, on a global queue neither.
//! - **Cancelling** is final: no event handler starts afterwards, the cancel handler runs once after one that is
//!   running, and then both handlers are released. A source that is inactive or suspended does this when it no longer
//!   is. The last release of a source that was not cancelled drops the handlers without calling any.
//! - **Released while suspended or inactive**, a queue or a source panics, where libdispatch traps. So do a resume too
//!   many, and an object of another kind than the function wants.
//! - **An event handler function gets the context that was set when the handler was set**, as documented; a cancel
//!   handler function, and the finalizer, the one at the time of the call. A finalizer runs on the target queue, and
//!   only when the context is not null.
//!
//! Missing, and so a link error for who uses it: concurrent queues, target queues of queues, queue attributes, the main
//! queue, barriers, `dispatch_after` and time, groups, semaphores, data, I/O, work loops, and all other sources.
//!
//! What tests have besides: [`raise_memory_pressure`], [`live_queues`], [`live_sources`], [`wait_until_idle`].

mod object;
mod queue;
mod source;
mod work;

pub use queue::live_queues;
pub use source::{MemoryPressure, live_sources, raise_memory_pressure};
pub use work::wait_until_idle;
