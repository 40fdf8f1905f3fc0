//! The whole program, once and briefly: every peer in every configuration, and a small trace.

use std::error::Error;
use std::process::Command;

use serde_json::Value;

fn lines(arguments: &[&str]) -> Result<Vec<Value>, Box<dyn Error>> {
    let output = Command::new(env!("CARGO_BIN_EXE_aquifer-bench")).args(arguments).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(std::str::from_utf8(&output.stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[test]
fn every_peer_is_measured() -> Result<(), Box<dyn Error>> {
    let lines = lines(&["pairs", "--quick", "--json"])?;
    let rows: Vec<_> = lines.iter().filter(|line| line["bench"] == "pairs").collect();
    for row in &rows {
        assert!(row["skipped"].is_null() && row["ns_median"].as_f64() > Some(0.0), "{row}");
    }
    // Three one-thread configurations of twelve peers, five two-thread ones of the nine that can be shared; and the loop.
    assert_eq!(rows.len(), 3 * 13 + 5 * 10);
    Ok(())
}

#[test]
fn peers_over_the_memory_cap_are_skipped_by_name() -> Result<(), Box<dyn Error>> {
    let lines =
        lines(&["pairs", "--quick", "--json", "--threads=1", "--mix=256B-1MiB", "--memory-cap-bytes=1"])?;
    let skipped: Vec<_> =
        lines.iter().filter(|line| line["skipped"].is_string()).map(|line| &line["peer"]).collect();
    assert_eq!(skipped, ["rlsf", "rlsf-mutex", "snmalloc"]);
    Ok(())
}

#[test]
fn ordering_is_measured_every_way() -> Result<(), Box<dyn Error>> {
    let lines = lines(&["ordering", "--quick", "--json"])?;
    let rows: Vec<_> = lines.iter().filter(|line| line["bench"] == "ordering").collect();
    assert_eq!(rows.len(), 3 * 4);
    for row in rows {
        assert!(row["free_ns_median"].as_f64() > Some(0.0), "{row}");
        let has_markers = row["markers_per_free"].as_f64() > Some(0.0);
        match row["way"].as_str() {
            Some("plain") => assert!(!has_markers, "{row}"),
            Some("recorded" | "recorded-late") => assert!(has_markers, "{row}"),
            // Where it grows, or when the reaper comes by.
            _ => {}
        }
    }
    Ok(())
}

#[test]
fn monitoring_is_measured_in_every_mix() -> Result<(), Box<dyn Error>> {
    let lines = lines(&["monitoring", "--quick", "--json"])?;
    let rows: Vec<_> = lines.iter().filter(|line| line["bench"] == "monitoring").collect();
    assert_eq!(rows.len(), 4);
    for row in rows {
        assert!(row["over_unmonitored"].as_f64() > Some(0.0) && row["readings"].as_u64() > Some(0), "{row}");
    }
    Ok(())
}

#[test]
fn a_trace_is_replayed_by_every_policy() -> Result<(), Box<dyn Error>> {
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.csv");
    let lines = lines(&["replay", "--quick", "--json", trace])?;
    let reserved = |peer: &str| {
        let row = lines.iter().find(|line| line["peer"] == peer);
        row.and_then(|row| row["peak_reserved_bytes"].as_u64())
    };
    // Live at the peak: 512 bytes and 6 MiB; the first buffer's 4 MiB cannot hold the 6 MiB.
    const MIB: u64 = 1 << 20;
    assert_eq!(reserved("best-fit-one-range"), Some(10 * MIB + 512));
    assert_eq!(reserved("offset-allocator"), Some(10 * MIB + 512));
    assert_eq!(reserved("pytorch-like"), Some(22 * MIB));
    assert_eq!(reserved("loop"), None);
    for peer in ["aquifer", "aquifer-blocks", "aquifer-power-of-two", "aquifer-on-host"] {
        assert!(reserved(peer) >= Some(6 * MIB + 100), "{peer}: {:?}", reserved(peer));
        let row = lines.iter().find(|line| line["peer"] == peer).ok_or("a row for each")?;
        assert!(row["driver_calls"].as_u64() > Some(0), "{row}");
        assert_eq!(row["driver_seconds"].as_f64() > Some(0.0), peer != "aquifer-on-host", "{row}");
    }
    Ok(())
}

#[test]
fn budgets_bind_every_peer() -> Result<(), Box<dyn Error>> {
    let trace = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/small.csv");
    let lines = lines(&["replay", "--quick", "--json", "--budget-over-peak=0.5,1.7,4", trace])?;
    let completes = |peer: &str| -> Vec<bool> {
        let rows = lines.iter().filter(|line| line["peer"] == peer);
        rows.map(|row| row["skipped"].is_null()).collect()
    };
    assert_eq!(completes("loop"), [true; 3]);
    // 10 MiB and 512 bytes, and 22 MiB, of 6 MiB and 100 bytes.
    assert_eq!(completes("best-fit-one-range"), [false, true, true]);
    assert_eq!(completes("pytorch-like"), [false, false, true]);
    for peer in
        ["aquifer", "aquifer-blocks", "aquifer-power-of-two", "aquifer-on-host", "offset-allocator", "vk-mem"]
    {
        let completes = completes(peer);
        assert_eq!((completes[0], completes[2]), (false, true), "{peer}");
    }
    Ok(())
}
