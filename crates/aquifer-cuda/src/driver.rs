//! Loading the driver.

use std::sync::OnceLock;

use aquifer_backend::{Error, ErrorKind};
use cudarc::driver::sys::CUresult;

use crate::status;
use crate::sys::{self, name_of};

/// The least version of CUDA that the driver must speak: the first with all that is called here, 64-bit stream memory operations
/// in their second form among them.
const VERSION_MIN: i32 = 12_000;

/// The process that has started the driver.
static PROCESS: OnceLock<u32> = OnceLock::new();

/// What a call would come to in a process that was forked from the driver's: the driver is of no use there, and may never answer.
pub(crate) fn forked(operation: &'static str) -> Error {
    let message = "this process was forked from one that had started the CUDA driver, which works there only; fork before that, \
                   or start a new program in the child";
    Error::new(ErrorKind::Forked, operation, message)
}

/// Loads and starts the driver.
///
/// # Errors
///
/// [`ErrorKind::Unsupported`] if there is no driver, it is too old, or it finds no device; [`ErrorKind::Forked`] in a process that was
/// forked from one that had started it; [`ErrorKind::Driver`] if it does not start.
pub(crate) fn load(operation: &'static str) -> Result<(), Error> {
    let unsupported = |message| Err(Error::new(ErrorKind::Unsupported, operation, message));
    if !sys::is_there() {
        return unsupported(
            "there is no CUDA driver (libcuda.so.1, or nvcuda.dll); install NVIDIA's, or use another backend"
                .into(),
        );
    }
    if PROCESS.get().is_some_and(|process| *process != std::process::id()) {
        return Err(forked(operation));
    }
    let version = sys::version().map_err(|code| status::error(operation, code))?;
    if version < VERSION_MIN {
        return unsupported(format!(
            "the driver speaks CUDA {}, and {} is needed; install a driver of release 525 or newer",
            version_text(version),
            version_text(VERSION_MIN)
        ));
    }
    match sys::init() {
        Ok(()) => {
            PROCESS.get_or_init(std::process::id);
            Ok(())
        }
        // It was started by somebody else, before the fork (`cuInit` of the documentation knows no other reason).
        Err(CUresult::CUDA_ERROR_NOT_INITIALIZED) => Err(forked(operation)),
        Err(code @ (CUresult::CUDA_ERROR_NO_DEVICE | CUresult::CUDA_ERROR_STUB_LIBRARY)) => {
            unsupported(format!(
                "the CUDA driver has no device for this process ({}); see CUDA_VISIBLE_DEVICES and nvidia-smi",
                name_of(code)
            ))
        }
        Err(code) => {
            let message =
                format!("the CUDA driver does not start: it answered {}; see nvidia-smi", name_of(code));
            Err(Error::new(status::error(operation, code).kind(), operation, message))
        }
    }
}

fn version_text(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!((version_text(VERSION_MIN), version_text(11_040)), ("12.0".into(), "11.4".into()));
    }
}
