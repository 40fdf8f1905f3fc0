//! The driver by its C functions, as a program calls them.
#![cfg(target_os = "linux")]

mod contexts;
mod devices;
mod faults;
mod host_memory;
mod mapping;
mod memory;
mod peers;
mod streams;
mod support;
