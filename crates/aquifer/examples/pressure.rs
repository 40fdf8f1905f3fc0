//! A program that peaks, goes idle, and gives its memory back: watched by a pressure monitor with this machine's sources.

use aquifer::{HostMemoryManager, PressureMonitor, system_pressure_sources};
use std::time::{Duration, Instant};

// The device in software comes with the program that links it.
#[cfg(all(not(target_vendor = "apple"), feature = "software-metal"))]
use software_metal as _;

fn resident_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split_whitespace().nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    (pages * 4096) >> 20
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let manager = HostMemoryManager::builder().idle_decay(Duration::from_secs(2)).build()?;
    let monitor = PressureMonitor::new(&manager, system_pressure_sources())?;
    let _listener = monitor.on_event(|event| println!("{event}"));
    for source in manager.statistics().pressure.sources {
        println!("{}: {:?}", source.name, source.state);
    }
    let mut buffers = Vec::new();
    for bytes in [1 << 30, 700 << 20, 256 << 20, 64 << 20, 1 << 20, 100 << 10].into_iter().cycle().take(12) {
        let mut buffer = manager.allocate(bytes)?;
        buffer.fill(1)?;
        buffers.push(buffer);
    }
    println!("busy: {} MiB resident", resident_mib());
    drop(buffers);
    let begun = Instant::now();
    while resident_mib() > 64 && begun.elapsed() < Duration::from_secs(20) {
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("idle for {:.1} s: {} MiB resident", begun.elapsed().as_secs_f64(), resident_mib());
    Ok(())
}
