//! Compares what the software device guesses about Metal, as listed in `GUESSES.md`, with the system's default device.
//!
//! Prints each guess with what was observed, and a summary. Exits with 1 if anything differs, with 2 if there is no device. Takes
//! a few seconds and some 40 MB of the device's memory.

mod checks;

use checks::{Verdict, all_checks};
use objc2::rc::autoreleasepool;
use objc2_metal::{MTLCreateSystemDefaultDevice, MTLDevice};
use std::process::ExitCode;

#[cfg(not(target_vendor = "apple"))]
use software_metal as _;

// A program without windows gets no default device unless this is linked.
#[cfg(target_vendor = "apple")]
#[link(name = "CoreGraphics", kind = "framework")]
unsafe extern "C" {}

fn main() -> ExitCode {
    let Some(device) = MTLCreateSystemDefaultDevice() else {
        eprintln!("there is no Metal device");
        return ExitCode::from(2);
    };
    let (mut same, mut different, mut skipped) = (0, 0, 0);
    for check in all_checks() {
        let verdict = autoreleasepool(|_| (check.run)(&device));
        let (word, observed) = match verdict {
            Verdict::Same(observed) => {
                same += 1;
                ("same", observed)
            }
            Verdict::Different(observed) => {
                different += 1;
                ("DIFFERENT", observed)
            }
            Verdict::Skipped(reason) => {
                skipped += 1;
                ("skipped", reason)
            }
        };
        println!("{:>3}  {}\n     observed: {observed}: {word}", check.number, check.guess);
    }
    println!("{}: {same} same, {different} different, {skipped} skipped", device.name());
    if different > 0 { ExitCode::from(1) } else { ExitCode::SUCCESS }
}
