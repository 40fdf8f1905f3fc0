//! Transfers that block allocate nothing on the host once they have been done before, on no thread; nor do they take memory of the device.
//!
//! The one test of its process, since it counts what all threads do.

#![cfg(any(target_os = "linux", target_os = "macos"))]

mod counting;

use aquifer_core::{MemoryManager, SyncBackend};
use aquifer_host::Host;
use aquifer_testkit::config_with_budget;
use counting::calls_of_all_threads;

const ROUNDS: usize = 20;
/// Short ones, and such as several threads share.
const SIZES: [usize; 4] = [1, 4096, 256 << 10, 5 << 20];

fn round<B: SyncBackend>(manager: &MemoryManager<B>, values: &mut [u8]) {
    let transfers = manager.transfers();
    let mut buffer = manager.allocate(values.len() as u64).expect("there is room");
    transfers.upload(&*values, &mut buffer, 0).expect("it is uploaded");
    transfers.fill(&mut buffer, 0..1, 7).expect("it is filled");
    transfers.download(&buffer, 0, values).expect("it is downloaded");
}

fn assert_rounds_are_free<B: SyncBackend>(manager: &MemoryManager<B>, values: &mut [u8]) {
    for bytes in SIZES {
        // The first ones start threads and make room.
        for _ in 0..ROUNDS {
            round(manager, &mut values[..bytes]);
        }
        let before = manager.statistics();
        let mut calls = u64::MAX;
        // A thread that is late for the first time may still make room for itself.
        for _ in 0..10 {
            calls = calls_of_all_threads(|| (0..ROUNDS).for_each(|_| round(manager, &mut values[..bytes])));
            if calls == 0 {
                break;
            }
        }
        assert_eq!(calls, 0, "host allocations in {ROUNDS} rounds of {bytes} bytes");
        let after = manager.statistics();
        assert_eq!(after.reserved.current, before.reserved.current, "{bytes} bytes");
        assert_eq!(after.driver_calls.create, before.driver_calls.create, "{bytes} bytes");
    }
}

#[test]
fn transfers_allocate_nothing() {
    let mut values = vec![3_u8; SIZES[3]];
    let host = Host::new().expect("the system says how much memory it has");
    let manager = MemoryManager::with_config(host, config_with_budget(1 << 30)).expect("a budget");
    assert_rounds_are_free(&manager, &mut values);
}
