//! `aquifer watch`.

#![cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "a machine's files are made up on Linux alone")
)]

mod common;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::time::Duration;

use aquifer::{BudgetGroup, BudgetGroupDesc};
use common::{aquifer, failure, success, text};
use serde_json::Value;

/// So many bytes of its limit the control group of [`machine`] may have.
const LIMIT_BYTES: u64 = 1_000_000;

/// The files of a machine, below a root of their own: much memory, and a control group of version 2.
#[cfg(target_os = "linux")]
fn machine(used_bytes: u64) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in [
        ("proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 900000 kB\n".to_owned()),
        ("proc/self/cgroup", "0::/app\n".to_owned()),
        ("sys/fs/cgroup/app/memory.max", format!("{LIMIT_BYTES}\n")),
        ("sys/fs/cgroup/app/memory.current", format!("{used_bytes}\n")),
        // Without what is taken from memory.current no caches count.
        ("sys/fs/cgroup/app/memory.stat", "inactive_file 0\n".to_owned()),
    ] {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    root
}

/// Changes how much the control group uses. At once, so that nobody reads half of it.
#[cfg(target_os = "linux")]
fn use_bytes(root: &tempfile::TempDir, used_bytes: u64) {
    let file = root.path().join("sys/fs/cgroup/app/memory.current");
    let new = file.with_extension("new");
    fs::write(&new, format!("{used_bytes}\n")).unwrap();
    fs::rename(new, file).unwrap();
}

fn watch(root: &Path, arguments: &[&str]) -> Command {
    let mut command = aquifer();
    command.args(["watch", "--interval", "0.05", "--root"]).arg(root).args(arguments);
    command
}

fn run(root: &Path, arguments: &[&str]) -> Output {
    watch(root, arguments).output().unwrap()
}

fn objects(output: &Output) -> Vec<Value> {
    success(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The source of that name's beginning in an object.
#[track_caller]
fn source<'a>(object: &'a Value, name: &str) -> &'a Value {
    let sources = object["sources"].as_array().unwrap();
    let found = sources.iter().find(|source| source["name"].as_str().unwrap().starts_with(name));
    found.unwrap_or_else(|| panic!("no {name} in {object}"))
}

/// A command that runs until it is told to end, and its lines.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    /// The next line that `is_wanted`. The command's `--for` bounds how long that takes.
    #[track_caller]
    fn next(&mut self, is_wanted: impl Fn(&str) -> bool) -> String {
        let mut seen = String::new();
        loop {
            let mut line = String::new();
            assert!(self.lines.read_line(&mut line).unwrap() > 0, "it ended after\n{seen}");
            if is_wanted(&line) {
                return line;
            }
            seen.push_str(&line);
        }
    }

    #[track_caller]
    fn next_event(&mut self, event: &str) -> Value {
        let object = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        object(&self.next(|line| object(line)["event"] == event))
    }

    /// Reads no more; the command ends when it finds out.
    fn hang_up(self) {
        let Self { child, lines } = self;
        drop(lines);
        let output = child.wait_with_output().unwrap();
        assert_eq!((text(&output.stderr), output.status.code()), ("", Some(0)));
    }
}

