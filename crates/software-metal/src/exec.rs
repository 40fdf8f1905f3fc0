//! Events, and the queue's worker thread that executes committed command buffers in order.
use crate::device::{Buffer, CommandBuffer};
use objc2::rc::Retained;
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

#[derive(Default)]
pub struct Event {
    value: Mutex<u64>,
    cv: Condvar,
}
impl Event {
    pub fn get(&self) -> u64 {
        *self.value.lock().unwrap()
    }
    pub fn signal(&self, v: u64) {
        *self.value.lock().unwrap() = v;
        self.cv.notify_all();
    }
    pub fn wait(&self, v: u64, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        let mut g = self.value.lock().unwrap();
        while *g < v {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            g = self.cv.wait_timeout(g, left).unwrap().0;
        }
        true
    }
}

pub enum Cmd {
    Copy { src: *const Buffer, so: usize, dst: *const Buffer, d_o: usize, n: usize },
    Fill { dst: *const Buffer, off: usize, n: usize, v: u8 },
    Signal(Arc<Event>, u64),
    Wait(Arc<Event>, u64),
}
// SAFETY: the pointers are checked to be live Buffer objects when used.
unsafe impl Send for Cmd {}

pub struct Job(pub Retained<CommandBuffer>);
// SAFETY: the runtime's retain counts are atomic and CommandBuffer's state is behind locks.
unsafe impl Send for Job {}

#[derive(Default)]
pub struct Lane {
    jobs: Mutex<(VecDeque<Job>, bool)>,
    cv: Condvar,
}
impl Lane {
    pub fn start() -> Arc<Lane> {
        let l = Arc::new(Lane::default());
        let w = l.clone();
        std::thread::Builder::new().name("software_metal-queue".into()).spawn(move || w.work()).unwrap();
        l
    }
    pub fn push(&self, j: Job) {
        self.jobs.lock().unwrap().0.push_back(j);
        self.cv.notify_all();
    }
    pub fn stop(&self) {
        self.jobs.lock().unwrap().1 = true;
        self.cv.notify_all();
    }
    fn work(&self) {
        loop {
            let job = {
                let mut g = self.jobs.lock().unwrap();
                loop {
                    if let Some(j) = g.0.pop_front() {
                        break j;
                    }
                    if g.1 {
                        return;
                    }
                    g = self.cv.wait(g).unwrap();
                }
            };
            objc2::rc::autoreleasepool(|_| CommandBuffer::execute(job.0));
        }
    }
}
