//! What `aquifer watch` accepts.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// More often than this nobody can read.
const INTERVAL_SECONDS_MIN: f64 = 0.01;
const INTERVAL_SECONDS_MAX: f64 = 3600.0;
/// A year.
const FOR_SECONDS_MAX: f64 = 31_536_000.0;

const HELP: &str = "\
Examples:
  aquifer watch
  aquifer watch --group /dev/shm/trainers
  aquifer watch --json | jq 'select(.event == \"rose\" or .event == \"fell\")'
  aquifer watch --for 10 --interval 1 --json > pressure.jsonl

It shows the machine as this process sees it (its memory, stall information, the control groups
that it is in) and budget groups; not the pools of your programs, which live in their processes.
It allocates nothing, and joins no group. `device heap 0` is the host's memory as a manager has it,
bounded by the lowest of all limits; the other sources say where that comes from.

On a terminal it is a view: q, Esc or Ctrl-C ends it. Where the output goes elsewhere it is a
block of sources, and then a line for each event.

Levels are normal, moderate, warning, critical and emergency. They begin where 85, 90, 95 and
98 % of a limit are used, or where the system says so, and end 3 % lower, after 2 s.

With --json each line is an object, and `event` says what it is. Bytes are whole numbers, times
are seconds, `at_s` counts from the start, and what is not known is null.
  sources        first of all: started_unix_s, sources, groups
  rose           from one level to a higher one: at_s, number, source, from, to, used_bytes,
                 limit_bytes, given_back_bytes
  lasted         still that high: at_s, number, source, level, used_bytes, limit_bytes,
                 given_back_bytes
  fell           at_s, number, source, from, to, resolved_after_s (how long memory was short; null
                 if it still is)
  source-failed  a source does not work now: at_s, number, source, is_absent, reason
  source-works   it works again: at_s, number, source
  status         at each interval, and at the end: at_s, level, level_for_s, time_at_s (a time for
                 each level), sources, groups
Events are counted by `number`, from 0. given_back_bytes is what `watch` itself gave back: 0, as
it has nothing. Each of `sources` has name, state (listening, polled, failed or absent), interval_s,
reason, level, used_bytes and limit_bytes; those absent are in the first object alone. Each of
`groups` has path, budget_bytes, leased_bytes, error, and members with pid, leased_bytes,
wanted_bytes and share (what of the budget it has leased).";

#[derive(Debug, Args)]
#[command(after_help = HELP)]
pub(crate) struct WatchArguments {
    /// Also show the members of the budget group in this folder; may be given more than once
    #[arg(long = "group", value_name = "DIR")]
    pub(crate) groups: Vec<PathBuf>,

    /// How often to refresh, and to read what nobody tells (that at least once a second)
    #[arg(long, value_name = "SECONDS", default_value = "0.5", value_parser = interval)]
    pub(crate) interval: Duration,

    /// End after this time [default: never]
    #[arg(long = "for", value_name = "SECONDS", value_parser = watched_for)]
    pub(crate) watched_for: Option<Duration>,

    /// Print one JSON object for each event, and for the status at each interval
    #[arg(long)]
    pub(crate) json: bool,

    /// The root of the file system whose /proc and /sys are read, for containers and tests
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub(crate) root: PathBuf,
}

fn interval(text: &str) -> Result<Duration, String> {
    seconds(text, INTERVAL_SECONDS_MIN, INTERVAL_SECONDS_MAX)
}

fn watched_for(text: &str) -> Result<Duration, String> {
    seconds(text, 0.0, FOR_SECONDS_MAX)
}

fn seconds(text: &str, min: f64, max: f64) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (min..=max).contains(seconds));
    seconds
        .map(Duration::from_secs_f64)
        .ok_or_else(|| format!("use a number of seconds from {min} to {max}, such as 0.5"))
}
