//! The command on a Metal device: the system's, or, elsewhere, one in software.

mod common;

use std::process::Output;

use common::{aquifer, failure, shipped, success};

fn run(arguments: &[&str]) -> Output {
    aquifer().args(arguments).output().unwrap()
}

#[test]
fn only_a_simulated_device_has_the_memory_that_one_says() {
    let path = shipped();
    let output = run(&["replay", "--backend", "metal", "--device-memory", "1G", path.to_str().unwrap()]);
    assert!(failure(&output).contains("--backend sim"), "{}", failure(&output));
}

#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
mod here {
    use super::*;
    use serde_json::Value;

    #[test]
    fn traces_replay_on_metal() {
        let path = shipped();
        let output = run(&["replay", "--json", "--backend", "metal", path.to_str().unwrap()]);
        let row: Value = serde_json::from_str(success(&output)).unwrap();
        assert_eq!(row["backend"], "metal");
        let host = run(&["replay", "--json", path.to_str().unwrap()]);
        let host: Value = serde_json::from_str(success(&host)).unwrap();
        for figure in ["allocations", "peak_requested_bytes", "live_at_end_bytes"] {
            assert_eq!(row[figure], host[figure], "{figure}");
        }
    }

    #[test]
    fn traces_fit_on_metal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("three.csv");
        let bytes = 130 << 20;
        let events = format!("0,a,1,{bytes},0\n1,a,2,{bytes},0\n2,f,1,0,0\n3,a,3,{bytes},0\n");
        std::fs::write(&path, format!("t_us,op,id,bytes,stream\n{events}")).unwrap();
        let output = run(&["fit", "--json", "--backend", "metal", path.to_str().unwrap()]);
        let row: Value = serde_json::from_str(success(&output)).unwrap();
        assert_eq!(
            (&row["backend"], row["smallest_budget_bytes"].as_u64()),
            (&"metal".into(), Some(2 * bytes))
        );
    }

    #[test]
    fn streams_are_queues_of_metal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("streams.csv");
        let events = "0,a,1,9000000,0\n1,a,2,5000,7\n5,f,1,0,0\n6,f,2,0,7\n90,c,1,0,0\n91,c,2,0,7\n200,a,3,9000000,7\n";
        std::fs::write(&path, format!("t_us,op,id,bytes,stream\n{events}")).unwrap();
        let output = run(&["replay", "--json", "--backend", "metal", path.to_str().unwrap()]);
        let row: Value = serde_json::from_str(success(&output)).unwrap();
        assert_eq!(row["queues"], 2);
        assert!(row["peak_quarantined_bytes"].as_u64().unwrap() >= 9_000_000, "{row}");
    }

    #[test]
    fn transfers_are_measured_on_metal() {
        let output = run(&[
            "bandwidth",
            "--backend",
            "metal",
            "--sizes",
            "4K,1M",
            "--seconds-per-size",
            "0",
            "--json",
        ]);
        let report: Value = serde_json::from_str(success(&output)).unwrap();
        assert_eq!((&report["backend"], &report["time"]), (&"metal".into(), &"real".into()));
        let rows = report["rows"].as_array().unwrap();
        let of = |route: &'static str| rows.iter().filter(move |row| row["route"] == route);
        for route in ["host-to-device", "device-to-host", "device-to-device"] {
            assert!(of(route).count() >= 2, "{report}");
            assert!(of(route).all(|row| row["reference"] == "driver-copy"), "{report}");
        }
        assert!(of("fill").all(|row| row["reference"] == "driver-fill" && row["ratio"].as_f64() > Some(0.0)));
    }

    #[test]
    fn info_lists_the_devices() {
        let info: Value = serde_json::from_str(success(&run(&["info", "--json"]))).unwrap();
        let devices = info["devices"].as_array().unwrap();
        let metal = devices.iter().find(|device| device["backend"] == "metal").unwrap();
        let capabilities = metal["capabilities"].as_array().unwrap();
        for capability in ["queues", "purgeable"] {
            assert!(capabilities.iter().any(|other| other == capability), "{capabilities:?}");
        }
        assert!(success(&run(&["info"])).contains(metal["device"].as_str().unwrap()));
    }

    /// The device in software does what it is told.
    #[cfg(not(target_vendor = "apple"))]
    #[test]
    fn without_a_device_it_says_what_to_do() {
        let path = shipped();
        let mut command = aquifer();
        command.args(["replay", "--backend", "metal", path.to_str().unwrap()]);
        let output = command.env("SOFTWARE_METAL_DEVICES", "0").output().unwrap();
        assert!(failure(&output).contains("there is no Metal device"), "{}", failure(&output));

        let output = aquifer().arg("info").env("SOFTWARE_METAL_DEVICES", "0").output().unwrap();
        assert!(!success(&output).contains("metal"), "{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[cfg(not(any(target_vendor = "apple", feature = "software-metal")))]
#[test]
fn systems_without_metal_say_so() {
    let path = shipped();
    let output = run(&["replay", "--backend", "metal", path.to_str().unwrap()]);
    assert!(failure(&output).contains("--backend host"), "{}", failure(&output));
    let output = run(&["fit", "--backend", "metal", path.to_str().unwrap()]);
    assert!(failure(&output).contains("--backend host"), "{}", failure(&output));
    let output = run(&["bandwidth", "--backend", "metal"]);
    assert!(failure(&output).contains("--backend host"), "{}", failure(&output));
    assert!(!success(&run(&["info"])).contains("metal"));
}
