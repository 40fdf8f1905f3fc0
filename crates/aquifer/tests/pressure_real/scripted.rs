//! A source whose news come as the kernel's do, through a descriptor, and say what the test wants.

use crate::groups::LONG;
use aquifer::{Error, PressureLevel, PressureReading, PressureSource, PressureWake};
use rustix::event::{EventfdFlags, eventfd};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The source.
#[derive(Debug)]
pub(crate) struct Scripted(Hand);

/// The test's hand on it.
#[derive(Debug, Clone)]
pub(crate) struct Hand(Arc<State>);

#[derive(Debug)]
struct State {
    counter: OwnedFd,
    level: AtomicUsize,
    reads: AtomicU64,
    /// The thread that read it last.
    reader: AtomicI32,
}

impl Scripted {
    /// A source, and the hand on it.
    pub(crate) fn with_hand() -> (Box<dyn PressureSource>, Hand) {
        let hand = Hand(Arc::new(State {
            counter: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
            level: AtomicUsize::new(0),
            reads: AtomicU64::new(0),
            reader: AtomicI32::new(0),
        }));
        (Box::new(Self(hand.clone())), hand)
    }
}

impl Hand {
    /// Says that the level is this, and waits until the monitor has read it. Answers how long that took.
    pub(crate) fn tell(&self, level: PressureLevel) -> Duration {
        let (state, start) = (&self.0, Instant::now());
        let reads = state.reads.load(Ordering::Acquire);
        state.level.store(level as usize, Ordering::Release);
        rustix::io::write(&state.counter, &1u64.to_ne_bytes()).unwrap();
        until("the monitor reads the news", || state.reads.load(Ordering::Acquire) > reads);
        start.elapsed()
    }

    /// The monitor's thread, once it has read the first time, and sleeps again.
    pub(crate) fn sleeping_reader(&self) -> i32 {
        until("the first reading", || self.0.reads.load(Ordering::Acquire) > 0);
        let reader = self.0.reader.load(Ordering::Acquire);
        // It waits for nothing else: nobody uses the manager meanwhile.
        until("the monitor sleeps", || {
            let stat = std::fs::read_to_string(format!("/proc/self/task/{reader}/stat")).unwrap();
            stat.rsplit(')').next().unwrap().trim_start().starts_with('S')
        });
        reader
    }
}

impl PressureSource for Scripted {
    fn name(&self) -> String {
        "scripted".into()
    }

    fn wake(&self) -> PressureWake<'_> {
        PressureWake::Readable(self.0.0.counter.as_fd())
    }

    fn read(&mut self) -> Result<PressureReading, Error> {
        let state = &self.0.0;
        // There may be none.
        let _ = rustix::io::read(&state.counter, &mut [0; 8]);
        let level = PressureLevel::ALL[state.level.load(Ordering::Acquire)];
        state.reader.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
        state.reads.fetch_add(1, Ordering::Release);
        Ok(PressureReading::Level(level))
    }
}

/// Comes again and again to a question until the answer is yes.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < LONG, "{what}: it does not come");
        std::thread::sleep(Duration::from_millis(1));
    }
}
