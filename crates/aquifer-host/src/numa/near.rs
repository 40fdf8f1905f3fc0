//! From what memory is to be near to, to a node.

use std::path::Path;

use aquifer_backend::{Error, ErrorKind};

use super::{NumaTopology, node_of_pci_device};
use crate::options::Near;

/// The node with memory that is nearest to something.
///
/// # Errors
///
/// [`ErrorKind::Configuration`] if there is no such thing; [`ErrorKind::Unsupported`] if the system does not say where it is.
pub(crate) fn node_near(root: &Path, near: &Near) -> Result<u32, Error> {
    let topology = NumaTopology::read(root);
    let nodes = || topology.ids_in_words();
    let error = |kind, message| Error::new(kind, "Host::with_options", message);
    let node = match near {
        Near::Node(node) => *node,
        Near::Cpu(cpu) => topology.node_of_cpu(*cpu).ok_or_else(|| {
            let message = format!(
                "no NUMA node has a processor {cpu} that is online; name another (see lscpu -e), or a node: {}",
                nodes()
            );
            error(ErrorKind::Configuration, message)
        })?,
        Near::PciDevice(address) => match (node_of_pci_device(root, address)?, topology.nodes()) {
            (Some(node), _) => node,
            // It can be nowhere else.
            (None, [only]) => only.id,
            (None, _) => {
                let message = format!(
                    "the system does not know which NUMA node PCI device {address} is near to; name a node: {}",
                    nodes()
                );
                return Err(error(ErrorKind::Unsupported, message));
            }
        },
    };
    topology.nearest_with_memory(node).ok_or_else(|| {
        let message = match topology.node(node) {
            None => format!("there is no NUMA node {node}; the nodes are {}", nodes()),
            Some(_) => format!("no NUMA node has memory; the nodes are {}", nodes()),
        };
        error(ErrorKind::Configuration, message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numa::tests::{cxl_machine, eight_nodes, machine, two_nodes};

    #[test]
    fn everything_has_a_node() {
        let root = two_nodes();
        let near = |near: Near| node_near(root.path(), &near).unwrap();
        assert_eq!(near(Near::Node(1)), 1);
        assert_eq!((near(Near::Cpu(3)), near(Near::Cpu(4)), near(Near::Cpu(12))), (0, 1, 1));
        assert_eq!(near(Near::PciDevice("0000:ca:00.0".into())), 1);
        // The third node has processors only, and the second node is nearer than the first.
        assert_eq!(node_near(cxl_machine().path(), &Near::Cpu(8)).unwrap(), 1);
        assert_eq!(node_near(eight_nodes().path(), &Near::Cpu(127)).unwrap(), 7);
    }

    #[test]
    fn what_is_not_there_is_refused_and_the_nodes_are_named() {
        let root = two_nodes();
        let refused = |near: Near| node_near(root.path(), &near).unwrap_err();
        for (near, part) in [
            (Near::Node(2), "there is no NUMA node 2; the nodes are 0, 1"),
            (Near::Cpu(16), "a processor 16 that is online; name another (see lscpu -e), or a node: 0, 1"),
            (Near::PciDevice("0000:00:00.0".into()), "no PCI device 0000:00:00.0"),
            (Near::PciDevice("gpu".into()), "\"gpu\" is no PCI address"),
            (Near::PciDevice("0000:30:00.0".into()), "there is no NUMA node 7"),
        ] {
            let error = refused(near);
            assert_eq!(error.kind(), ErrorKind::Configuration);
            assert!(error.message().contains(part), "{error}");
        }
        let error = refused(Near::PciDevice("0000:17:00.0".into()));
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.message().contains("name a node: 0, 1"), "{error}");
    }

    #[test]
    fn where_there_is_one_node_everything_is_near_to_it() {
        let root = machine(&[("sys/bus/pci/devices/0000:17:00.0/numa_node", "-1\n")]);
        for near in [Near::Node(0), Near::Cpu(77), Near::PciDevice("17:00.0".into())] {
            assert_eq!(node_near(root.path(), &near).unwrap(), 0);
        }
        let error = node_near(root.path(), &Near::Node(1)).unwrap_err();
        assert!(error.message().contains("the nodes are 0 (assumed"), "{error}");
    }

    #[test]
    fn a_machine_whose_nodes_have_no_memory_is_refused() {
        let root = machine(&[
            ("sys/devices/system/node/online", "0\n"),
            ("sys/devices/system/node/has_memory", "\n"),
        ]);
        let error = node_near(root.path(), &Near::Node(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.message().contains("no NUMA node has memory"), "{error}");
    }
}