#[test]
#[cfg(target_os = "linux")]
fn json_tells_sources_events_and_the_status() {
    let root = machine(960_000);
    let objects = objects(&run(root.path(), &["--json", "--for", "0.3"]));
    let (first, last) = (&objects[0], objects.last().unwrap());
    assert_eq!((&first["event"], &last["event"]), (&"sources".into(), &"status".into()));
    assert!(first["started_unix_s"].as_f64() > Some(1e9));
    for object in [first, last] {
        let group = source(object, "cgroup v2 usage ");
        assert_eq!((&group["state"], &group["interval_s"]), (&"polled".into(), &0.05.into()));
        assert_eq!((&group["used_bytes"], &group["limit_bytes"]), (&960_000.into(), &LIMIT_BYTES.into()));
        assert_eq!((&group["level"], &group["reason"]), (&"critical".into(), &Value::Null));
        assert_eq!(source(object, "machine memory ")["used_bytes"], 100_000 * 1024);
    }
    let absent = source(first, "cgroup v1 usage");
    assert_eq!(absent["state"], "absent");
    assert!(absent["reason"].as_str().unwrap().contains("/proc/self/cgroup"), "{absent}");
    assert!(!last["sources"].as_array().unwrap().iter().any(|source| source["state"] == "absent"));

    let rose = objects.iter().find(|object| object["event"] == "rose").unwrap();
    assert_eq!((&rose["from"], &rose["to"]), (&"normal".into(), &"critical".into()));
    assert_eq!((&rose["used_bytes"], &rose["limit_bytes"]), (&960_000.into(), &LIMIT_BYTES.into()));
    assert_eq!((&rose["given_back_bytes"], &rose["number"]), (&0.into(), &0.into()));
    // The first of the sources with that level: the budget that the host's memory has is the group's limit too.
    assert_eq!(rose["source"], "device heap 0");
    assert_eq!(source(last, "device heap 0")["limit_bytes"], LIMIT_BYTES);
    assert_eq!(last["level"], "critical");
    let seconds = |value: &Value| value.as_f64().unwrap();
    assert!(seconds(&last["at_s"]) >= 0.3 && seconds(&last["level_for_s"]) <= seconds(&last["at_s"]));
    assert!(seconds(&last["time_at_s"]["critical"]) > 0.0, "{last}");
    assert_eq!((&last["time_at_s"]["emergency"], &last["groups"]), (&0.0.into(), &Value::Array(Vec::new())));
}

#[test]
#[cfg(target_os = "linux")]
fn the_level_follows_the_files() {
    let root = machine(960_000);
    let mut running = Running::start(watch(root.path(), &["--json", "--for", "60"]));
    assert_eq!(running.next_event("rose")["to"], "critical");
    use_bytes(&root, 990_000);
    let rose = running.next_event("rose");
    assert_eq!((&rose["from"], &rose["to"]), (&"critical".into(), &"emergency".into()));
    assert_eq!(rose["used_bytes"], 990_000);
    use_bytes(&root, 100_000);
    let fell = running.next_event("fell");
    assert_eq!((&fell["from"], &fell["to"]), (&"emergency".into(), &"normal".into()));
    assert!(fell["resolved_after_s"].as_f64() >= Some(2.0), "{fell}");
    let status = running.next_event("status");
    assert_eq!(status["level"], "normal");
    assert!(status["time_at_s"]["emergency"].as_f64() > Some(0.0), "{status}");
    running.hang_up();
}

#[test]
#[cfg(target_os = "linux")]
fn where_no_terminal_is_there_are_lines() {
    let root = machine(910_000);
    let mut running = Running::start(watch(root.path(), &["--for", "60"]));
    assert!(running.next(|_| true).starts_with("memory pressure: "));
    let group = running.next(|line| line.contains("cgroup v2 usage "));
    assert!(group.starts_with("  warning: ") && group.contains("(91.00 %), every 0.05 s"), "{group}");
    assert!(running.next(|line| line.contains("cgroup v1 usage")).starts_with("  absent: "));
    let rose = running.next(|line| line.contains("normal -> warning"));
    assert!(rose.ends_with("s  device heap 0: normal -> warning: 91.00 % of 976.56 KiB\n"), "{rose}");
    use_bytes(&root, 960_000);
    let rose = running.next(|line| line.contains("warning -> critical"));
    assert!(!rose.contains('\u{1b}'), "{rose}");
    // Nobody hears the next event, so it ends.
    let Running { child, lines } = running;
    drop(lines);
    use_bytes(&root, 990_000);
    let output = child.wait_with_output().unwrap();
    assert_eq!((text(&output.stderr), output.status.code()), ("", Some(0)));
}

