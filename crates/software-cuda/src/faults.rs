//! The door through which every call comes: it counts calls, and some fail because a test said so.

use crate::abi::{Answer, Code};
use crate::driver::{Driver, driver};
use parking_lot::Mutex;
use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::LazyLock;
use std::thread::ThreadId;

#[derive(Debug)]
struct Plan {
    function: String,
    /// How many calls go before.
    left: u64,
    code: Code,
    /// Whose calls count; `None`: everybody's.
    thread: Option<ThreadId>,
}

#[derive(Debug, Default)]
struct Books {
    calls: HashMap<&'static str, HashMap<ThreadId, u64>>,
    plans: Vec<Plan>,
}

static BOOKS: LazyLock<Mutex<Books>> = LazyLock::new(Mutex::default);

thread_local! {
    /// Whether this thread runs a function that a program gave to `cuLaunchHostFunc`.
    pub(crate) static IN_HOST_FUNCTION: Cell<bool> = const { Cell::new(false) };
}

fn this_thread(only: bool) -> Option<ThreadId> {
    only.then(|| std::thread::current().id())
}

/// The `nth` call of a function from now answers `code` and does nothing else, 0 being the next.
pub(crate) fn fail(function: &str, nth: u64, code: Code, this_thread_only: bool) {
    let thread = this_thread(this_thread_only);
    BOOKS.lock().plans.push(Plan { function: function.to_owned(), left: nth, code, thread });
}

/// Forgets the failures that have not happened.
pub(crate) fn forget() {
    BOOKS.lock().plans.clear();
}

/// How often a function was called, failures included.
pub(crate) fn calls(function: &str, this_thread_only: bool) -> u64 {
    let books = BOOKS.lock();
    let Some(threads) = books.calls.get(function) else { return 0 };
    match this_thread(this_thread_only) {
        Some(thread) => threads.get(&thread).copied().unwrap_or(0),
        None => threads.values().sum(),
    }
}

/// Counts a call, and says whether it is to fail.
fn due(function: &'static str) -> Option<Code> {
    let thread = std::thread::current().id();
    let mut books = BOOKS.lock();
    *books.calls.entry(function).or_default().entry(thread).or_default() += 1;
    let mut failure = None;
    books.plans.retain_mut(|plan| {
        let counts = plan.function == function && plan.thread.is_none_or(|planned| planned == thread);
        let due = counts && plan.left == 0;
        if due {
            failure = Some(plan.code);
        }
        plan.left -= u64::from(counts && !due);
        !due
    });
    failure
}

/// A call that may come before `cuInit`.
pub(crate) fn enter_early(function: &'static str, call: impl FnOnce() -> Answer) -> c_int {
    let answer = if let Some(code) = due(function) {
        Err(code)
    } else if IN_HOST_FUNCTION.get() {
        eprintln!("software-cuda: {function} in a host function, which must not call CUDA");
        Err(Code::NOT_PERMITTED)
    } else {
        call()
    };
    answer.map_or_else(|code| code.0, |()| 0)
}

/// A call to the driver.
pub(crate) fn enter(function: &'static str, call: impl FnOnce(&'static Driver) -> Answer) -> c_int {
    enter_early(function, || call(driver()?))
}
