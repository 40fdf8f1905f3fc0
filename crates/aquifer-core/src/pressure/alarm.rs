//! How the monitor sleeps: in the kernel, until a source has news, somebody rings, or it is time.

use aquifer_backend::PressureWake;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Wakes the monitor. Rings that it has not heard yet are one.
#[derive(Debug)]
pub(crate) struct Alarm {
    has_rung: AtomicBool,
    line: line::Line,
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { has_rung: AtomicBool::new(false), line: line::Line::new()? })
    }

    /// Wakes the monitor, or keeps it from falling asleep. One system call at most, none if it has been rung already.
    pub(crate) fn ring(&self) {
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            self.line.ring();
        }
    }

    /// Sleeps until it has rung, one of the descriptors has news, or `timeout` has passed; a signal may wake it, too. Answers which
    /// of `wakes` has news. One thread at a time.
    pub(crate) fn sleep(&self, wakes: &[PressureWake<'_>], timeout: Option<Duration>) -> Vec<bool> {
        let (news, is_rung) = self.line.sleep(wakes, timeout);
        if is_rung {
            self.line.take_ring();
            // After the line has been emptied, and before the caller looks what it was about: a ring from now on is a new one, and
            // what one before was about is to be seen.
            self.has_rung.swap(false, Ordering::AcqRel);
        }
        news
    }
}

#[cfg(unix)]
mod line {
    use aquifer_backend::PressureWake;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::io::Errno;
    use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
    use std::os::fd::AsFd as _;
    use std::time::Duration;

    /// Longer than this some systems refuse to sleep.
    const SLEEP_MAX: Duration = Duration::from_secs(86_400);
    /// How long is waited where the kernel refuses to.
    const REST: Duration = Duration::from_millis(100);

    /// A pipe that never holds more than a byte.
    #[derive(Debug)]
    pub(super) struct Line {
        end: PipeReader,
        begin: PipeWriter,
    }

    impl Line {
        pub(super) fn new() -> io::Result<Self> {
            let (end, begin) = io::pipe()?;
            Ok(Self { end, begin })
        }

        pub(super) fn ring(&self) {
            // It cannot block, since there is room, nor fail, since there is a reader.
            let _ = (&self.begin).write(&[0]);
        }

        pub(super) fn take_ring(&self) {
            let _ = (&self.end).read(&mut [0]);
        }

        /// Which wakes have news, and whether the line has rung.
        pub(super) fn sleep(
            &self,
            wakes: &[PressureWake<'_>],
            timeout: Option<Duration>,
        ) -> (Vec<bool>, bool) {
            let mut descriptors = vec![PollFd::from_borrowed_fd(self.end.as_fd(), PollFlags::IN)];
            let mut places = Vec::new();
            for (place, wake) in wakes.iter().enumerate() {
                let (descriptor, flags) = match *wake {
                    PressureWake::Readable(descriptor) => (descriptor, PollFlags::IN),
                    PressureWake::Exceptional(descriptor) => (descriptor, PollFlags::PRI),
                    PressureWake::Notifies | PressureWake::Interval(_) => continue,
                };
                descriptors.push(PollFd::from_borrowed_fd(descriptor, flags));
                places.push(place);
            }
            let timeout = timeout.map(|timeout| timeout.min(SLEEP_MAX)).map(|timeout| Timespec {
                tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: timeout.subsec_nanos().into(),
            });
            let mut news = vec![false; wakes.len()];
            match poll(&mut descriptors, timeout.as_ref()) {
                Ok(_) => {}
                // After a signal the caller looks what time it is, and comes again.
                Err(Errno::INTR) => return (news, false),
                Err(_) => {
                    // What the kernel refuses now it may refuse again, and nobody is to spin for it. Who has news is found out by looking.
                    std::thread::sleep(REST);
                    return (vec![true; wakes.len()], false);
                }
            }
            let (line, sources) = descriptors.split_first().expect("the line is the first");
            for (&place, descriptor) in places.iter().zip(sources) {
                // Errors and hang-ups are news too: reading the source tells what it is.
                news[place] = !descriptor.revents().is_empty();
            }
            (news, !line.revents().is_empty())
        }
    }
}

#[cfg(not(unix))]
mod line {
    use aquifer_backend::PressureWake;
    use parking_lot::{Condvar, Mutex};
    use std::io;
    use std::time::Duration;

    #[derive(Debug, Default)]
    pub(super) struct Line {
        is_rung: Mutex<bool>,
        ring: Condvar,
    }

    impl Line {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self::default())
        }

        pub(super) fn ring(&self) {
            *self.is_rung.lock() = true;
            self.ring.notify_all();
        }

        pub(super) fn take_ring(&self) {
            *self.is_rung.lock() = false;
        }

        pub(super) fn sleep(
            &self,
            wakes: &[PressureWake<'_>],
            timeout: Option<Duration>,
        ) -> (Vec<bool>, bool) {
            let mut is_rung = self.is_rung.lock();
            match timeout {
                Some(timeout) => drop(self.ring.wait_while_for(&mut is_rung, |is_rung| !*is_rung, timeout)),
                None => self.ring.wait_while(&mut is_rung, |is_rung| !*is_rung),
            }
            (vec![false; wakes.len()], *is_rung)
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rings_are_heard_once_and_never_lost() {
        let alarm = Alarm::new().unwrap();
        alarm.ring();
        alarm.ring();
        // Without a ring this would sleep for ever.
        assert!(alarm.sleep(&[], None).is_empty());
        assert!(alarm.sleep(&[PressureWake::Notifies], Some(Duration::ZERO)) == [false]);
        let alarm = std::sync::Arc::new(alarm);
        let ringer = std::thread::spawn({
            let alarm = std::sync::Arc::clone(&alarm);
            move || alarm.ring()
        });
        alarm.sleep(&[], None);
        ringer.join().unwrap();
    }

    #[test]
    #[cfg(unix)]
    fn descriptors_wake() {
        use std::io::Write as _;
        use std::os::fd::AsFd as _;
        let (end, mut begin) = io::pipe().unwrap();
        let (silent, _kept) = io::pipe().unwrap();
        let alarm = Alarm::new().unwrap();
        begin.write_all(b"news").unwrap();
        let wakes = [
            PressureWake::Interval(Duration::ZERO),
            PressureWake::Readable(silent.as_fd()),
            PressureWake::Readable(end.as_fd()),
        ];
        assert_eq!(alarm.sleep(&wakes, None), [false, false, true]);
    }
}
