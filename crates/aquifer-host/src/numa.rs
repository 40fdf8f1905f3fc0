//! NUMA: which memory is near to which processor and which device.
//!
//! A *node* is a part of the machine with memory, processors, or both. Reaching another node's memory takes longer, and a
//! device that copies from or to it is slower. [`NumaTopology`] is what the system says about its nodes, [`node_of_pci_device`]
//! finds a device's, and [`node_of_page`] asks the kernel where memory really is. To have pinned blocks near to something, give
//! [`HostOptions::pinned_near`](crate::HostOptions::pinned_near).
//!
//! Everything is read from `/sys` below a root that tests replace. Where there is nothing to read, one node is assumed.

mod list;
mod memory;
#[cfg(any(target_os = "linux", target_os = "macos"))]
mod near;
mod pci;
mod place;

#[cfg(test)]
mod tests;

use std::path::Path;

#[cfg(any(target_os = "linux", target_os = "macos"))]
pub(crate) use {memory::available_bytes, near::node_near, place::bind};

pub use pci::node_of_pci_device;
pub use place::node_of_page;

/// The distance from a node to itself. All others are relative to it (ACPI, System Locality Information Table).
const LOCAL_DISTANCE: u32 = 10;

/// What Linux assumes between two nodes where the firmware does not say.
const REMOTE_DISTANCE: u32 = 20;

/// One NUMA node, as the system described it.
#[non_exhaustive]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaNode {
    /// The number by which the system calls it. Numbers need not follow each other.
    pub id: u32,
    /// The numbers of its processors that are online, rising. Empty where it has none: such a node is memory only, as on a CXL
    /// expander.
    pub cpus: Vec<u32>,
    /// How much memory it has, in bytes; `None` if the system does not say.
    pub memory_bytes: Option<u64>,
    /// Whether it has any memory. A node without can be near to processors and devices all the same.
    pub has_memory: bool,
    /// Distances to the nodes of the topology, in their order. Empty where they are not known.
    distances: Vec<u32>,
}

/// The machine's NUMA nodes that are online.
///
/// A value is what was read once: processors and memory that come or go later do not change it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaTopology {
    /// Rising by number. At least one.
    nodes: Vec<NumaNode>,
    is_assumed: bool,
}

impl NumaTopology {
    /// Reads what `sys/devices/system/node` below `root` says: two files and three for each node. The root is `/` but for tests.
    ///
    /// Never fails. Where the nodes are not known, one is assumed, number 0, with all memory and every processor; see
    /// [`is_assumed`](Self::is_assumed). What is not known of a single node is assumed as Linux does: that it has memory,
    /// no processors, and is far from all others.
    #[must_use]
    pub fn read(root: &Path) -> Self {
        let folder = root.join("sys/devices/system/node");
        let text = |name: &str| std::fs::read_to_string(folder.join(name)).ok();
        let numbers = |name: &str| list::parse(&text(name)?);
        let Some(ids) = numbers("online").filter(|ids| !ids.is_empty()) else { return Self::assumed() };
        let with_memory = numbers("has_memory");
        let node = |&id: &u32| {
            let memory_bytes = text(&format!("node{id}/meminfo")).and_then(|text| memory::total_bytes(&text));
            let has_memory = match &with_memory {
                Some(ids) => ids.contains(&id),
                // Kernels before 3.7 do not list them.
                None => memory_bytes != Some(0),
            };
            NumaNode {
                id,
                cpus: numbers(&format!("node{id}/cpulist")).unwrap_or_default(),
                memory_bytes,
                has_memory,
                distances: text(&format!("node{id}/distance"))
                    .and_then(|text| distances(&text, ids.len()))
                    .unwrap_or_default(),
            }
        };
        Self { nodes: ids.iter().map(node).collect(), is_assumed: false }
    }

    fn assumed() -> Self {
        let node =
            NumaNode { id: 0, cpus: Vec::new(), memory_bytes: None, has_memory: true, distances: Vec::new() };
        Self { nodes: vec![node], is_assumed: true }
    }

    /// Whether the system said nothing, so that one node is assumed.
    #[must_use]
    pub fn is_assumed(&self) -> bool {
        self.is_assumed
    }

    /// All nodes, rising by number. At least one.
    #[must_use]
    pub fn nodes(&self) -> &[NumaNode] {
        &self.nodes
    }

    /// The node with that number, if it is online.
    #[must_use]
    pub fn node(&self, id: u32) -> Option<&NumaNode> {
        self.nodes.iter().find(|node| node.id == id)
    }

    /// How far `from` is from `to`: 10 to itself, and in proportion to that, in general, the time that an access takes.
    /// `None` if one of them does not exist.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> Option<u32> {
        let index = self.nodes.iter().position(|node| node.id == to)?;
        let otherwise = if from == to { LOCAL_DISTANCE } else { REMOTE_DISTANCE };
        Some(self.node(from)?.distances.get(index).copied().unwrap_or(otherwise))
    }

    /// The node with memory that is nearest to `node`, which is itself if it has any; of several, the one with the lowest
    /// number. `None` if there is no such node, or no memory on any.
    #[must_use]
    pub fn nearest_with_memory(&self, node: u32) -> Option<u32> {
        if self.node(node)?.has_memory {
            return Some(node);
        }
        let with_memory = self.nodes.iter().filter(|other| other.has_memory);
        // Of equals it answers the first.
        with_memory.map(|other| other.id).min_by_key(|&other| self.distance(node, other))
    }

    /// The node of a processor; `None` if no node that is online has it.
    #[must_use]
    pub fn node_of_cpu(&self, cpu: u32) -> Option<u32> {
        if self.is_assumed {
            return Some(0);
        }
        self.nodes.iter().find(|node| node.cpus.contains(&cpu)).map(|node| node.id)
    }

    /// The numbers of all nodes, for messages.
    #[cfg(any(target_os = "linux", target_os = "macos"))]
    pub(crate) fn ids_in_words(&self) -> String {
        let ids: Vec<_> = self.nodes.iter().map(|node| node.id.to_string()).collect();
        let assumed = if self.is_assumed { " (assumed: the system does not list its nodes)" } else { "" };
        format!("{}{assumed}", ids.join(", "))
    }
}

/// A row of distances; `None` if it is not one for each of `count` nodes. Linux writes them in the order of the nodes that
/// are online, so the n-th number is not in general that of node n.
fn distances(text: &str, count: usize) -> Option<Vec<u32>> {
    let row: Option<Vec<u32>> = text.split_whitespace().map(|number| number.parse().ok()).collect();
    row.filter(|row| row.len() == count)
}
