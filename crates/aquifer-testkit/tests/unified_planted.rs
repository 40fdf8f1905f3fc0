//! Bugs that are planted in unified buffers are found by the programs that find none otherwise.
//!
//! A test binary of its own, of one test: what is planted is planted in the whole process.

mod common;
mod unified_program;

use aquifer_core::{Bug, plant};
use aquifer_sim::{SimDesc, ViolationKind};
use unified_program::{Program, late};

fn violations(desc: SimDesc, seed: u64) -> Vec<ViolationKind> {
    let found = Program::new(late(desc, seed), seed).run(300);
    found.into_iter().map(|violation| violation.kind).collect()
}

#[test]
fn what_is_planted_is_found() {
    let (discrete, integrated) = (SimDesc::discrete(), SimDesc::integrated());
    for (bug, desc) in [
        (Bug::BringOver, &discrete),
        (Bug::BringOverToDevice, &discrete),
        (Bug::HostWait, &discrete),
        (Bug::HostWait, &integrated),
        (Bug::QueueOrder, &discrete),
        (Bug::QueueOrder, &integrated),
    ] {
        let seeds = 0..20;
        plant(Some(bug));
        let found = seeds.clone().find(|&seed| {
            let kinds = violations(desc.clone(), seed);
            kinds
                .iter()
                .any(|kind| matches!(kind, ViolationKind::StaleRead | ViolationKind::HostTouchedQueued))
        });
        plant(None);
        println!("{bug:?} on {}: found with seed {found:?}", desc.name);
        let seed = found.unwrap_or_else(|| panic!("{bug:?} is not found within {seeds:?}"));
        assert_eq!(violations(desc.clone(), seed), [], "without it, seed {seed}");
    }
}
