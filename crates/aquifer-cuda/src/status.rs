//! The driver's answers as errors.

use aquifer_backend::{Error, ErrorKind};
use cudarc::driver::sys::CUresult;

use crate::sys::{Code, name_of};

/// Whether an answer means that the context is of no use any more. Of the first lot the driver's documentation (`CUresult` in `cuda.h`)
/// says that the process must be ended and started again; of a failed assertion, the context.
pub(crate) fn is_loss(code: Code) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_CONTAINED
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUresult::CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUresult::CUDA_ERROR_EXTERNAL_DEVICE
            // It does not say so of these, which are found while a kernel runs.
            | CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE
            // The context was destroyed, or the driver has shut down with the process.
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_INVALID_CONTEXT
            | CUresult::CUDA_ERROR_DEINITIALIZED
    )
}

/// Whether an answer says only that some stream is being captured: of the stream that was asked about, nothing.
pub(crate) fn is_of_capture(code: Code) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_MERGE
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_UNMATCHED
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_ISOLATION
            // The default stream's, while a stream that it orders with is captured.
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
            | CUresult::CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD
    )
}

/// What an answer means for who called.
pub(crate) fn error(operation: &'static str, code: Code) -> Error {
    let kind = match code {
        CUresult::CUDA_ERROR_OUT_OF_MEMORY => ErrorKind::OutOfMemory,
        code if is_loss(code) => ErrorKind::DeviceLost,
        _ => ErrorKind::Driver,
    };
    Error::new(kind, operation, format!("the CUDA driver answered {}", name_of(code)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_the_process_for_cuda_is_a_loss() {
        let lost = [
            CUresult::CUDA_ERROR_CONTAINED,
            CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
            CUresult::CUDA_ERROR_TENSOR_MEMORY_LEAK,
            CUresult::CUDA_ERROR_MPS_CLIENT_TERMINATED,
        ];
        assert_eq!(lost.map(is_loss), [true; 4]);
        let well = [
            CUresult::CUDA_ERROR_NOT_SUPPORTED,
            CUresult::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE,
            CUresult::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
            CUresult::CUDA_ERROR_MPS_MAX_CONNECTIONS_REACHED,
        ];
        assert_eq!(well.map(is_loss), [false; 4]);
    }
}
