//! `aquifer replay --backend sim`, and traces of several streams, run as their users run them.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{aquifer, failure, shipped, success, text};
use serde_json::Value;
use tempfile::TempDir;

fn replay(arguments: &[&str], trace: &Path) -> Output {
    aquifer().arg("replay").args(arguments).arg(trace).output().unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(text(&output.stdout).trim_end()).unwrap()
}

fn trace(lines: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("streams.csv");
    fs::write(&path, format!("t_us,op,id,bytes,stream\n{lines}")).unwrap();
    (folder, path)
}

/// 300 MiB that another stream uses until after the next request for as much, and then not.
fn streams() -> (TempDir, PathBuf) {
    let large = 300 << 20;
    trace(&format!(
        "0,a,1,{large},0\n1000,f,1,0,0\n5000,a,2,{large},1\n20000,c,1,0,0\n30000,f,2,0,1\n40000,a,3,{large},0\n"
    ))
}

#[test]
fn a_device_that_is_large_enough_tells_what_it_would_cost() {
    let tables = replay(&["--backend", "sim"], &shipped());
    for expected in
        ["140.00 GiB, simulated", "fits", "blocks made", "would have taken", "of 2.157 s", "5.68 GiB"]
    {
        assert!(success(&tables).contains(expected), "no {expected:?} in\n{}", text(&tables.stdout));
    }
    for threads in ["1", "2"] {
        let output = replay(&["--backend", "sim", "--json", "--threads", threads], &shipped());
        success(&output);
        let row = json(&output);
        assert_eq!((&row["backend"], &row["fits"]), (&"sim".into(), &true.into()));
        assert_eq!(row["device_memory_bytes"].as_u64(), Some(140 << 30));
        assert_eq!(row["budget_bytes"].as_u64(), Some(140 << 30));
        assert_eq!((row["queues"].as_u64(), row["stalls"].as_u64()), (Some(0), Some(0)));
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
        assert_eq!((number("trace_seconds"), number("waited_seconds")), (2.157157, 0.0));
        assert_eq!(row["policy"], "elastic");
        // Two threads race for what is free.
        let most = if threads == "1" { 1.02 } else { 1.1 };
        assert!((1.0..most).contains(&number("reserved_over_requested")), "{row}");
        // Each call takes some microseconds.
        assert!((1e-6 * number("driver_calls")..0.5).contains(&number("driver_seconds")), "{row}");
        let share = number("driver_seconds") / number("trace_seconds");
        assert!((number("driver_share_of_trace") - share).abs() < 1e-12);
        let calls = &row["driver_calls_by_kind"];
        let sum: u64 = calls.as_object().unwrap().values().map(|count| count.as_u64().unwrap()).sum();
        assert_eq!(Some(sum), row["driver_calls"].as_u64());
        assert_eq!(row["peak_requested_bytes"].as_u64(), Some(6_101_516_760));
    }
}

#[test]
fn elastic_is_the_default_where_the_backend_can_and_shows_what_it_remaps() {
    let row = json(&replay(&["--backend", "sim", "--json"], &shipped()));
    assert_eq!(row["policy"], "elastic");
    let number = |key: &str| row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"));
    assert_eq!(number("physical_page_bytes"), 2 << 20);
    assert_eq!(number("peak_physical_pages") * (2 << 20), number("peak_reserved_bytes"));
    assert_eq!(row["driver_calls_by_kind"]["map"].as_u64(), Some(number("mappings")));
    assert!((1..number("mappings")).contains(&number("remapped")), "{row}");
    assert!(number("remapped") * (2 << 20) <= number("remapped_bytes"), "{row}");
    assert!((1..=number("mappings")).contains(&number("compositions")), "{row}");
    let table = replay(&["--backend", "sim"], &shipped());
    for expected in ["elastic, 8 sub-classes", "physical pages", "compositions", "remapped", " of 2 MiB"] {
        assert!(success(&table).contains(expected), "no {expected:?} in\n{}", text(&table.stdout));
    }
    // Less is lost than with blocks, which have nothing of it to show.
    for policy in ["blocks", "power-of-two"] {
        let output = replay(&["--backend", "sim", "--json", "--policy", policy], &shipped());
        let other = json(&output);
        assert_eq!((&other["policy"], other.get("remapped")), (&policy.into(), None));
        assert!(other["peak_reserved_bytes"].as_u64() > Some(number("peak_reserved_bytes")), "{other}");
        let table = replay(&["--backend", "sim", "--policy", policy], &shipped());
        assert!(!success(&table).contains("remapped"), "{}", text(&table.stdout));
    }
    // The environment holds where no option says otherwise.
    let by_environment = |options: &[&str]| {
        let mut command = aquifer();
        command.args(["replay", "--backend", "sim", "--json"]).args(options).arg(shipped());
        json(&command.env("AQUIFER_POLICY", "blocks").output().unwrap())["policy"].clone()
    };
    assert_eq!(by_environment(&[]), "blocks");
    assert_eq!(by_environment(&["--policy", "elastic"]), "elastic");
}

