//! A stream: a list of work and a thread that does it in order.

use crate::abi::{Answer, Code, Handle};
use crate::context::Context;
use crate::devices::Connections;
use crate::driver::{Driver, driver, next_handle};
use crate::work::Work;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) handle: Handle,
    pub(crate) context: Arc<Context>,
    /// Whether it is ordered with the context's null stream.
    is_blocking: bool,
    queue: Mutex<Queue>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    work: VecDeque<Work>,
    /// How many pieces of work were ever put in, and how many have ended.
    submitted: u64,
    done: u64,
    is_closed: bool,
}

impl Stream {
    /// A stream with its thread, which ends after the last work once the stream is closed.
    pub(crate) fn start(context: &Arc<Context>, is_blocking: bool) -> Answer<Arc<Self>> {
        let stream = Arc::new(Self {
            handle: next_handle(),
            context: Arc::clone(context),
            is_blocking,
            queue: Mutex::default(),
            changed: Condvar::new(),
        });
        context.streams.lock().push(Arc::clone(&stream));
        let worker = Arc::clone(&stream);
        let thread = std::thread::Builder::new().name("cuda-stream".into());
        if thread.spawn(move || worker.run()).is_err() {
            stream.leave();
            return Err(Code::OUT_OF_MEMORY);
        }
        Ok(stream)
    }

    fn leave(&self) {
        self.context.streams.lock().retain(|stream| stream.handle != self.handle);
    }

    fn run(&self) {
        let seed = driver().map_or(0, |driver| driver.settings.delay_seed);
        let mut random = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ self.handle as u64;
        while let Some(work) = self.next() {
            if seed != 0 {
                delay(&mut random);
            }
            // What waits for other streams waits for work that came earlier, which real devices run earlier.
            let connections = driver().ok().map(|driver| &driver.devices[self.context.device].connections);
            let connection = connections.filter(|_| !work.waits_for_streams()).map(Connections::take);
            if let Err(code) = work.run(&self.context) {
                self.context.lose(code);
            }
            drop(connection);
            drop(work);
            self.queue.lock().done += 1;
            self.changed.notify_all();
        }
        self.leave();
    }

    /// The next work, which stays the last one until it has ended. `None`: there will be none.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(work) = queue.work.pop_front() {
                return Some(work);
            }
            if queue.is_closed {
                return None;
            }
            self.changed.wait(&mut queue);
        }
    }

    pub(crate) fn push(&self, work: Work) -> u64 {
        let mut queue = self.queue.lock();
        queue.work.push_back(work);
        queue.submitted += 1;
        self.changed.notify_all();
        queue.submitted
    }

    /// The number of the last work put in.
    pub(crate) fn tail(&self) -> u64 {
        self.queue.lock().submitted
    }

    pub(crate) fn has_passed(&self, number: u64) -> bool {
        self.queue.lock().done >= number
    }

    /// Blocks until work `number` has ended.
    pub(crate) fn wait_for(&self, number: u64) {
        let mut queue = self.queue.lock();
        while queue.done < number {
            self.changed.wait(&mut queue);
        }
    }

    /// As [`Stream::wait_for`], given up when `context` is lost.
    pub(crate) fn wait_unless_lost(&self, number: u64, context: &Context) {
        let mut queue = self.queue.lock();
        while queue.done < number && context.check().is_ok() {
            self.changed.wait_for(&mut queue, Duration::from_millis(1));
        }
    }

    /// No work comes any more. What there is is done.
    pub(crate) fn close(&self) {
        self.queue.lock().is_closed = true;
        self.changed.notify_all();
    }

    /// Puts work in, behind what the null stream orders before it. The number is the work's.
    pub(crate) fn enqueue(&self, work: Work) -> u64 {
        let before: Vec<Arc<Self>> = if !self.is_blocking {
            Vec::new()
        } else if self.is_null() {
            let streams = self.context.streams.lock();
            streams.iter().filter(|other| other.is_blocking && other.handle != self.handle).cloned().collect()
        } else {
            self.context.null.lock().iter().cloned().collect()
        };
        for stream in before {
            let number = stream.tail();
            if !stream.has_passed(number) {
                self.push(Work::After { stream, number });
            }
        }
        self.push(work)
    }

    fn is_null(&self) -> bool {
        self.context.null.lock().as_ref().is_some_and(|null| null.handle == self.handle)
    }
}

/// Up to 200 µs, by an xorshift generator.
fn delay(random: &mut u64) {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    std::thread::sleep(Duration::from_micros(*random % 200));
}

/// The stream that a program named, of this context: 0 and 1 are the context's null stream.
pub(crate) fn find(driver: &Driver, context: &Arc<Context>, handle: Handle) -> Answer<Arc<Stream>> {
    match handle {
        0 | 1 => {
            let mut null = context.null.lock();
            if let Some(stream) = &*null {
                return Ok(Arc::clone(stream));
            }
            let stream = Stream::start(context, true)?;
            *null = Some(Arc::clone(&stream));
            Ok(stream)
        }
        2 => Err(Code::NOT_SUPPORTED), // the null stream of each thread
        _ => {
            let stream = driver.streams.lock().get(&handle).cloned().ok_or(Code::INVALID_HANDLE)?;
            if stream.context.handle == context.handle { Ok(stream) } else { Err(Code::INVALID_HANDLE) }
        }
    }
}
