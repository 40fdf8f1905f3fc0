//! A software Metal device for tests on Linux: Objective-C classes that implement the Metal
//! protocols over host memory, reached by ordinary objc2-metal client code.
#![cfg(not(target_vendor = "apple"))]
mod device;
mod exec;
mod foundation;
pub mod control;
pub use software_objc::{live_blocks, live_objects, live_of, poolless_autoreleases};
