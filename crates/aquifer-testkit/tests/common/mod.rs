//! What the tests of queues, waiting and misuse share.

#![allow(dead_code, reason = "each test binary uses a part")]

use aquifer_core::{Buffer, Config, Error, ErrorKind, MemoryManager, Queue};
use aquifer_host::Host;
use aquifer_sim::{Costs, KernelTimes, Sim, SimDesc};
use aquifer_testkit::{Faults, Faulty, config_with_budget};
use parking_lot::{Condvar, Mutex};
use std::future::Future;
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

pub(crate) const MIB: u64 = 1 << 20;

/// Long enough for anything: a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) fn host() -> Host {
    Host::new().expect("the system says how much memory it has")
}

pub(crate) fn host_manager(budget_bytes: u64) -> MemoryManager<Host> {
    MemoryManager::with_config(host(), config_with_budget(budget_bytes)).expect("a budget")
}

/// A manager of host memory, and the books of its driver.
pub(crate) fn counted_manager(budget_bytes: u64) -> (MemoryManager<Faulty<Host>>, Faults) {
    let device = Faulty::new(host());
    let faults = device.faults();
    (MemoryManager::with_config(device, config_with_budget(budget_bytes)).expect("a budget"), faults)
}

/// A device where nothing takes time but what a test says.
pub(crate) fn sim() -> Sim {
    Sim::new(SimDesc { costs: Costs::FREE, kernels: KernelTimes::ZERO, ..SimDesc::default() })
}

/// For a test that looks after everything itself, and never waits for long for what is in flight.
pub(crate) fn quiet_config(budget_bytes: u64) -> Config {
    let mut config = config_with_budget(budget_bytes);
    config.reaper = false;
    config.in_flight_wait = Duration::from_millis(20);
    config
}

pub(crate) fn sim_manager(sim: &Sim, config: Config) -> MemoryManager<Sim> {
    MemoryManager::with_config(sim.clone(), config).expect("a budget")
}

#[track_caller]
pub(crate) fn refused<T>(answer: Result<T, impl Into<Error>>, kind: ErrorKind) -> Error {
    let Err(error) = answer else { panic!("{kind:?} expected") };
    let error = error.into();
    assert_eq!(error.kind(), kind, "{error}");
    error
}

/// Comes again and again to a question until the answer is yes.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "{what} has not come");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Holds something up until it is opened, or dropped.
pub(crate) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    /// Puts a closure into a queue of the host that waits for the gate.
    pub(crate) fn before(queue: &Queue<Host>) -> Self {
        let gate = Arc::new((Mutex::new(false), Condvar::new()));
        let inner = Arc::clone(&gate);
        queue.raw().submit(move || {
            let mut is_open = inner.0.lock();
            inner.1.wait_while(&mut is_open, |is_open| !*is_open);
        });
        Self(gate)
    }

    pub(crate) fn open(self) {}
}

impl Drop for Gate {
    fn drop(&mut self) {
        *self.0.0.lock() = true;
        self.0.1.notify_all();
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// The smallest executor there is. It polls only when it is woken, so that a lost wake-up is seen: as a failure, after
/// [`LONG`].
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let waker: Waker = Arc::new(Unpark(thread::current())).into();
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    let start = Instant::now();
    loop {
        if let Poll::Ready(answer) = future.as_mut().poll(&mut context) {
            return answer;
        }
        thread::park_timeout(LONG);
        assert!(start.elapsed() < LONG, "nobody has woken this future");
    }
}

/// Polls once, with a waker that does nothing.
pub(crate) fn poll_once<F: Future + Unpin>(future: &mut F) -> Poll<F::Output> {
    std::pin::Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Fills a buffer with bytes that tell it from others.
pub(crate) fn mark(buffer: &mut Buffer<Host>, value: u8) {
    buffer.fill(value).expect("host memory can be filled");
}

#[track_caller]
pub(crate) fn assert_marked(buffer: &Buffer<Host>, value: u8) {
    let bytes: &[u8] = buffer.as_slice().expect("host memory is seen");
    assert!(bytes.iter().all(|&byte| byte == value), "a byte is not {value}");
}

/// Set in a process that is to do the work of the test of that name.
const CHILD: &str = "AQUIFER_TEST_CHILD";

/// Runs the test `name` again, in a process of its own, in which it does `work`, and checks that it ends well and says nothing.
pub(crate) fn in_child(name: &str, work: impl FnOnce()) {
    if std::env::var_os(CHILD).is_some() {
        return work();
    }
    let program = std::env::current_exe().expect("this program has a path");
    let output = Command::new(program)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(CHILD, name)
        .output()
        .expect("this program can be run again");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    assert!(errors.is_empty(), "{errors}");
}
