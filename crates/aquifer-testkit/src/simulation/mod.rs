//! Random programs against the whole core on a simulated device: what the program `simulate` runs.
//!
//! A [`Program`] follows from a seed: the device, the configuration, and some hundred actions on a few threads, one of
//! which runs at a time. A [`Runner`] runs it on [`aquifer_sim::Sim`], whose checker finds memory that is reused too early,
//! and compares what the manager says with what the program and the device know. [`shrink()`] cuts a program down that fails.
//!
//! Programs keep to what [`aquifer_core::Queue`] asks of users: a queue that first uses a buffer of another is ordered after it, and
//! uses of other queues than the home are recorded. So every violation is the core's.

mod end;
mod flag;
mod generate;
mod memory;
mod monitor;
mod program;
mod queues;
mod request;
mod run;
mod scene;
mod shelf;
mod shrink;
mod trouble;
mod work;

pub use program::{Action, HookKind, MappingSetup, Program, Setup, Step};
pub use run::{Failure, Runner, Summary};
pub use shrink::shrink;
