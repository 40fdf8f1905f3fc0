//! The first steps on Metal: `cargo run --release --example metal` on a Mac; elsewhere the same on a Metal device in software, with
//! `--features software-metal`.

#[cfg(not(any(target_vendor = "apple", feature = "software-metal")))]
fn main() {
    println!("There is no Metal on this system; on a Mac this example uses its GPU.");
    println!("To see it run on a device in software: cargo run --example metal --features software-metal");
}

// The device in software comes with the program that links it.
#[cfg(all(not(target_vendor = "apple"), feature = "software-metal"))]
use software_metal as _;

#[cfg(any(target_vendor = "apple", feature = "software-metal"))]
fn main() -> Result<(), aquifer::Error> {
    use aquifer::{MemoryOptions, MetalMemoryManager, objc2_metal::MTLBuffer};

    let manager = MetalMemoryManager::new()?;
    println!("on {}", manager.properties().device);

    let mut buffer = manager.allocate(4096)?; // pooled; freed when dropped
    buffer.write(0, &[1.0_f32, 2.0, 3.0])?; // unified memory: no copy is made

    let weights = manager.tag("weights")?;
    let tensor = manager.allocate_with(1 << 20, MemoryOptions::ZEROED.tag(weights))?;
    // What a kernel is given: the Metal buffer, and where in it the tensor begins.
    tensor.with_block(|block, offset| {
        println!("the weights are in an MTLBuffer of {} bytes, from byte {offset}", block.buffer().length());
    });

    let queue = manager.queue()?;
    let (tensor, _) = queue.upload(vec![0.5_f32; 1 << 18], tensor, 0)?.wait()?;
    let (tensor, values) = queue.download::<f32>(tensor, 0, 4)?.wait()?;
    println!("read back {values:?}");

    drop((buffer, tensor));
    let stats = manager.statistics();
    println!("hit rate {:.2} %", stats.pool_hit_rate() * 100.0);
    println!("fragmentation {:.1} %", stats.fragmentation_percentage());
    println!("{}", manager.report());
    println!("trimming gave {} bytes back", manager.trim());
    Ok(())
}
