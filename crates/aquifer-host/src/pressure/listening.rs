//! One descriptor that becomes readable when one of several has news, or when it is time to look.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// While news follow each other a source is read this often instead of being woken by each.
pub(super) const NEWS_INTERVAL: Duration = Duration::from_millis(100);

/// Descriptors joined in one. They leave it when they are closed.
#[derive(Debug)]
pub(super) struct Listening {
    joined: OwnedFd,
    timer: Option<OwnedFd>,
}

impl Listening {
    /// One that is ready every `interval`, if there is one, and whenever something that is joined is.
    pub(super) fn new(interval: Option<Duration>) -> io::Result<Self> {
        let joined = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = interval.map(timer).transpose()?;
        if let Some(timer) = &timer {
            epoll::add(&joined, timer, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
        }
        Ok(Self { joined, timer })
    }

    pub(super) fn join(&self, descriptor: impl AsFd, news: epoll::EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.joined, descriptor, epoll::EventData::new_u64(0), news)?)
    }

    /// Empties the timer. What is joined is emptied by whoever joined it.
    pub(super) fn rearm(&self) -> io::Result<()> {
        self.timer.as_ref().map_or(Ok(()), |timer| take_count(timer).map(drop))
    }
}

impl AsFd for Listening {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.joined.as_fd()
    }
}

fn timer(interval: Duration) -> io::Result<OwnedFd> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    let interval = Timespec::try_from(interval).map_err(|_| Errno::INVAL)?;
    let always = Itimerspec { it_interval: interval, it_value: interval };
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &always)?;
    Ok(timer)
}

/// What the kernel counts events of a control group in, and becomes readable by them.
pub(super) fn counter() -> io::Result<OwnedFd> {
    Ok(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// What a counter or a timer has counted since it was last asked.
pub(super) fn take_count(counter: &OwnedFd) -> io::Result<u64> {
    let mut count = [0; 8];
    match rustix::io::retry_on_intr(|| rustix::io::read(counter, &mut count)) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, poll};

    fn is_ready(listening: &Listening, timeout: Option<Duration>) -> bool {
        let timeout = timeout.map(|timeout| Timespec::try_from(timeout).unwrap());
        let mut descriptors = [PollFd::new(listening, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut descriptors, timeout.as_ref())).unwrap() == 1
    }

    #[test]
    fn it_is_ready_while_something_joined_is() {
        let listening = Listening::new(None).unwrap();
        let (first, second) = (counter().unwrap(), counter().unwrap());
        listening.join(&first, epoll::EventFlags::IN).unwrap();
        listening.join(&second, epoll::EventFlags::IN).unwrap();
        assert!(!is_ready(&listening, Some(Duration::ZERO)));
        for _ in 0..3 {
            rustix::io::write(&second, &1u64.to_ne_bytes()).unwrap();
        }
        assert!(is_ready(&listening, Some(Duration::ZERO)));
        assert!(is_ready(&listening, Some(Duration::ZERO)), "polling takes nothing away");
        assert_eq!(take_count(&first).unwrap(), 0);
        assert_eq!(take_count(&second).unwrap(), 3);
        assert!(!is_ready(&listening, Some(Duration::ZERO)));
    }

    #[test]
    fn the_timer_wakes_and_is_emptied() {
        let listening = Listening::new(Some(Duration::from_millis(1))).unwrap();
        assert!(is_ready(&listening, None));
        listening.rearm().unwrap();
        assert!(is_ready(&listening, None), "and again");
        let listening = Listening::new(Some(Duration::from_secs(3600))).unwrap();
        assert!(!is_ready(&listening, Some(Duration::ZERO)));
        listening.rearm().unwrap();
    }

    #[test]
    fn files_that_cannot_be_listened_to_are_refused() {
        let listening = Listening::new(None).unwrap();
        let file = tempfile::tempfile().unwrap();
        let error = listening.join(&file, epoll::EventFlags::PRI).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::PERM));
    }
}
