//! The suite that every backend must pass, on host memory.

#![cfg(any(target_os = "linux", target_os = "macos"))]

use aquifer_host::Host;

aquifer_testkit::conformance!(Host::new().expect("the system says how much memory it has"));
