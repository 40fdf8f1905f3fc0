//! Aquifer's core.
#![deny(unsafe_code)]
#![allow(dead_code)]
mod clock;
mod pool;
mod range;
mod statistics;
mod sync;
