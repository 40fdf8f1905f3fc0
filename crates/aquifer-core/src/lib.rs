//! TODO

pub mod trace;
