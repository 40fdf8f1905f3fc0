//! The software device does what `GUESSES.md` says, as far as the command `compare-guesses` can tell.
#![cfg(not(target_vendor = "apple"))]

#[path = "../src/bin/compare-guesses/checks/mod.rs"]
mod checks;

use checks::{Verdict, all_checks};
use objc2::rc::autoreleasepool;
use software_metal::{DeviceDesc, SoftwareDevice};
use std::collections::{BTreeMap, BTreeSet};

/// Runs all checks on a device; the numbers of those that were skipped.
#[track_caller]
fn skipped(desc: DeviceDesc) -> BTreeSet<u32> {
    let software = SoftwareDevice::new(desc);
    let mut skipped = BTreeSet::new();
    for check in all_checks() {
        match autoreleasepool(|_| (check.run)(&software.metal_device())) {
            Verdict::Same(_) => {}
            Verdict::Different(observed) => panic!("guess {} ({}): {observed}", check.number, check.guess),
            Verdict::Skipped(_) => drop(skipped.insert(check.number)),
        }
        software.wait_until_returned().unwrap();
    }
    skipped
}

#[test]
fn the_device_does_as_guessed() {
    assert_eq!(skipped(DeviceDesc { has_metal4: true, ..DeviceDesc::default() }), BTreeSet::new());
    let old = DeviceDesc {
        is_unified: false,
        is_apple_family: false,
        has_residency_sets: false,
        ..DeviceDesc::default()
    };
    assert_eq!(skipped(old), BTreeSet::from([39, 60, 61, 62, 63, 64, 65, 66, 69]));
}

#[test]
fn the_list_and_the_checks_agree() {
    let list = include_str!("../GUESSES.md");
    let rows: BTreeMap<u32, &str> = list
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix('|')?.split('|');
            Some((cells.next()?.trim().parse().ok()?, cells.nth(2)?.trim()))
        })
        .collect();
    let listed: BTreeSet<_> =
        rows.iter().filter(|(_, how)| **how == "compared").map(|(number, _)| *number).collect();
    let checked: Vec<_> = all_checks().iter().map(|check| check.number).collect();
    assert_eq!(checked.iter().copied().collect::<BTreeSet<_>>(), listed);
    assert_eq!(checked.len(), listed.len(), "each number once");
    assert!(rows.values().all(|how| *how == "compared" || how.starts_with("not: ")), "{rows:?}");
}

#[test]
fn the_command_finds_no_difference() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_compare-guesses"))
        .env_remove("SOFTWARE_METAL_DEVICES")
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    assert!(text.contains("software Metal device: 36 same, 0 different, 4 skipped"), "{text}");
    let none = std::process::Command::new(env!("CARGO_BIN_EXE_compare-guesses"))
        .env("SOFTWARE_METAL_DEVICES", "0")
        .output()
        .unwrap();
    assert_eq!(none.status.code(), Some(2));
}
