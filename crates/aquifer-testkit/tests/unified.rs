//! Buffers that host and device both use, on the simulated device with content: like a discrete GPU, where they have a shadow, and like an
//! integrated one, where they are zero-copy.

mod common;
mod unified_program;

use aquifer_sim::SimDesc;
use unified_program::{Program, late};

/// Neither side ever reads what the other has written anew, whatever is done in which order, and nobody gets memory too early.
fn assert_nothing_is_stale(desc: &SimDesc) {
    for seed in 0..10 {
        println!("seed {seed}");
        let found = Program::new(late(desc.clone(), seed), seed).run(3000);
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "seed {seed}:\n{}", lines.join("\n"));
    }
}

#[test]
fn nothing_is_stale_with_a_shadow() {
    assert_nothing_is_stale(&SimDesc::discrete());
}

#[test]
fn nothing_is_stale_with_zero_copy() {
    assert_nothing_is_stale(&SimDesc::integrated());
}

/// However scattered the parts are, they are few ranges, and right.
#[test]
fn scattered_parts_are_joined() {
    let mut most = 0;
    for seed in 0..10 {
        println!("seed {seed}");
        let program = Program::new(late(SimDesc::discrete(), seed), seed);
        let (found, ranges) = program.run_scattered(1500);
        let lines: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(lines.is_empty(), "seed {seed}:\n{}", lines.join("\n"));
        // Copies that are under way keep ranges apart, for as long as they are.
        assert!(ranges <= 160, "seed {seed}: {ranges} ranges");
        most = most.max(ranges);
    }
    assert!(most >= 64, "no program came to the limit: {most} ranges");
}
