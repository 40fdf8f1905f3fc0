//! This program again, as a process of its own, which does one part of a test and talks with the test.

use crate::groups::Group;
use std::fmt::Display;
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::process::{ChildStdout, Command, ExitStatus, Stdio};

/// Set in the child, to the part that it is to do.
const PART: &str = "AQUIFER_TEST_PART";
/// Before whatever the child says; the test harness talks too.
const MARK: &str = "@@ ";

/// A child, which is ended when the value is dropped, and ends with its parent.
#[derive(Debug)]
pub(crate) struct Child {
    process: std::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// One that runs the test of that name, whose first line must be [`do_part`], in these groups; or why it cannot be in them.
    pub(crate) fn start(test: &str, part: &str, groups: &[&Group]) -> Result<Self, String> {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test, "--nocapture", "--test-threads=1"])
            .env(PART, part)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut child = Self { process, lines };
        for group in groups {
            std::fs::write(group.file("cgroup.procs"), child.id().to_string())
                .map_err(|error| format!("no child in a group: {error}"))?;
        }
        child.tell("go");
        Ok(child)
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.process.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// What it says next; `None` if it has ended.
    pub(crate) fn next_line(&mut self) -> Option<String> {
        self.lines.by_ref().map(Result::unwrap).find_map(|line| {
            let (_, said) = line.split_once(MARK)?;
            Some(said.to_owned())
        })
    }

    /// The next thing it says.
    #[track_caller]
    pub(crate) fn hear(&mut self) -> String {
        self.next_line().expect("the child has more to say before it ends")
    }

    /// Waits until it ends, and passes on what else it says.
    pub(crate) fn wait(mut self) -> ExitStatus {
        while let Some(said) = self.next_line() {
            println!("{said}");
        }
        self.process.wait().unwrap()
    }

    /// What it has of the machine's memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        resident_bytes(&self.id().to_string())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself; whoever waited for what it does has told so.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What a process (or `self`) has of the machine's memory, in bytes.
pub(crate) fn resident_bytes(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/statm")).unwrap();
    let pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size() as u64
}

/// In the child: does the part that it was started for, and ends it. In the test itself it does nothing.
pub(crate) fn do_part(work: impl FnOnce(&str)) {
    let Ok(part) = std::env::var(PART) else { return };
    // Until it is in its groups it takes nothing.
    await_line();
    work(&part);
    std::process::exit(0);
}

/// In the child: waits for what the test tells next. Ends the process if that has gone.
pub(crate) fn await_line() {
    let mut byte = [0];
    loop {
        match std::io::stdin().lock().read(&mut byte) {
            Ok(1) if byte == *b"\n" => return,
            Ok(1) => {}
            _ => std::process::exit(1),
        }
    }
}

/// In the child: tells the test something, in one line.
pub(crate) fn say(what: impl Display) {
    println!("{MARK}{what}");
}
