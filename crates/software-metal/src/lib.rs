//! A Metal device in software: Objective-C classes that implement Metal's protocols over host memory, so that a program written
//! with `objc2-metal` runs off Apple's systems, by real messages. For tests; there are no kernels and no textures.
//!
//! ```
//! # #[cfg(not(target_vendor = "apple"))] {
//! use objc2_metal::{MTLBuffer, MTLDevice, MTLResourceOptions};
//! use software_metal::{DeviceDesc, SoftwareDevice};
//!
//! let software = SoftwareDevice::new(DeviceDesc::default());
//! let device = software.metal_device();
//! let buffer = device.newBufferWithLength_options(1000, MTLResourceOptions::StorageModeShared).unwrap();
//! assert_eq!(buffer.length(), 1000);
//! assert_eq!(software.live_objects()["MTLBuffer"], 1);
//! drop((buffer, device));
//! assert!(software.live_objects().is_empty());
//! # }
//! ```
//!
//! # Design
//!
//! - **Devices are instances.** Each [`SoftwareDevice`] has books and faults of its own, so tests may run side by side. `MTLCreateSystemDefaultDevice`
//!   answers what [`set_default_devices`] was given.
//! - **Strict.** Where Metal's validation layer objects, or where Apple's documentation says that the behaviour is undefined, this panics and says why.
//! - **Memory is mapped, not allocated**: it is there when it is touched, so heaps may be far larger than the machine. What is
//!   freed faults when it is touched. Fresh heap memory is not zero.
//! - **Work runs late**, on a thread of its queue; handlers on yet another. With [`DeviceDesc::overlap_seed`] an adversary chooses the order, down to parts
//!   of copies, among everything that Metal leaves open: only events, fences and, for tracked resources, hazards order passes.
//! - **Guesses** about Metal are listed in `GUESSES.md`. The command `compare-guesses` checks them on a real device.
//!
//! On Apple's systems the crate is empty.
#![cfg(not(target_vendor = "apple"))]

mod bell;
mod census;
mod classes;
mod desc;
mod event;
mod faults;
mod lane;
mod memory;
mod pages;
mod purge;
mod residency;
mod schedule;
mod software_device;
mod sparse;
mod state;
mod work;

pub use desc::DeviceDesc;
pub use faults::{Call, Faults, Hold};
pub use residency::ResidencyCounts;
pub use software_device::{SoftwareDevice, set_default_devices};
