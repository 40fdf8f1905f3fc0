//! The `aquifer` command: replays allocation traces, finds how little memory they need, describes them, measures transfers, watches
//! how short memory is, and tells what memory there is.
//!
//! Exit code 0 means that everything asked for was done; 2 stands for every error, and each is told in a line on the
//! standard error output.

#![forbid(unsafe_code)]

mod args;
mod bandwidth;
mod cuda;
mod error;
mod fit;
mod info;
mod job;
mod metal;
mod output;
mod progress;
mod remapping;
mod replay;
mod simulation;
mod trace_info;
mod traces;
mod watch;

use std::io::{self, ErrorKind};
use std::process::ExitCode;

use crate::args::{Arguments, Command, TraceCommand};
use crate::error::{CliError, Status};

/// The exit code of every error.
const FAILURE: u8 = 2;

fn main() -> ExitCode {
    let result = match Arguments::read() {
        Ok(arguments) => run(&arguments),
        Err(answer) => print_answer(&answer),
    };
    match result {
        Ok(Status::Done) => ExitCode::SUCCESS,
        Ok(Status::SomeFailed) => ExitCode::from(FAILURE),
        // Whoever read the output has seen enough.
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            error.report(&mut io::stderr());
            ExitCode::from(FAILURE)
        }
    }
}

/// Help and version are answers; wrong usage is told with what would be right.
fn print_answer(answer: &clap::Error) -> Result<Status, CliError> {
    let printed = answer.print();
    if answer.use_stderr() {
        return Ok(Status::SomeFailed);
    }
    Ok(printed.map(|()| Status::Done)?)
}

fn run(arguments: &Arguments) -> Result<Status, CliError> {
    match &arguments.command {
        Command::Replay(arguments) => replay::run(arguments),
        Command::Fit(arguments) => fit::run(arguments),
        Command::Trace(TraceCommand::Info(arguments)) => trace_info::run(arguments),
        Command::Bandwidth(arguments) => bandwidth::run(arguments),
        Command::Watch(arguments) => watch::run(arguments),
        Command::Info(arguments) => info::run(arguments),
    }
}
