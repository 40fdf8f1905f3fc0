//! Topologies as machines show them.

use super::*;
use crate::tree::{bare_tree, tree};
use tempfile::TempDir;

/// One node's files, as Linux writes them.
struct Recorded {
    id: u32,
    cpus: &'static str,
    memory_kib: u64,
    distances: &'static str,
}

const fn node(id: u32, cpus: &'static str, memory_kib: u64, distances: &'static str) -> Recorded {
    Recorded { id, cpus, memory_kib, distances }
}

/// A tree of a few files.
pub(super) fn machine(files: &[(&str, &str)]) -> TempDir {
    tree(files)
}

fn recorded(nodes: &[Recorded], online: &str, with_memory: &str, others: &[(&str, &str)]) -> TempDir {
    let folder = "sys/devices/system/node";
    let mut files = vec![
        (format!("{folder}/online"), format!("{online}\n")),
        (format!("{folder}/has_memory"), format!("{with_memory}\n")),
    ];
    for Recorded { id, cpus, memory_kib, distances } in nodes {
        let meminfo = format!(
            "Node {id} MemTotal:       {memory_kib} kB\nNode {id} MemFree:        {} kB\n",
            memory_kib / 2
        );
        files.push((format!("{folder}/node{id}/cpulist"), format!("{cpus}\n")));
        files.push((format!("{folder}/node{id}/distance"), format!("{distances}\n")));
        files.push((format!("{folder}/node{id}/meminfo"), meminfo));
    }
    files.extend(others.iter().map(|&(path, content)| (path.to_owned(), content.to_owned())));
    tree(&files)
}

/// Two sockets, and devices: one on the second, one nobody knows of, and one on a node that is not online.
pub(super) fn two_nodes() -> TempDir {
    let nodes = [node(0, "0-3,8-11", 131_072_000, "10 21"), node(1, "4-7,12-15", 132_120_576, "21 10")];
    let devices = [
        ("sys/bus/pci/devices/0000:17:00.0/numa_node", "-1\n"),
        ("sys/bus/pci/devices/0000:30:00.0/numa_node", "7\n"),
        ("sys/bus/pci/devices/0000:ca:00.0/numa_node", "1\n"),
    ];
    recorded(&nodes, "0-1", "0-1", &devices)
}

/// Two sockets of an EPYC, each shown as four nodes (NPS4): 10 to itself, 12 within the socket, 32 to the other.
pub(super) fn eight_nodes() -> TempDir {
    let (one, other) = ("12 12 12 12", "32 32 32 32");
    let rows: Vec<String> = (0..8)
        .map(|id: usize| {
            let row = if id < 4 { format!("{one} {other}") } else { format!("{other} {one}") };
            let mut row: Vec<&str> = row.split(' ').collect();
            row[id] = "10";
            row.join(" ")
        })
        .collect();
    let folder = "sys/devices/system/node";
    let mut files = vec![
        (format!("{folder}/online"), "0-7\n".to_owned()),
        (format!("{folder}/has_memory"), "1-7\n".into()),
    ];
    for (id, row) in rows.into_iter().enumerate() {
        let cpus = format!("{}-{},{}-{}\n", id * 8, id * 8 + 7, id * 8 + 64, id * 8 + 71);
        files.push((format!("{folder}/node{id}/cpulist"), cpus));
        files.push((format!("{folder}/node{id}/distance"), format!("{row}\n")));
    }
    tree(&files)
}

/// Four nodes: a socket, a CXL expander of memory alone, a part with processors alone, and another socket further away.
pub(super) fn cxl_machine() -> TempDir {
    let nodes = [
        node(0, "0-3", 65_536_000, "10 14 24 32"),
        node(1, "", 262_144_000, "14 10 20 24"),
        node(2, "8-11", 0, "24 20 10 24"),
        node(3, "12-15", 65_536_000, "32 24 24 10"),
    ];
    recorded(&nodes, "0-3", "0-1,3", &[])
}

#[test]
fn two_nodes_are_read_whole() {
    let topology = NumaTopology::read(two_nodes().path());
    assert!(!topology.is_assumed());
    let [first, second] = topology.nodes() else { panic!("{topology:?}") };
    assert_eq!((first.id, second.id), (0, 1));
    assert_eq!(first.cpus, [0, 1, 2, 3, 8, 9, 10, 11]);
    assert_eq!(second.memory_bytes, Some(132_120_576 * 1024));
    assert!(first.has_memory && second.has_memory);
    assert_eq!(topology.distance(0, 0), Some(10));
    assert_eq!(topology.distance(0, 1), Some(21));
    assert_eq!(topology.distance(0, 2), None);
    assert_eq!(
        (topology.node_of_cpu(9), topology.node_of_cpu(12), topology.node_of_cpu(16)),
        (Some(0), Some(1), None)
    );
    assert_eq!(topology.nearest_with_memory(1), Some(1));
    assert_eq!((topology.nearest_with_memory(2), topology.node(2)), (None, None));
}

