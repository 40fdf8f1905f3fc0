//! A queue's value: markers, and who waits for them.

use std::sync::atomic::Ordering;
use std::time::Duration;

use aquifer_backend::{Error, ErrorKind};

use crate::status;
use crate::sys;

use super::pause::Pause;
use super::pending::Effect;
use super::{CudaQueue, ValueHold, captured};

/// How many looks at a word that does not move there are for each question to the driver whether the stream is well. Nothing else tells
/// of a kernel that trapped.
const LOOKS_PER_QUESTION: u32 = 64;

impl CudaQueue {
    pub(crate) fn signal(&self, value: u64) -> Result<(), Error> {
        let _giving = self.giving.lock();
        // Before the stream can write it. If the driver refuses the marker, the next one covers it.
        self.pending.mark(value);
        if self.marks.is_held() {
            self.device.check("signal")?;
            self.marks.set_behind(true);
        } else {
            self.put_marker("signal", value)?;
        }
        self.signalled.store(value, Ordering::Release);
        Ok(())
    }

    /// Has the stream write a value, unless it is being captured. `giving` is held.
    ///
    /// Another thread may begin a capture between the question and the marker, and then the graph has the marker, to write the value again
    /// whenever it runs. So the question is asked once more; where the answer leaves that possible, the word is given up.
    fn put_marker(&self, operation: &'static str, value: u64) -> Result<(), Error> {
        let known = self.marks.value();
        let word = self.marks.word_or_new(&self.device, operation)?;
        let may_be_captured = self.give(operation, |stream| {
            // SAFETY: the stream lives as long as the queue, which the core keeps until its work has run; so does the word, or for good.
            unsafe { sys::write_word(stream, word.address(), value) }?;
            // SAFETY: as above.
            match unsafe { sys::is_capturing(stream) } {
                Err(code) if status::is_of_capture(code) => Ok(true),
                answer => answer,
            }
        })?;
        if may_be_captured {
            self.marks.give_up(known);
            return Err(captured(operation));
        }
        self.marks.set_behind(false);
        Ok(())
    }

    /// Has the stream write what was signalled while the value was held, or to a word that was given up. Refused while the stream is
    /// captured.
    fn catch_up(&self, operation: &'static str) -> Result<(), Error> {
        if !self.marks.is_marker_due() {
            return Ok(());
        }
        let _giving = self.giving.lock();
        if self.marks.is_marker_due() {
            self.put_marker(operation, self.signalled.load(Ordering::Acquire))?;
        }
        Ok(())
    }

    /// Keeps the queue's value where it is until the hold is dropped: to those who look at the value, what is put into the queue from now on
    /// has not run. Does not block, and the stream runs on; as many queues can be held so as one likes.
    ///
    /// After the last hold of a queue was dropped, its value goes on when somebody looks at it, or waits, also by [`CudaQueue::wait_idle`].
    pub fn hold_value(&self) -> ValueHold {
        self.marks.hold()
    }

    /// Blocks until everything that is in the queue has run, or the device is lost.
    ///
    /// It returns at once in a forked process, and while a graph is being captured on the stream (of the legacy default stream: on any that
    /// it orders with): to ask for the stream's end then would end the capture.
    pub fn wait_idle(&self) {
        // Whoever looks next does it, if it is refused.
        let _ = self.catch_up("wait");
        // SAFETY: the stream lives as long as the queue.
        let _ = self.unless_captured("wait", |stream| unsafe { sys::synchronize(stream) });
    }

    pub(crate) fn completed(&self) -> Result<u64, Error> {
        self.device.check("completed")?;
        // What it says of the device is found below, or next time.
        let _ = self.catch_up("completed");
        let value = self.value();
        if value < self.signalled.load(Ordering::Acquire)
            && self.idle_looks.fetch_add(1, Ordering::Relaxed) % LOOKS_PER_QUESTION == LOOKS_PER_QUESTION - 1
        {
            self.ask("completed")?;
        }
        Ok(value)
    }

    /// The word; ends what has run.
    fn value(&self) -> u64 {
        let value = self.marks.value();
        self.pending.end(value);
        value
    }

    /// Asks the driver whether the stream is well; not while it is captured, which the question would spoil.
    fn ask(&self, operation: &'static str) -> Result<(), Error> {
        // What it says of the device comes below.
        let _ = self.catch_up(operation);
        // SAFETY: the stream lives as long as the queue.
        self.unless_captured(operation, |stream| unsafe { sys::is_idle(stream) })?;
        Ok(())
    }

    pub(crate) fn wait(&self, value: u64, timeout: Duration) -> Result<bool, Error> {
        let _ = self.catch_up("wait");
        let mut pause = Pause::new();
        loop {
            self.device.check("wait")?;
            if self.value() >= value {
                return Ok(true);
            }
            let waited = pause.waited();
            let left = timeout.saturating_sub(waited);
            if left.is_zero() {
                self.ask("wait")?;
                return Ok(self.value() >= value);
            }
            if pause.is_question_due(waited) {
                self.ask("wait")?;
            }
            pause.pass(waited, left);
        }
    }

    pub(crate) fn wait_on(&self, other: &Self, value: u64) -> Result<(), Error> {
        self.device.check("wait_on_queue")?;
        if !other.is_of(&self.device) {
            // If that device were lost, nobody would write its word, and this one's stream would wait for good.
            let message = format!(
                "a queue of device {} was to wait for one of device {}, or of another backend of the same; wait on the host",
                self.device.ordinal, other.device.ordinal
            );
            return Err(Error::new(ErrorKind::InvalidArgument, "wait_on_queue", message));
        }
        // Never signalled: nothing to wait for. Of this queue itself all is in order.
        if other.stream() == self.stream() || other.signalled.load(Ordering::Acquire) < value {
            return Ok(());
        }
        other.catch_up("wait_on_queue")?;
        let Some(word) = other.marks.word() else {
            // Given up again this moment.
            return Err(captured("wait_on_queue"));
        };
        let _giving = self.giving.lock();
        let address = word.address();
        // SAFETY: the stream lives as long as the queue; the word is kept until the stream has passed it, and does not fall.
        self.give("wait_on_queue", |stream| unsafe { sys::await_word(stream, address, value) })?;
        self.pending.push(Effect::LetGo { _word: word });
        Ok(())
    }
}
