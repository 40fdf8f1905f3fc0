//! `aquifer fit`, run as its users run it.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{aquifer, failure, shipped, success, text};
use serde_json::Value;
use tempfile::TempDir;

const MIB: u64 = 1 << 20;

fn run(command: &str, arguments: &[&str], traces: &[&Path]) -> Output {
    aquifer().arg(command).args(arguments).args(traces).output().unwrap()
}

fn rows(output: &Output) -> Vec<Value> {
    text(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The one line of `fit --json`.
#[track_caller]
fn fitted(arguments: &[&str], trace: &Path) -> Value {
    let output = run("fit", &[&["--json"], arguments].concat(), &[trace]);
    success(&output);
    let mut rows = rows(&output);
    assert_eq!(rows.len(), 1);
    rows.remove(0)
}

fn trace(name: &str, lines: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    fs::write(&path, format!("t_us,op,id,bytes,stream\n{lines}")).unwrap();
    (folder, path)
}

/// Three of 129 MiB at once.
fn three() -> (TempDir, PathBuf) {
    let bytes = 129 * MIB;
    trace("three.csv", &format!("0,a,1,{bytes},0\n1,a,2,{bytes},0\n2,a,3,{bytes},0\n3,f,2,0,0\n"))
}

/// 300 MiB that another stream uses for 15 ms after the next request for as much.
fn streams() -> (TempDir, PathBuf) {
    let bytes = 300 * MIB;
    trace(
        "streams.csv",
        &format!("0,a,1,{bytes},0\n1000,f,1,0,0\n5000,a,2,{bytes},1\n20000,c,1,0,0\n30000,f,2,0,1\n"),
    )
}

#[test]
fn a_replay_completes_in_the_answer_and_not_one_step_below() {
    let path = shipped();
    for backend in ["host", "sim"] {
        for policy in ["blocks", "power-of-two"] {
            let options = ["--backend", backend, "--policy", policy];
            let row = fitted(&options, &path);
            let bytes = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"));
            assert_eq!(row["trace"], "moe_train_start");
            assert_eq!((&row["backend"], &row["policy"]), (&backend.into(), &policy.into()));
            assert_eq!((bytes("events"), bytes("peak_requested_bytes")), (10_000, 6_101_516_760));
            let smallest = bytes("smallest_budget_bytes");
            let over_peak = smallest as f64 / bytes("peak_requested_bytes") as f64;
            assert!((row["over_peak"].as_f64().unwrap() - over_peak).abs() < 1e-9, "{row}");
            assert_eq!(bytes("step_bytes"), 2 * MIB);
            assert_eq!(bytes("too_small_bytes"), smallest - 2 * MIB);
            assert!((bytes("peak_requested_bytes")..=smallest).contains(&bytes("peak_reserved_bytes")));
            assert!(bytes("driver_calls") > 0 && (3..40).contains(&bytes("replays")), "{row}");
            assert_eq!((bytes("stalls"), row["stalled_seconds"].as_f64()), (0, Some(0.0)));
            assert_eq!(row.get("waited_seconds").is_some(), backend == "sim");

            let replay = |bytes: u64| {
                let bytes = bytes.to_string();
                run("replay", &[&options[..], &["--json", "--budget", &bytes]].concat(), &[&path])
            };
            let enough = replay(smallest);
            success(&enough);
            assert_eq!(rows(&enough)[0]["peak_reserved_bytes"], row["peak_reserved_bytes"]);
            assert!(failure(&replay(smallest - 2 * MIB)).contains("out of memory"));
        }
    }
}

#[test]
fn the_answer_is_the_same_each_time() {
    let (_folder, path) = streams();
    for path in [shipped(), path] {
        for backend in ["host", "sim"] {
            let options = ["--backend", backend];
            assert_eq!(fitted(&options, &path), fitted(&options, &path));
        }
    }
}

#[test]
fn answers_that_can_be_computed_are_found() {
    let (_folder, path) = three();
    // In whole blocks of a device with 2 MiB each, and of pages; rounded to 256 MiB each.
    let cases = [
        (["--backend", "sim", "--policy", "blocks"], 3 * 130, Some(388)),
        (["--backend", "host", "--policy", "blocks"], 3 * 129, None),
        (["--backend", "sim", "--policy", "power-of-two"], 3 * 256, Some(766)),
    ];
    for (options, smallest_mib, too_small_mib) in cases {
        let row = fitted(&options, &path);
        assert_eq!(row["peak_requested_bytes"], 387 * MIB);
        assert_eq!(row["smallest_budget_bytes"], smallest_mib * MIB, "{row}");
        assert_eq!(row["too_small_bytes"].as_u64(), too_small_mib.map(|mib: u64| mib * MIB), "{row}");
        assert!((row["over_peak"].as_f64().unwrap() - smallest_mib as f64 / 387.0).abs() < 1e-9);
    }
    // Steps as coarse as one says, from the peak on.
    let options = ["--backend", "sim", "--policy", "power-of-two", "--precision", "100M"];
    let row = fitted(&options, &path);
    assert_eq!(
        (&row["step_bytes"], &row["smallest_budget_bytes"]),
        (&(100 * MIB).into(), &(788 * MIB).into())
    );
    assert_eq!(row["too_small_bytes"], 688 * MIB);
    // Never finer than the device's blocks.
    let options = ["--backend", "sim", "--policy", "power-of-two", "--precision", "1"];
    assert_eq!(fitted(&options, &path)["step_bytes"], 2 * MIB);
}

#[test]
fn waiting_is_told() {
    let (_folder, path) = streams();
    let row = fitted(&[], &path);
    assert_eq!((&row["smallest_budget_bytes"], &row["over_peak"]), (&(300 * MIB).into(), &1.0.into()));
    assert_eq!((row["stalls"].as_u64(), row["stalled_seconds"].as_f64()), (Some(1), Some(0.015)));
    let row = fitted(&["--backend", "sim"], &path);
    assert_eq!((&row["smallest_budget_bytes"], &row["stalls"]), (&(300 * MIB).into(), &0.into()));
    assert!((0.014..0.03).contains(&row["waited_seconds"].as_f64().unwrap()), "{row}");
    for backend in ["host", "sim"] {
        let table = run("fit", &["--backend", backend], &[&path]);
        assert!(success(&table).contains("0.015 s"), "{}", text(&table.stdout));
    }
}

#[test]
fn several_traces_have_a_geometric_mean() {
    let (_folder, path) = three();
    let options = ["--backend", "sim", "--policy", "power-of-two"];
    let output = run("fit", &options, &[&path]);
    let table = success(&output);
    for expected in ["three", "387.00 MiB", "768.00 MiB", "805306368", "1.9845", "sim", "power-of-two"] {
        assert!(table.contains(expected), "no {expected:?} in\n{table}");
    }
    assert!(!table.contains("geometric mean"));

    let output = run("fit", &options, &[&path, &shipped()]);
    let start = fitted(&options, &shipped())["over_peak"].as_f64().unwrap();
    let mean = format!("{:.4}", (start * 768.0 / 387.0).sqrt());
    let line = success(&output).lines().find(|line| line.contains("geometric mean")).unwrap();
    assert!(line.contains(&mean), "no {mean} in {line}");
}

#[test]
fn what_completes_in_no_budget_does_not_stop_the_others() {
    let (_folder, huge) = trace("huge.csv", "7,a,1,18446744073709551615,0\n");
    let (_other_folder, small) = trace("small.csv", "7,a,1,1000000,0\n");
    for backend in ["host", "sim"] {
        let output = run("fit", &["--json", "--backend", backend], &[&huge, Path::new("none.csv"), &small]);
        let errors = failure(&output);
        assert!(errors.starts_with("error: no budget is enough: huge: allocation 1"), "{errors}");
        assert!(errors.contains("can never fit") && errors.contains("none.csv: there is no such file"));
        let rows = rows(&output);
        assert_eq!((rows.len(), &rows[0]["trace"]), (1, &"small".into()));
    }
}

#[test]
fn too_little_memory_is_told_with_the_report() {
    let path = shipped();
    let output = run("fit", &["--backend", "sim", "--device-memory", "5G"], &[&path]);
    for expected in [
        "error: no budget up to 5.00 GiB is enough: moe_train_start: allocation ",
        "when memory ran out",
        "To try: a larger --device-memory: the trace has 5.68 GiB live at most",
    ] {
        assert!(failure(&output).contains(expected), "no {expected:?} in\n{}", failure(&output));
    }
    assert_eq!(text(&output.stdout), "");

    // The environment's budget is the most that is tried.
    let in_budget = |budget: &str, arguments: &[&str]| {
        let mut command = aquifer();
        command.arg("fit").args(arguments).arg(&path).env("AQUIFER_BUDGET", budget).output().unwrap()
    };
    for backend in ["host", "sim"] {
        let output = in_budget("5G", &["--backend", backend]);
        assert!(
            failure(&output).contains("To try: a larger AQUIFER_BUDGET, or none"),
            "{}",
            failure(&output)
        );
        let output = in_budget("8G", &["--backend", backend, "--json"]);
        success(&output);
        let free = fitted(&["--backend", backend], &path);
        assert_eq!(rows(&output)[0]["smallest_budget_bytes"], free["smallest_budget_bytes"]);
    }
}

#[test]
fn a_group_of_processes_has_no_part_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let (_folder, path) = three();
    let output = aquifer()
        .args(["fit", "--json"])
        .arg(path)
        .env("AQUIFER_BUDGET_GROUP", folder.path())
        .env("AQUIFER_BUDGET_GROUP_BYTES", "1M")
        .output()
        .unwrap();
    success(&output);
    assert_eq!(rows(&output)[0]["smallest_budget_bytes"], 387 * MIB);
}

#[test]
fn memory_that_is_cleared_fits_too() {
    let (_folder, path) = trace("small.csv", "7,a,1,1000000,0\n8,f,1,0,0\n9,a,2,1500000,0\n");
    for backend in ["host", "sim"] {
        let mut command = aquifer();
        command.args(["fit", "--json", "--backend", backend]).arg(&path).env("AQUIFER_ZERO", "reuse");
        success(&command.output().unwrap());
    }
}
