//! `aquifer bandwidth`.

mod common;

use std::fs;
use std::path::Path;
use std::process::{Output, Stdio};

use common::{aquifer, failure, success, text};
use roxmltree::Document;
use serde_json::Value;

/// What keeps a measurement short.
const SHORT: [&str; 4] = ["--sizes", "64K,4K", "--seconds-per-size", "0"];

fn run(arguments: &[&str]) -> Output {
    aquifer().arg("bandwidth").args(arguments).output().unwrap()
}

fn json(output: &Output) -> Value {
    let line = success(output).strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "one object on one line: {line}");
    serde_json::from_str(line).unwrap()
}

#[test]
fn the_host_is_measured_as_a_table() {
    let output = run(&[&SHORT[..], &["--threads", "3"]].concat());
    let tables = success(&output);
    assert!(tables.starts_with("host: ") && tables.contains(", 3 copy threads\n"), "{tables}");
    for expected in [
        "ratio",
        "GB/s",
        "p50 us",
        "host to device",
        "device to host",
        "device to device",
        "peer direct",
        "fill",
        "plain",
        "memcpy",
        "memset",
        "4 KiB",
        "64 KiB",
    ] {
        assert!(tables.contains(expected), "no {expected:?} in\n{tables}");
    }
    // Pinned memory is there, or it is said why not.
    let has_pinned = tables.lines().any(|line| line.starts_with('│') && line.contains("pinned"));
    assert!(has_pinned || tables.contains("left out: 4 KiB, 64 KiB of host to device, pinned ("), "{tables}");
    assert!(!tables.contains("virtual") && !tables.contains('\u{1b}'), "{tables}");
}

#[test]
fn json_has_every_figure_of_every_row() {
    let report = json(&run(&[&SHORT[..], &["--json"]].concat()));
    assert_eq!((&report["backend"], &report["time"]), (&"host".into(), &"real".into()));
    assert!(report["device"].is_string() && report["copy_threads"].as_u64() > Some(0));
    assert_eq!(report["seconds_per_size"], 0.0);
    let rows = report["rows"].as_array().unwrap();
    let left_out = report["left_out"].as_array().unwrap();
    let left_out_count: usize = left_out.iter().map(|one| one["bytes"].as_array().unwrap().len()).sum();
    assert_eq!(rows.len() + left_out_count, 7 * 2, "{report}");
    assert!(left_out.iter().all(|one| one["memory"] == "pinned" && one["reason"].is_string()), "{report}");
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("no {key} in {row}"));
        assert!(["plain", "pinned", "device"].iter().any(|memory| row["memory"] == *memory), "{row}");
        assert_eq!(row["reference"], if row["route"] == "fill" { "memset" } else { "memcpy" });
        assert!(row["bytes"] == 4096 || row["bytes"] == 65_536, "{row}");
        assert_eq!(row["repetitions"], 3);
        assert!(row["reference_threads"].as_u64() >= Some(1), "{row}");
        for (rate, seconds) in [
            ("bytes_per_second", "seconds_median"),
            ("reference_bytes_per_second", "reference_seconds_median"),
        ] {
            assert!((number(rate) * number(seconds) / number("bytes") - 1.0).abs() < 1e-9, "{row}");
        }
        let ratio = number("bytes_per_second") / number("reference_bytes_per_second");
        assert!((number("ratio") / ratio - 1.0).abs() < 1e-9, "{row}");
    }
}

#[test]
fn a_simulated_device_gives_the_same_figures_each_time() {
    let arguments = ["--backend", "sim", "--sizes", "4K,64K,3M", "--json"];
    let (one, other) = (run(&arguments), run(&arguments));
    assert_eq!(success(&one), success(&other));
    let report = json(&one);
    assert_eq!((&report["backend"], &report["time"]), (&"sim".into(), &"virtual".into()));
    assert_eq!((&report["copy_threads"], &report["left_out"]), (&8.into(), &Value::Array(Vec::new())));
    let rows = report["rows"].as_array().unwrap();
    assert!(rows.iter().all(|row| row["reference_threads"].is_null()), "{report}");
    let routes: Vec<_> = rows
        .iter()
        .step_by(3)
        .map(|row| (row["route"].as_str().unwrap(), row["memory"].as_str().unwrap()))
        .collect();
    assert_eq!(
        routes,
        [
            ("host-to-device", "plain"),
            ("host-to-device", "pinned"),
            ("device-to-host", "plain"),
            ("device-to-host", "pinned"),
            ("device-to-device", "device"),
            ("fill", "device"),
            ("peer-direct", "device"),
            ("peer-staged", "device"),
        ]
    );
    // Pinned memory goes at the speed of the link, and plain memory is slower.
    let rate = |index: usize| rows[index]["bytes_per_second"].as_f64().unwrap();
    assert!((45e9..55.3e9).contains(&rate(5)) && rate(2) < rate(5), "{report}");
    let threads = json(&run(&[&arguments[..], &["--threads", "1"]].concat()));
    assert!(threads["rows"][2]["ratio"].as_f64().unwrap() < rows[2]["ratio"].as_f64().unwrap());
    assert!(success(&run(&arguments[..4])).contains("in virtual time"));
}

