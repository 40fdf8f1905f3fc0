//! The simulator on a few seeds. Many more are run by `ci/simulate`.

#![cfg(feature = "simulate")]

use aquifer_testkit::simulation::{Program, Runner, Summary};

fn run(runner: &mut Runner, seed: u64) -> Summary {
    match runner.run(&Program::generate(seed, 300)) {
        Ok(summary) => summary,
        Err(failure) => panic!("seed {seed} with 300 actions: {failure}"),
    }
}

/// The only test here that makes managers: what several make at the same time is numbered as it comes.
#[test]
fn a_few_seeds_do_not_fail_and_come_again() {
    let mut runner = Runner::new();
    let first: Vec<Summary> = (0..40).map(|seed| run(&mut runner, seed)).collect();
    let mut other = Runner::new();
    for seed in (0..40).rev() {
        assert_eq!(run(&mut other, seed), first[seed as usize], "seed {seed}");
    }
}

#[test]
fn a_seed_says_everything() {
    assert_eq!(Program::generate(3, 500), Program::generate(3, 500));
    assert_ne!(Program::generate(3, 500), Program::generate(4, 500));
}
