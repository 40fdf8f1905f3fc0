//! Copies between two devices: directly where they reach each other, else through the host. On the machine's own devices if it has two.

#![cfg(target_os = "linux")]

mod common;

use aquifer_core::{MemoryManager, Policy, Route};
use aquifer_cuda::cudarc::driver::CudaContext;
use aquifer_cuda::{Cuda, CudaOptions};
use aquifer_testkit::config_with_budget;
use software_cuda::Settings;

const BYTES: usize = 3 << 20;

/// Two managers, each of a device; `None`, said aloud, where there is one device.
fn managers(policy: Policy, peer_access: bool) -> Option<[MemoryManager<Cuda>; 2]> {
    if !common::is_real() {
        let _is_first = software_cuda::configure(&Settings { device_count: 2, ..Settings::default() });
    }
    if Cuda::device_count().unwrap() < 2 {
        aquifer_testkit::skip("the machine has one device");
        return None;
    }
    Some([0, 1].map(|ordinal| {
        let options = CudaOptions::default().ordinal(ordinal).peer_access(peer_access);
        let mut config = config_with_budget(64 << 20);
        config.policy = policy;
        MemoryManager::with_config(Cuda::with_options(options).unwrap(), config).unwrap()
    }))
}

/// Brings bytes to one device, from there to the other, and back; answers how many went from device to device by each route.
fn around(managers: &[MemoryManager<Cuda>; 2]) -> [u64; 2] {
    let [near, far] = managers;
    let content: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    let mut source = near.allocate(BYTES as u64).unwrap();
    let mut destination = far.allocate(BYTES as u64).unwrap();
    near.transfers().upload(&content, &mut source, 0).unwrap();
    far.transfers().copy(&source, &mut destination).unwrap();
    let mut found = vec![0_u8; BYTES];
    far.transfers().download(&destination, 0, &mut found).unwrap();
    assert!(found == content);
    let statistics = far.statistics();
    [Route::PeerDirect, Route::PeerStaged].map(|route| statistics.transfers.route(route).bytes)
}

#[test]
fn mapped_memory_is_read_directly() {
    let Some(managers) = managers(Policy::Elastic, true) else { return };
    let direct = around(&managers);
    // What is mapped after the other was let in is reached, too.
    let again = managers[0].allocate(40 << 20).unwrap();
    assert_eq!(around(&managers)[0], 2 * direct[0]);
    drop(again);
    assert_eq!(direct, [BYTES as u64, 0]);
}

#[test]
fn blocks_are_read_directly() {
    let Some(managers) = managers(Policy::Blocks, true) else { return };
    assert_eq!(around(&managers), [BYTES as u64, 0]);
}

#[test]
fn without_peer_access_bytes_go_through_the_host() {
    let Some(managers) = managers(Policy::Elastic, false) else { return };
    assert_eq!(around(&managers), [0, BYTES as u64]);
}

#[test]
fn pooled_memory_that_the_program_brought_is_copied_to_another_device_and_back() {
    let Some([near, far]) = managers(Policy::Elastic, true) else { return };
    let content: Vec<u8> = (0..BYTES).map(|index| (index % 251) as u8).collect();
    // No peer reaches what a device's pool gave, though it reaches all else.
    let stream = CudaContext::new(0).unwrap().new_stream().unwrap();
    let slice = stream.clone_htod(&content).unwrap();
    let mut brought = near.import_device(Cuda::memory_of(slice).unwrap()).unwrap();
    let mut there = far.allocate(BYTES as u64).unwrap();
    far.transfers().copy(&brought, &mut there).unwrap();
    near.transfers().fill(&mut brought, 0..BYTES as u64, 0).unwrap();
    near.transfers().copy(&there, &mut brought).unwrap();
    let mut found = vec![0_u8; BYTES];
    near.transfers().download(&brought, 0, &mut found).unwrap();
    assert!(found == content);
}
