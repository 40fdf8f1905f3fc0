//! The driver by its C functions, as a program calls them.
#![cfg(target_os = "linux")]

mod mapping;
mod memory;
mod streams;
mod support;
