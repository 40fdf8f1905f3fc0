//! The parent: starts workers, collects what they say, and starts one anew that has died or hangs.

use crate::{Arguments, Plant};
use clap::ValueEnum;
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// A worker that says nothing for so long hangs. Most seeds take a hundredth of a second, and shrinking some seconds.
const SILENCE_MAX: Duration = Duration::from_secs(300);
/// How often it is told how far things are.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// What all workers have done so far.
#[derive(Debug, Default)]
struct Tally {
    seeds: AtomicU64,
    failures: AtomicU64,
    should_stop: AtomicBool,
}

/// Runs all seeds; how many have failed.
pub(crate) fn run(arguments: &Arguments) -> io::Result<u64> {
    let tally = Tally::default();
    let workers = arguments.workers.unwrap_or(1);
    thread::scope(|scope| {
        let tally = &tally;
        let follow_one = |number| scope.spawn(move || follow(arguments, number, tally));
        let followed: Vec<_> = (0..workers).map(follow_one).collect();
        let mut told = Instant::now();
        while followed.iter().any(|handle| !handle.is_finished()) {
            thread::sleep(Duration::from_millis(20));
            if told.elapsed() >= PROGRESS_EVERY {
                told = Instant::now();
                let (seeds, failures) = counts(tally);
                eprintln!("{seeds} of {} seeds, {failures} failures so far", arguments.seeds);
            }
        }
        followed.into_iter().try_for_each(|handle| handle.join().expect("following a worker does not panic"))
    })?;
    let (seeds, failures) = counts(&tally);
    println!("{seeds} seeds, {failures} failures");
    Ok(failures)
}

fn counts(tally: &Tally) -> (u64, u64) {
    (tally.seeds.load(Ordering::Relaxed), tally.failures.load(Ordering::Relaxed))
}

/// Follows one worker, and its successors, to the end of its share.
fn follow(arguments: &Arguments, number: u64, tally: &Tally) -> io::Result<()> {
    let mut done = 0;
    loop {
        let mut child = start(arguments, number, done)?;
        let lines = read(&mut child);
        let mut current = None;
        let ending = listen(&lines, tally, arguments.fail_fast, &mut |seed| {
            current = Some(seed);
            done += 1;
        });
        if ending != Ending::Closed {
            // It may have ended meanwhile.
            let _ = child.kill();
        }
        let status = child.wait()?;
        if ending == Ending::Stopped || ending == Ending::Closed && status.success() {
            return Ok(());
        }
        let Some(seed) = current else {
            return Err(io::Error::other(format!("a worker ended before its first seed: {status}")));
        };
        let how =
            if ending == Ending::Silent { "hangs".to_owned() } else { format!("ends its process: {status}") };
        println!("seed {seed} {how}");
        tally.failures.fetch_add(1, Ordering::Relaxed);
        if arguments.fail_fast {
            tally.should_stop.store(true, Ordering::Relaxed);
            return Ok(());
        }
    }
}

fn start(arguments: &Arguments, number: u64, done: u64) -> io::Result<Child> {
    let mut command = Command::new(std::env::current_exe()?);
    let option = |name: &str, value: u64| [format!("--{name}"), value.to_string()];
    command
        .args(option("from", arguments.from.unwrap_or(0)))
        .args(option("seeds", arguments.seeds))
        .args(option("ops", arguments.ops as u64))
        .args(option("threads", arguments.threads.into()))
        .args(option("workers", arguments.workers.unwrap_or(1)))
        .args(["--worker".to_owned(), number.to_string(), done.to_string()])
        .args(arguments.seed.map(|seed| option("seed", seed)).into_iter().flatten())
        .args(arguments.verbose.then_some("--verbose"));
    if let Some(name) = arguments.plant.as_ref().and_then(Plant::to_possible_value) {
        command.args(["--plant", name.get_name()]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()
}

/// The lines that a worker writes, until it ends.
fn read(child: &mut Child) -> Receiver<String> {
    let out = child.stdout.take().expect("the worker's output is piped");
    let (lines, incoming) = channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if lines.send(line).is_err() {
                break;
            }
        }
    });
    incoming
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// The worker has ended.
    Closed,
    /// It says nothing.
    Silent,
    /// Nobody wants to know more.
    Stopped,
}

/// Takes in what a worker says; `begin` is told of each seed that it begins with.
fn listen(lines: &Receiver<String>, tally: &Tally, fail_fast: bool, begin: &mut impl FnMut(u64)) -> Ending {
    let mut heard = Instant::now();
    let mut has_failed = false;
    loop {
        let line = match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return Ending::Closed,
            Err(RecvTimeoutError::Timeout) if tally.should_stop.load(Ordering::Relaxed) => {
                return Ending::Stopped;
            }
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > SILENCE_MAX => return Ending::Silent,
            Err(RecvTimeoutError::Timeout) => continue,
        };
        heard = Instant::now();
        if let Some(seed) = line.strip_prefix("seed ").and_then(|seed| seed.parse().ok()) {
            if fail_fast && (has_failed || tally.should_stop.load(Ordering::Relaxed)) {
                tally.should_stop.store(true, Ordering::Relaxed);
                return Ending::Stopped;
            }
            tally.seeds.fetch_add(1, Ordering::Relaxed);
            begin(seed);
        } else if let Some(seed) = line.strip_prefix("fail ") {
            has_failed = true;
            tally.failures.fetch_add(1, Ordering::Relaxed);
            println!("seed {seed} fails:");
        } else {
            println!("{line}");
        }
    }
}
