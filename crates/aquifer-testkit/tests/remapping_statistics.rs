//! What is counted of memory that is mapped behind addresses.

use aquifer_core::{Config, Error, MemoryManager, Policy, RemappingStatistics};
use aquifer_sim::{Sim, SimDesc};
use aquifer_testkit::assert_balanced;

const MIB: u64 = 1 << 20;

fn manager(policy: Policy) -> Result<MemoryManager<Sim>, Error> {
    let mut config = Config::default();
    config.policy = policy;
    config.reaper = false;
    MemoryManager::with_config(Sim::new(SimDesc::default()), config)
}

#[test]
fn what_is_put_together_is_counted() -> Result<(), Error> {
    let manager = manager(Policy::Elastic)?;
    let remapping = || {
        let statistics = manager.statistics();
        assert_balanced(&statistics);
        statistics.remapping
    };
    let page_bytes = manager.properties().physical_page_bytes;
    assert_eq!((remapping().physical_page_bytes, remapping().physical_block_count), (page_bytes, 0));

    let (first, second) = (manager.allocate(64 * MIB)?, manager.allocate(64 * MIB)?);
    let before = remapping();
    assert_eq!((before.composition_count, before.remapped_count, before.remapped_bytes), (2, 0, 0));
    assert_eq!(before.mapping_count, before.physical_block_count, "each once");
    assert_eq!(before.sparse_block_count, 1);

    drop(first);
    let larger = manager.allocate(96 * MIB)?;
    let after = remapping();
    assert_eq!(after.composition_count, 3);
    assert_eq!(after.remapped_bytes, 64 * MIB, "all that was free, and the rest is new: {after:?}");
    assert!(after.remapped_count > 0 && after.mapping_count > before.mapping_count, "{after:?}");
    assert_eq!(manager.statistics().reserved.current, 160 * MIB);

    let report = manager.report().to_string();
    let line = format!("{after}\n");
    assert!(line.contains("3 compositions") && line.contains("64.00 MiB remapped"), "{line}");
    assert!(report.contains(&line) && report.contains(" map, "), "{report}");

    drop((second, larger));
    manager.trim();
    let now = remapping();
    assert_eq!((now.physical_block_count, now.mapping_count, now.sparse_block_count), (0, 0, 0));
    assert_eq!((now.composition_count, now.remapped_bytes), (3, 64 * MIB), "these stay");
    Ok(())
}

#[test]
fn where_nothing_is_remapped_nothing_is_said() -> Result<(), Error> {
    let manager = manager(Policy::Blocks)?;
    let _buffer = manager.allocate(64 * MIB)?;
    let statistics = manager.statistics();
    assert_balanced(&statistics);
    assert_eq!(statistics.remapping, RemappingStatistics::default());
    let report = manager.report().to_string();
    assert!(!report.contains("elastic") && !report.contains(" map, "), "{report}");
    Ok(())
}