#[test]
fn simulated_figures_are_the_same_each_time() {
    let (_folder, path) = streams();
    for path in [shipped(), path] {
        let once = || {
            let mut row = json(&replay(&["--backend", "sim", "--json"], &path));
            let of_this_machine = ["ns_per_pair", "elapsed_seconds"];
            for key in of_this_machine {
                row.as_object_mut().unwrap().remove(key).unwrap();
            }
            row
        };
        assert_eq!(once(), once());
    }
}

#[test]
fn a_device_that_is_too_small_is_told_with_what_is_enough() {
    let output = replay(&["--backend", "sim", "--device-memory", "5G", "--json"], &shipped());
    let errors = failure(&output);
    for expected in [
        "error: moe_train_start: allocation ",
        "out of memory",
        "when memory ran out",
        "5.00 GiB",
        "To try: ",
    ] {
        assert!(errors.contains(expected), "no {expected:?} in\n{errors}");
    }
    let row = json(&output);
    assert_eq!((&row["fits"], &row["trace"]), (&false.into(), &"moe_train_start".into()));
    assert_eq!(row["device_memory_bytes"].as_u64(), Some(5 << 30));
    // What it says is enough is.
    let enough = errors.split("--device-memory: ").nth(1).unwrap().split(',').next().unwrap();
    assert_eq!(row["enough_bytes"].as_u64(), aquifer::parse_bytes(enough));
    success(&replay(&["--backend", "sim", "--device-memory", enough], &shipped()));

    // Without --json only the tables, and nothing for the one that does not fit.
    let output = replay(&["--backend", "sim", "--device-memory", "5G"], &shipped());
    failure(&output);
    assert_eq!(text(&output.stdout), "");
    let budget = ["--backend", "sim", "--budget", "5G", "--policy", "power-of-two"];
    let errors = replay(&budget, &shipped());
    assert!(
        failure(&errors).contains("To try: a larger --budget")
            && failure(&errors).contains("--policy blocks")
    );
    let output = aquifer()
        .args(["replay", "--backend", "sim", "--device-memory", "4G"])
        .arg(shipped())
        .env("AQUIFER_BUDGET", "1G")
        .output()
        .unwrap();
    assert!(failure(&output).contains("To try: a larger --device-memory and --budget"));
}

#[test]
fn devices_of_any_size_do() {
    for tiny in ["1", "1000", "1M", "3M"] {
        let output = replay(&["--backend", "sim", "--device-memory", tiny], &shipped());
        assert!(failure(&output).contains("To try: a larger --device-memory: "), "{tiny}");
    }
    for huge in ["64T", "16777215T", "18446744073709551615"] {
        success(&replay(&["--backend", "sim", "--device-memory", huge], &shipped()));
    }
    let (_folder, path) = trace("7,a,1,18446744073709551615,0\n");
    assert!(failure(&replay(&["--backend", "sim"], &path)).contains("can never fit"));
    // A trace that takes no time has no share.
    let (_folder, path) = trace("7,a,1,4096,0\n");
    let output = replay(&["--backend", "sim", "--json"], &path);
    success(&output);
    assert_eq!(json(&output)["driver_share_of_trace"], Value::Null);
    let output =
        aquifer().args(["replay", "--backend", "sim"]).arg(path).env("AQUIFER_ZERO", "reuse").output();
    success(&output.unwrap());
}

#[test]
fn streams_are_queues_and_memory_in_use_is_not_used_again() {
    let (_folder, path) = streams();
    for (backend, threads) in [("host", "1"), ("host", "3"), ("sim", "1"), ("sim", "3")] {
        let output = replay(&["--json", "--backend", backend, "--threads", threads], &path);
        success(&output);
        let row = json(&output);
        assert_eq!((row["queues"].as_u64(), row["completions_merged"].as_u64()), (Some(2), Some(1)));
        assert_eq!(row["peak_requested_bytes"].as_u64(), Some(300 << 20));
        assert_eq!(row["peak_quarantined_bytes"].as_u64(), Some(300 << 20));
        assert_eq!(row["peak_reserved_bytes"].as_u64(), Some(600 << 20));
        assert!(row["driver_calls_by_kind"]["signal"].as_u64() > Some(0));
        assert_eq!(row.get("fits").is_some(), backend == "sim");
    }
    assert!(success(&replay(&[], &path)).contains("peak quarantined"));
}

#[test]
fn memory_in_use_is_waited_for_where_there_is_no_other() {
    let (_folder, path) = streams();
    let row = json(&replay(&["--json", "--budget", "400M"], &path));
    assert_eq!((row["stalls"].as_u64(), row["stalled_seconds"].as_f64()), (Some(1), Some(0.015)));
    let row = json(&replay(&["--json", "--backend", "sim", "--device-memory", "400M"], &path));
    assert_eq!((row["stalls"].as_u64(), row["peak_reserved_bytes"].as_u64()), (Some(0), Some(300 << 20)));
    let waited_seconds = row["waited_seconds"].as_f64().unwrap();
    assert!((0.014..0.03).contains(&waited_seconds), "{waited_seconds}");
}
