//! Pinned blocks are where they were asked to be: the kernel is asked for the node of every page. One test, in a process of its
//! own, so that it may lock some MiB.

#![cfg(target_os = "linux")]

mod common;

use std::path::Path;

use aquifer_backend::{Backend, BlockDesc, ErrorKind};
use aquifer_host::numa::{NumaTopology, node_of_page, node_of_pci_device};
use aquifer_host::{Host, HostBlock, HostOptions, Near};
use common::skipped;

const PINNED: usize = 1;

fn host_near(near: Near) -> Option<Host> {
    match Host::with_options(HostOptions { pinned_near: Some(near), ..HostOptions::default() }) {
        Ok(host) => Some(host),
        // A sandbox, or a cpuset.
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Configuration), "{error}");
            assert!(error.message().contains("could not be bound"), "{error}");
            skipped(error);
            None
        }
    }
}

/// Asks for the node of every page of a block.
fn check_pages(host: &Host, block: &HostBlock, bytes: u64, node: u32) {
    let start = host.host_pointer(block).unwrap();
    for offset in (0..bytes as usize).step_by(host.properties().block_granularity_bytes as usize) {
        match node_of_page(start.as_ptr().wrapping_add(offset)) {
            Ok(found) => assert_eq!(found, node, "the page at {offset} of {bytes} bytes"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
                return skipped(error);
            }
        }
    }
}

/// The policy that the kernel shows for the mapping at an address: the mapping's start, and then the policy.
fn policy_of(address: usize) -> Option<String> {
    let text = std::fs::read_to_string("/proc/self/numa_maps").ok()?;
    let line = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(start, _)| usize::from_str_radix(start, 16).is_ok_and(|start| start == address));
    Some(line?.1.split(' ').next().unwrap().to_owned())
}

fn check_policy(host: &Host, block: &HostBlock, expected: &str) {
    match policy_of(host.host_pointer(block).unwrap().addr().get()) {
        Some(policy) => assert_eq!(policy, expected),
        None => skipped("the kernel shows no policy of that mapping"),
    }
}

/// On each of these, blocks of every make.
fn check_host(host: &Host, node: u32) {
    assert_eq!(host.pinned_node(), Some(node));
    let granule = host.properties().block_granularity_bytes;
    // All of them are less than the 8 MiB that everybody may lock.
    for bytes in [granule, 64 << 10, (2 << 20) + 3 * granule, 4 << 20] {
        let block = match host.create_block(&BlockDesc::new(bytes, PINNED)) {
            Ok(block) => block,
            Err(error) => {
                assert!(matches!(error.kind(), ErrorKind::OutOfMemory | ErrorKind::Unsupported), "{error}");
                skipped(error);
                continue;
            }
        };
        check_pages(host, &block, bytes, node);
        check_policy(host, &block, &format!("bind:{node}"));
        // SAFETY: nothing uses the block.
        unsafe { host.destroy_block(block) }.unwrap();
    }
}

#[test]
fn pinned_blocks_are_on_their_node() {
    let topology = NumaTopology::read(Path::new("/"));
    let nodes: Vec<_> = topology.nodes().iter().filter(|node| node.has_memory).collect();
    println!("{} NUMA nodes with memory", nodes.len());
    for node in &nodes {
        if let Some(host) = host_near(Near::Node(node.id)) {
            check_host(&host, node.id);
        }
        let cpu = node.cpus.first().copied();
        if let Some(host) = cpu.and_then(|cpu| host_near(Near::Cpu(cpu))) {
            check_host(&host, node.id);
        }
    }
    check_devices(&topology);
    check_unbound();

    let error =
        Host::with_options(HostOptions { pinned_near: Some(Near::Node(4000)), ..HostOptions::default() })
            .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.message().contains("there is no NUMA node 4000; the nodes are"), "{error}");
}

/// Memory near to each device whose node is known. Most virtual machines know none.
fn check_devices(topology: &NumaTopology) {
    let devices = std::fs::read_dir("/sys/bus/pci/devices").into_iter().flatten().flatten();
    let mut tried = Vec::new();
    for device in devices {
        let address = device.file_name().into_string().unwrap();
        let node = node_of_pci_device(Path::new("/"), &address).unwrap();
        let Some(node) = node.and_then(|node| topology.nearest_with_memory(node)) else { continue };
        if !tried.contains(&node) {
            tried.push(node);
            println!("device {address} is near to node {node}");
            if let Some(host) = host_near(Near::PciDevice(address)) {
                check_host(&host, node);
            }
        }
    }
    if tried.is_empty() {
        skipped("no PCI device here has a known NUMA node");
    }
}

/// Without a wish nothing is bound, and ordinary blocks never are; a page that nobody has touched is nowhere.
fn check_unbound() {
    let host = Host::new().unwrap();
    let granule = host.properties().block_granularity_bytes;
    let block = host.create_block(&BlockDesc::new(2 * granule, 0)).unwrap();
    let start = host.host_pointer(&block).unwrap();
    // SAFETY: the block is writable, and nobody else knows it.
    unsafe { start.write(1) };
    match (node_of_page(start.as_ptr()), node_of_page(start.as_ptr().wrapping_add(granule as usize))) {
        (Ok(_), Err(untouched)) => {
            assert_eq!(untouched.kind(), ErrorKind::InvalidArgument, "{untouched}");
            assert!(untouched.message().contains("write to it before you ask"), "{untouched}");
        }
        (Err(error), Err(_)) => {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            skipped(error);
        }
        found => panic!("{found:?}"),
    }
    check_policy(&host, &block, "default");
    // SAFETY: nothing uses the block.
    unsafe { host.destroy_block(block) }.unwrap();
}
