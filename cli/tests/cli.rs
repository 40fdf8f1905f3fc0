//! The `aquifer` command, run as its users run it.

mod common;

use std::fs;
use std::io::Write;
use std::process::{Output, Stdio};

use common::{aquifer, failure, shipped, success, text};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use tempfile::TempDir;

const HEADER: &str = "t_us,op,id,bytes,stream\n";

fn run(arguments: &[&str]) -> Output {
    aquifer().args(arguments).output().unwrap()
}

/// A folder and a file in it.
fn file(name: &str, content: &[u8]) -> (TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, content).unwrap();
    let path = path.to_str().unwrap().to_owned();
    (folder, path)
}

/// What replaying, fitting and describing a file say is wrong with it. All must say the same.
#[track_caller]
fn refusal(name: &str, content: &[u8]) -> String {
    let (_folder, path) = file(name, content);
    let replayed = run(&["replay", &path]);
    assert_eq!(failure(&run(&["trace", "info", &path])), failure(&replayed));
    assert_eq!(failure(&run(&["fit", &path])), failure(&replayed));
    assert_eq!(text(&replayed.stdout), "");
    failure(&replayed).strip_prefix(&format!("error: {path}")).unwrap().trim_end().to_owned()
}

fn json_lines(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn the_shipped_trace_replays_as_tables() {
    let path = shipped();
    let output = run(&["replay", path.to_str().unwrap()]);
    let tables = success(&output);
    for expected in [
        "moe_train_start",
        "peak requested",
        "peak allocated",
        "peak reserved",
        "hit rate",
        "driver calls",
        "ns per pair",
        "live at end",
        "reserved at end",
        "trim gave back",
        "10,000",
        "5.68 GiB",
        "256 MiB",
        "evictions",
    ] {
        assert!(tables.contains(expected), "no {expected:?} in\n{tables}");
    }
    assert!(!tables.contains('\u{1b}'), "no colours where there is no terminal");
}

#[test]
fn json_has_every_figure_for_every_policy_and_number_of_threads() {
    let path = shipped();
    let path = path.to_str().unwrap();
    for (policy, threads) in [("blocks", 1), ("blocks", 3), ("power-of-two", 1), ("power-of-two", 2)] {
        let threads = threads.to_string();
        let output = run(&["replay", "--json", "--policy", policy, "--threads", &threads, path, path]);
        success(&output);
        let rows = json_lines(&output);
        assert_eq!(rows.len(), 2);
        for row in rows {
            let bytes = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"));
            let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
            assert_eq!(row["trace"], "moe_train_start");
            assert_eq!((&row["backend"], &row["policy"]), (&"host".into(), &policy.into()));
            assert_eq!((bytes("events"), bytes("allocations")), (10_000, 5164));
            assert_eq!(bytes("threads").to_string(), threads);
            assert_eq!(row["budget_bytes"], Value::Null);
            assert_eq!(bytes("peak_requested_bytes"), 6_101_516_760);
            assert!(bytes("peak_allocated_bytes") >= bytes("peak_requested_bytes"));
            assert!(bytes("peak_reserved_bytes") >= bytes("peak_allocated_bytes"));
            let ratio = bytes("peak_reserved_bytes") as f64 / bytes("peak_requested_bytes") as f64;
            assert!((number("reserved_over_requested") - ratio).abs() < 1e-9);
            assert!((0.9..=1.0).contains(&number("hit_rate")));
            assert!(bytes("driver_calls") > 0);
            assert!(number("ns_per_pair") > 0.0 && number("elapsed_seconds") > 0.0);
            assert_eq!(bytes("live_at_end_bytes"), 4_671_430_168);
            assert!(bytes("reserved_after_trim_bytes") >= bytes("live_at_end_bytes"));
            let given_back = bytes("reserved_at_end_bytes") - bytes("reserved_after_trim_bytes");
            assert_eq!(bytes("trimmed_bytes"), given_back);
            let buckets = row["buckets"].as_array().unwrap();
            let sum: u64 = buckets.iter().map(|bucket| bucket["allocations"].as_u64().unwrap()).sum();
            assert_eq!(sum, bytes("allocations"));
            assert!(
                buckets.iter().all(|bucket| bucket["allocations"] != 0),
                "only buckets that were used are listed"
            );
        }
    }
}

#[test]
fn traces_are_described() {
    let path = shipped();
    let path = path.to_str().unwrap();
    let output = run(&["trace", "info", path]);
    assert!(success(&output).contains("different sizes"));
    let output = run(&["trace", "info", "--json", path]);
    success(&output);
    let rows = json_lines(&output);
    let row = &rows[0];
    assert_eq!(row["trace"], "moe_train_start");
    assert_eq!((row["events"].as_u64(), row["distinct_sizes"].as_u64()), (Some(10_000), Some(90)));
}

#[test]
fn devices_and_settings_are_shown() {
    let output = aquifer().arg("info").env("AQUIFER_BUDGET", "3G").output().unwrap();
    let tables = success(&output);
    for expected in ["host", "physical memory", "commit-on-touch", "3.00 GiB", "AQUIFER_TRACKING", "not set"]
    {
        assert!(tables.contains(expected), "no {expected:?} in\n{tables}");
    }
    let output = run(&["info", "--json"]);
    success(&output);
    let info = &json_lines(&output)[0];
    assert_eq!(info["devices"][0]["backend"], "host");
    let heap = &info["devices"][0]["heaps"][0];
    assert!(heap["budget_bytes"].as_u64() <= heap["size_bytes"].as_u64());
    // Pages, mappings and what they cost, where memory can be mapped at all.
    let device = &info["devices"][0];
    let can_map = device["capabilities"].as_array().unwrap().contains(&"sparse-blocks".into());
    assert_eq!(device["physical_page_bytes"].as_u64() > Some(0), can_map, "{device}");
    assert_eq!(device["mapping_count_max"].as_u64() > Some(0), can_map, "{device}");
    assert_eq!(tables.contains("mapping costs"), can_map, "{tables}");
    assert!(can_map || device["mapping_costs"].is_null(), "{device}");
    assert_eq!(info["settings"]["policy"], "automatic");
    assert_eq!(info["environment"].as_array().unwrap().len(), aquifer::ENVIRONMENT_VARIABLES.len());
}

#[test]
fn help_has_examples() {
    for arguments in [
        &["--help"][..],
        &["replay", "--help"],
        &["fit", "--help"],
        &["trace", "info", "--help"],
        &["bandwidth", "--help"],
        &["info", "-h"],
    ] {
        let output = run(arguments);
        let help = success(&output);
        assert!(help.contains("Examples:\n  aquifer "), "{help}");
    }
    let output = run(&["replay", "--help"]);
    for expected in ["never touched", "--backend", "--device-memory", "NVIDIA H200", "exit code is 2"] {
        assert!(success(&output).contains(expected), "no {expected:?}");
    }
    assert!(success(&run(&["--version"])).starts_with("aquifer "));
}

#[test]
fn files_that_are_no_traces_are_refused() {
    let whole = fs::read(shipped()).unwrap();
    let refused = refusal("half.csv.gz", &whole[..whole.len() / 2]);
    assert!(refused.contains("the gzip data ends in the middle"), "{refused}");
    let mut damaged = whole;
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    refusal("damaged.csv.gz", &damaged);
    for foreign in ["", "id,name\n1,x\n", "\u{7f}ELF\u{1}\u{1}"] {
        let refused = refusal("foreign.csv", foreign.as_bytes());
        assert!(refused.contains("not a trace"), "{refused}");
    }
    assert!(refusal("empty.csv", HEADER.as_bytes()).contains("no events"));
}

#[test]
fn bad_lines_are_refused_with_their_number() {
    let cases: [(&[u8], &str); 9] = [
        (b"0,a,1,-5,0\n", ", line 2: bytes is `-5`, which is negative"),
        (b"0,a,1,99999999999999999999,0\n", ", line 2: bytes is `99999999999999999999`, which is too large"),
        (b"0,a,1,18446744073709551615,0\n0,a,2,1,0\n", ", line 3: with allocation 2, live bytes exceed"),
        (b"0,a,1,0,0\n", ", line 2: allocation 1 has zero bytes"),
        (b"0,a,1,5,0\n1,f,2,5,0\n", ", line 3: `f` of id 2, which was not allocated"),
        (b"0,a,1,5,0\n1,f,1,5,0\n2,f,1,5,0\n", ", line 4: id 1 was freed before"),
        (b"5,a,1,5,0\n4,f,1,5,0\n", ", line 3: time goes back from 5 to 4 us"),
        (b"0,x,1,5,0\n", ", line 2: op is `x`"),
        (b"0,a,\xff,5,0\n", ", line 2: id is not UTF-8"),
    ];
    for (lines, expected) in cases {
        for compressed in [false, true] {
            let mut content = [HEADER.as_bytes(), lines].concat();
            if compressed {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(&content).unwrap();
                content = encoder.finish().unwrap();
            }
            let refused = refusal("bad.csv.gz", &content);
            assert!(refused.starts_with(expected), "{refused:?}, expected {expected:?}");
            assert_eq!(refused.lines().count(), 1);
        }
    }
}

#[test]
fn missing_files_and_folders_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none.csv.gz");
    let output = run(&["replay", missing.to_str().unwrap()]);
    assert!(failure(&output).contains("there is no such file"));
    for command in ["replay", "fit"] {
        let output = run(&[command, folder.path().to_str().unwrap()]);
        assert!(failure(&output).contains("reading failed"));
    }
}

