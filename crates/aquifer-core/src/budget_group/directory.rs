//! A group's directory, and the files in it: how they are made, found, locked and removed. What they mean is in
//! [`super::membership`] and [`super::peers`].

use super::record::{GroupRecord, RECORD_BYTES, VERSION};
use aquifer_backend::{Error, ErrorKind};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const GROUP_NAME: &CStr = c"group";
const BELL_NAME: &CStr = c"bell";
const MEMBER_PREFIX: &str = "member-";
const NEW_GROUP_PREFIX: &str = "new-group-";
/// More files than that cannot be looked through for every claim; so many processes do not share one budget.
const MEMBERS_MAX: usize = 1024;
/// How often a file of one's own is made anew, if another process took it for a dead one's before it was locked.
const CREATE_ATTEMPTS: u32 = 16;
/// Never follows a link, never waits for a pipe's other end, is not kept by a program that this process becomes.
const SAFE: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// Which file or directory it is, whatever its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    pub(super) fn of(file: impl AsFd) -> Result<Self, Errno> {
        rustix::fs::fstat(file).map(|stat| Self::from(&stat))
    }
}

impl From<&Stat> for FileId {
    // Types differ between systems.
    #[allow(clippy::unnecessary_cast)]
    fn from(stat: &Stat) -> Self {
        Self { device: stat.st_dev as u64, inode: stat.st_ino as u64 }
    }
}

#[derive(Debug)]
pub(super) struct Directory {
    handle: OwnedFd,
    path: PathBuf,
}

pub(super) fn broken(operation: &'static str, message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Driver, operation, message)
}

