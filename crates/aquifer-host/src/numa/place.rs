//! Where memory is, and where it shall be: the kernel's calls, which no crate wraps.

use aquifer_backend::{Error, ErrorKind};

#[cfg(target_os = "linux")]
mod linux;

#[cfg(target_os = "linux")]
pub(crate) use linux::bind;

/// There is no such call here.
///
/// # Safety
///
/// - None: nothing is done.
#[cfg(target_os = "macos")]
pub(crate) unsafe fn bind(
    _start: std::ptr::NonNull<u8>,
    _bytes: usize,
    _node: u32,
) -> rustix::io::Result<()> {
    Err(rustix::io::Errno::NOSYS)
}

/// Asks the kernel which NUMA node holds the physical page behind an address of this process. Touches nothing.
///
/// The page may move later, unless its memory is bound to a node.
///
/// # Errors
///
/// [`ErrorKind::InvalidArgument`] if no physical page is behind the address, or only the one that all untouched memory shares:
/// write to it first. [`ErrorKind::Unsupported`] if the kernel or a sandbox does not answer such questions, and on every
/// system but Linux.
pub fn node_of_page(address: *const u8) -> Result<u32, Error> {
    let error = |kind, message: String| Error::new(kind, "node_of_page", message);
    #[cfg(target_os = "linux")]
    return linux::node_of_page(address).map_err(|errno| {
        use rustix::io::Errno;
        let no_page = [Errno::NOENT, Errno::FAULT].contains(&errno);
        let refused = [Errno::PERM, Errno::ACCESS, Errno::NOSYS].contains(&errno);
        let (kind, message) = if no_page {
            (
                ErrorKind::InvalidArgument,
                format!("no physical page is behind {address:p}; write to it before you ask"),
            )
        } else if refused {
            let message = "the system does not tell where pages are (move_pages); a container may need CAP_SYS_NICE \
                           or another seccomp profile";
            (ErrorKind::Unsupported, message.into())
        } else {
            (ErrorKind::Driver, format!("the system did not find the page of {address:p}"))
        };
        error(kind, message).with_source(errno)
    });
    #[cfg(not(target_os = "linux"))]
    {
        let message = format!("only Linux tells which NUMA node holds the page of {address:p}");
        Err(error(ErrorKind::Unsupported, message))
    }
}
