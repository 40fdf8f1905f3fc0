//! `aquifer watch`.

mod arguments;
mod draw;
mod json;
mod plain;
mod screen;
mod state;
mod watching;

use std::io::{self, IsTerminal};
use std::time::{Instant, SystemTime};

use crate::error::{CliError, Status};
use crate::output;

pub(crate) use arguments::WatchArguments;

use json::Line;
use watching::{Signal, Watch};

/// Watches until the time is over, or the user ends it.
pub(crate) fn run(arguments: &WatchArguments) -> Result<Status, CliError> {
    let mut watch = Watch::start(arguments)?;
    let end = arguments.watched_for.and_then(|time| watch.started.checked_add(time));
    if arguments.json {
        stream(&mut watch, arguments, end)?;
    } else if io::stdout().is_terminal() {
        screen::show(&mut watch, arguments.interval, end)?;
    } else {
        plain(&mut watch, arguments, end)?;
    }
    Ok(Status::Done)
}

/// When the next thing is to be done that no signal begins.
fn next_at(next: Instant, end: Option<Instant>) -> Instant {
    end.map_or(next, |end| next.min(end))
}

fn is_over(end: Option<Instant>) -> bool {
    end.is_some_and(|end| end <= Instant::now())
}

/// JSON: the sources, then each event, and the status at each interval.
fn stream(watch: &mut Watch, arguments: &WatchArguments, end: Option<Instant>) -> Result<(), CliError> {
    let started_unix = watch.started_at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    output::json_line(&Line::sources(&watch.state(), started_unix))?;
    let mut status_at = Instant::now();
    loop {
        while let Some(signal) = watch.next_until(next_at(status_at, end)) {
            if let Signal::Event(event) = signal
                && let Some(line) = Line::event(&event)
            {
                output::json_line(&line)?;
            }
        }
        // The last one may come before its time: what is short ends with a status too.
        output::json_line(&Line::status(&watch.state()))?;
        if is_over(end) {
            return Ok(());
        }
        status_at = Instant::now() + arguments.interval;
    }
}

/// Lines: the sources, then each event.
fn plain(watch: &mut Watch, arguments: &WatchArguments, end: Option<Instant>) -> Result<(), CliError> {
    output::line(plain::sources(&watch.state()))?;
    loop {
        while let Some(signal) = watch.next_until(next_at(Instant::now() + arguments.interval, end)) {
            if let Signal::Event(event) = signal {
                output::line(plain::event(&(&event).into()))?;
            }
        }
        if is_over(end) {
            return Ok(());
        }
    }
}
