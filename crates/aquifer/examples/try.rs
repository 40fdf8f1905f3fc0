//! try
use aquifer::*;
fn main() {
    let m = MemoryManager::with_backend(Host::new().unwrap()).unwrap();
    let mut b = m.allocate(4096).unwrap();
    b.write(0, &[1u32, 2, 3]).unwrap();
    let c = m.allocate(300 << 20).unwrap();
    println!("{:?} {:?} {}", b, c, m.report());
    drop(c);
    println!("trim {}", m.trim());
    drop(b);
    println!("trim {}", m.trim());
    println!("{}", m.report());
}
