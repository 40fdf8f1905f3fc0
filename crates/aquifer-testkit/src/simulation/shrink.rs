//! Cutting a failing program down.

use super::program::{Program, Step};
use super::run::{Failure, Runner};

/// Leaves out of a program what it does not need to fail in the same way, as far as `run_max` runs go. The shorter program,
/// and how it fails.
pub fn shrink(
    runner: &mut Runner,
    program: &Program,
    failure: &Failure,
    run_max: usize,
) -> (Program, Failure) {
    let (mut program, mut failure) = (program.clone(), failure.clone());
    let mut runs = 0;
    let mut attempt = |steps: Vec<Step>, program: &mut Program, failure: &mut Failure| {
        let shorter = Program { setup: program.setup.clone(), steps };
        match runner.run(&shorter) {
            Err(same) if same.class == failure.class => {
                (*program, *failure) = (shorter, same);
                true
            }
            _ => false,
        }
    };
    if failure.step + 1 < program.steps.len() {
        let steps = program.steps[..=failure.step].to_vec();
        attempt(steps, &mut program, &mut failure);
    }
    let mut chunk = program.steps.len().div_ceil(2).max(1);
    loop {
        let mut has_shrunk = false;
        let mut start = 0;
        while start < program.steps.len() {
            if runs >= run_max {
                return (program, failure);
            }
            runs += 1;
            let end = (start + chunk).min(program.steps.len());
            let steps = [&program.steps[..start], &program.steps[end..]].concat();
            if attempt(steps, &mut program, &mut failure) {
                has_shrunk = true;
            } else {
                start = end;
            }
        }
        if chunk > 1 {
            chunk = chunk.div_ceil(2);
        } else if !has_shrunk {
            return (program, failure);
        }
    }
}
