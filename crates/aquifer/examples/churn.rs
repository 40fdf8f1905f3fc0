//! churn
use aquifer::*;
fn main() {
    let mut c = Config::default();
    c.budget_bytes = Some(1 << 44);
    let m = MemoryManager::with_config(Host::new().unwrap(), c).unwrap();
    let o = MemoryOptions::DEFAULT.tag(m.tag("x").unwrap());
    let octaves: f64 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut s = 42u64;
    let mut rnd = || {
        s = s.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (s >> 33) as u32
    };
    let draws: Vec<(usize, u64)> = (0..1 << 20)
        .map(|_| {
            ((rnd() % 1000) as usize, (256.0 * (f64::from(rnd()) / 2147483648.0 * octaves).exp2()) as u64)
        })
        .collect();
    let mut live: Vec<Option<Buffer<Host>>> = (0..1000).map(|_| None).collect();
    for round in 0..6 {
        let t = std::time::Instant::now();
        for &(i, b) in &draws {
            live[i] = None;
            live[i] = m.allocate_with(b, o).ok();
        }
        let st = m.statistics();
        let ev: u64 = st.classes.iter().map(|c| c.evictions).sum();
        println!(
            "{round} {:.2} ns misses {} calls {:?} evictions {ev} reserved {} MiB cached {} MiB free {} MiB live {} MiB",
            t.elapsed().as_nanos() as f64 / draws.len() as f64,
            st.miss_count,
            st.driver_calls,
            st.reserved.current >> 20,
            st.cached_bytes >> 20,
            st.free_bytes >> 20,
            st.allocated.current >> 20
        );
    }
    if std::env::args().nth(2).is_some() {
        for c in m.statistics().classes {
            println!("{:?}", c);
        }
    }
}
