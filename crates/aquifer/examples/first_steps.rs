//! Allocate, use, look: `cargo run --release --example first_steps`.

use aquifer::{HostMemoryManager, MemoryOptions};

fn main() -> Result<(), aquifer::Error> {
    let manager = HostMemoryManager::new()?;

    let mut buffer = manager.allocate(4096)?;
    buffer.write(0, &[1.0_f32, 2.0, 3.0])?;
    let mut values = [0.0_f32; 3];
    buffer.read(0, &mut values)?;
    println!("read back {values:?}");

    let weights = manager.tag("weights")?;
    let mut tensor = manager.allocate_with(1 << 20, MemoryOptions::ZEROED.tag(weights))?;
    tensor.as_mut_slice::<u32>()?[7] = 42;

    let whole = tensor.into_view();
    let (low, high) = whole.split_at(1 << 19)?;
    high.copy_from(&low)?;
    let mut copied = [0_u32; 1];
    high.read(7 * 4, &mut copied)?;
    println!("the view's other half holds {}", copied[0]);

    drop(buffer);
    let statistics = manager.statistics();
    println!(
        "hit rate {:.2} %, fragmentation {:.1} %",
        statistics.pool_hit_rate() * 100.0,
        statistics.fragmentation_percentage()
    );
    println!("{}", manager.report());
    println!("trimming gave {} bytes back", manager.trim());
    Ok(())
}
