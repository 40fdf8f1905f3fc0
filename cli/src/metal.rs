//! Metal, on systems that have it.

#[cfg(not(any(target_vendor = "apple", feature = "software-metal")))]
pub(crate) use elsewhere::{bandwidth, devices, replay};
#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
pub(crate) use here::{bandwidth, devices, replay};

#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
mod here {
    use aquifer::{DefaultDevice, Metal, MetalReplay};
    // Off Apple's systems the tests bring a device in software.
    #[cfg(not(target_vendor = "apple"))]
    use software_metal as _;

    use crate::bandwidth::{self, Measured, devices::measure};
    use crate::error::CliError;
    use crate::info::{self, Device};
    use crate::job::{Failed, Job, Replayed};

    pub(crate) fn devices() -> Vec<Result<Device, CliError>> {
        match Metal::all() {
            Ok(devices) => devices.iter().map(info::device).collect(),
            Err(error) => vec![Err(error.into())],
        }
    }

    pub(crate) fn replay(job: &Job<'_>) -> Result<Replayed, Failed> {
        let config = MetalReplay.configure(job.config.clone());
        job.replay_on(Metal::default_device()?, config, &MetalReplay)
    }

    /// Of the default device, and between it and the next, if there is one.
    pub(crate) fn bandwidth(job: &bandwidth::Job<'_>) -> Result<Measured, CliError> {
        let mut others = Metal::all()?.into_iter();
        let device = others.next().map_or_else(Metal::default_device, Ok)?;
        measure(job, device, others.next())
    }
}

#[cfg(not(any(target_vendor = "apple", feature = "software-metal")))]
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
        Err(no_metal("replay").into())
    }

    pub(crate) fn bandwidth(_job: &bandwidth::Job<'_>) -> Result<Measured, CliError> {
        Err(no_metal("bandwidth").into())
    }

    fn no_metal(operation: &'static str) -> Error {
        let message = "this system has no Metal, only Apple's have; use --backend host or --backend sim";
        Error::new(ErrorKind::Unsupported, operation, message)
    }
}
