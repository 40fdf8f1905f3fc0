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
        let mut live: HashMap<u64, Buffer<Host>> = HashMap::new();
        for e in t.events() {
            match e.op {
                TraceOp::Allocate => {
                    live.insert(e.id, m.allocate(e.bytes).unwrap());
                }
                TraceOp::Free => {
                    live.remove(&e.id);
                }
                _ => {}
            }
        }
        let s = m.statistics();
        let peak = t.summary().live_bytes_peak;
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