#[test]
#[cfg(unix)]
fn the_members_of_groups_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let (group, other) = (folder.path().join("group"), folder.path().join("other"));
    let member = BudgetGroup::join(&group, &BudgetGroupDesc::new(1000)).unwrap();
    let _lease = member.lease(250, Duration::ZERO).unwrap();
    drop(BudgetGroup::join(&other, &BudgetGroupDesc::new(4 << 20)).unwrap());
    let names = [group.to_str().unwrap(), other.to_str().unwrap()];
    let arguments = ["--for", "0", "--group", names[0], "--group", names[1]];

    let objects = objects(&run(Path::new("/"), &[&arguments[..], &["--json"]].concat()));
    for object in [&objects[0], objects.last().unwrap()] {
        let groups = &object["groups"];
        assert_eq!((&groups[0]["path"], &groups[0]["budget_bytes"]), (&names[0].into(), &1000.into()));
        assert_eq!((&groups[0]["leased_bytes"], &groups[0]["error"]), (&250.into(), &Value::Null));
        let members = groups[0]["members"].as_array().unwrap();
        assert_eq!(members.len(), 1, "who watches is no member: {groups}");
        assert_eq!((&members[0]["pid"], &members[0]["share"]), (&std::process::id().into(), &0.25.into()));
        assert_eq!((&members[0]["leased_bytes"], &members[0]["wanted_bytes"]), (&250.into(), &0.into()));
        assert_eq!(
            (&groups[1]["members"], &groups[1]["leased_bytes"]),
            (&Value::Array(Vec::new()), &0.into())
        );
    }

    let output = run(Path::new("/"), &arguments);
    let lines = success(&output);
    let expected = format!(
        "budget group {}: 250 B of 1000 B leased\n  process {}: 250 B (25.00 %)\nbudget group {}: 0 B of 4.00 MiB leased\n",
        names[0],
        std::process::id(),
        names[1]
    );
    assert!(lines.contains(&expected), "{lines}");
    assert_eq!(member.status().unwrap().members.len(), 1);
}

#[test]
#[cfg(unix)]
fn a_group_that_goes_is_told_and_the_rest_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let group = folder.path().join("group");
    drop(BudgetGroup::join(&group, &BudgetGroupDesc::new(1000)).unwrap());
    let arguments = ["--json", "--for", "60", "--group", group.to_str().unwrap()];
    let mut running = Running::start(watch(Path::new("/"), &arguments));
    assert_eq!(running.next_event("status")["groups"][0]["error"], Value::Null);
    fs::remove_dir_all(&group).unwrap();
    let told = running.next(|line| {
        let object: Value = serde_json::from_str(line).unwrap();
        object["event"] == "status" && object["groups"][0]["error"].is_string()
    });
    assert!(told.contains("cannot be opened"), "{told}");
    running.hang_up();
}

#[test]
#[cfg(target_os = "linux")]
fn a_root_that_is_not_there_has_no_sources_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("none");
    let objects = objects(&run(&root, &["--json", "--for", "0"]));
    for name in ["psi of the machine, polled", "cgroup v2 usage", "cgroup v1 usage", "machine memory"] {
        let source = source(&objects[0], name);
        assert_eq!(source["state"], "absent", "{source}");
        assert!(!source["reason"].as_str().unwrap().is_empty(), "{source}");
    }
    let output = run(&root, &["--for", "0"]);
    assert!(success(&output).contains("\n  absent: machine memory ("), "{}", text(&output.stdout));
}

#[test]
fn a_folder_without_a_group_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for path in [folder.path(), &folder.path().join("none")] {
        let output = run(Path::new("/"), &["--group", path.to_str().unwrap(), "--for", "0"]);
        let errors = failure(&output);
        assert!(cfg!(not(unix)) || errors.contains(path.to_str().unwrap()), "{errors}");
        assert_eq!(text(&output.stdout), "");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn wrong_usage_is_refused() {
    for arguments in [
        &["--for", "x"][..],
        &["--for", "-1"],
        &["--for", "nan"],
        &["--for", "1e12"],
        &["--interval", "0"],
        &["--interval", "inf"],
        &["--interval", "soon"],
        &["--group"],
        &["--root"],
        &["here"],
    ] {
        let output = aquifer().arg("watch").args(arguments).output().unwrap();
        failure(&output);
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
}

#[test]
fn the_environment_makes_it_no_member() {
    let folder = tempfile::tempdir().unwrap();
    let group = folder.path().join("group");
    let mut command = aquifer();
    command.args(["watch", "--for", "0"]).env("AQUIFER_BUDGET_GROUP", &group);
    success(&command.env("AQUIFER_BUDGET_GROUP_BYTES", "1G").output().unwrap());
    assert!(!group.exists());
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_and_output_that_cannot_be_written_is() {
    for format in [&["--json"][..], &[]] {
        let mut command = aquifer();
        command.args(["watch", "--for", "0"]).args(format);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((text(&output.stderr), output.status.code()), ("", Some(0)));

        if cfg!(target_os = "linux") {
            let full = fs::File::options().write(true).open("/dev/full").unwrap();
            let output = command.stdout(full).output().unwrap();
            assert!(failure(&output).contains("the output cannot be written"));
        }
    }
}