/// How many files a folder has.
fn file_count(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn figures_are_drawn() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("transfers.svg");
    fs::write(&path, "what was there before, and is longer or shorter").unwrap();
    let plot = ["--backend", "sim", "--plot", path.to_str().unwrap()];
    success(&run(&[&SHORT[..], &plot].concat()));
    let svg = fs::read_to_string(&path).unwrap();
    let svg = Document::parse(&svg).unwrap();
    let of = |name: &'static str| svg.descendants().filter(move |node| node.tag_name().name() == name);
    // Eight routes of two sizes.
    assert_eq!(of("circle").count(), 16);
    let solid = of("polyline").filter(|line| line.attribute("stroke-width") == Some("2"));
    assert_eq!(solid.count(), 8 + 8, "in the chart, and in the legend");
    let texts: Vec<_> = of("text").filter_map(|node| node.text()).map(str::trim).collect();
    let title = "sim: simulated NVIDIA H200, 8 copy threads, in virtual time";
    for expected in [title, "peer staged", "4 KiB", "64 KiB", "GB/s", "its reference"] {
        assert!(texts.contains(&expected), "no {expected:?} in {texts:?}");
    }
    assert_eq!(file_count(folder.path()), 1);
}

#[test]
fn a_plot_that_cannot_be_written_is_told_before_anything_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("none").join("transfers.svg");
    for path in [missing.as_path(), folder.path()] {
        // What would be refused later is not come to.
        let output = run(&["--plot", path.to_str().unwrap(), "--backend", "sim", "--sizes", "1T"]);
        let errors = failure(&output);
        assert!(
            errors.contains("the plot cannot be written") && errors.contains(path.to_str().unwrap()),
            "{errors}"
        );
        assert_eq!(text(&output.stdout), "");
    }
    // Where nothing comes to be drawn, nothing stays, and what was there does.
    let (new, old) = (folder.path().join("new.svg"), folder.path().join("old.svg"));
    fs::write(&old, "old").unwrap();
    for path in [&new, &old] {
        failure(&run(&["--plot", path.to_str().unwrap(), "--sizes", "1T"]));
    }
    assert_eq!((file_count(folder.path()), fs::read_to_string(&old).unwrap().as_str()), (1, "old"));
}

#[test]
fn sizes_that_do_not_fit_are_named_and_the_others_measured() {
    let mut command = aquifer();
    command
        .args(["bandwidth", "--seconds-per-size", "0", "--sizes", "3,1M,3M,1T"])
        .env("AQUIFER_BUDGET", "16M");
    let output = command.output().unwrap();
    let tables = success(&output);
    assert!(tables.contains("\nleft out: 3 MiB, 1 TiB ("), "{tables}");
    assert!(tables.contains("a quarter of the 16 MiB"), "{tables}");
    let report = json(&command.arg("--json").output().unwrap());
    let left_out = &report["left_out"][0];
    assert_eq!((&left_out["route"], &left_out["bytes"]), (&Value::Null, &vec![3_u64 << 20, 1 << 40].into()));
    let measured: Vec<_> = report["rows"].as_array().unwrap()[..2].iter().map(|row| &row["bytes"]).collect();
    assert_eq!(measured, [&3, &(1 << 20)]);

    let mut command = aquifer();
    command.args(["bandwidth", "--sizes", "3M,1T"]);
    let output = command.env("AQUIFER_BUDGET", "16M").output().unwrap();
    let errors = failure(&output);
    assert!(
        errors.contains("nothing was measured") && errors.contains("a quarter of the 16 MiB"),
        "{errors}"
    );
}

#[test]
fn pinned_memory_that_is_refused_is_named() {
    let mut command = aquifer();
    command.arg("bandwidth").args(SHORT).env("AQUIFER_PINNED_BYTES", "4K");
    let output = command.output().unwrap();
    let tables = success(&output);
    for route in ["host to device", "device to host"] {
        let sizes = [
            format!("left out: 64 KiB of {route}, pinned ("),
            format!("left out: 4 KiB, 64 KiB of {route}, pinned ("),
        ];
        assert!(sizes.iter().any(|sizes| tables.contains(sizes)), "{tables}");
    }
}

#[test]
fn wrong_usage_is_refused() {
    for arguments in [
        &["--backend", "gpu"][..],
        &["--backend", ""],
        &["--sizes", ""],
        &["--sizes", "0"],
        &["--sizes", "4K,0"],
        &["--sizes", "4K,,8K"],
        &["--sizes", "abc"],
        &["--sizes", "-1"],
        &["--sizes", "1.5M"],
        &["--sizes", "99999999999999999999"],
        &["--sizes", "4K", "--max-size", "1M"],
        &["--max-size", "0"],
        &["--max-size", "huge"],
        &["--max-size", "1K"],
        &["--seconds-per-size", "-1"],
        &["--seconds-per-size", "nan"],
        &["--seconds-per-size", "inf"],
        &["--seconds-per-size", "1e9"],
        &["--seconds-per-size", "soon"],
        &["--threads", "0"],
        &["--threads", "1025"],
        &["--plot"],
        &["transfers.svg"],
    ] {
        let output = run(arguments);
        failure(&output);
        assert_eq!(text(&output.stdout), "", "{arguments:?}");
    }
}

#[test]
fn nonsense_in_the_environment_is_refused_and_nothing_is_recorded() {
    let output = aquifer().arg("bandwidth").args(SHORT).env("AQUIFER_BUDGET", "nonsense").output().unwrap();
    assert!(failure(&output).contains("AQUIFER_BUDGET"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.csv.gz");
    success(&aquifer().arg("bandwidth").args(SHORT).env("AQUIFER_RECORD", &path).output().unwrap());
    assert_eq!(file_count(folder.path()), 0);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error_and_output_that_cannot_be_written_is() {
    for format in [&["--json"][..], &[]] {
        let mut command = aquifer();
        command.arg("bandwidth").args(SHORT).args(format);
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
