//! Runs random programs.
use aquifer_testkit::simulation::{Program, Runner, shrink};
fn main() {
    let args: Vec<u64> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    let (first, count, ops) = (args[0], args[1], args[2] as usize);
    let mut runner = Runner::new();
    let mut failures = 0;
    let start = std::time::Instant::now();
    let mut classes = std::collections::BTreeMap::<String, (u64, u64)>::new();
    for seed in first..first + count {
        if std::env::var("V").is_ok() {
            eprintln!("{seed}");
        }
        let program = Program::generate(seed, ops);
        if let Err(failure) = runner.run(&program) {
            failures += 1;
            let entry = classes.entry(failure.class.clone()).or_insert((0, seed));
            entry.0 += 1;
            if entry.0 == 1 {
                let (short, failure) = shrink(&mut runner, &program, &failure, 2000);
                println!("seed {seed}: {failure}\n{:?}", short.setup);
                for step in &short.steps {
                    println!("  {step:?}");
                }
            }
        }
    }
    println!("{classes:#?}");
    println!("{count} seeds, {failures} failures, {:?}", start.elapsed());
}
