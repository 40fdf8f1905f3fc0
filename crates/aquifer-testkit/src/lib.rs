//! Tests for Aquifer's backends and managers, and the parts to write more of them.
//!
//! - [`conformance!`] attaches a backend to the whole suite in one line; [`mod@conformance`] holds the cases.
//! - [`Op`] is one thing that a program does with a manager, [`World`] does it and knows what must come of it, and
//!   [`Oracle`] is the naive bookkeeping behind that: a sorted list of live ranges.
//! - [`Faulty`] is a backend around a backend that fails when it is told to, and counts.
//! - [`simulation`] runs random programs on the simulated device; the program `simulate` does it from the command line.
//! - [`Pattern`] tells one buffer's content from another's, [`Random`] is a seeded source of numbers, and [`Channel`]
//!   takes buffers from thread to thread.
//! - [`MappedMemory`] is memory to be imported, and a [`Shelf`] is where it comes back to.
//!
//! Everything here panics where what it checks does not hold: it is for tests.

#[allow(clippy::missing_panics_doc, reason = "to panic is how a case says that the backend fails it")]
pub mod conformance;

mod channel;
mod faulty;
mod mapped;
mod ops;
mod oracle;
mod pattern;
mod random;
#[cfg(feature = "simulate")]
pub mod simulation;
mod skip;

pub use channel::Channel;
pub use faulty::{DriverCall, FaultMode, Faults, Faulty, FaultyBlock};
pub use mapped::{MappedMemory, Shelf};
pub use ops::{Op, World, WorldDesc, ops};
pub use oracle::{Oracle, assert_balanced};
pub use pattern::Pattern;
pub use random::Random;
pub use skip::skip;

use aquifer_core::{Config, Policy};

/// A configuration with a budget, whatever the environment and the device say, so that a test does the same anywhere.
#[must_use]
pub fn config_with_budget(budget_bytes: u64) -> Config {
    let mut config = Config::default();
    config.budget_bytes = Some(budget_bytes);
    config
}

/// The same with blocks that have memory of their own, also where memory could be mapped behind addresses.
#[must_use]
pub fn config_with_blocks(budget_bytes: u64) -> Config {
    let mut config = config_with_budget(budget_bytes);
    config.policy = Policy::Blocks;
    config
}
