//! Random programs on elastic pools of the host: one piece of memory lies behind several addresses there, and must be live at one of
//! them at most. Each buffer is filled with a word of its own, and looked at before it is freed.

use aquifer_core::{Backend, Buffer, Capabilities, Config, Error, ErrorKind, MemoryManager, Policy};
use aquifer_host::Host;
use aquifer_testkit::{Random, assert_balanced};

const SEEDS: u64 = 3;
const STEPS: u64 = 120;
const BUDGET_BYTES: u64 = 96 << 20;

/// What a buffer's words all are.
fn words(bytes: u64, number: u64) -> Vec<u64> {
    vec![number << 32 | bytes; bytes as usize / 8]
}

fn check(buffer: &Buffer<Host>, number: u64) -> Result<(), Error> {
    let expected = words(buffer.size_bytes(), number);
    let mut found = vec![0; expected.len()];
    buffer.read(0, &mut found)?;
    assert!(found == expected, "buffer {number} holds what is not its own: {buffer:?}");
    Ok(())
}

/// Answers how much was mapped that was there before.
fn run(host: Host, seed: u64) -> Result<u64, Error> {
    let mut config = Config::default();
    config.policy = Policy::Elastic;
    config.budget_bytes = Some(BUDGET_BYTES);
    config.reaper = false;
    let manager = MemoryManager::with_config(host, config)?;
    let mut random = Random::new(seed);
    let mut live: Vec<(u64, Buffer<Host>)> = Vec::new();
    for number in 0..STEPS {
        let bytes = 8 << random.below(22);
        let bytes = bytes + random.below(bytes);
        match manager.allocate(bytes) {
            Ok(mut buffer) => {
                buffer.write(0, &words(bytes, number))?;
                live.push((number, buffer));
            }
            Err(error) if error.kind() == ErrorKind::OutOfMemory => {}
            Err(error) => return Err(error),
        }
        let is_full = live.len() > 12;
        while !live.is_empty() && (random.below(3) == 0 || is_full && live.len() > 8) {
            let (number, buffer) = live.swap_remove(random.below(live.len() as u64) as usize);
            check(&buffer, number)?;
        }
        if random.below(64) == 0 {
            manager.trim();
        }
        assert_balanced(&manager.statistics());
    }
    live.iter().try_for_each(|(number, buffer)| check(buffer, *number))?;
    drop(live);
    manager.trim();
    assert_eq!(manager.statistics().reserved.current, 0);
    Ok(manager.statistics().remapping.remapped_count)
}

#[test]
fn nothing_is_written_through_other_addresses() -> Result<(), Error> {
    if !Host::new()?.properties().capabilities.contains(Capabilities::SPARSE_BLOCKS) {
        println!("skipped: this system does not map memory behind addresses");
        return Ok(());
    }
    let mut remapped_count = 0;
    for seed in 0..SEEDS {
        println!("seed {seed}");
        remapped_count += run(Host::new()?, seed)?;
    }
    assert!(remapped_count > 50, "only {remapped_count} mappings of memory that was there before");
    Ok(())
}