impl Directory {
    /// Opens the directory; makes it if `may_create` says so and there is none, for this user alone.
    pub(super) fn open(operation: &'static str, path: &Path, may_create: bool) -> Result<Self, Error> {
        let refuse = |what: &str, errno: Errno| {
            let message =
                format!("the budget group's directory {} cannot be {what}: {errno}", path.display());
            Error::new(ErrorKind::Configuration, operation, message).with_source(errno)
        };
        if may_create {
            match rustix::fs::mkdir(path, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(refuse("made", errno)),
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| refuse("opened", errno))?;
        // Whoever waits for the bell needs its path, wherever the program goes by then.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Ok(Self { handle, path })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    #[cfg(target_os = "linux")]
    pub(super) fn bell_path(&self) -> PathBuf {
        self.path.join("bell")
    }

    /// Which directory it is.
    pub(super) fn id(&self) -> Result<FileId, Error> {
        FileId::of(&self.handle).map_err(|errno| self.failed("BudgetGroup::join", "be looked at", errno))
    }

    fn failed(&self, operation: &'static str, what: &str, errno: Errno) -> Error {
        let message = format!("the budget group {} cannot {what}: {errno}", self.path.display());
        broken(operation, message).with_source(errno)
    }

    fn openat(&self, name: &CStr, flags: OFlags) -> Result<File, Errno> {
        // Others may read it, and so see whether its owner lives; only its owner writes.
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP | Mode::ROTH;
        rustix::fs::openat(&self.handle, name, flags | SAFE, mode).map(File::from)
    }

    /// The group's own file and what it says; `None` if there is none.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Driver`] if it is garbled; [`ErrorKind::Configuration`] if it is of another version.
    pub(super) fn open_group(&self, operation: &'static str) -> Result<Option<(File, GroupRecord)>, Error> {
        let file = match self.openat(GROUP_NAME, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(self.failed(operation, "be opened", errno)),
        };
        let record = read_record(&file).and_then(|bytes| GroupRecord::decode(&bytes)).ok_or_else(|| {
            let message = format!(
                "the file of the budget group {} is cut short or garbled; remove the directory and start its programs anew",
                self.path.display()
            );
            broken(operation, message)
        })?;
        if record.version != VERSION {
            let message = format!(
                "the budget group {} is of version {}, and this library knows version {VERSION}; use another directory",
                self.path.display(),
                record.version
            );
            return Err(Error::new(ErrorKind::Configuration, operation, message));
        }
        Ok(Some((file, record)))
    }

    /// Makes the group's file, whole, unless there is one already.
    pub(super) fn create_group(&self, operation: &'static str, record: &GroupRecord) -> Result<(), Error> {
        let (name, file) = self.create_locked(operation, NEW_GROUP_PREFIX, &record.encode())?;
        let linked = rustix::fs::linkat(&self.handle, &name, &self.handle, GROUP_NAME, AtFlags::empty());
        self.remove(&name);
        drop(file);
        match linked {
            Ok(()) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(self.failed(operation, "be made", errno)),
        }
    }

    /// Makes a member's file, which is this process's for as long as the file is open.
    pub(super) fn create_member(&self, record: &[u8; RECORD_BYTES]) -> Result<(CString, File), Error> {
        self.create_locked("BudgetGroup::join", MEMBER_PREFIX, record)
    }

    /// Makes a file under a name that has never been, writes it, and locks it. Between that others may take it for a dead one's and
    /// remove it, which shows in the number of its links; while they do they hold a shared lock, so this one is refused.
    fn create_locked(
        &self,
        operation: &'static str,
        prefix: &str,
        record: &[u8; RECORD_BYTES],
    ) -> Result<(CString, File), Error> {
        let mut last = Errno::AGAIN;
        for _ in 0..CREATE_ATTEMPTS {
            let name = format!("{prefix}{}-{:016x}", std::process::id(), random());
            let name = CString::new(name).map_err(|_| self.failed(operation, "be joined", Errno::INVAL))?;
            let file = match self.openat(&name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL) {
                Ok(file) => file,
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(self.failed(operation, "be written to", errno)),
            };
            if let Err(error) = file.write_all_at(record, 0) {
                self.remove(&name);
                let message = format!(
                    "no record can be written into the budget group {}: {error}",
                    self.path.display()
                );
                return Err(broken(operation, message).with_source(error));
            }
            match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if !is_removed(&file) => return Ok((name, file)),
                Ok(()) => {}
                Err(errno) => {
                    last = errno;
                    self.remove(&name);
                    if !matches!(errno, Errno::AGAIN | Errno::ACCESS | Errno::INTR) {
                        break;
                    }
                }
            }
        }
        Err(self.failed(operation, "be joined, since its files cannot be locked", last))
    }

    /// The names of all members' files. Whoever has been there since before the call is among them.
    pub(super) fn members(&self, operation: &'static str) -> Result<Vec<CString>, Error> {
        let failed = |errno| self.failed(operation, "be listed", errno);
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.handle).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_bytes();
            if name.starts_with(NEW_GROUP_PREFIX.as_bytes()) {
                self.remove_if_dead(entry.file_name());
            }
            if !name.starts_with(MEMBER_PREFIX.as_bytes()) {
                continue;
            }
            if names.len() == MEMBERS_MAX {
                let message = format!(
                    "there are more than {MEMBERS_MAX} members in the budget group {}; remove what is none",
                    self.path.display()
                );
                return Err(broken(operation, message));
            }
            names.push(entry.file_name().to_owned());
        }
        Ok(names)
    }

    /// Opens another member's file, for reading. Not this process's own, under whatever name somebody has given it: closing it
    /// would end the lock.
    pub(super) fn open_peer(
        &self,
        operation: &'static str,
        name: &CStr,
        own: Option<FileId>,
    ) -> Result<OpenedPeer, Error> {
        let failed = |errno| self.failed(operation, "be looked through", errno);
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if !is_regular(&stat) || own == Some(FileId::from(&stat)) => {
                return Ok(OpenedPeer::None);
            }
            Ok(_) => {}
            Err(Errno::NOENT) => return Ok(OpenedPeer::None),
            Err(errno) => return Err(failed(errno)),
        }
        let file = match self.openat(name, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::LOOP | Errno::MLINK | Errno::NXIO) => return Ok(OpenedPeer::None),
            Err(Errno::ACCESS | Errno::PERM) => return Ok(OpenedPeer::Unreadable),
            Err(errno) => return Err(failed(errno)),
        };
        let stat = rustix::fs::fstat(&file).map_err(failed)?;
        Ok(if is_regular(&stat) { OpenedPeer::File(file) } else { OpenedPeer::None })
    }

    pub(super) fn remove(&self, name: &CStr) {
        // If it is gone already, so much the better; if it may not be removed, whoever may will.
        let _ = rustix::fs::unlinkat(&self.handle, name, AtFlags::empty());
    }

    /// What a process left behind that died while it made the group.
    fn remove_if_dead(&self, name: &CStr) {
        let is_own = process_of(name) == Some(std::process::id());
        if !is_own && let Ok(OpenedPeer::File(file)) = self.open_peer("BudgetGroup", name, None) {
            self.remove_of_dead(name, &file);
        }
    }

    /// Removes a file if the process has ended whose it is, and says whether that was so. Nobody ever uses a name again, so this
    /// removes the dead one's file and no other; and as the lock is kept until the name is gone, it removes none that its owner
    /// is just about to lock: either the owner finds it locked, or it finds that it has no name any more.
    pub(super) fn remove_of_dead(&self, name: &CStr, file: &File) -> bool {
        while_dead(file, || self.remove(name))
    }

    /// Tells all who listen that somebody wants memory. Whoever cannot be told finds out by looking.
    pub(super) fn ring(&self) {
        if let Ok(bell) = self.openat(BELL_NAME, OFlags::WRONLY | OFlags::CREATE)
            && rustix::fs::fstat(&bell).is_ok_and(|stat| is_regular(&stat))
        {
            let _ = bell.write_at(b"!", 0);
        }
    }
}

