//! A Metal that gives nothing: every call that may answer nil does so once, and from then on for a while, at each place of a program
//! that uses everything; and memory that is short.
#![cfg(not(target_vendor = "apple"))]

#[path = "../common/mod.rs"]
mod common;

mod everything;
mod nil;
mod short;
