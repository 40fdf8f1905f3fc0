//! Metal, on systems that have it.

#[cfg(not(any(target_vendor = "apple", feature = "software-metal")))]
pub(crate) use elsewhere::{devices, replay};
#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
pub(crate) use here::{devices, replay};

#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
mod here {
    use aquifer::{DefaultDevice, Metal, MetalReplay};
    // Off Apple's systems the tests bring a device in software.
    #[cfg(not(target_vendor = "apple"))]
    use software_metal as _;

    use crate::error::CliError;
    use crate::info::{self, Device};
    use crate::replay::{Job, Replayed, replay_on_device};

    pub(crate) fn devices() -> Result<Vec<Device>, CliError> {
        Metal::all()?.iter().map(info::device).collect()
    }

    pub(crate) fn replay(job: &Job<'_>) -> Result<Replayed, CliError> {
        let config = MetalReplay.configure(job.config.clone());
        replay_on_device(job, Metal::default_device()?, config, &MetalReplay)
    }
}

#[cfg(not(any(target_vendor = "apple", feature = "software-metal")))]
mod elsewhere {
    use aquifer::{Error, ErrorKind};

    use crate::error::CliError;
    use crate::info::Device;
    use crate::replay::{Job, Replayed};

    pub(crate) fn devices() -> Result<Vec<Device>, CliError> {
        Ok(Vec::new())
    }

    pub(crate) fn replay(_job: &Job<'_>) -> Result<Replayed, CliError> {
        let message = "this system has no Metal, only Apple's have; use --backend host or --backend sim";
        Err(Error::new(ErrorKind::Unsupported, "replay", message).into())
    }
}
