//! Pinned blocks: bound to a NUMA node if one is asked for, and locked.
//!
//! Both are done with a fresh mapping that nothing has touched, in this order: a policy decides about memory when it is touched,
//! and locking touches all of it.

use std::fmt;
use std::path::Path;

use aquifer_backend::{Error, ErrorKind};
use rustix::io::Errno;
use rustix::process::Resource;

use crate::block::HostBlock;
use crate::facts;
use crate::numa;
use crate::sys;

/// Binds a fresh block to `node`, if any, and locks it. On failure it is unmapped.
///
/// # Errors
///
/// As [`create_block`](crate::Host#method.create_block) says.
pub(crate) fn pin(mut block: HostBlock, root: &Path, node: Option<u32>) -> Result<HostBlock, Error> {
    let bytes = block.bytes() as u64;
    let prepare = |block: &mut HostBlock| {
        check_room(root, node, bytes)?;
        if let Some(node) = node {
            bind(block, node).map_err(|errno| bind_error("create_block", node, bytes, errno))?;
        }
        block.lock().map_err(|errno| lock_error(bytes, errno, &LockLimits::read(root)))
    };
    match prepare(&mut block) {
        Ok(()) => Ok(block),
        Err(error) => {
            // The system refuses only to split a mapping, of which the process then has too many. But what has been locked,
            // and so may hold memory, is split off already: at worst some address space is lost.
            // SAFETY: the block is new, and nobody else has its address.
            let _ = unsafe { block.unmap() };
            Err(error)
        }
    }
}

/// That there are NUMA nodes to choose from at all.
pub(crate) fn check_is_linux() -> Result<(), Error> {
    if cfg!(target_os = "linux") {
        return Ok(());
    }
    let message = "memory can be bound to a NUMA node on Linux only; leave pinned_near out";
    Err(Error::new(ErrorKind::Unsupported, "Host::with_options", message))
}

/// Whether the system binds memory to a node, tried on a page that is never touched.
pub(crate) fn check_binding(node: u32) -> Result<(), Error> {
    let bytes = sys::page_bytes();
    let bound = HostBlock::map(bytes).and_then(|block| {
        let bound = bind(&block, node);
        // Should it be refused, then one page of address space is lost.
        // SAFETY: the block is new, and nobody else has its address.
        let _ = unsafe { block.unmap() };
        bound
    });
    bound.map_err(|errno| bind_error("Host::with_options", node, bytes as u64, errno))
}

fn bind(block: &HostBlock, node: u32) -> rustix::io::Result<()> {
    // What lies behind the last whole OS page is the block's as well: a mapping is made of whole ones.
    // SAFETY: the block is a mapping of this process's own.
    unsafe { numa::bind(block.start(), block.bytes(), node) }
}

/// That there is room for a block, in the machine or on its node: where there is none, locking would have the kernel kill a
/// process instead of answering an error. A hint, since others take memory too. If the system does not say, there is room.
fn check_room(root: &Path, node: Option<u32>, bytes: u64) -> Result<(), Error> {
    let (available_bytes, whose, remedy) = match node {
        None => (facts::memory(root).map(|memory| memory.available_bytes), "the machine".to_owned(), ""),
        Some(node) => (
            numa::available_bytes(root, node),
            format!("NUMA node {node}"),
            ", or choose another node (pinned_near)",
        ),
    };
    match available_bytes {
        Some(available_bytes) if available_bytes < bytes => {
            let message = format!(
                "{bytes} bytes to be locked, and {whose} can give {available_bytes}; ask for less, or free memory{remedy}"
            );
            Err(Error::new(ErrorKind::OutOfMemory, "create_block", message))
        }
        _ => Ok(()),
    }
}

fn bind_error(operation: &'static str, node: u32, bytes: u64, errno: Errno) -> Error {
    let (kind, reason) = match errno {
        Errno::INVAL => (
            ErrorKind::Configuration,
            "the node has no memory that this process may use; choose another (pinned_near), or allow it in the process's \
             cpuset (cpuset.mems, Mems_allowed in /proc/self/status)",
        ),
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => (
            ErrorKind::Unsupported,
            "the kernel or a sandbox does not allow mbind; a container may need CAP_SYS_NICE or another seccomp profile; or \
             leave pinned_near out",
        ),
        Errno::NOMEM => (
            ErrorKind::OutOfMemory,
            "the kernel has no memory for it, or the process too many mappings (vm.max_map_count)",
        ),
        _ => (ErrorKind::Driver, "the system failed"),
    };
    let message = format!("{bytes} bytes could not be bound to NUMA node {node}: {reason}");
    Error::new(kind, operation, message).with_source(errno)
}

/// What limits how much memory the process may lock, in bytes.
struct LockLimits {
    /// `None`: no limit.
    soft: Option<u64>,
    hard: Option<u64>,
    /// What is locked already, by whomever; `None` if the system does not say.
    locked: Option<u64>,
}

impl LockLimits {
    fn read(root: &Path) -> Self {
        let limit = rustix::process::getrlimit(Resource::Memlock);
        Self { soft: limit.current, hard: limit.maximum, locked: facts::locked_bytes(root) }
    }
}

impl fmt::Display for LockLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |bytes: Option<u64>| bytes.map_or("none".to_owned(), |bytes| format!("{bytes} bytes"));
        write!(
            f,
            "the limit of locked memory (RLIMIT_MEMLOCK) is {} soft, {} hard",
            limit(self.soft),
            limit(self.hard)
        )?;
        match self.locked {
            Some(bytes) => write!(f, ", and the process has locked {bytes} bytes already"),
            None => Ok(()),
        }
    }
}

fn lock_error(bytes: u64, errno: Errno, limits: &LockLimits) -> Error {
    // The system is as exact as this: too much for a limit, or for the memory that there is; or not this process.
    let kind = match errno {
        Errno::NOMEM | Errno::AGAIN => ErrorKind::OutOfMemory,
        Errno::PERM | Errno::ACCESS | Errno::NOSYS => ErrorKind::Unsupported,
        _ => ErrorKind::Driver,
    };
    let what = if kind == ErrorKind::Unsupported {
        "the system lets this process lock no memory at all"
    } else {
        "the system refused to lock a block in memory"
    };
    let message = format!(
        "{what}, {bytes} bytes asked for; {limits}; raise the limit (ulimit -l, LimitMEMLOCK= of a systemd unit, --ulimit \
         memlock= of a container), pin less, or have the manager use unlocked memory (Config::pinned.when_refused = \
         UseUnlocked)"
    );
    Error::new(kind, "create_block", message).with_source(errno)
}

#[cfg(test)]
mod tests;
