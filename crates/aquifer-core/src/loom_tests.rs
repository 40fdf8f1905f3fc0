//! Models: loom runs a few threads through every order that their atomics and locks allow.
//!
//! The others are beside what they check (every module called `loom_tests`); `ci/loom` runs all of them. Tables are
//! small under loom ([`crate::sync::table_size`]): two classes, four places a class in a cache and two in the depot.
//!
//! # What a model that passes says
//!
//! In no order of at most so many preemptions (each model says how many; `LOOM_MAX_PREEMPTIONS` raises it) is there a
//! panic, a deadlock, or a use of a [`loom::cell::UnsafeCell`] that another use does not happen before. It says less
//! than it seems to:
//!
//! - Relaxed loads may read old values, but never values that are stored later (no load buffering).
//! - Fences of `SeqCst` are modelled; loads and stores of `SeqCst` only as acquire and release. The core has none.
//! - The light fence is a full fence here. That the system's heavy fence is as good as one in every thread is taken on
//!   trust.
//! - At most five threads, and of each atomic the last seven values.
//!
//! # Times
//!
//! Beside each model: how many runs it took and how long, on one core, built as `ci/loom` builds it.

mod backend;
pub(crate) mod device;
mod manager;
mod waiting;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Instant;

/// Runs `model` in every order of at most `preemptions` preemptions, and says how many there were. A panic ends the
/// process: to unwind would drop what belongs to the model outside of it, and bury the message under others.
pub(crate) fn explore(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            print(panic);
            std::process::exit(101);
        }));
    });
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound.get_or_insert(preemptions);
    builder.max_branches = 100_000;
    let (start, runs) = (Instant::now(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&runs);
    builder.check(move || {
        counted.fetch_add(1, Ordering::Relaxed);
        model();
    });
    eprintln!("{} runs in {:.1} s", runs.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
}
