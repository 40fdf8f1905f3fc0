//! ends
use aquifer::trace::*;
use aquifer::*;
use std::collections::HashMap;
fn main() {
    let mut prod = 1.0f64;
    let mut n = 0;
    for path in std::env::args().skip(1) {
        let t = Trace::open(&path).unwrap();
        let mut c = Config::default();
        c.budget_bytes = Some(1 << 44);
        let m = MemoryManager::with_config(Host::new().unwrap(), c).unwrap();
        let seed: u64 = std::env::var("PERT").map_or(0, |v| v.parse().unwrap());
        let size = |b: u64| -> u64 {
            if seed == 0 {
                return b;
            }
            let mut h =
                b.wrapping_mul(0x9E3779B97F4A7C15).wrapping_add(seed.wrapping_mul(0xD1B54A32D192ED03));
            h ^= h >> 29;
            h = h.wrapping_mul(0xBF58476D1CE4E5B9);
            h ^= h >> 32;
            let scale = [0.2, 0.5, 1.0, 2.0, 3.0][(seed % 5) as usize];
            let amp = [0.02, 0.1, 0.2, 0.25][(seed / 5 % 4) as usize];
            ((b as f64 * scale * (1.0 + amp * ((h % 2001) as f64 / 1000.0 - 1.0))) as u64).max(1)
        };
        let (mut cur, mut peak) = (0u64, 0u64);
        let mut live: HashMap<u64, Buffer<Host>> = HashMap::new();
        for e in t.events() {
            match e.op {
                TraceOp::Allocate => {
                    let b = size(e.bytes);
                    cur += b;
                    peak = peak.max(cur);
                    live.insert(e.id, m.allocate(b).unwrap());
                }
                TraceOp::Free => {
                    cur -= live.remove(&e.id).unwrap().size_bytes();
                }
                _ => {}
            }
        }
        let s = m.statistics();
        let r = s.reserved.peak as f64 / peak as f64;
        prod *= r;
        n += 1;
        let before = s.reserved.current;
        m.trim();
        let s2 = m.statistics();
        println!(
            "{path} ratio {r:.4} hit {:.3}% misses {} calls {:?} end live {} MiB reserved {} -> trim {} MiB in {} blocks",
            s.pool_hit_rate() * 100.0,
            s.miss_count,
            s.driver_calls,
            s.requested.current >> 20,
            before >> 20,
            s2.reserved.current >> 20,
            s2.block_count
        );
    }
    println!("geomean {:.4}", prod.powf(1.0 / n as f64));
}
