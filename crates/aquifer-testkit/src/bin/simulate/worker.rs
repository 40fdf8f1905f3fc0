//! A worker: runs its share of the seeds, and tells its parent line by line.
//!
//! ```text
//! seed 17        it begins with that one
//! fail 17        which has failed; lines that begin with a blank say how
//! ```

use crate::Arguments;
use aquifer_testkit::simulation::{Failure, Program, Runner, shrink};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, Write as _};

/// How many failures of a kind are cut down; of the others only the seeds are told.
const SHRUNK_MAX: u32 = 2;
/// How many lines of a message are told.
const LINES_MAX: usize = 12;
/// How many runs cutting down may take.
const SHRINK_RUNS: usize = 1500;

pub(crate) fn work(arguments: &Arguments, number: u64, done: u64) {
    #[cfg(feature = "planted-bugs")]
    aquifer_core::plant(arguments.plant.map(|plant| match plant {
        crate::Plant::Reuse => aquifer_core::Bug::Reuse,
        crate::Plant::Leak => aquifer_core::Bug::Leak,
    }));
    let (from, count) = arguments.range();
    let workers = arguments.workers.unwrap_or(1).max(1);
    let mut runner = Runner::new();
    let mut classes = HashMap::<String, u32>::new();
    for place in (number..count).step_by(workers as usize).skip(done as usize) {
        let seed = from.wrapping_add(place);
        tell(&format!("seed {seed}\n"));
        let mut program = Program::generate(seed, arguments.ops);
        program.steps.iter_mut().for_each(|step| step.thread %= arguments.threads.max(1));
        if arguments.verbose && arguments.seed.is_some() {
            tell(&listing(&program));
        }
        match runner.run(&program) {
            Ok(summary) if arguments.verbose => tell(&format!(" seed {seed}: {summary:?}\n")),
            Ok(_) => {}
            Err(failure) => {
                let count = classes.entry(failure.class.clone()).or_default();
                *count += 1;
                let is_new = *count <= SHRUNK_MAX;
                let text = describe(&mut runner, &program, &failure, is_new);
                tell(&format!("fail {seed}\n{text}"));
            }
        }
    }
}

fn describe(runner: &mut Runner, program: &Program, failure: &Failure, is_new: bool) -> String {
    if !is_new {
        return indented(&failure.to_string());
    }
    let (program, failure) = shrink(runner, program, failure, SHRINK_RUNS);
    indented(&failure.to_string()) + &listing(&program)
}

/// The first lines of a text, set off.
fn indented(text: &str) -> String {
    text.lines().take(LINES_MAX).fold(String::new(), |mut all, line| {
        let _ = writeln!(all, " {line}");
        all
    })
}

fn listing(program: &Program) -> String {
    let mut text = format!(" {:?}\n", program.setup);
    for step in &program.steps {
        let _ = writeln!(text, "   thread {}: {:?}", step.thread, step.action);
    }
    text
}

/// To the parent. If that has gone, so does the worker.
fn tell(text: &str) {
    let mut out = io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}
