//! For tests: an NVTX tool that writes down what it is told, one line a call, into the file that `NVTX_TEST_TOOL_LOG` names.
//!
//! It knows the C headers' layouts by offsets, not by the declarations of the crate under test, and writes every field of every
//! structure: sizes and counts as decimal numbers, addresses as hexadecimal ones. What a pointer of a structure leads to is written in its place, in brackets.
//! Its handles are 0xd1, 0xd2, ... for domains and 0xa1, ... for heaps.
//!
//! `NVTX_TEST_TOOL_MODE` says how it behaves; left out or empty, it behaves as tools do.

mod bytes;
mod core_api;
mod memory;

use std::fs::OpenOptions;
use std::io::Write;

/// How the tool behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// As tools do.
    Obliging,
    /// The core's initialisation fails, with all functions in place.
    NoCore,
    /// The memory extension's initialisation fails, with all functions in place.
    NoMemory,
    /// All initialisation succeeds, and no function is put anywhere.
    NoFunctions,
    /// As `NoFunctions`, with slots marked as disabled.
    Disabled,
    /// Heaps are refused.
    NoHeaps,
    /// As `NoHeaps`, with the -1 of NVTX's early headers.
    NoHeapsEarly,
}

fn mode() -> Mode {
    match std::env::var("NVTX_TEST_TOOL_MODE").as_deref() {
        Err(_) | Ok("") => Mode::Obliging,
        Ok("no core") => Mode::NoCore,
        Ok("no memory") => Mode::NoMemory,
        Ok("no functions") => Mode::NoFunctions,
        Ok("disabled") => Mode::Disabled,
        Ok("no heaps") => Mode::NoHeaps,
        Ok("no heaps, early") => Mode::NoHeapsEarly,
        Ok(other) => {
            log(&format!("unknown mode {other}"));
            std::process::abort()
        }
    }
}

/// Writes a line, whole, whoever else writes at the same time.
fn log(line: &str) {
    let Some(path) = std::env::var_os("NVTX_TEST_TOOL_LOG") else {
        return;
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    if written.is_err() {
        std::process::abort();
    }
}
