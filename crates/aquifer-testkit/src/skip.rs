//! Tests that can do nothing where they run.

use std::fmt::Display;
use std::io::{Write, stderr};

/// Says that this test does nothing here, and why, in a line that begins with `SKIPPED`: past what a test harness keeps of the output of
/// tests that pass, since otherwise nobody would know.
pub fn skip(reason: impl Display) {
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    // The macros for printing are what harnesses catch.
    let _ = writeln!(stderr(), "SKIPPED {test}: {reason}");
}