#[test]
fn the_nearest_of_eight_is_in_the_same_socket() {
    let root = eight_nodes();
    let topology = NumaTopology::read(root.path());
    assert_eq!(topology.nodes().len(), 8);
    for (from, to, distance) in [(0, 0, 10), (0, 3, 12), (3, 0, 12), (0, 4, 32), (7, 4, 12), (7, 0, 32)] {
        assert_eq!(topology.distance(from, to), Some(distance), "{from} to {to}");
    }
    assert_eq!(topology.node_of_cpu(71), Some(0));
    assert_eq!(topology.node_of_cpu(127), Some(7));
    assert_eq!(topology.nodes()[5].memory_bytes, None, "no file says it");
    // The first node of the first socket has no memory; three of its socket are as near.
    assert_eq!(topology.nearest_with_memory(0), Some(1));
    // Without its socket's memory, the second socket's is taken.
    std::fs::write(root.path().join("sys/devices/system/node/has_memory"), "6-7\n").unwrap();
    let topology = NumaTopology::read(root.path());
    assert_eq!((topology.nearest_with_memory(2), topology.nearest_with_memory(7)), (Some(6), Some(7)));
}

#[test]
fn nodes_may_lack_memory_or_processors() {
    let topology = NumaTopology::read(cxl_machine().path());
    let memory_only = topology.node(1).unwrap();
    assert!(memory_only.cpus.is_empty() && memory_only.has_memory);
    let cpus_only = topology.node(2).unwrap();
    assert!(!cpus_only.has_memory);
    assert_eq!(cpus_only.memory_bytes, Some(0));
    assert_eq!(topology.node_of_cpu(8), Some(2));
    assert_eq!(topology.nearest_with_memory(2), Some(1));
    assert_eq!(topology.nearest_with_memory(1), Some(1));
}

/// On POWER the numbers have gaps, and distances are in the order of the nodes.
#[test]
fn numbers_may_have_gaps() {
    let nodes =
        [node(0, "0-3", 1024, "10 40 80"), node(8, "4-7", 0, "40 10 20"), node(252, "", 2048, "80 20 10")];
    let topology = NumaTopology::read(recorded(&nodes, "0,8,252", "0,252", &[]).path());
    assert_eq!(topology.distance(0, 252), Some(80));
    assert_eq!(topology.distance(252, 8), Some(20));
    assert_eq!(topology.nearest_with_memory(8), Some(252));
    assert_eq!(topology.nearest_with_memory(1), None);
}

#[test]
fn without_a_list_of_those_with_memory_the_sizes_tell() {
    let nodes = [node(0, "0", 0, "10 20"), node(1, "1", 1024, "20 10")];
    let root = recorded(&nodes, "0-1", "garbled", &[]);
    let topology = NumaTopology::read(root.path());
    assert_eq!((topology.nodes()[0].has_memory, topology.nodes()[1].has_memory), (false, true));
    assert_eq!(topology.nearest_with_memory(0), Some(1));
}

#[test]
fn where_nothing_can_be_read_one_node_is_assumed() {
    let bare = bare_tree();
    let garbled = ["", "\n", "x", "-1", "1-0", "0-4294967295", "0-1\0"]
        .map(|text| machine(&[("sys/devices/system/node/online", text)]));
    for root in garbled.iter().chain([&bare]) {
        let topology = NumaTopology::read(root.path());
        assert!(topology.is_assumed());
        assert_eq!(topology.nodes().len(), 1);
        assert_eq!(topology.nearest_with_memory(0), Some(0));
        assert_eq!(topology.node_of_cpu(5000), Some(0));
        assert_eq!((topology.distance(0, 0), topology.distance(0, 1)), (Some(10), None));
    }
}

#[test]
fn a_garbled_node_is_one_that_little_is_known_of() {
    for (distance, cpus, meminfo) in [
        ("10", "0-", "Node 1 MemTotal: x kB"),
        ("10 20 30", "x", ""),
        ("10 -1", "1,,2", "\0"),
        ("a b", "5-2", "MemTotal: 5 kB"),
    ] {
        let root = machine(&[
            ("sys/devices/system/node/online", "0-1\n"),
            ("sys/devices/system/node/node1/distance", distance),
            ("sys/devices/system/node/node1/cpulist", cpus),
            ("sys/devices/system/node/node1/meminfo", meminfo),
        ]);
        let topology = NumaTopology::read(root.path());
        let node = topology.node(1).unwrap();
        assert!(node.cpus.is_empty() && node.has_memory && node.memory_bytes.is_none(), "{node:?}");
        assert_eq!((topology.distance(1, 0), topology.distance(1, 1)), (Some(20), Some(10)));
        assert_eq!(topology.node_of_cpu(0), None);
    }
}

/// The machine that the test runs on. Whatever it is, the answers fit together.
#[test]
fn this_machine_makes_sense() {
    let topology = NumaTopology::read(Path::new("/"));
    for node in topology.nodes() {
        assert_eq!(topology.distance(node.id, node.id), Some(LOCAL_DISTANCE));
        assert!(topology.nearest_with_memory(node.id).is_some(), "{topology:?}");
        assert!(node.cpus.iter().all(|&cpu| topology.node_of_cpu(cpu) == Some(node.id)));
    }
}