#[test]
fn what_no_manager_can_serve_is_refused() {
    let (_folder, path) = file("huge.csv", format!("{HEADER}7,a,1,18446744073709551615,0\n").as_bytes());
    let output = run(&["replay", &path]);
    let errors = failure(&output);
    assert!(errors.contains("huge: allocation 1") && errors.contains("can never fit"), "{errors}");
}

#[test]
fn one_bad_trace_does_not_stop_the_others() {
    let path = shipped();
    let path = path.to_str().unwrap();
    let output = run(&["replay", "--json", path, "none.csv", path]);
    assert_eq!(failure(&output).lines().count(), 1);
    assert_eq!(json_lines(&output).len(), 2);
    let output = run(&["trace", "info", "--json", "none.csv", path]);
    failure(&output);
    assert_eq!(json_lines(&output).len(), 1);
}

#[test]
fn a_budget_that_is_too_small_is_told_with_the_report() {
    let path = shipped();
    let path = path.to_str().unwrap();
    for threads in ["1", "2"] {
        let output =
            run(&["replay", "--budget", "5G", "--threads", threads, "--policy", "power-of-two", path]);
        let errors = failure(&output);
        for expected in [
            "error: moe_train_start: allocation ",
            " of 10000, ",
            "out of memory: the budget is spent",
            "budget",
            "5.00 GiB",
            "largest free range",
            "tag replay",
            "To try: a larger --budget",
            "--policy blocks",
        ] {
            assert!(errors.contains(expected), "no {expected:?} in\n{errors}");
        }
    }
    let output = run(&["replay", "--budget", "1000", path]);
    assert!(failure(&output).contains("can never fit"));
    let output = aquifer().args(["replay", path]).env("AQUIFER_BUDGET", "5G").output().unwrap();
    assert!(failure(&output).contains("5.00 GiB"));
    let output = aquifer().args(["replay", "--budget", "1T", path]).env("AQUIFER_BUDGET", "5G").output();
    success(&output.unwrap());
}

