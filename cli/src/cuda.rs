//! CUDA, on systems that can have it: NVIDIA makes no driver for Apple's.

#[cfg(target_vendor = "apple")]
pub(crate) use elsewhere::{bandwidth, devices, replay};
#[cfg(not(target_vendor = "apple"))]
pub(crate) use here::{bandwidth, devices, replay};

#[cfg(not(target_vendor = "apple"))]
mod here {
    use aquifer::{Cuda, CudaOptions, CudaReplay, ErrorKind};

    use crate::bandwidth::{self, Measured, devices::measure};
    use crate::error::CliError;
    use crate::info::{self, Device};
    use crate::job::{Failed, Job, Replayed};

    /// None where there is no driver.
    pub(crate) fn devices() -> Vec<Result<Device, CliError>> {
        let count = match Cuda::device_count() {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Unsupported => return Vec::new(),
            Err(error) => return vec![Err(error.into())],
        };
        let device = |ordinal| info::device(&Cuda::with_options(CudaOptions::default().ordinal(ordinal))?);
        (0..count).map(device).collect()
    }

    pub(crate) fn replay(job: &Job<'_>) -> Result<Replayed, Failed> {
        job.replay_on(Cuda::new()?, CudaReplay.configure(job.config.clone()), &CudaReplay)
    }

    /// Of the first device, and between it and the second, if there is one.
    pub(crate) fn bandwidth(job: &bandwidth::Job<'_>) -> Result<Measured, CliError> {
        let device = Cuda::new()?;
        let has_other = Cuda::device_count()? > 1;
        let other = has_other.then(|| Cuda::with_options(CudaOptions::default().ordinal(1))).transpose()?;
        measure(job, device, other)
    }
}

#[cfg(target_vendor = "apple")]
mod elsewhere {
    use aquifer::{Error, ErrorKind};

    use crate::bandwidth::{self, Measured};
    use crate::error::CliError;
    use crate::info::Device;
    use crate::job::{Failed, Job, Replayed};

    pub(crate) fn devices() -> Vec<Result<Device, CliError>> {
        Vec::new()
    }

    pub(crate) fn replay(_job: &Job<'_>) -> Result<Replayed, Failed> {
        Err(no_cuda("replay").into())
    }

    pub(crate) fn bandwidth(_job: &bandwidth::Job<'_>) -> Result<Measured, CliError> {
        Err(no_cuda("bandwidth").into())
    }

    fn no_cuda(operation: &'static str) -> Error {
        let message = "there is no CUDA for this system; use --backend host, metal or sim";
        Error::new(ErrorKind::Unsupported, operation, message)
    }
}
