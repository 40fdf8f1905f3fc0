//! Hearing the bell that members ring who want memory: Linux tells whoever listens to a file that it was written.

use super::directory::{Directory, broken};
use aquifer_backend::Error;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

const OPERATION: &str = "BudgetGroup::pressure_source";

/// How many rings are heard at once.
const RINGS_MAX: u32 = 64;

#[derive(Debug)]
pub(super) struct Bell(OwnedFd);

impl Bell {
    pub(super) fn new(directory: &Directory) -> Result<Self, Error> {
        let failed = |errno: Errno| {
            let path = directory.path().display();
            let message = format!("nobody can be told when members of the budget group {path} wait: {errno}");
            broken(OPERATION, message).with_source(errno)
        };
        // So that there is something to listen to.
        directory.ring();
        let listener = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(failed)?;
        let events = WatchFlags::MODIFY | WatchFlags::DELETE_SELF;
        inotify::add_watch(&listener, directory.bell_path(), events).map_err(failed)?;
        Ok(Self(listener))
    }

    /// Readable when the bell has rung.
    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Makes it unreadable until it rings again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`](crate::ErrorKind::Driver) if it never will, since its file is gone.
    pub(super) fn quieten(&self, directory: &Directory) -> Result<(), Error> {
        let mut buffer = [const { MaybeUninit::uninit() }; 1024];
        let mut reader = Reader::new(&self.0, &mut buffer);
        let mut is_gone = false;
        // Ends with EAGAIN, unless somebody rings without a pause.
        for _ in 0..RINGS_MAX {
            let Ok(event) = reader.next() else { break };
            is_gone |= event.events().intersects(ReadFlags::DELETE_SELF | ReadFlags::IGNORED);
        }
        if !is_gone {
            return Ok(());
        }
        let path = directory.path().display();
        Err(broken(OPERATION, format!("somebody has removed the bell of the budget group {path}")))
    }
}