#[test]
fn wrong_usage_is_refused() {
    let path = shipped();
    let path = path.to_str().unwrap();
    for arguments in [
        &["replay"][..],
        &["replay", "--policy", "best", path],
        &["replay", "--threads", "0", path],
        &["replay", "--threads", "-1", path],
        &["replay", "--threads", "4294967297", path],
        &["replay", "--budget", "-1", path],
        &["replay", "--budget", "0", path],
        &["replay", "--budget", "1.5G", path],
        &["replay", "--budget", "99999999999999999999", path],
        &["replay", "--backend", "gpu", path],
        &["replay", "--backend", "", path],
        &["replay", "--device-memory", "8G", path],
        &["replay", "--backend", "host", "--device-memory", "8G", path],
        &["replay", "--backend", "sim", "--device-memory", "0", path],
        &["replay", "--backend", "sim", "--device-memory", "-1", path],
        &["replay", "--backend", "sim", "--device-memory", "lots", path],
        &["replay", "--backend", "sim", "--device-memory", "1.5G", path],
        &["replay", "--backend", "sim", "--device-memory", "99999999999999999999", path],
        &["fit"],
        &["fit", "--policy", "best", path],
        &["fit", "--budget", "1G", path],
        &["fit", "--threads", "2", path],
        &["fit", "--precision", "0", path],
        &["fit", "--precision", "-1", path],
        &["fit", "--precision", "0.001", path],
        &["fit", "--device-memory", "8G", path],
        &["fit", "--backend", "sim", "--device-memory", "0", path],
        &["trace", "info"],
        &["replay", "--speed", path],
        &["rewind"],
    ] {
        let output = run(arguments);
        failure(&output);
        assert_eq!(text(&output.stdout), "");
    }
    // Help in place of a command, as there is no command that could be meant.
    assert_eq!(run(&[]).status.code(), Some(2));
}

