//! The command on a Metal device: the system's, or, elsewhere, one in software.

mod common;

use std::process::Output;

use common::{aquifer, failure, shipped, success};

fn run(arguments: &[&str]) -> Output {
    aquifer().args(arguments).output().unwrap()
}

#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
mod here {
    use super::*;
    use common::text;
    use serde_json::Value;

    #[test]
    fn traces_replay_on_metal() {
        let path = shipped();
        let output = run(&["replay", "--json", "--backend", "metal", path.to_str().unwrap()]);
        let row: Value = serde_json::from_str(success(&output)).unwrap();
        assert_eq!(row["backend"], "metal");
        assert!(row["queues"].as_u64().unwrap() > 0, "streams are queues");
        let host = run(&["replay", "--json", path.to_str().unwrap()]);
        let host: Value = serde_json::from_str(success(&host)).unwrap();
        for figure in ["allocations", "peak_requested_bytes", "live_at_end_bytes"] {
            assert_eq!(row[figure], host[figure], "{figure}");
        }
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
        assert!(!success(&output).contains("metal"), "{}", text(&output.stdout));
    }
}

#[cfg(not(any(target_vendor = "apple", feature = "software-metal")))]
#[test]
fn systems_without_metal_say_so() {
    let path = shipped();
    let output = run(&["replay", "--backend", "metal", path.to_str().unwrap()]);
    assert!(failure(&output).contains("--backend host"), "{}", failure(&output));
    assert!(!success(&run(&["info"])).contains("metal"));
}
