//! What blocks cost in physical memory. One test, in a process of its own, so that nothing else moves the figures.

#![cfg(target_os = "linux")]

use aquifer_backend::{Backend, BlockDesc, BlockRange};
use aquifer_host::Host;

const MIB: u64 = 1 << 20;

/// Physical memory of this process, in bytes.
fn resident_bytes(host: &Host) -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let physical_pages: u64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
    physical_pages * host.properties().block_granularity_bytes
}

#[test]
fn blocks_cost_memory_only_where_touched_and_give_it_back() {
    let host = Host::new().unwrap();
    let before = resident_bytes(&host);

    let large = host.create_block(&BlockDesc::new(1024 * MIB, 0)).unwrap();
    let untouched = resident_bytes(&host);
    assert!(untouched < before + 32 * MIB, "untouched: {before} became {untouched}");

    // SAFETY: the range lies in the block, and nobody else knows it.
    unsafe { host.fill(BlockRange { block: &large, offset: 512 * MIB, bytes: 64 * MIB }, 1) }.unwrap();
    let touched = resident_bytes(&host);
    assert!(touched > before + 48 * MIB, "touched: {before} became {touched}");
    assert!(touched < before + 96 * MIB, "only what was touched: {before} became {touched}");

    // SAFETY: nothing uses the block.
    unsafe { host.destroy_block(large) }.unwrap();
    let destroyed = resident_bytes(&host);
    assert!(destroyed < before + 32 * MIB, "destroyed: {before} became {destroyed}, from {touched}");
}
