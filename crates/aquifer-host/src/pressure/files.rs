//! Files of the kernel's that are kept open, and what goes wrong with them.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use aquifer_backend::{Error, ErrorKind};
use rustix::io::Errno;

/// No file that is read here has more; it bounds what a garbled one may cost.
const BYTES_MAX: usize = 64 << 10;

/// All of a file's text, from its start. For files of a control group this also makes their notices come again.
pub(super) fn text(file: &File) -> io::Result<String> {
    let mut bytes = Vec::new();
    let mut part = [0; 4096];
    while bytes.len() < BYTES_MAX {
        match file.read_at(&mut part, bytes.len() as u64) {
            Ok(0) => break,
            Ok(count) => bytes.extend_from_slice(&part[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    String::from_utf8(bytes).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

/// A file that cannot be read any more.
pub(super) fn unreadable(operation: &'static str, path: &Path, error: io::Error) -> Error {
    let path = path.display();
    let message = match Errno::from_io_error(&error) {
        Some(Errno::NODEV | Errno::NOENT) => format!(
            "{path} has gone; if it was a control group's, this process has been moved to another: make new sources"
        ),
        _ => format!("{path} cannot be read"),
    };
    Error::new(ErrorKind::Driver, operation, message).with_source(error)
}

/// A file that says what nobody understands.
pub(super) fn garbled(operation: &'static str, path: &Path, text: &str) -> Error {
    let start: String = text.chars().take(200).collect();
    let message = format!("{} says what is not understood: {start:?}", path.display());
    Error::new(ErrorKind::Driver, operation, message)
}