fn is_regular(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
}

/// What a name in the directory turned out to be.
#[derive(Debug)]
pub(super) enum OpenedPeer {
    File(File),
    /// A member's, perhaps, which this user may not read.
    Unreadable,
    /// Gone, or nothing that a member makes.
    None,
}

/// Reads a file's one record; `None` if it is not as long as that.
pub(super) fn read_record(file: &File) -> Option<[u8; RECORD_BYTES]> {
    // One byte more shows whether something follows.
    let mut bytes = [0; RECORD_BYTES + 1];
    let length = loop {
        match file.read_at(&mut bytes, 0) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            other => break other.ok()?,
        }
    };
    bytes.first_chunk().copied().filter(|_| length == RECORD_BYTES)
}

/// Whether a file has no name any more.
pub(super) fn is_removed(file: &File) -> bool {
    rustix::fs::fstat(file).map_or(true, |stat| stat.st_nlink == 0)
}

/// Whether the process has ended whose file it is. Shared locks do not refuse each other, so those who ask at the same time do not
/// take each other for the owner, and one that is stopped while it asks keeps nobody from the answer.
pub(super) fn is_dead(file: &File) -> bool {
    while_dead(file, || {})
}

/// As [`is_dead`]; calls `what` if so, while nobody can lock the file for himself.
fn while_dead(file: &File, what: impl FnOnce()) -> bool {
    let is_dead = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingLockShared).is_ok();
    if is_dead {
        what();
        let _ = rustix::fs::fcntl_lock(file, FlockOperation::NonBlockingUnlock);
    }
    is_dead
}

/// The number of the process that a file is named after; who is hostile may name any.
pub(super) fn process_of(name: &CStr) -> Option<u32> {
    let name = name.to_str().ok()?;
    let rest = name.strip_prefix(MEMBER_PREFIX).or_else(|| name.strip_prefix(NEW_GROUP_PREFIX))?;
    rest.split('-').next()?.parse().ok()
}

/// A number that nobody else draws.
pub(super) fn random() -> u64 {
    RandomState::new().hash_one((std::process::id(), monotonic_ns()))
}

/// The machine's monotonic clock, in nanoseconds: the same for all its processes.
pub(super) fn monotonic_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    (time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64)
}

#[cfg(all(test, target_os = "linux", not(loom)))]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    /// The kernel's list of locks has the file's number, after its device's.
    fn is_locked_shared(file: &File) -> bool {
        let number = format!(":{} ", file.metadata().unwrap().ino());
        let locks = std::fs::read_to_string("/proc/locks").unwrap();
        locks.lines().any(|line| line.contains("POSIX  ADVISORY  READ") && line.contains(&number))
    }

    #[test]
    fn who_takes_a_file_away_keeps_its_owner_from_locking_it_meanwhile() {
        let file = tempfile::tempfile().unwrap();
        let mut was_locked = false;
        assert!(while_dead(&file, || was_locked = is_locked_shared(&file)));
        assert!(was_locked && !is_locked_shared(&file));
    }
}