#[test]
#[cfg(target_os = "linux")]
fn a_closed_output_hides_no_failure() {
    let script = "(sleep 0.1; $0 replay --json $1 $2; echo $? >&2) | true";
    let arguments = ["-c", script, env!("CARGO_BIN_EXE_aquifer"), "missing.csv", shipped().to_str().unwrap()]
        .map(String::from);
    let output = std::process::Command::new("bash").args(arguments).output().unwrap();
    let errors = text(&output.stderr);
    assert!(errors.contains("missing.csv") && errors.trim_end().ends_with('2'), "{errors}");
}

#[test]
fn a_replay_records_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.csv.gz");
    for command in ["replay", "fit"] {
        let output = aquifer()
            .args([command, shipped().to_str().unwrap()])
            .env("AQUIFER_RECORD", &path)
            .output()
            .unwrap();
        assert!(output.status.success());
        assert!(!path.exists());
    }
}

#[test]
fn nonsense_in_the_environment_is_refused() {
    let path = shipped();
    let path = path.to_str().unwrap();
    // Any name of a file makes sense.
    for (name, _) in aquifer::ENVIRONMENT_VARIABLES.into_iter().filter(|&(name, _)| name != "AQUIFER_RECORD")
    {
        for arguments in [&["replay", path][..], &["fit", path], &["info"]] {
            let output = aquifer().args(arguments).env(name, "nonsense").output().unwrap();
            let errors = failure(&output);
            assert!(errors.contains("invalid configuration") && errors.contains(name), "{errors}");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_an_error() {
    let path = shipped();
    let path = path.to_str().unwrap();
    let all = [
        &["replay", path][..],
        &["replay", "--json", path],
        &["fit", path],
        &["trace", "info", path],
        &["info"],
    ];
    for arguments in all.into_iter().chain([&["--help"][..]]) {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = aquifer().args(arguments).stdout(full).stderr(Stdio::piped()).output().unwrap();
        assert!(failure(&output).contains("the output cannot be written"));
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let path = shipped();
    let path = path.to_str().unwrap();
    for arguments in
        [&["replay", "--json", path][..], &["replay", path], &["fit", path], &["info"], &["--help"]]
    {
        let mut child =
            aquifer().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!(text(&output.stderr), "");
        assert_eq!(output.status.code(), Some(0));
    }
}
