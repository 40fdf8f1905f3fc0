//! hot
use aquifer::*;
fn main() {
    let m = HostMemoryManager::new().unwrap();
    let o = MemoryOptions::DEFAULT.tag(m.tag("x").unwrap());
    let n = std::env::args().nth(1).map_or(50_000_000u64, |a| a.parse().unwrap());
    let t = std::time::Instant::now();
    for _ in 0..n {
        let b = m.allocate_with(std::hint::black_box(65536), o).unwrap();
        drop(std::hint::black_box(b));
    }
    println!("{:.2} ns", t.elapsed().as_nanos() as f64 / n as f64);
}
